# ruff: noqa: S101 - these are tests, shipped
"""Drive an adapter over a socket, as the connection does, on conditions with deadlines."""

from __future__ import annotations

import itertools
import select
import socket
import ssl
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

from gofer.errors import ConnectionLost
from gofer.messaging.adapter import (
    Adapter,
    Blocked,
    Cancel,
    Closed,
    Confirmed,
    DeclareQueue,
    DeleteQueue,
    Delivery,
    Done,
    Event,
    Opened,
    Operation,
    Outcome,
    Subscribe,
    SubscriptionLost,
)
from gofer.messaging.address import Address
from gofer.messaging.transport import open_socket

__all__ = ["NUMBERS", "WAIT", "Call", "Connect", "Driver", "Names", "Watched"]

#: Seconds that any one condition or operation may take, on a busy machine.
WAIT = 10.0

#: One call of an adapter's method: its name, its arguments, and those with names.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]

#: New numbers of subscriptions.
NUMBERS = itertools.count(1)


class Watched:
    """Stands before an adapter, passes on every call, and checks that what comes out keeps the order of events.

    ``calls`` is the record of all calls, when it is a list.
    """

    def __init__(self, adapter: Adapter, calls: list[Call] | None = None) -> None:
        self.adapter = adapter
        self.calls = calls
        self._opened = self._closed = False
        self._asked: set[int] = set()
        self._published: dict[int, bool] = {}
        self._subscribed: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.adapter, name)
        if not callable(method):
            return method

        def call(*args: Any, **options: Any) -> Any:
            value = method(*args, **options)
            if self.calls is not None:
                self.calls.append((name, args, options))
            if name == "ask":
                self._asked.add(args[0])
                if isinstance(args[1], Subscribe):
                    self._subscribed.add(args[1].number)
            elif name == "publish":
                self._published[args[0]] = options.get("confirm", True)
            elif name == "events":
                for event in value:
                    self._check(event)
            elif name == "take":
                assert type(value) is bytes
                assert not self.adapter.urgent, "still urgent after take"
            return value

        return call

    def _check(self, event: Event) -> None:
        assert not self._closed, f"after Closed came {event}"
        assert self._opened or isinstance(event, (Opened, Closed)), f"before Opened came {event}"
        if isinstance(event, Opened):
            assert not self._opened, "opened twice"
            self._opened = True
        elif isinstance(event, Closed):
            self._closed = True
        elif isinstance(event, Done):
            assert event.id in self._asked, f"done twice, or never asked: {event}"
            self._asked.discard(event.id)
        elif isinstance(event, Confirmed):
            assert event.token in self._published, f"answered twice, or never published: {event}"
            del self._published[event.token]
        elif isinstance(event, Delivery):
            assert event.subscription in self._subscribed, f"never subscribed: {event}"
            assert type(event.body) is bytes
            assert event.size == len(event.body) or (not event.body and event.size > self.adapter.connector.max_message)
        elif isinstance(event, SubscriptionLost):
            assert event.number in self._subscribed, f"lost twice, or never subscribed: {event}"
            self._subscribed.discard(event.number)
        else:
            assert isinstance(event, Blocked), f"not an event: {event!r}"


class Driver:
    """An adapter under test, its socket, and all it has said.

    ``deliveries`` not yet taken, ``confirmations`` by token, ``lost`` subscriptions, ``blocks`` (and their ends),
    ``opened`` and ``closed``. The adapter's clock is this machine's and ``ahead`` seconds, which a test may change.
    """

    def __init__(self, adapter: Adapter, calls: list[Call] | None = None) -> None:
        self.adapter = cast(Adapter, Watched(adapter, calls))
        self.ahead = 0.0
        self.deliveries: list[Delivery] = []
        self.confirmations: dict[int, Confirmed] = {}
        self.lost: list[SubscriptionLost] = []
        self.blocks: list[str | None] = []
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self._sock: socket.socket | None = None
        self._out = bytearray()
        self._done: dict[int, Done] = {}
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)

    # -- driving ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The adapter's time."""
        return time.monotonic() + self.ahead

    def open(self, timeout: float = WAIT) -> Driver:
        """Open the socket and log in. Raises what ``Closed`` tells."""
        self._sock = open_socket(self.adapter.connector, timeout)
        try:
            self.adapter.begin(self.now)
            self.until(lambda: self.opened is not None, "the login", timeout)
        except BaseException:
            self.cut()
            raise
        return self

    def turn(self, timeout: float) -> None:
        """Wait for the socket at most ``timeout`` seconds, then write and read, or tick when that is due."""
        self.pump()
        sock, left = self._sock, self.adapter.deadline - self.now
        if sock is None:
            return
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._out else 0))
        ready = sum(mask for _, mask in poll.poll(max(min(timeout, left), 0.0) * 1000))
        if ready & select.POLLOUT:
            self._write(sock)
        if ready & ~select.POLLOUT:
            self._read(sock)
        elif self.now >= self.adapter.deadline:
            self.adapter.tick(self.now)
        self.pump()

    def pump(self) -> None:
        """Take what the adapter has to say and to write."""
        for event in self.adapter.events():
            self._keep(event)
        self._out += self.adapter.take(self.now)

    def until(self, condition: Callable[[], bool], what: str, timeout: float = WAIT) -> None:
        """Drive until the condition holds; fail, saying ``what`` was waited for, after ``timeout`` seconds.

        Raises what ``Closed`` tells, if that comes first.
        """
        deadline = time.monotonic() + timeout
        self.pump()
        while not condition():
            if self.closed is not None:
                raise self.closed.error or AssertionError(f"closed while waiting for {what}")
            left = deadline - time.monotonic()
            assert left > 0, f"after {timeout:g} s still waiting for {what}"
            self.turn(min(left, 0.1))

    def pass_time(self, seconds: float) -> None:
        """Drive for a while, where the time itself is what is tested (a ttl, a heartbeat)."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "time to pass", seconds + WAIT)

    def written(self) -> None:
        """Drive until all is written."""
        self.until(lambda: not self._out, "all to be written")

    def ended(self) -> Closed:
        """Drive until ``Closed``, and return it."""
        self.until(lambda: self.closed is not None, "the end")
        assert self.closed is not None
        return self.closed

    def cut(self) -> None:
        """End the socket without a word, as the death of this process would."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
            self.adapter.lost("cut by the test", self.now)
            self.pump()

    def close(self) -> None:
        """Say goodbye, wait a little for the answer, and close the socket. Idempotent."""
        if self._sock is not None:
            try:
                self.adapter.close(self.now)
                self.until(lambda: self.closed is not None, "the end", 2.0)
            except (ConnectionLost, AssertionError):
                pass  # it was broken before, or the peer does not answer
            self.cut()

    def _write(self, sock: socket.socket) -> None:
        try:
            del self._out[: sock.send(self._out)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # when it takes more
        except OSError:
            self._out.clear()  # reading tells why

    def _read(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                self.adapter.receive(data, self.now)
                if not isinstance(sock, ssl.SSLSocket):
                    return
            why = "it closed the connection"
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except OSError as error:
            why = error.strerror or str(error)
        sock.close()
        self._sock = None
        self.adapter.lost(why, self.now)

    def _keep(self, event: Event) -> None:
        match event:
            case Opened():
                self.opened = event
            case Done():
                self._done[event.id] = event
            case Delivery():
                self.deliveries.append(event)
            case Confirmed():
                self.confirmations[event.token] = event
            case SubscriptionLost():
                self.lost.append(event)
            case Blocked():
                self.blocks.append(event.reason)
            case Closed():
                self.closed = event

    # -- operations ------------------------------------------------------------------------------------------

    def start(self, operation: Operation) -> int:
        """Ask for an operation, and return its id."""
        id = next(self._ids)
        self.adapter.ask(id, operation)
        return id

    def done(self, id: int, timeout: float = WAIT) -> str | None:
        """Wait for the answer to an operation; return its value, or raise its error."""
        self.until(lambda: id in self._done, f"operation {id} to be done", timeout)
        answer = self._done.pop(id)
        if answer.error is not None:
            assert answer.value is None
            raise answer.error
        return answer.value

    def ask(self, operation: Operation, timeout: float = WAIT) -> str | None:
        """Have an operation done; return its value, or raise its error."""
        return self.done(self.start(operation), timeout)

    def queue(self, name: str) -> str:
        """Declare a queue of the default kind."""
        self.ask(DeclareQueue(name))
        return name

    def subscribe(self, queue: str, prefetch: int = 10, *, exclusive: bool = False) -> int:
        """Subscribe to a queue, and return the subscription's number."""
        number = next(NUMBERS)
        assert self.ask(Subscribe(number, queue, prefetch, exclusive)) is None
        return number

    def cancel(self, subscription: int) -> None:
        """End a subscription."""
        assert self.ask(Cancel(subscription)) is None

    # -- messages --------------------------------------------------------------------------------------------

    def post(self, key: str, body: bytes = b"x", *, exchange: str = "", **options: Any) -> int:
        """Publish a message, and return its token. ``options`` are those of the adapter."""
        token = next(self._tokens)
        self.adapter.publish(token, Address(exchange, key), body, **options)
        return token

    def confirmed(self, token: int) -> Confirmed:
        """Wait for the broker's answer to a message."""
        self.until(lambda: token in self.confirmations, f"message {token} to be answered")
        return self.confirmations[token]

    def send(self, key: str, body: bytes = b"x", *, exchange: str = "", ttl: float | None = None) -> Outcome:
        """Publish a message, wait, and return what became of it."""
        return self.confirmed(self.post(key, body, exchange=exchange, ttl=ttl)).outcome

    def give(self, key: str, *bodies: bytes, exchange: str = "", ttl: float | None = None) -> None:
        """Publish messages that must be confirmed: these, or any one when none is named."""
        for token in [self.post(key, body, exchange=exchange, ttl=ttl) for body in bodies or (b"any",)]:
            found = self.confirmed(token)
            assert found.outcome is Outcome.CONFIRMED, f"message to {exchange}/{key} was not confirmed: {found}"

    def take(self, count: int = 1, subscription: int | None = None) -> list[Delivery]:
        """Wait for so many deliveries (of one subscription), and return them in their order."""

        def mine() -> list[Delivery]:
            return [d for d in self.deliveries if subscription is None or d.subscription == subscription]

        self.until(lambda: len(mine()) >= count, f"{count} deliveries (have {len(mine())})")
        taken = mine()[:count]
        self.deliveries = [d for d in self.deliveries if not any(d is t for t in taken)]
        return taken

    def one(self, subscription: int | None = None) -> Delivery:
        """Wait for one delivery."""
        return self.take(1, subscription)[0]

    def accept(self, *deliveries: Delivery) -> None:
        """Accept deliveries, and write that."""
        for delivery in deliveries:
            self.adapter.accept(delivery)
        self.written()

    def settle_down(self) -> None:
        """Send a message of our own through the broker and back: what it had for us before then is here."""
        name = self.queue(f"contract-barrier-{uuid.uuid4().hex[:12]}")
        self.give(name, b"barrier")
        subscription = self.subscribe(name)
        self.accept(self.one(subscription))
        self.cancel(subscription)
        self.ask(DeleteQueue(name))

    def nothing_comes(self) -> None:
        """Check that no delivery is on its way to us."""
        self.settle_down()
        assert [d.body[:100] for d in self.deliveries] == []


class Names:
    """Make names nobody else uses, and remember them for the cleaning up."""

    def __init__(self) -> None:
        self.queues: list[str] = []
        self.exchanges: list[str] = []

    def queue(self, hint: str = "queue") -> str:
        """Return a new queue's name."""
        self.queues.append(f"contract-{hint}-{uuid.uuid4().hex[:12]}")
        return self.queues[-1]

    def exchange(self, hint: str = "exchange") -> str:
        """Return a new exchange's name."""
        self.exchanges.append(f"contract-{hint}-{uuid.uuid4().hex[:12]}")
        return self.exchanges[-1]


#: Opens another connection: ``connect()`` to the broker, ``connect(url=..., heartbeat=...)`` differently.
Connect = Callable[..., Driver]
