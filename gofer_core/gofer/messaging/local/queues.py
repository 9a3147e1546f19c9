"""Queues of the local broker: what waits, who takes it, and how it comes back. Pure state, no input or output."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Protocol

import msgspec

from gofer.messaging.adapter import DeclareQueue

__all__ = ["Consumer", "Message", "Queue", "Taker", "Usage", "cost"]

#: What a message takes beside its body, in bytes, roughly.
_OVERHEAD = 256


def cost(body: bytes) -> int:
    """Return the bytes that a message with this body takes in one queue."""
    return len(body) + _OVERHEAD


class Usage(msgspec.Struct):
    """Bytes used by somebody, of so many allowed."""

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


class Taker(Protocol):
    """Who stands behind a consumer, and may own queues."""

    @property
    def takes(self) -> bool:
        """Whether it can take a message now."""

    def take(self, consumer: Consumer, message: Message) -> None:
        """Take a message, to be settled later."""

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Learn that the queue is gone."""


class Consumer(msgspec.Struct, eq=False):
    """A subscription to a queue. ``credit``: how many more messages it may hold unsettled.

    ``limit``: of a larger body it gets only the ends.
    """

    number: int
    queue: Queue
    taker: Taker
    credit: int
    limit: int | None = None
    live: bool = True
    waiting: bool = False


class Queue:
    """Messages in their order, and the consumers that take them in turn. A message that comes back goes to its place.

    ``used_at``: when it last had a use that is over. ``sole``: its consumer is the only one that it may have.
    ``usages`` are its own and those that it is a part of.
    """

    def __init__(
        self, spec: DeclareQueue, owner: Taker | None, usages: tuple[Usage, ...], clock: Callable[[], float]
    ) -> None:
        self.spec = spec
        self.owner = owner
        self.usages = usages
        self.deleted = self.sole = False
        self.used_at = clock()
        self.consumers: dict[Consumer, None] = {}
        self._clock = clock
        self._turn: deque[Consumer] = deque()
        self._waiting: list[tuple[int, Message]] = []  # a heap
        self._count = 0

    # -- messages --------------------------------------------------------------------------------------------

    def put(self, body: bytes, ttl: float | None) -> None:
        """Put a message at the end, and hand out what can be handed out."""
        self._count += 1
        for usage in self.usages:
            usage.used += cost(body)
        message = Message(self._count, body, ttl, inf if ttl is None else self._clock() + ttl)
        heapq.heappush(self._waiting, (self._count, message))
        self.dispatch()

    def put_back(self, message: Message) -> None:
        """Put a delivered message back in its place, marked redelivered. ``dispatch`` is the caller's to do."""
        message.redelivered = True
        if self.deleted:
            self.forget(message)
        else:
            heapq.heappush(self._waiting, (message.number, message))

    def forget(self, message: Message) -> None:
        """Let go of a message that is in the queue no more."""
        for usage in self.usages:
            usage.used -= cost(message.body)

    def drop(self, *, expired: bool = False) -> bool:
        """Drop all that waits, or only what has expired. Returns whether nothing is left."""
        now = self._clock()
        for _, message in self._waiting:
            if not expired or message.deadline <= now:
                self.forget(message)
        self._waiting = [entry for entry in self._waiting if expired and entry[1].deadline > now]
        heapq.heapify(self._waiting)
        return not self._waiting

    # -- consumers -------------------------------------------------------------------------------------------

    def leave(self, consumer: Consumer) -> None:
        """Remove a consumer. What it holds stays its holder's."""
        consumer.live = False
        self.consumers.pop(consumer, None)
        if not self.consumers:
            self.sole = False
            self.used_at = self._clock()

    def ready(self, consumer: Consumer) -> None:
        """Have a consumer take its turn again, if it may hold more, and hand out what can be handed out."""
        self._queue_up(consumer)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what waits to those who take it, one each in turn."""
        now = self._clock() if self._turn and self._waiting else 0.0
        while self._turn and self._waiting:
            message = self._waiting[0][1]
            if message.deadline <= now:
                heapq.heappop(self._waiting)
                self.forget(message)
                continue
            consumer = self._turn.popleft()
            consumer.waiting = False  # who takes nothing now is made ready again when it does
            if consumer.live and consumer.taker.takes:
                heapq.heappop(self._waiting)
                consumer.credit -= 1
                self._queue_up(consumer)
                consumer.taker.take(consumer, message)

    def _queue_up(self, consumer: Consumer) -> None:
        if consumer.live and not consumer.waiting and consumer.credit > 0:
            consumer.waiting = True
            self._turn.append(consumer)
