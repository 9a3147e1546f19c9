"""A client's subscriptions and the messages that it holds: what its frames ask for. Pure state, no input or output."""

from __future__ import annotations

from typing import Protocol

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import Cancel, Confirmed, Delivery, Done, Operation, Subscribe, SubscriptionLost
from gofer.messaging.local import wire
from gofer.messaging.local.model import Model
from gofer.messaging.local.queues import Consumer, Message, Queue

__all__ = ["Peer", "Session"]


class Peer(Protocol):
    """Who is told what happens in a session."""

    @property
    def takes(self) -> bool:
        """Whether it takes deliveries now."""

    def say(self, frame: wire.FromBroker) -> None:
        """Hand on a frame."""


class Session:
    """One client's subscriptions and the deliveries that it holds. Bodies over ``max_message`` are left out."""

    def __init__(self, model: Model, peer: Peer, max_message: int = wire.MAX_BODY) -> None:
        self.max_message = max_message
        self._model = model
        self._peer = peer
        self._consumers: dict[int, Consumer] = {}
        self._held: dict[int, tuple[Consumer, Message]] = {}
        self._tags = 0
        self._closed = False

    def ask(self, id: int, operation: Operation) -> None:
        """Do an operation, and tell what came of it."""
        value: str | None = None
        try:
            match operation:
                case Subscribe():
                    self._subscribe(operation)
                case Cancel(number):
                    self._leave(self._consumers.pop(number, None))
                case _:
                    value = self._model.do(operation, self)
        except (NotFound, AdapterError) as error:
            self._peer.say(Done(id, None, error))
            return
        self._peer.say(Done(id, value))
        self.ready()

    def publish(self, message: wire.Publish) -> None:
        """Publish a message, and tell what became of it."""
        outcome, reason = self._model.publish(message.exchange, message.key, message.body, message.ttl)
        self._peer.say(Confirmed(message.token, outcome, reason))

    def settle(self, tag: int, verdict: str) -> None:
        """Settle a delivery. An unknown tag is ignored."""
        if tag not in self._held:
            return
        consumer, message = self._held.pop(tag)
        if verdict == "release":
            consumer.queue.put_back(message)
        else:
            consumer.queue.forget(message)
        consumer.credit += 1
        consumer.queue.ready(consumer)
        consumer.queue.dispatch(self._model.clock())

    def ready(self) -> None:
        """Have messages delivered again, after the peer took none for a while, or after a subscription."""
        for consumer in tuple(self._consumers.values()):
            consumer.queue.ready(consumer)
            consumer.queue.dispatch(self._model.clock())

    def close(self) -> None:
        """End it: what is held goes back, what is the session's own is deleted. Idempotent."""
        self._closed = True
        consumers, self._consumers = self._consumers, {}
        held, self._held = self._held, {}
        queues: dict[Queue, None] = {}
        for consumer, message in held.values():
            consumer.queue.put_back(message)
            queues[consumer.queue] = None
        self._model.disown(self)
        for consumer in consumers.values():
            self._leave(consumer)
        for queue in queues:
            queue.dispatch(self._model.clock())

    def _subscribe(self, wanted: Subscribe) -> None:
        queue = self._model.queue(wanted.queue, self)
        if not 0 < wanted.prefetch < 65536:
            raise AdapterError(f"a prefetch of {wanted.prefetch} is not between 1 and 65535")
        if wanted.number in self._consumers:
            raise AdapterError(f"there is a subscription {wanted.number} already")
        if queue.sole:
            raise AdapterError(f"queue {wanted.queue!r} has an exclusive subscriber")
        if wanted.exclusive and queue.consumers:
            raise AdapterError(
                f"queue {wanted.queue!r} has {len(queue.consumers)} other subscriber(s), so none can be exclusive"
            )
        consumer = Consumer(wanted.number, queue, self, wanted.prefetch)
        self._consumers[wanted.number] = consumer
        queue.join(consumer, sole=wanted.exclusive)

    def _leave(self, consumer: Consumer | None) -> None:
        if consumer is None:
            return
        queue = consumer.queue
        queue.leave(consumer, self._model.clock())
        if queue.spec.auto_delete and not queue.consumers:
            self._model.drop(queue, "went with its last subscriber")

    # -- for the queues: see Taker ---------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether the peer takes deliveries now."""
        return not self._closed and self._peer.takes

    def take(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and hand it on."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        size = len(message.body)
        body = message.body if size <= self.max_message else b""
        self._peer.say(Delivery(consumer.number, body, message.redelivered, message.ttl, self._tags, size))

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the peer."""
        self._consumers.pop(consumer.number, None)
        if not self._closed:
            self._peer.say(SubscriptionLost(consumer.number, reason))
