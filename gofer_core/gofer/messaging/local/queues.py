"""Queues of the local broker: waiting messages, and the consumers that get them. Pure state, no input or output."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

import msgspec

from gofer.messaging.adapter import DeclareQueue

__all__ = ["Consumer", "Message", "Queue", "Receiver", "Usage", "cost"]

#: What a message takes beside its body, in bytes, roughly.
_OVERHEAD = 256


def cost(body: bytes) -> int:
    """Return the bytes that a message with this body takes in one queue."""
    return len(body) + _OVERHEAD


class Usage(msgspec.Struct):
    """Used bytes, and the limit. ``who`` names what uses them."""

    who: str
    limit: int
    used: int = 0

    def lacks(self, size: int) -> str:
        """Return the reason why there is no room for so many bytes, "" when there is."""
        why = f"{self.who} is full: it holds {self.used} of {self.limit} bytes"
        return why if self.used + size > self.limit else ""


class Message(msgspec.Struct):
    """A message in one queue. ``number`` is its place there, ``deadline`` the clock's time at which it expires."""

    number: int
    body: bytes
    ttl: float | None
    deadline: float
    redelivered: bool = False


class Receiver(Protocol):
    """The client behind a consumer. It may own queues."""

    @property
    def receives(self) -> bool:
        """Whether it can receive a message now."""

    def deliver(self, consumer: Consumer, message: Message) -> None:
        """Receive a message, to be settled later."""

    def subscription_lost(self, consumer: Consumer, reason: str) -> None:
        """Note that the queue is gone."""


class Consumer(msgspec.Struct, eq=False):
    """A subscription to a queue. ``credit``: how many more messages it may hold unsettled.

    ``limit``: of a larger body it gets only the ends. ``waiting``: it is in the queue's line of consumers.
    """

    number: int
    queue: Queue
    receiver: Receiver
    credit: int
    limit: int | None = None
    waiting: bool = False


class Queue:
    """Messages in their order, delivered to the consumers in turn. A message that is requeued returns to its place.

    ``used_at``: when it last had a use that is over. ``exclusive``: it may have no other consumer. ``usages``: its own,
    and those that include it.
    """

    def __init__(
        self, spec: DeclareQueue, owner: Receiver | None, usages: tuple[Usage, ...], clock: Callable[[], float]
    ) -> None:
        self.spec = spec
        self.owner = owner
        self.usages = usages
        self.deleted = self.exclusive = False
        self.used_at = clock()
        self.consumers: dict[Consumer, None] = {}
        self._clock = clock
        self._line: deque[Consumer] = deque()  # of consumers that may get a message
        self._waiting: list[tuple[int, Message]] = []  # a heap
        self._count = 0

    # -- messages --------------------------------------------------------------------------------------------

    def put(self, body: bytes, ttl: float | None) -> None:
        """Put a message at the end, and deliver what can be delivered."""
        self._count += 1
        for usage in self.usages:
            usage.used += cost(body)
        message = Message(self._count, body, ttl, inf if ttl is None else self._clock() + ttl)
        heapq.heappush(self._waiting, (self._count, message))
        self.dispatch()

    def requeue(self, message: Message) -> None:
        """Put a delivered message back in its place, marked redelivered. The caller calls ``dispatch``."""
        message.redelivered = True
        if self.deleted:
            self.forget(message)
        else:
            heapq.heappush(self._waiting, (message.number, message))

    def forget(self, message: Message) -> None:
        """Give back the room of a message that has left the queue."""
        for usage in self.usages:
            usage.used -= cost(message.body)

    def drop(self, *, expired: bool = False) -> bool:
        """Drop the waiting messages, or only the expired ones. Returns whether none is left."""
        now = self._clock()
        left = [entry for entry in self._waiting if expired and entry[1].deadline > now]
        for _, message in self._waiting:
            if not expired or message.deadline <= now:
                self.forget(message)
        heapq.heapify(left)
        self._waiting = left
        return not left

    # -- consumers -------------------------------------------------------------------------------------------

    def remove(self, consumer: Consumer) -> None:
        """Remove a consumer. Its client keeps the messages that it holds."""
        self.consumers.pop(consumer, None)
        if not self.consumers:
            self.exclusive = False
            self.used_at = self._clock()

    def ready(self, consumer: Consumer) -> None:
        """Put a consumer in line again, if it may hold more, and deliver what can be delivered."""
        self._line_up(consumer)
        self.dispatch()

    def dispatch(self) -> None:
        """Deliver waiting messages to the consumers, one each in turn."""
        now = self._clock() if self._line and self._waiting else 0.0
        while self._line and self._waiting:
            message = self._waiting[0][1]
            if message.deadline <= now:
                heapq.heappop(self._waiting)
                self.forget(message)
                continue
            consumer = self._line.popleft()
            consumer.waiting = False  # one that receives nothing now calls ready later
            if consumer in self.consumers and consumer.receiver.receives:
                heapq.heappop(self._waiting)
                consumer.credit -= 1
                self._line_up(consumer)
                consumer.receiver.deliver(consumer, message)

    def _line_up(self, consumer: Consumer) -> None:
        if consumer in self.consumers and not consumer.waiting and consumer.credit > 0:
            consumer.waiting = True
            self._line.append(consumer)
