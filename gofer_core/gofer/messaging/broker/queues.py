"""Queues of the local broker: what waits, who takes it, and how it comes back. Pure state, no input or output."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from gofer.messaging.adapter.base import QueueSpec

__all__ = ["Consumer", "Message", "Queue", "Taker", "Usage", "cost"]

#: What a message takes beside its body, in bytes, roughly.
_OVERHEAD = 256


def cost(body: bytes) -> int:
    """Return the bytes that a message with this body takes in one queue."""
    return len(body) + _OVERHEAD


class Usage:
    """Bytes used, of so many allowed."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Message:
    """A message in one queue. ``number`` is its place there, ``deadline`` the clock's time at which it expires."""

    __slots__ = ("body", "deadline", "number", "redelivered", "ttl")

    def __init__(self, number: int, body: bytes, ttl: float | None, deadline: float | None) -> None:
        self.number = number
        self.body = body
        self.ttl = ttl
        self.deadline = deadline
        self.redelivered = False

    @property
    def cost(self) -> int:
        """Bytes it takes."""
        return cost(self.body)

    def __lt__(self, other: Message) -> bool:
        return self.number < other.number


class Taker(Protocol):
    """Who stands behind a consumer."""

    @property
    def takes(self) -> bool:
        """Whether it can take a message now."""

    def take(self, consumer: Consumer, message: Message) -> None:
        """Take a message, to be settled later."""

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Learn that the queue is gone."""


class Consumer:
    """A subscription to a queue. ``credit``: how many more messages it may hold unsettled.

    ``limit``: of a body of more bytes it takes only the ends.
    """

    __slots__ = ("credit", "limit", "live", "number", "queue", "taker", "waiting")

    def __init__(self, number: int, queue: Queue, taker: Taker, prefetch: int, limit: int | None = None) -> None:
        self.number = number
        self.queue = queue
        self.taker = taker
        self.credit = prefetch
        self.limit = limit
        self.live = True
        self.waiting = False


class Queue:
    """Messages in their order, and the consumers that take them in turn.

    A message that comes back goes to its place: all that was ever delivered stands before all that was not, so it is
    enough to keep those that came back in a heap of their own.
    """

    def __init__(self, spec: QueueSpec, usage: Usage, total: Usage, now: float) -> None:
        self.spec = spec
        self.name = spec.name
        self.deleted = False
        self.sole = False
        self.used_at = now
        self.consumers: dict[Consumer, None] = {}
        self._turn: deque[Consumer] = deque()
        self._fresh: deque[Message] = deque()
        self._back: list[Message] = []
        self._count = 0
        self._usage = usage
        self._total = total

    # -- messages --------------------------------------------------------------------------------------------

    def room(self, body: bytes) -> str | None:
        """Return None when there is room for a message, else the reason why not."""
        if self._usage.used + cost(body) > self._usage.limit:
            return f"queue {self.name!r} is full: it holds {self._usage.used} of {self._usage.limit} bytes"
        return None

    def put(self, body: bytes, ttl: float | None, now: float) -> None:
        """Put a message at the end, and hand out what can be handed out."""
        self._count += 1
        message = Message(self._count, body, ttl, None if ttl is None else now + ttl)
        self._usage.used += message.cost
        self._total.used += message.cost
        self._fresh.append(message)
        self.dispatch(now)

    def put_back(self, message: Message) -> None:
        """Put a delivered message back in its place, marked redelivered. ``dispatch`` is the caller's to do."""
        message.redelivered = True
        if self.deleted:
            self.forget(message)
        else:
            heapq.heappush(self._back, message)

    def forget(self, message: Message) -> None:
        """Let go of a message that is in the queue no more."""
        self._usage.used -= message.cost
        self._total.used -= message.cost

    def empty(self, now: float) -> bool:
        """Return whether nothing waits that has not expired."""
        return self._first(now) is None

    def purge(self) -> None:
        """Drop all that waits."""
        for message in (*self._back, *self._fresh):
            self.forget(message)
        self._back.clear()
        self._fresh.clear()

    def sweep(self, now: float) -> None:
        """Drop all that has expired, wherever it stands."""
        self._back = sorted(self._unexpired(self._back, now))
        self._fresh = deque(self._unexpired(self._fresh, now))

    def _unexpired(self, messages: Iterable[Message], now: float) -> Iterator[Message]:
        for message in messages:
            if message.deadline is None or message.deadline > now:
                yield message
            else:
                self.forget(message)

    def _first(self, now: float) -> Message | None:
        """Return the next message, having dropped expired ones before it."""
        while self._back or self._fresh:
            message = self._back[0] if self._back else self._fresh[0]
            if message.deadline is None or message.deadline > now:
                return message
            self._pop()
            self.forget(message)
        return None

    def _pop(self) -> Message:
        return heapq.heappop(self._back) if self._back else self._fresh.popleft()

    # -- consumers -------------------------------------------------------------------------------------------

    def join(self, consumer: Consumer, *, sole: bool) -> None:
        """Add a consumer. ``dispatch`` is the caller's to do."""
        self.consumers[consumer] = None
        self.sole = sole
        self.ready(consumer)

    def leave(self, consumer: Consumer, now: float) -> None:
        """Remove a consumer. What it holds stays its holder's."""
        consumer.live = False
        self.consumers.pop(consumer, None)
        if not self.consumers:
            self.sole = False
            self.used_at = now

    def ready(self, consumer: Consumer) -> None:
        """Have a consumer take its turn again, if it may hold more."""
        if consumer.live and not consumer.waiting and consumer.credit > 0:
            consumer.waiting = True
            self._turn.append(consumer)

    def dispatch(self, now: float) -> None:
        """Hand out what waits to those who take it, one each in turn."""
        turn = self._turn
        while turn and (self._back or self._fresh):
            consumer = turn[0]
            if not (consumer.live and consumer.taker.takes):
                turn.popleft()
                consumer.waiting = False  # who takes nothing now is made ready again when it does
                continue
            message = self._first(now)
            if message is None:
                return
            self._pop()
            turn.popleft()
            consumer.waiting = False
            consumer.credit -= 1
            self.ready(consumer)
            consumer.taker.take(consumer, message)
