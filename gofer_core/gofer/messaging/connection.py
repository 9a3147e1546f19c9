"""Connections: one per broker and process, shared by everybody in it.

This is what a caller's session, a consumer and an agent hold. It owns the state (:mod:`gofer.messaging.core`) and the
socket; its two subclasses drive it: :mod:`gofer.messaging.thread_driver` by a thread of its own,
:mod:`gofer.messaging.asyncio_driver` in an event loop. Callbacks run in the driver's thread: they are quick and never
wait.
"""

from __future__ import annotations

import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, TypeVar

from gofer.errors import AdapterError, ConnectionLost, GoferError, MessagingError
from gofer.messaging.adapter import Adapter, Delivery, Operation
from gofer.messaging.adapters import find
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.core import OPERATION, Answer, Core, Settle, State, fresh
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.transport import open_socket
from gofer.messaging.wire import Wire

__all__ = ["Connection"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds to open a socket.
_OPEN = 15.0
#: Bytes that may wait for the socket before publishers wait, too.
_OUTBOX = 8 * 1024 * 1024
#: Seconds after which a connection is closed that has users and no use, and one that has neither.
_IDLE = 300.0
_LINGER = 5.0


class Connection(ABC):
    """A connection that outlives its sockets. Made by the pool, not by hand.

    Any thread may use it (of the asyncio one: the loop's), a signal handler too.
    """

    def __init__(self, connector: Connector, *, company: float, retire: Callable[[Connection], bool]) -> None:
        """Open nothing yet.

        Args:
            connector: where, and how.
            company: seconds that an acknowledgement may wait for other output.
            retire: asked when it has been idle without users: whether it is to close for good.
        """
        find(connector.url, connector.adapter)  # an adapter that is not installed is an error now
        self.connector = connector
        self.core = Core(connector, company=company)
        #: How many users it has; the pool counts.
        self.users = 0
        self.abandoned = False
        self._retire = retire
        self._wire: Wire | None = None
        self._closing = False
        self._tokens = itertools.count(1)
        self._housekeeping_at = inf
        self._read_at = 0.0
        self._shared: dict[object, Any] = {}
        self._sharing = threading.RLock()  # a signal handler may come to it in the thread that has it
        self._at_exit: list[Callable[[float], None]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connector.url} {self.state}>"

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        return "closed" if self._closing else self.core.describe()

    @property
    def up_since(self) -> float | None:
        """When the connection came up (``time.monotonic()``), None while it is down."""
        return self.core.up_since

    @property
    def is_open(self) -> bool:
        """Whether the broker has accepted our login."""
        return self.core.state is State.OPEN

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._closing

    @property
    def sendable(self) -> bool:
        """Whether ``publish_nowait`` would send now."""
        return self.core.state is State.OPEN and self.core.blocked is None and self.backlog <= _OUTBOX

    @property
    def backlog(self) -> int:
        """How many bytes wait for the socket."""
        wire = self._wire
        return 0 if wire is None else wire.unsent

    def check_usable(self) -> None:
        """Raise ConnectionLost if it was closed, or belongs to the parent process."""
        if self.abandoned:
            raise ConnectionLost("this connection belongs to the parent process")
        if self._closing:
            raise ConnectionLost(f"the connection to {self.connector.url} was closed")

    def shared(self, key: object, make: Callable[[], _T]) -> _T:
        """Return what all users of this connection share under a key, made on first use."""
        with self._sharing:
            if key not in self._shared:
                self._shared.setdefault(key, make())  # a signal handler may have made it meanwhile
            found: _T = self._shared[key]
            return found

    def on_exit(self, callback: Callable[[float], None]) -> None:
        """Have something done at the end of the process, before the connection is closed.

        ``callback`` is called with the time (``time.monotonic()``) by which it should have ended.
        """
        self._at_exit.append(callback)

    def run_exit_callbacks(self, deadline: float) -> None:
        """Do what ``on_exit`` asked for."""
        for callback in self._at_exit:
            callback(deadline)

    # -- commands that never wait -------------------------------------------------------------------------------------

    def publish_nowait(
        self,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        durable: bool = True,
        confirm: bool = True,
        isolated: bool = False,
        settled: Settle | None = None,
        room: bool = True,
    ) -> int:
        """Send a message if that is possible now.

        Args:
            ttl: seconds after which the broker may drop it.
            durable, confirm, isolated: see :meth:`Adapter.publish`.
            settled: a callback, called once with the outcome and the broker's reason (UNKNOWN when the connection
                dies); without ``confirm`` perhaps never, and never after ``forget``.
            room: False: send it also when the broker is blocked or the outbox is full.

        Returns:
            The message's token, for ``forget``; 0 when it is not possible to send at the moment: nothing was sent.
        """
        if not (self.sendable if room else self.core.state is State.OPEN) or self._closing:
            return 0
        token = next(self._tokens)
        self._submit(len(body), self.core.publish, token, address, body, ttl, durable, confirm, isolated, settled)
        return token

    def forget(self, token: int) -> None:
        """Have the outcome of a message sent without ``confirm`` told no more. An unknown token is ignored."""
        if token:
            self._submit(-1, self.core.forget, token)

    def accept(self, delivery: Delivery) -> None:
        """Acknowledge a delivery; it may wait some milliseconds for company. A stale one is ignored."""
        self._submit(0, self.core.accept, delivery)

    def release(self, delivery: Delivery) -> None:
        """Give a delivery back to its queue. A stale one is ignored."""
        self._submit(0, self.core.release, delivery)

    def reject(self, delivery: Delivery) -> None:
        """Have the broker drop or dead-letter a delivery. A stale one is ignored."""
        self._submit(0, self.core.reject, delivery)

    def want(self) -> None:
        """Have a connection; one that could never be made is tried at once, whatever an earlier try said."""
        self._submit(0, self.core.want)

    def subscribe_nowait(self, subscription: Subscription) -> None:
        """Have a queue's messages delivered as soon as that is possible, over every reconnect."""
        self.check_usable()
        self._submit(0, self.core.subscribe, subscription)

    def ask_nowait(self, operation: Operation | Steps, answer: Answer, timeout: float = OPERATION) -> None:
        """Ask the broker for something; ``answer`` is called in the driver's thread with the value, or the error."""
        ask = self.core.run if hasattr(operation, "send") else self.core.ask
        self._submit(0, ask, operation, answer, timeout)

    # -- for waiting users --------------------------------------------------------------------------------------------

    def connect_outcome(self, tries: int) -> bool:
        """Whether there is a connection, or a first one could not be made since ``core.tries`` was this."""
        core = self.core
        return core.state is State.OPEN or (core.tries > tries and not core.opened_before)

    def raise_down(self) -> None:
        """Raise why there is no connection, if there is none.

        What a first connection was refused for is raised as it is: a wrong password is told at once. One that was there
        before may come back, so this is about the time that is over, and names what the last try was refused for.
        """
        self.check_usable()
        if self.core.state is not State.OPEN:
            error = self.core.error
            if error is not None and not self.core.opened_before:
                raise fresh(error)
            raise ConnectionLost(f"no connection to {self.connector.url} in time" + (f": {error}" if error else ""))

    # -- for the drivers ----------------------------------------------------------------------------------------------

    @abstractmethod
    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        """Have a command of the core run in the driver's thread.

        ``size``: bytes that it holds; -1: it can wait until the driver has something else to do.
        """

    @abstractmethod
    def close(self) -> None:
        """Close for good: subscriptions clean up, and the broker hears a goodbye. Idempotent, never raises."""

    @abstractmethod
    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Go on until ``ready()`` or the deadline, at the end of the process; starts no thread, raises nothing."""

    def users_changed(self) -> None:
        """Have the driver look whether the connection is still used."""
        self._submit(0, self._look)

    def _look(self) -> None:
        self._housekeeping_at = 0.0

    def abandon(self) -> None:
        """Drop the connection in a forked child, without a word to the broker. No lock is taken: it may be held."""
        self.abandoned = self._closing = True
        self._sharing = threading.RLock()
        self.core.abandon()
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _open(self) -> tuple[Adapter, Wire]:
        """Open a socket; blocks. The URL, the certificates and the name are read at each try.

        Raises:
            MessagingError: it cannot be opened.
        """
        try:
            connector = self.connector.current()
            adapter = find(connector.url, connector.adapter)(connector)
            return adapter, Wire(open_socket(connector, _OPEN, self.core.tries))
        except MessagingError:
            raise
        except GoferError as error:  # a URL's file that cannot be read
            raise AdapterError(str(error)) from error
        except Exception as error:
            log.exception("%s: cannot be opened", self.connector.url)
            raise AdapterError(f"{self.connector.url}: {type(error).__name__}: {error}") from error

    def _opened(self, adapter: Adapter, wire: Wire) -> None:
        """Log in on a new socket."""
        self._guard(self.core.connected, adapter, monotonic())
        if self.core.adapter is adapter:
            old, self._wire = self._wire, wire
            if old is not None:  # lost, and connected anew in the same turn
                self._detach()
                old.close()
        else:
            wire.close()

    def _turn(self, readable: bool) -> None:
        """Read what is there, do what is due, and write. Never waits, never raises."""
        if readable:
            self._read()
        core, now = self.core, monotonic()
        if now >= core.deadline:
            self._guard(core.tick, now)
        if now >= self._housekeeping_at:
            self._housekeeping_at = self._housekeep(now)
        self._write(now)

    def _read(self) -> bool:
        """Take what was sent to us; return whether there was something, and there may be more."""
        wire, now = self._wire, monotonic()
        self._read_at = now
        if wire is None or self.core.adapter is None:
            return False
        try:
            data = wire.read()
        except OSError as error:
            self._guard(self.core.lost, self._why_lost(wire, error), now)
            return False
        if data:
            self._guard(self.core.receive, data, now)
        return bool(data)

    def _why_lost(self, wire: Wire, error: OSError) -> str:
        """Say why the socket has ended; for one that has never said a word of AMQP, what may be wrong with the port."""
        if wire.secure:
            from gofer.messaging.tls import explain

            return explain(error, self.connector)
        reason = error.strerror or str(error)
        if not wire.heard and self.connector.url.protocol != "local":
            reason += " before it said anything. Does the port expect TLS? Then write amqps://"
        return reason

    def _write(self, now: float) -> None:
        wire = self._wire
        if wire is None:
            return
        try:
            data = self.core.take(now)
            if data or wire.unsent:
                wire.write(data)
        except OSError as error:
            self._last_words(wire, error, now)
        except Exception as error:  # noqa: BLE001 - told by _fault
            self._fault(error)
        if self.core.adapter is None:
            self._wire = None
            self._detach()
            wire.close()

    def _last_words(self, wire: Wire, error: OSError, now: float) -> None:
        """Read what the broker has sent before it hung up: settlements, or why it did."""
        try:
            while data := wire.read():
                self._guard(self.core.receive, data, now)
        except OSError as last:
            if wire.secure:
                error = last  # an alert may say why
        self._guard(self.core.lost, self._why_lost(wire, error), now)

    @abstractmethod
    def _detach(self) -> None:
        """Note that the socket is about to be closed."""

    def _guard(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - told by _fault
            self._fault(error)

    def _fault(self, error: Exception) -> None:
        # A fault of an adapter's, or of ours. A connection that nobody reads would be the worst answer to it.
        log.error("%s: the connection is dropped", self.connector.url, exc_info=error)
        self.core.failed(error)

    def _housekeep(self, now: float) -> float:
        """Close a connection that is not used; return when to look again."""
        limit = _IDLE if self.users else _LINGER
        if self.waited_for or not self.core.idle:
            return now + limit
        due = self.core.used_at + limit
        if now < due:
            return due
        if self.users:
            self.core.suspend()
        elif self._retire(self):
            self.close()
            return inf
        return now + limit

    @property
    @abstractmethod
    def waited_for(self) -> bool:
        """Whether somebody waits on it at the moment."""
