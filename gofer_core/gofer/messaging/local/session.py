"""A client's subscriptions and the messages that it holds: what its frames ask for. Pure state, no input or output."""

from __future__ import annotations

from abc import ABC, abstractmethod

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import Cancel, Confirmed, Delivery, Done, Operation, Subscribe, SubscriptionLost
from gofer.messaging.local import wire
from gofer.messaging.local.model import Model
from gofer.messaging.local.queues import Consumer, Message

__all__ = ["Session"]


class Session(ABC):
    """One client's subscriptions, and the deliveries that it holds. Bodies over ``max_message`` are left out."""

    max_message = wire.MAX_BODY

    def __init__(self, model: Model) -> None:
        self._model = model
        self._consumers: dict[int, Consumer] = {}
        self._held: dict[int, tuple[Consumer, Message]] = {}
        self._tags = 0

    @property
    @abstractmethod
    def takes(self) -> bool:
        """Whether the client takes deliveries now; when it does so again, ``ready`` is called."""

    @abstractmethod
    def say(self, frame: wire.FromBroker) -> None:
        """Hand on a frame to the client."""

    def ask(self, id: int, operation: Operation) -> None:
        """Do an operation, and tell what came of it."""
        value: str | None = None
        try:
            match operation:
                case Subscribe():
                    self._subscribe(operation)
                case Cancel(number):
                    if number in self._consumers:
                        self._leave(self._consumers.pop(number))
                case _:
                    value = self._model.do(operation, self)
        except (NotFound, AdapterError) as error:
            self.say(Done(id, None, error))
        else:
            self.say(Done(id, value))
            self.ready()

    def publish(self, message: wire.Publish) -> None:
        """Publish a message, and tell what became of it."""
        outcome, reason = self._model.publish(message.exchange, message.key, message.body, message.ttl)
        self.say(Confirmed(message.token, outcome, reason))

    def settle(self, tag: int, verdict: wire.Verdict) -> None:
        """Settle a delivery. An unknown tag is ignored."""
        if tag in self._held:
            consumer, message = self._held.pop(tag)
            if verdict == "release":
                consumer.queue.put_back(message)
            else:
                consumer.queue.forget(message)
            consumer.credit += 1
            consumer.queue.ready(consumer)

    def ready(self) -> None:
        """Have messages delivered again, after the client took none for a while, or after a subscription."""
        for consumer in tuple(self._consumers.values()):
            consumer.queue.ready(consumer)

    def close(self) -> None:
        """End it: what is held goes back, what is the session's own is deleted. Idempotent."""
        held, self._held = self._held, {}
        for consumer, message in held.values():
            consumer.queue.put_back(message)
        while self._consumers:
            self._leave(self._consumers.popitem()[1])
        self._model.disown(self)
        for queue in {consumer.queue: None for consumer, _ in held.values()}:
            queue.dispatch()

    def _subscribe(self, wanted: Subscribe) -> None:
        queue = self._model.queue(wanted.queue, self)
        others = len(queue.consumers)
        if not 0 < wanted.prefetch < 65536:
            raise AdapterError(f"a prefetch of {wanted.prefetch} is not between 1 and 65535")
        if wanted.number in self._consumers:
            raise AdapterError(f"there is a subscription {wanted.number} already")
        if queue.sole:
            raise AdapterError(f"queue {wanted.queue!r} has an exclusive subscriber")
        if wanted.exclusive and others:
            raise AdapterError(f"queue {wanted.queue!r} has {others} other subscriber(s), so none can be exclusive")
        consumer = self._consumers[wanted.number] = Consumer(wanted.number, queue, self, wanted.prefetch)
        queue.join(consumer, sole=wanted.exclusive)

    def _leave(self, consumer: Consumer) -> None:
        consumer.queue.leave(consumer)
        if consumer.queue.spec.auto_delete and not consumer.queue.consumers:
            self._model.drop(consumer.queue, "went with its last subscriber")

    # -- for the queues: see Taker ---------------------------------------------------------------------------

    def take(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and hand it on."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        size = len(message.body)
        body = message.body if size <= self.max_message else b""
        self.say(Delivery(consumer.number, body, message.redelivered, message.ttl, self._tags, size))

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the client."""
        del self._consumers[consumer.number]
        self.say(SubscriptionLost(consumer.number, reason))
