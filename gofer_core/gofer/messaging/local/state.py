"""What the local broker holds: queues, their messages and consumers, exchanges. Pure state, no input or output."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection
from math import inf
from typing import Protocol

import msgspec
from msgspec.structs import asdict, replace

from gofer.errors import AdapterError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import DeclareExchange, DeclareQueue, Outcome

__all__ = ["Consumer", "Exchange", "Message", "Queue", "Receiver", "State", "matches"]

_EXCHANGES = ("direct", "topic", "fanout")

#: Seconds between two searches for expired messages in a full broker.
_SWEEP = 1.0
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

    #: Whether it can receive a message now.
    receives: bool

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
        now, waiting = self._clock(), self._waiting
        self._waiting = []
        for entry in sorted(waiting):
            if expired and entry[1].deadline > now:
                self._waiting.append(entry)
            else:
                self.forget(entry[1])
        return not self._waiting

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


class Exchange:
    """An exchange and its bindings: queues by key."""

    def __init__(self, spec: DeclareExchange) -> None:
        self.spec = spec
        self._bound: dict[str, dict[Queue, None]] = {}

    def bind(self, queue: Queue, key: str) -> None:
        """Add a binding."""
        self._bound.setdefault(key, {})[queue] = None

    def unbind(self, queue: Queue, keys: Collection[str] | None = None) -> bool:
        """Remove bindings of a queue, all of them without ``keys``. Returns whether those were the exchange's last."""
        was = bool(self._bound)
        for key in tuple(self._bound) if keys is None else keys:
            queues = self._bound.get(key, {})
            queues.pop(queue, None)
            if not queues:
                self._bound.pop(key, None)
        return was and not self._bound

    def route(self, key: str) -> Collection[Queue]:
        """Return the queues that a message with this key goes to, each once."""
        if self.spec.kind == "direct":
            return self._bound.get(key, ())
        words = _words(key)
        every = self.spec.kind == "fanout"
        ways = (queues for pattern, queues in self._bound.items() if every or matches(_words(pattern), words))
        return {queue: None for queues in ways for queue in queues}


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def matches(pattern: list[str], words: list[str]) -> bool:
    """Return whether a topic's words match a pattern: ``*`` is one word, ``#`` any number of them."""
    reached, end = {0}, len(words)  # how many words the pattern has used up to here, in all ways
    for part in pattern:
        if part == "#":
            reached = set(range(min(reached, default=end + 1), end + 1))
        else:
            reached = {at + 1 for at in reached if at < end and part in ("*", words[at])}
    return end in reached


class State:
    """Queues, exchanges, and the routing of messages.

    ``clock`` returns the time in seconds; ``total_limit`` and ``queue_limit`` are in bytes. ``total`` counts the bytes
    of all messages.
    """

    def __init__(self, clock: Callable[[], float], *, total_limit: int, queue_limit: int) -> None:
        self.clock = clock
        self._queues: dict[str, Queue] = {}
        self._exchanges = {f"amq.{kind}": Exchange(DeclareExchange(f"amq.{kind}", kind)) for kind in _EXCHANGES}
        self.total = Usage("the broker", total_limit)
        self._queue_limit = queue_limit
        self._swept = clock() - _SWEEP

    # -- messages --------------------------------------------------------------------------------------------

    def publish(self, exchange: str, key: str, body: bytes, ttl: float | None) -> tuple[Outcome, str]:
        """Put a message into every queue it is routed to, or into none. Returns the outcome and its reason."""
        if exchange:
            found = self._exchanges.get(exchange)
            targets = tuple(found.route(key)) if found else ()
            why = f"there is no exchange {exchange!r}, or no queue is bound there for {key!r}"
        else:
            targets = (self._queues[key],) if key in self._queues else ()
            why = f"there is no queue {key!r}"
        if not targets:
            return Outcome.RETURNED, why
        now = self.clock()
        full = self._full(targets, body)
        if full and now - self._swept >= _SWEEP:
            self._swept = now
            for queue in self._queues.values():
                queue.drop(expired=True)
            full = self._full(targets, body)
        if full:
            return Outcome.REFUSED, full
        for queue in targets:
            queue.put(body, ttl)
        return Outcome.CONFIRMED, ""

    def _full(self, targets: Collection[Queue], body: bytes) -> str:
        reasons = [queue.usages[0].lacks(cost(body)) for queue in targets]
        return next(filter(None, reasons), "") or self.total.lacks(len(targets) * cost(body))

    # -- operations ------------------------------------------------------------------------------------------

    def do(self, operation: api.Operation, who: Receiver | None) -> str | None:
        """Do an operation on queues and exchanges (not on subscriptions) for a client, and return its value."""
        match operation:
            case DeclareQueue():
                difference = self._declare_queue(replace(operation, bindings=()), who)
                for exchange, key in operation.bindings:
                    self._exchange(exchange).bind(self.queue(operation.name, who), key)
                return difference
            case api.DeleteQueue(name, if_empty):
                queue = self.queue(name, who)
                if if_empty and not queue.drop(expired=True):
                    raise AdapterError(f"queue {name!r} is not empty")
                self.drop(queue, "was deleted")
            case api.CheckQueue(name):
                return None if self.queue(name, who).consumers else f"queue {name!r} has no consumer"
            case api.PurgeQueue(name):
                self.queue(name, who).drop()
            case DeclareExchange():
                return self._declare_exchange(operation)
            case api.DeleteExchange(name):
                self._exchange(name)
                if name.startswith("amq."):
                    raise AdapterError(f"exchange {name!r} is the broker's own")
                del self._exchanges[name]
            case api.Bind(name, exchange, key):
                self._exchange(exchange).bind(self.queue(name, who), key)
            case api.Unbind(name, exchange, key):
                self._unbind(self._exchange(exchange), self.queue(name, who), (key,))
        return None

    def queue(self, name: str, who: Receiver | None) -> Queue:
        """Return a queue, if this client may use it."""
        queue = self._queues.get(name)
        if queue is None:
            raise NotFound(f"there is no queue {name!r}")
        if queue.owner not in (None, who):
            raise AdapterError(f"queue {name!r} is exclusive to another connection")
        return queue

    def _declare_queue(self, spec: DeclareQueue, who: Receiver | None) -> str | None:
        if spec.name in self._queues:
            queue = self.queue(spec.name, who)
            queue.used_at = self.clock()
            return _difference("queue", queue.spec, spec)
        _check_name("queue", spec.name)
        if spec.expires is not None and not spec.expires > 0:
            raise AdapterError(f"queue {spec.name!r}: expires must be more than 0 s, not {spec.expires!r}")
        usages = (Usage(f"queue {spec.name!r}", self._queue_limit), self.total)
        self._queues[spec.name] = Queue(spec, who if spec.exclusive else None, usages, self.clock)
        return None

    def drop(self, queue: Queue, why: str) -> None:
        """Delete a queue with its messages. Its subscribers hear why, for instance that it ``was deleted``."""
        if queue.deleted:
            return
        queue.deleted = True
        queue.drop()
        del self._queues[queue.spec.name]
        for exchange in tuple(self._exchanges.values()):
            self._unbind(exchange, queue)
        for consumer in tuple(queue.consumers):
            queue.remove(consumer)
            consumer.receiver.subscription_lost(consumer, f"queue {queue.spec.name!r} {why}")

    def disown(self, who: Receiver) -> None:
        """Delete the exclusive queues of a client that is gone."""
        for queue in tuple(self._queues.values()):
            if queue.owner is who:
                self.drop(queue, "was exclusive to a connection that ended")

    def expire(self) -> None:
        """Delete queues that were not used for their time."""
        now = self.clock()
        for queue in tuple(self._queues.values()):
            expires = queue.spec.expires
            if expires is not None and not queue.consumers and queue.used_at + expires <= now:
                self.drop(queue, "expired")

    def _exchange(self, name: str) -> Exchange:
        if not name:
            raise AdapterError("the default exchange reaches every queue by its name; it cannot be changed")
        if name not in self._exchanges:
            raise NotFound(f"there is no exchange {name!r}")
        return self._exchanges[name]

    def _declare_exchange(self, spec: DeclareExchange) -> str | None:
        if spec.name in self._exchanges:
            return _difference("exchange", self._exchanges[spec.name].spec, spec)
        _check_name("exchange", spec.name)
        self._exchanges[spec.name] = Exchange(spec)
        return None

    def _unbind(self, exchange: Exchange, queue: Queue, keys: Collection[str] | None = None) -> None:
        if exchange.unbind(queue, keys) and exchange.spec.auto_delete:
            self._exchanges.pop(exchange.spec.name, None)


def _difference(what: str, has: DeclareQueue | DeclareExchange, wanted: DeclareQueue | DeclareExchange) -> str | None:
    """Return a sentence on the fields in which two specifications differ, or None."""
    ours, theirs = asdict(has), asdict(wanted)
    parts = [f"{name} is {ours[name]!r}, not {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]
    return f"{what} {has.name!r} exists with other properties: {', '.join(parts)}" if parts else None


def _check_name(what: str, name: str) -> None:
    if name.startswith("amq."):
        raise AdapterError(f"{what} {name!r}: names that begin with amq. are the broker's own")
