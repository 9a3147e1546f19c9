# ruff: noqa: S101 - these are tests, shipped
"""Drive an adapter over a socket, as the connection does, on conditions with deadlines."""

from __future__ import annotations

import functools
import itertools
import random
import select
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest

from gofer.errors import ConnectionLost
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Closed, Delivery, Event, Opened, Outcome
from gofer.messaging.address import Address
from gofer.messaging.endings import words
from gofer.messaging.transport import open_wire
from gofer.messaging.wire import Wire

__all__ = ["WAIT", "Call", "Connect", "Driver", "Heard", "Watched", "new_number"]

#: Seconds that any one condition or operation may take, on a busy machine.
WAIT = 10.0

#: One call of an adapter's method: its name, its arguments (deliveries by their place), and those with names.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def new_number() -> int:
    """Return a number for a subscription: nobody in this process has had it."""
    return random.SystemRandom().getrandbits(53)


class Heard:
    """All that an adapter has said, checked as it comes.

    ``said`` is all of it; ``delivered`` all deliveries, ``deliveries`` those not yet taken, ``confirmations`` by token,
    ``lost`` subscriptions, ``blocks`` (and their ends), ``answers`` to operations by id, ``opened`` and ``closed``.
    """

    def __init__(self) -> None:
        self.said: list[Event] = []
        self.delivered: list[Delivery] = []
        self.deliveries: list[Delivery] = []
        self.confirmations: dict[int, api.Confirmed] = {}
        self.lost: list[api.SubscriptionLost] = []
        self.blocks: list[str | None] = []
        self.answers: dict[int, api.Done] = {}
        self.opened: Opened | None = None
        self.closed: Closed | None = None
        self.asked: set[int] = set()
        self.published: set[int] = set()
        self.subscribed: dict[int, str] = {}

    def hear(self, event: Event) -> None:
        """Check and keep an event. One that nobody waits for, or that comes twice, is a KeyError."""
        assert not self.closed, f"after Closed came {event}"
        turn = (self.opened is None) is isinstance(event, Opened)
        assert turn or isinstance(event, Closed), f"out of its turn came {event}"
        self.said.append(event)
        match event:
            case Opened():
                self.opened = event
            case Closed():
                self.closed = event
            case api.Done(id):
                self.asked.remove(id)
                self.answers[id] = event
            case api.Confirmed(token):
                self.published.remove(token)
                self.confirmations[token] = event
            case Delivery(number, body):
                assert number in self.subscribed
                assert type(body) is bytes
                self.delivered.append(event)
                self.deliveries.append(event)
            case api.SubscriptionLost(number):
                del self.subscribed[number]
                self.lost.append(event)
            case _:
                assert isinstance(event, api.Blocked), f"not an event: {event!r}"
                self.blocks.append(event.reason)


class Watched:
    """Stands before an adapter, passes on every call, and has its events heard. ``calls`` is a record to be kept."""

    def __init__(self, adapter: Adapter, heard: Heard, calls: list[Call] | None = None) -> None:
        self._adapter = adapter
        self._heard = heard
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        return functools.partial(self._call, name, method) if callable(method) else method

    def _call(self, name: str, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        value = method(*args, **options)
        if self._calls is not None:
            named = [self._heard.delivered.index(arg) if isinstance(arg, Delivery) else arg for arg in args]
            self._calls.append((name, tuple(named), options))
        if name == "ask":
            self._heard.asked.add(args[0])
            if isinstance(args[1], api.Subscribe):
                self._heard.subscribed[args[1].number] = args[1].queue
        elif name == "publish":
            self._heard.published.add(args[0].token)
        elif name == "events":
            for event in value:
                self._heard.hear(event)
        elif name == "take":
            assert type(value) is bytes
            assert not self._adapter.urgent, "still urgent after take"
        return value


class Driver(Heard):
    """An adapter under test, its socket, and all it has said.

    The adapter's clock is this machine's and ``ahead`` seconds, which a test may change. ``deletes``: the broker can
    delete queues.
    """

    def __init__(self, adapter: Adapter, calls: list[Call] | None = None) -> None:
        super().__init__()
        self.adapter = cast(Adapter, Watched(adapter, self, calls))
        self.ahead = 0.0
        self.deletes = True
        self.names: list[str] = []
        self._sock: Wire | None = None
        self._out = bytearray()
        self._numbers = itertools.count(1)

    # -- driving ---------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The adapter's time."""
        return time.monotonic() + self.ahead

    def open(self, timeout: float = WAIT) -> Driver:
        """Open the socket and log in. Raises what ``Closed`` tells."""
        self._sock = open_wire(self.adapter.connector, timeout)
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
        wire, left = self._sock, self.adapter.deadline - self.now
        if wire is None:
            return
        poll = select.poll()
        poll.register(wire, select.POLLIN | (select.POLLOUT if self._out or wire.buffer else 0))
        ready = sum(mask for _, mask in poll.poll(max(min(timeout, left), 0.0) * 1000))
        if ready & select.POLLOUT:
            self._write(wire)
        if ready & ~select.POLLOUT:
            self._read(wire)
        elif self.now >= self.adapter.deadline:
            self.adapter.tick(self.now)
        self.pump()

    def pump(self) -> None:
        """Take what the adapter has to say and to write."""
        self.adapter.events()
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
        self.until(lambda: not self._out and (self._sock is None or not self._sock.buffer), "all to be written")

    def ended(self, timeout: float = WAIT) -> Closed:
        """Drive until ``Closed``, and return it."""
        self.until(lambda: self.closed is not None, "the end", timeout)
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

    def _write(self, wire: Wire) -> None:
        data = bytes(self._out)
        self._out.clear()
        try:
            wire.write(data)
        except OSError:
            pass  # reading tells why

    def _read(self, wire: Wire) -> None:
        try:
            if data := wire.read():
                self.adapter.receive(data, self.now)
        except OSError as error:
            wire.close()
            self._sock = None
            self.adapter.lost(words(error), self.now)

    # -- operations ------------------------------------------------------------------------------------------

    def start(self, operation: api.Operation) -> int:
        """Ask for an operation, and return its id."""
        id = next(self._numbers)
        self.adapter.ask(id, operation)
        return id

    def done(self, id: int, timeout: float = WAIT) -> str | None:
        """Wait for the answer to an operation; return its value, or raise its error."""
        self.until(lambda: id in self.answers, f"operation {id} to be done", timeout)
        answer = self.answers.pop(id)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def ask(self, operation: api.Operation, timeout: float = WAIT) -> str | None:
        """Have an operation done; return its value, or raise its error."""
        return self.done(self.start(operation), timeout)

    def fails(self, error: type[Exception] | tuple[type[Exception], ...], *operations: api.Operation) -> None:
        """Check that operations end with an error that says something."""
        for operation in operations:
            with pytest.raises(error, match=r"."):
                self.ask(operation)

    def name(self, hint: str = "name") -> str:
        """Return a name that nobody else uses; the contract deletes what is called so afterwards."""
        self.names.append(f"contract-{hint}-{uuid.uuid4().hex[:12]}")
        return self.names[-1]

    def queue(self, name: str | None = None) -> str:
        """Declare a queue of the default kind."""
        name = name or self.name("queue")
        assert self.ask(api.DeclareQueue(name)) is None
        return name

    def exchange(self, kind: str = "direct", name: str | None = None) -> str:
        """Declare an exchange."""
        name = name or self.name("exchange")
        assert self.ask(api.DeclareExchange(name, kind)) is None
        return name

    def bind(self, queue: str, exchange: str, *keys: str) -> None:
        """Bind a queue to an exchange for some keys."""
        for key in keys:
            assert self.ask(api.Bind(queue, exchange, key)) is None

    def subscribe(self, queue: str, prefetch: int = 10, *, exclusive: bool = False, limit: int | None = None) -> int:
        """Subscribe to a queue, and return the subscription's number."""
        number = new_number()
        assert self.ask(api.Subscribe(number, queue, prefetch, exclusive, limit)) is None
        return number

    def cancel(self, subscription: int) -> None:
        """End a subscription."""
        assert self.ask(api.Cancel(subscription)) is None

    # -- messages --------------------------------------------------------------------------------------------

    def post(self, key: str, body: bytes = b"x", *, exchange: str = "", **options: Any) -> int:
        """Publish a message, and return its token. ``options`` are fields of the message.

        With ``encoded=True`` it is written here, as the main thread of a program does, where the adapter allows that.
        """
        encoded, token = options.pop("encoded", False), next(self._numbers)
        message = api.Outgoing(token, Address(exchange, key), body, **options)
        if encoded:
            self.pump()
            data = self.adapter.encode(api.checked(message))
            assert data == self.adapter.encode(message), "it has changed something"
            if data is not None:
                self._out += data
                self.published.add(token)
                self.adapter.written(message)
                return token
        self.adapter.publish(message)
        return token

    def confirmed(self, token: int) -> api.Confirmed:
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
        name = self.queue()
        self.give(name, b"barrier")
        subscription = self.subscribe(name)
        self.accept(self.one(subscription))
        self.cancel(subscription)
        if self.deletes:
            self.ask(api.DeleteQueue(name))

    def hold(self, queue: str, *bodies: bytes) -> list[Delivery]:
        """Subscribe to a queue, unless that is done, publish messages there, and take them."""
        if queue not in self.subscribed.values():
            self.subscribe(queue)
        self.give(queue, *bodies)
        return self.take(len(bodies))

    def nothing_comes(self) -> None:
        """Check that no delivery is on its way to us."""
        self.settle_down()
        assert [d.body[:100] for d in self.deliveries] == []


#: Opens another connection: ``connect()`` to the broker, ``connect(url=..., heartbeat=...)`` differently.
Connect = Callable[..., Driver]
