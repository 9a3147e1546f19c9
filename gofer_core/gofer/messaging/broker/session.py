"""A client's subscriptions and the messages that it holds. Pure state, no input or output."""

from __future__ import annotations

from typing import Protocol

from gofer.errors import AdapterError
from gofer.messaging.broker.model import Model
from gofer.messaging.broker.queues import Consumer, Message, Queue

__all__ = ["ACCEPT", "REJECT", "RELEASE", "Peer", "Session"]

ACCEPT, RELEASE, REJECT = range(3)


class Peer(Protocol):
    """Who is told what happens in a session."""

    @property
    def takes(self) -> bool:
        """Whether it takes deliveries now."""

    def deliver(self, subscription: int, tag: int, message: Message, limit: int | None) -> None:
        """Hand on a delivery; of a body over the limit only its ends."""

    def lost(self, subscription: int, reason: str) -> None:
        """Tell that a subscription ended."""


class Session:
    """One client's subscriptions and the deliveries that it holds."""

    def __init__(self, model: Model, peer: Peer) -> None:
        self.owned: dict[Queue, None] = {}
        self._model = model
        self._peer = peer
        self._consumers: dict[int, Consumer] = {}
        self._held: dict[int, tuple[Consumer, Message]] = {}
        self._subscriptions = 0
        self._tags = 0
        self._closed = False

    def subscribe(self, name: str, prefetch: int, *, exclusive: bool, limit: int | None = None) -> int:
        """Subscribe to a queue. Returns the subscription's number; deliveries come after ``ready``."""
        queue = self._model.queue(name, self)
        if not 0 < prefetch < 65536:
            raise AdapterError(f"a prefetch of {prefetch} is not between 1 and 65535")
        if queue.sole:
            raise AdapterError(f"queue {name!r} has an exclusive subscriber")
        if exclusive and queue.consumers:
            raise AdapterError(
                f"queue {name!r} has {len(queue.consumers)} other subscriber(s), so none can be exclusive"
            )
        self._subscriptions += 1
        consumer = Consumer(self._subscriptions, queue, self, prefetch, limit)
        self._consumers[consumer.number] = consumer
        queue.join(consumer, sole=exclusive)
        return consumer.number

    def cancel(self, subscription: int) -> None:
        """End a subscription, if there is one."""
        consumer = self._consumers.pop(subscription, None)
        if consumer is not None:
            self._leave(consumer)

    def settle(self, tag: int, verdict: int) -> None:
        """Settle a delivery: ACCEPT, RELEASE or REJECT. An unknown tag is ignored."""
        held = self._held.pop(tag, None)
        if held is None:
            return
        consumer, message = held
        queue = consumer.queue
        if verdict == RELEASE:
            queue.put_back(message)
        else:
            queue.forget(message)
        consumer.credit += 1
        queue.ready(consumer)
        queue.dispatch(self._model.clock())

    def ready(self) -> None:
        """Have messages delivered again, after the peer took none for a while, or after a subscription."""
        now = self._model.clock()
        for consumer in tuple(self._consumers.values()):
            consumer.queue.ready(consumer)
            consumer.queue.dispatch(now)

    def close(self) -> None:
        """End it: what is held goes back, what is the session's own is deleted. Idempotent."""
        self._closed = True
        consumers, self._consumers = self._consumers, {}
        held, self._held = self._held, {}
        queues: dict[Queue, None] = {}
        for consumer, message in held.values():
            consumer.queue.put_back(message)
            queues[consumer.queue] = None
        for queue in tuple(self.owned):
            self._model.drop(queue, f"queue {queue.name!r} was exclusive to a connection that ended")
        for consumer in consumers.values():
            self._leave(consumer)
        now = self._model.clock()
        for queue in queues:
            queue.dispatch(now)

    def _leave(self, consumer: Consumer) -> None:
        queue = consumer.queue
        queue.leave(consumer, self._model.clock())
        if queue.spec.auto_delete and not queue.consumers:
            self._model.drop(queue, f"queue {queue.name!r} went with its last subscriber")

    # -- for the queues: see Taker ---------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether the peer takes deliveries now."""
        return not self._closed and self._peer.takes

    def take(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and hand it on."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        self._peer.deliver(consumer.number, self._tags, message, consumer.limit)

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the peer."""
        self._consumers.pop(consumer.number, None)
        if not self._closed:
            self._peer.lost(consumer.number, reason)
