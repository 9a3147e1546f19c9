"""The adapter of the local broker: ``local://`` or ``local:///path/to.sock``."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.adapter.base import (
    Adapter,
    Delivery,
    Event,
    ExchangeSpec,
    Outcome,
    QueueSpec,
    Settled,
    SubscriptionLost,
)
from gofer.messaging.address import Address
from gofer.messaging.broker import protocol
from gofer.messaging.broker.model import ACCEPT, REJECT, RELEASE
from gofer.messaging.broker.paths import default_path, reachable
from gofer.messaging.connector import Connector

__all__ = ["LocalAdapter"]

_READ = 64 * 1024
_READS = 4  # at most so many reads in one ``process``
_GOODBYE = 1.0  # seconds that ``close`` may take
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class LocalAdapter(Adapter):
    """A connection to the local broker, by a Unix socket. Messages live as long as the broker's process does."""

    durable: ClassVar[bool] = False

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self.path = os.path.abspath(connector.url.path or default_path(os.environ))
        self._socket: socket.socket | None = None
        self._instance: str | None = None
        self._why: str | None = None
        self._refusal: str | None = None
        self._broken: ConnectionLost | None = None  # seen while reading, and raised when all events are returned
        self._reader = protocol.to_client()
        self._scratch = bytearray(_READ)
        self._out = bytearray()
        self._events: deque[Event] = deque()
        self._answers: dict[int, protocol.Done | protocol.Denied] = {}
        self._subscriptions: set[int] = set()
        self._operations = 0
        self._read_at = self._wrote_at = 0.0
        self._mark = object()  # tells our deliveries from those of other connections

    # -- connection ---------------------------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._socket = self._open(timeout)
        self._read_at = self._wrote_at = time.monotonic()
        protocol.put(self._out, protocol.Hello(protocol.VERSION, self.connector.heartbeat))
        try:
            while self._instance is None:
                self._wait(deadline, "an answer to the greeting")
        except ConnectionLost as error:
            if self._refusal is not None:
                raise AdapterError(f"local broker at {self.path}: {self._refusal}") from error
            raise

    def close(self) -> None:
        if self._socket is None:
            return
        deadline = time.monotonic() + _GOODBYE
        try:
            protocol.put(self._out, protocol.Bye())
            while True:  # until the broker, which has then taken everything back, closes too
                self._wait(deadline, "the end of the connection")
        except (ConnectionLost, AdapterError):
            pass  # it ended, one way or the other
        finally:
            self._end("it was closed")

    def abandon(self) -> None:
        self._end("it was abandoned")

    @property
    def instance(self) -> str | None:
        return self._instance

    @property
    def blocked(self) -> str | None:
        return None

    def fileno(self) -> int:
        return self._live().fileno()

    @property
    def unwritten(self) -> int:
        return len(self._out)

    @property
    def pending(self) -> bool:
        return bool(self._events) or self._broken is not None

    def flush(self) -> None:
        sock = self._live()
        if self._out and self._broken is None:
            self._write(sock)
        if self._broken is not None and not self._events:
            raise self._lost(self._broken)

    def process(self) -> Sequence[Event]:
        sock = self._live()
        if not self.pending:
            self._read(sock)
        if self._events:
            events = list(self._events)
            self._events.clear()
            return events
        if self._broken is not None:
            raise self._lost(self._broken)
        return ()

    def tick(self) -> None:
        heartbeat = self.connector.heartbeat
        sock = self._live()
        if not heartbeat or self._broken is not None:
            return
        now = time.monotonic()
        # What is there unread shows that it was we who did not look.
        if now - self._read_at >= 2 * heartbeat and not _poll(sock, select.POLLIN, 0.0):
            raise self._lost(self._error(f"silent for {now - self._read_at:.1f} s, more than two heartbeats"))
        if now - self._wrote_at >= heartbeat / 2 and not self._out:
            protocol.put(self._out, protocol.Beat())
            self.flush()

    # -- nodes ----------------------------------------------------------------------------------------------------

    def declare_queue(self, queue: QueueSpec, timeout: float) -> str | None:
        number = self._next()
        fields = (queue.durable, queue.exclusive, queue.auto_delete, queue.expires, queue.kind)
        answer = self._ask(protocol.DeclareQueue(number, queue.name, *fields), timeout)
        return None if answer is None else str(answer)

    def delete_queue(self, name: str, timeout: float, *, if_unused: bool = False, if_empty: bool = False) -> None:
        self._ask(protocol.DeleteQueue(self._next(), name, if_unused, if_empty), timeout)

    def purge_queue(self, name: str, timeout: float) -> None:
        self._ask(protocol.PurgeQueue(self._next(), name), timeout)

    def declare_exchange(self, exchange: ExchangeSpec, timeout: float) -> str | None:
        fields = (exchange.name, exchange.kind, exchange.durable, exchange.auto_delete)
        answer = self._ask(protocol.DeclareExchange(self._next(), *fields), timeout)
        return None if answer is None else str(answer)

    def delete_exchange(self, name: str, timeout: float) -> None:
        self._ask(protocol.DeleteExchange(self._next(), name), timeout)

    def bind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        self._ask(protocol.Bind(self._next(), queue, exchange, key), timeout)

    def unbind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        self._ask(protocol.Unbind(self._next(), queue, exchange, key), timeout)

    # -- receiving --------------------------------------------------------------------------------------------------

    def subscribe(self, queue: str, prefetch: int, timeout: float, *, exclusive: bool = False) -> int:
        if not 1 <= prefetch <= 65535:
            raise ValueError(f"a prefetch of {prefetch} is not between 1 and 65535")
        answer = self._ask(protocol.Subscribe(self._next(), queue, prefetch, exclusive), timeout)
        if not isinstance(answer, int):
            raise self._lost(self._error("it gave a subscription no number"))
        self._subscriptions.add(answer)
        return answer

    def cancel(self, subscription: int, timeout: float) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self._ask(protocol.Cancel(self._next(), subscription), timeout)

    def accept(self, delivery: Delivery) -> None:
        self._settle(delivery, ACCEPT)

    def release(self, delivery: Delivery) -> None:
        self._settle(delivery, RELEASE)

    def reject(self, delivery: Delivery) -> None:
        self._settle(delivery, REJECT)

    def _settle(self, delivery: Delivery, verdict: int) -> None:
        self._live()
        tag = delivery.tag
        if isinstance(tag, _Tag) and tag.mark is self._mark:
            protocol.put(self._out, protocol.Settle(tag.number, verdict))

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(
        self, token: int, address: Address, body: bytes, *, ttl: float | None = None, isolated: bool = False
    ) -> None:
        self._live()
        if len(body) > protocol.MAX_BODY:
            reason = f"a body of {len(body)} bytes is over the local broker's limit of {protocol.MAX_BODY}"
            self._events.append(Settled(token, Outcome.REFUSED, reason))
            return
        exchange, key = address
        # Only text of more than 63 characters can have more than 255 bytes, which is cheaper to know.
        if any(len(name) > 63 and len(name.encode()) > 255 for name in address):
            raise ValueError(f"address {exchange[:60]!r}, {key[:60]!r} has a name of more than 255 bytes")
        protocol.put(self._out, protocol.Send(token, exchange, key, ttl, body))

    # -- the socket ---------------------------------------------------------------------------------------------------

    def _open(self, timeout: float) -> socket.socket:
        """Connect a socket, in time, and make it non-blocking."""
        if self._why is not None:
            raise AdapterError(f"this connection to {self.path} was opened before; a new one is a new object")
        self._why = "it was not opened"
        sock = socket.socket(socket.AF_UNIX)
        try:
            # A full backlog cannot be polled for; but a blocking connect obeys the time limit for sending.
            limit = divmod(max(int(timeout * 1_000_000), 1), 1_000_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *limit))
            with reachable(self.path) as name:
                sock.connect(name)
            sock.setblocking(False)
        except BaseException as error:
            sock.close()
            if isinstance(error, PermissionError):
                raise AdapterError(f"not permitted to use the local broker's socket {self.path}") from error
            if isinstance(error, BlockingIOError):
                raise self._error(f"it took no connection within {timeout:g} s") from error
            if isinstance(error, FileNotFoundError):
                raise self._error("there is no such socket; `gofer broker` makes it") from error
            if isinstance(error, OSError):
                raise self._error(error.strerror or str(error)) from error
            raise
        return sock

    def _live(self) -> socket.socket:
        if self._socket is None:
            raise self._error(self._why or "it was not opened")
        return self._socket

    def _end(self, why: str) -> None:
        """Close the descriptor."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._why = why
        self._out.clear()
        self._events.clear()

    def _error(self, why: str) -> ConnectionLost:
        return ConnectionLost(f"local broker at {self.path}: {why}")

    def _lost(self, error: ConnectionLost) -> ConnectionLost:
        """End it for this error, and return the error to raise."""
        self._end(f"the connection was lost: {error}")
        return error

    def _write(self, sock: socket.socket) -> None:
        """Write what the socket takes."""
        try:
            while self._out:
                sent = sock.send(self._out)
                del self._out[:sent]
                self._wrote_at = time.monotonic()
        except BlockingIOError:
            pass  # the rest when it takes more
        except OSError as error:
            self._read(sock)  # what came before the end, perhaps with the reason for it
            if self._broken is None:
                self._broken = self._error(error.strerror or str(error))
        except BaseException:
            self._end("it was interrupted in a write")
            raise

    def _read(self, sock: socket.socket) -> None:
        """Read what is there, but a bounded amount, into events and answers."""
        try:
            for _ in range(_READS):
                count = sock.recv_into(self._scratch)
                if not count:
                    self._broken = self._error(self._refusal or "it closed the connection")
                    return
                self._read_at = time.monotonic()
                with memoryview(self._scratch)[:count] as data:
                    for frame in self._reader.feed(data):
                        self._keep(frame)
                if count < _READ:
                    return
        except BlockingIOError:
            pass  # that was all
        except protocol.ProtocolError as error:
            self._broken = self._error(f"it breaks the protocol: {error}")
        except OSError as error:
            self._broken = self._error(error.strerror or str(error))
        except BaseException:
            self._end("it was interrupted in a read")
            raise

    def _keep(self, frame: protocol.FromBroker) -> None:
        if isinstance(frame, protocol.Deliver):
            tag = _Tag(self._mark, frame.tag)
            self._events.append(Delivery(frame.subscription, frame.body, frame.redelivered, frame.ttl, tag))
        elif isinstance(frame, protocol.Answer):
            outcome = _OUTCOMES.get(frame.outcome)
            if outcome is None:
                raise protocol.ProtocolError(f"{frame.outcome!r} is no outcome")
            self._events.append(Settled(frame.token, outcome, frame.reason))
        elif isinstance(frame, protocol.Done | protocol.Denied):
            self._answers[frame.number] = frame
        elif isinstance(frame, protocol.Lost):
            self._subscriptions.discard(frame.subscription)
            self._events.append(SubscriptionLost(frame.subscription, frame.reason))
        elif isinstance(frame, protocol.Welcome):
            self._instance = frame.instance
        elif isinstance(frame, protocol.Failure):
            self._refusal = frame.reason

    def _next(self) -> int:
        self._operations += 1
        return self._operations

    def _ask(self, operation: protocol.Operation, timeout: float) -> int | str | None:
        """Have an operation done, and return its value."""
        self._live()
        deadline = time.monotonic() + timeout
        protocol.put(self._out, operation)
        while operation.number not in self._answers:
            self._wait(deadline, f"an answer to {type(operation).__name__}")
        answer = self._answers.pop(operation.number)
        if isinstance(answer, protocol.Done):
            return answer.value
        raise (NotFound if answer.missing else AdapterError)(answer.reason)

    def _wait(self, deadline: float, what: str) -> None:
        """Write and read once, having waited for the socket until the deadline at most."""
        sock = self._live()
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._lost(self._error(f"timed out waiting for {what}"))
        try:
            ready = _poll(sock, select.POLLIN | (select.POLLOUT if self._out else 0), left)
        except BaseException:
            self._end("it was interrupted in a wait")
            raise
        if ready & select.POLLOUT:
            self._write(sock)
        if ready & ~select.POLLOUT and self._broken is None:
            self._read(sock)
        if self._broken is not None:
            raise self._lost(self._broken)


class _Tag(NamedTuple):
    """A delivery's number, and the mark of its connection."""

    mark: object
    number: int


def _poll(sock: socket.socket, mask: int, timeout: float) -> int:
    """Wait for a socket at most ``timeout`` seconds, and return what it is ready for."""
    poll = select.poll()
    poll.register(sock, mask)
    return sum(event for _, event in poll.poll(timeout * 1000))
