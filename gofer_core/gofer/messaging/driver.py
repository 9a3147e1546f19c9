"""The socket of a connection: opened, read and written, for whoever drives it. Only opening it blocks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Any

from gofer.errors import AdapterError, GoferError, MessagingError
from gofer.messaging.adapter import Adapter
from gofer.messaging.adapters import find
from gofer.messaging.connector import Connector
from gofer.messaging.core import Core
from gofer.messaging.endings import words
from gofer.messaging.transport import Connecting, open_wire
from gofer.messaging.wire import Wire

__all__ = ["OPEN", "SILENCE", "Driver", "Opened"]

log = logging.getLogger(__name__)

#: Seconds to open a socket.
OPEN = 15.0
#: Seconds without a read after which the process may have been stopped (SIGSTOP, a suspended machine), and the broker
#: may have closed the connection. The driver then first reads everything, up to the end of the stream.
SILENCE = 1.0

#: A new socket and what speaks on it, or why there is none.
Opened = tuple[Adapter, Wire] | MessagingError


class Driver(ABC):
    """A state without I/O, and the socket that it speaks through. One thread at a time.

    Args:
        connector: where, and how.
        ack_delay: seconds that an acknowledgement may wait for other output.
    """

    def __init__(self, connector: Connector, ack_delay: float) -> None:
        find(connector.url, connector.adapter)  # an adapter that is not installed is an error now
        self.connector = connector
        self.core = Core(connector, ack_delay=ack_delay)
        self._wire: Wire | None = None
        self._close_idle_at = monotonic() + 1.0
        self._due = self._read_at = 0.0

    @abstractmethod
    def _close_if_idle(self, now: float) -> float:
        """Close a connection that is not used; return when to look again."""

    @abstractmethod
    def _detach(self) -> None:
        """Note that the socket is about to be closed."""

    def _open(self, connecting: Connecting | None = None, waited: float | None = None) -> Opened:
        """Open a socket, or return why that failed. Reads the URL, the certificates and the name anew.

        Args:
            connecting: one that has started, and has ended or is given up. None: blocks.
            waited: as ``Connecting.result`` takes it.
        """
        try:
            connector = self.connector.current()
            adapter = find(connector.url, connector.adapter)(connector)
            wire = open_wire(connector, OPEN, self.core.tries) if connecting is None else connecting.result(waited)
            return adapter, wire
        except GoferError as error:  # others: a URL's file that cannot be read
            return error if isinstance(error, MessagingError) else AdapterError(str(error))
        except Exception as error:
            log.exception("%s: cannot be opened", self.connector.url)
            return AdapterError(f"{self.connector.url}: {type(error).__name__}: {error}")

    def _opened(self, opened: Opened) -> None:
        """Log in on a new socket, or note that there is none. A turn follows."""
        now = monotonic()
        if isinstance(opened, MessagingError):
            self._guard(self.core.connect_failed, opened, now)
            return
        adapter, wire = opened
        self._guard(self.core.connected, adapter, now)
        if self.core.adapter is adapter:
            self._close_wire()  # one that was lost in this turn
            self._wire = wire
            self._read(now)
        else:
            wire.close()

    def _turn(self, now: float) -> None:
        """Do what is due, and write. Never waits, never raises. ``_due`` is when the next turn is wanted."""
        if now >= self._due:
            self._guard(self.core.tick, now)
            if now >= self._close_idle_at:
                self._close_idle_at = self._close_if_idle(now)
        self._write(now)
        self._due = min(self.core.deadline, self._close_idle_at)

    def _read(self, now: float, *, to_end: bool = False) -> None:
        """Read what the broker has sent, once or to the end."""
        self._read_at = now
        while (wire := self._wire) is not None and self.core.adapter is not None:
            try:
                data = wire.read()
            except OSError as error:
                self._guard(self.core.lost, self._why_lost(wire, error), now)
                return
            if data:
                self._guard(self.core.receive, data, now)
            if not (data and to_end):
                return

    def _why_lost(self, wire: Wire, error: OSError) -> str:
        """Say why the socket has ended; for one that has never said a word of AMQP, what may be wrong with the port."""
        if wire.session is not None:
            from gofer.messaging.tls import explain

            return explain(error, self.connector)
        reason = words(error)
        if not wire.heard and self.connector.url.protocol != "local":
            reason += " before it said anything"
            if not self.core.opened_before:  # else it is a broker that restarts behind a balancer
                reason += ". Does the port expect TLS? Then write amqps://"
        return reason

    def _write(self, now: float) -> None:
        wire = self._wire
        if wire is None:
            return
        try:
            data = self.core.take(now)
            if data or wire.buffer:
                wire.write(data)
        except OSError as error:
            self._write_failed(wire, error)
        except Exception as error:  # noqa: BLE001 - _fault logs it
            self._fault(error)
        if self.core.adapter is None:
            self._close_wire()

    def _write_failed(self, wire: Wire, error: OSError) -> None:
        """Give up a socket that takes nothing more."""
        if wire is self._wire:
            now = monotonic()
            self._read(now, to_end=True)  # what the broker sent before it hung up: confirmations, or its reason
            self._guard(self.core.lost, self._why_lost(wire, error), now)

    def _close_wire(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._detach()
            wire.close()

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - _fault logs it
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        # A fault of the adapter, or of ours. A connection that nobody reads would be the worst outcome.
        log.error("%s: the connection is dropped", self.connector.url, exc_info=error)
        self.core.failed(error)
