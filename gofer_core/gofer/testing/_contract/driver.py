# ruff: noqa: S101 - these are tests, shipped
"""Drive an adapter as the link does, on conditions with deadlines."""

from __future__ import annotations

import itertools
import select
import time
import uuid
from collections.abc import Callable

from gofer.messaging.adapter.base import Adapter, Delivery, Outcome, QueueSpec, Settled, SubscriptionLost
from gofer.messaging.address import Address

__all__ = ["WAIT", "Connect", "Driver", "Names"]

#: Seconds that any one condition or operation may take, on a busy machine.
WAIT = 10.0


class Driver:
    """An adapter under test, and all it has said: ``deliveries`` not yet taken, ``settlements`` by token, ``lost``."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.deliveries: list[Delivery] = []
        self.settlements: dict[int, Settled] = {}
        self.lost: list[SubscriptionLost] = []
        self._sent: set[int] = set()
        self._tokens = itertools.count(1)
        self._ticked = time.monotonic()

    # -- driving ---------------------------------------------------------------------------------------------

    def turn(self, timeout: float) -> None:
        """Wait for the descriptor at most ``timeout`` seconds, then write and read once."""
        if not self.adapter.pending:
            poll = select.poll()
            poll.register(self.adapter.fileno(), select.POLLIN | (select.POLLOUT if self.adapter.unwritten else 0))
            poll.poll(max(timeout, 0.0) * 1000)
        self.adapter.flush()
        for event in self.adapter.process():
            self._keep(event)

    def until(self, condition: Callable[[], bool], what: str, timeout: float = WAIT, tick: float | None = None) -> None:
        """Drive until the condition holds; fail, saying ``what`` was waited for, after ``timeout`` seconds.

        ``tick``: call the adapter's ``tick`` this often, in seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"after {timeout:g} s still waiting for {what}"
            self.turn(min(left, 0.1))
            if tick is not None and time.monotonic() - self._ticked >= tick:
                self._ticked = time.monotonic()
                self.adapter.tick()

    def pass_time(self, seconds: float, tick: float | None = None) -> None:
        """Drive for a while, where the time itself is what is tested (a ttl, a heartbeat)."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, "time to pass", seconds + WAIT, tick)

    def written(self) -> None:
        """Drive until the outbox is empty."""
        self.until(lambda: self.adapter.unwritten == 0, "the outbox to empty")

    # -- what the tests say ----------------------------------------------------------------------------------

    def queue(self, name: str) -> str:
        """Declare a queue of the default kind."""
        self.adapter.declare_queue(QueueSpec(name), WAIT)
        return name

    def subscribe(self, queue: str, prefetch: int = 10, *, exclusive: bool = False, limit: int | None = None) -> int:
        """Subscribe to a queue."""
        return self.adapter.subscribe(queue, prefetch, WAIT, exclusive=exclusive, limit=limit)

    def post(
        self,
        key: str,
        body: bytes = b"x",
        *,
        exchange: str = "",
        ttl: float | None = None,
        isolated: bool = False,
        durable: bool = True,
        confirm: bool = True,
    ) -> int:
        """Put a message into the outbox, and return its token."""
        token = next(self._tokens)
        self._sent.add(token)
        self.adapter.send(
            token, Address(exchange, key), body, ttl=ttl, isolated=isolated, durable=durable, confirm=confirm
        )
        return token

    def settled(self, token: int) -> Settled:
        """Wait for a message's settlement."""
        self.until(lambda: token in self.settlements, f"message {token} to be settled")
        return self.settlements[token]

    def send(self, key: str, body: bytes = b"x", *, exchange: str = "", ttl: float | None = None) -> Settled:
        """Send a message, wait, and return its settlement."""
        return self.settled(self.post(key, body, exchange=exchange, ttl=ttl))

    def give(self, key: str, *bodies: bytes, exchange: str = "", ttl: float | None = None) -> None:
        """Send messages that must be taken: these, or any one when none is named."""
        for token in [self.post(key, body, exchange=exchange, ttl=ttl) for body in bodies or (b"any",)]:
            found = self.settled(token)
            assert found.outcome is Outcome.TAKEN, f"message to {exchange}/{key} was not taken: {found}"

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
        self.adapter.cancel(subscription, WAIT)
        self.adapter.delete_queue(name, WAIT)

    def nothing_comes(self) -> None:
        """Check that no delivery is on its way to us."""
        self.settle_down()
        assert [d.body[:100] for d in self.deliveries] == []

    def close(self) -> None:
        """Close the adapter."""
        self.adapter.close()

    def _keep(self, event: object) -> None:
        if isinstance(event, Delivery):
            self.deliveries.append(event)
        elif isinstance(event, Settled):
            assert event.token in self._sent, f"settled what was never sent: {event}"
            assert event.token not in self.settlements, f"settled twice: {event}, {self.settlements[event.token]}"
            self.settlements[event.token] = event
        else:
            assert isinstance(event, SubscriptionLost), f"not an event: {event!r}"
            self.lost.append(event)


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
