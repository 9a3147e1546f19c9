"""What the local broker keeps: nodes, sessions and the messages they hold. Pure state, no input or output.

Operations raise NotFound when a queue or an exchange does not exist, and AdapterError when they are not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.broker.exchanges import KINDS, Exchange
from gofer.messaging.broker.queues import Consumer, Message, Queue, Usage, cost

__all__ = ["ACCEPT", "REJECT", "RELEASE", "Model", "Peer", "Session"]

ACCEPT, RELEASE, REJECT = range(3)

#: Seconds between two searches for expired messages in a full broker.
_SWEEP = 1.0


class Model:
    """Queues and exchanges, and the way of a message from one to the other.

    ``clock`` tells the time in seconds; ``total_limit`` and ``queue_limit`` are in bytes.
    """

    def __init__(self, clock: Callable[[], float], *, total_limit: int, queue_limit: int) -> None:
        self.clock = clock
        self._queues: dict[str, Queue] = {}
        self._expiring: dict[Queue, None] = {}
        self._exchanges: dict[str, Exchange] = {}
        self._total = Usage(total_limit)
        self._queue_limit = queue_limit
        self._swept = clock() - _SWEEP
        for kind in KINDS:
            self._exchanges[f"amq.{kind}"] = Exchange(ExchangeSpec(f"amq.{kind}", kind), own=True)

    @property
    def used(self) -> int:
        """Bytes that all messages take."""
        return self._total.used

    # -- messages ---------------------------------------------------------------------------------------------

    def publish(self, exchange: str, key: str, body: bytes, ttl: float | None) -> tuple[Outcome, str]:
        """Put a message into every queue it is routed to, or into none. Returns what became of it, and why."""
        targets = self._route(exchange, key)
        if not targets:
            return Outcome.RETURNED, self._no_route(exchange, key)
        now = self.clock()
        why = self._full(targets, body)
        if why is not None and self._sweep(now):
            why = self._full(targets, body)
        if why is not None:
            return Outcome.REFUSED, why
        for queue in targets:
            queue.put(body, ttl, now)
        return Outcome.TAKEN, ""

    def _route(self, exchange: str, key: str) -> Collection[Queue]:
        if not exchange:
            queue = self._queues.get(key)
            return () if queue is None else (queue,)
        found = self._exchanges.get(exchange)
        return () if found is None else tuple(found.route(key))

    def _no_route(self, exchange: str, key: str) -> str:
        if not exchange:
            return f"there is no queue {key!r}"
        if exchange not in self._exchanges:
            return f"there is no exchange {exchange!r}"
        return f"no queue is bound to exchange {exchange!r} for {key!r}"

    def _full(self, targets: Collection[Queue], body: bytes) -> str | None:
        for queue in targets:
            why = queue.room(body)
            if why is not None:
                return why
        if self._total.used + len(targets) * cost(body) > self._total.limit:
            return f"the broker is full: it holds {self._total.used} of {self._total.limit} bytes"
        return None

    def _sweep(self, now: float) -> bool:
        """Drop expired messages everywhere, unless that was done just now."""
        if now - self._swept < _SWEEP:
            return False
        self._swept = now
        for queue in self._queues.values():
            queue.sweep(now)
        return True

    # -- queues -----------------------------------------------------------------------------------------------

    def queue(self, name: str, session: Session | None) -> Queue:
        """Return a queue that the session may use."""
        queue = self._queues.get(name)
        if queue is None:
            raise NotFound(f"there is no queue {name!r}")
        if queue.owner is not None and queue.owner is not session:
            raise AdapterError(f"queue {name!r} is exclusive to another connection")
        return queue

    def declare_queue(self, spec: QueueSpec, session: Session | None) -> str | None:
        """Make a queue, or tell how the one that exists differs."""
        now = self.clock()
        if spec.name in self._queues:
            queue = self.queue(spec.name, session)
            queue.used_at = now
            return _difference(f"queue {spec.name!r}", queue.spec, spec)
        _check_name("queue", spec.name)
        if spec.kind not in ("classic", "quorum"):
            raise AdapterError(f"queue {spec.name!r}: kind {spec.kind!r} is not known; there are classic and quorum")
        if spec.expires is not None and not spec.expires > 0:
            raise AdapterError(f"queue {spec.name!r}: expires must be more than 0 s, not {spec.expires!r}")
        owner = session if spec.exclusive else None
        queue = Queue(spec, owner, Usage(self._queue_limit), self._total, now)
        self._queues[spec.name] = queue
        if spec.expires is not None:
            self._expiring[queue] = None
        if owner is not None:
            owner.owned[queue] = None
        return None

    def delete_queue(self, name: str, session: Session | None, *, if_unused: bool, if_empty: bool) -> None:
        """Delete a queue."""
        queue = self.queue(name, session)
        if if_unused and queue.consumers:
            raise AdapterError(f"queue {name!r} is in use by {len(queue.consumers)} subscriber(s)")
        if if_empty and not queue.empty(self.clock()):
            raise AdapterError(f"queue {name!r} is not empty")
        self.drop(queue, f"queue {name!r} was deleted")

    def drop(self, queue: Queue, reason: str) -> None:
        """Delete a queue whatever is in it, and tell its subscribers."""
        if queue.deleted:
            return
        queue.deleted = True
        queue.purge()
        del self._queues[queue.name]
        self._expiring.pop(queue, None)
        if isinstance(queue.owner, Session):
            queue.owner.owned.pop(queue, None)
        for exchange in tuple(self._exchanges.values()):
            if exchange.bound:
                exchange.forget(queue)
                self._drop_unbound(exchange)
        for consumer in tuple(queue.consumers):
            queue.leave(consumer, 0.0)
            consumer.taker.lose(consumer, reason)

    def purge_queue(self, name: str, session: Session | None) -> None:
        """Drop what waits in a queue."""
        self.queue(name, session).purge()

    def expire(self) -> float | None:
        """Delete queues that were not used for their time. Returns when the next one is due, None if there is none."""
        now = self.clock()
        due: float | None = None
        for queue in tuple(self._expiring):
            if queue.consumers or queue.spec.expires is None:
                continue
            end = queue.used_at + queue.spec.expires
            if end <= now:
                self.drop(queue, f"queue {queue.name!r} expired")
            elif due is None or end < due:
                due = end
        return due

    # -- exchanges --------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """Return an exchange by name; not the default one."""
        if not name:
            raise AdapterError("the default exchange reaches every queue by its name; it cannot be changed")
        found = self._exchanges.get(name)
        if found is None:
            raise NotFound(f"there is no exchange {name!r}")
        return found

    def declare_exchange(self, spec: ExchangeSpec) -> str | None:
        """Make an exchange, or tell how the one that exists differs."""
        if spec.kind not in KINDS:
            raise AdapterError(f"exchange {spec.name!r}: kind {spec.kind!r} is not known; there are {', '.join(KINDS)}")
        if spec.name in self._exchanges:
            return _difference(f"exchange {spec.name!r}", self._exchanges[spec.name].spec, spec)
        _check_name("exchange", spec.name)
        self._exchanges[spec.name] = Exchange(spec)
        return None

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange, and with it what is bound there."""
        if self.exchange(name).own:
            raise AdapterError(f"exchange {name!r} is the broker's own")
        del self._exchanges[name]

    def bind(self, queue: str, exchange: str, key: str, session: Session | None) -> None:
        """Bind a queue to an exchange."""
        found = self.exchange(exchange)
        found.bind(self.queue(queue, session), key)

    def unbind(self, queue: str, exchange: str, key: str, session: Session | None) -> None:
        """Undo a binding, if there is one."""
        found = self.exchange(exchange)
        bound = found.bound
        found.unbind(self.queue(queue, session), key)
        if bound:
            self._drop_unbound(found)

    def _drop_unbound(self, exchange: Exchange) -> None:
        if exchange.spec.auto_delete and not exchange.bound:
            self._exchanges.pop(exchange.name, None)


class Peer(Protocol):
    """Who is told what happens in a session."""

    @property
    def takes(self) -> bool:
        """Whether it takes deliveries now."""

    def deliver(self, subscription: int, tag: int, message: Message) -> None:
        """Hand on a delivery."""

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

    def subscribe(self, name: str, prefetch: int, *, exclusive: bool) -> int:
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
        consumer = Consumer(self._subscriptions, queue, self, prefetch)
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

    # -- for the queues: see Taker ------------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether the peer takes deliveries now."""
        return not self._closed and self._peer.takes

    def take(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and hand it on."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        self._peer.deliver(consumer.number, self._tags, message)

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the peer."""
        self._consumers.pop(consumer.number, None)
        if not self._closed:
            self._peer.lost(consumer.number, reason)


def _difference(what: str, has: object, wanted: object) -> str | None:
    """Return a sentence on the fields in which two specifications differ, or None."""
    names: tuple[str, ...] = tuple(getattr(type(has), "__dataclass_fields__", ()))
    parts = [
        f"{name} is {getattr(has, name)!r}, not {getattr(wanted, name)!r}"
        for name in names
        if getattr(has, name) != getattr(wanted, name)
    ]
    return f"{what} exists with other properties: {', '.join(parts)}" if parts else None


def _check_name(what: str, name: str) -> None:
    if not name or len(name.encode()) > 255:
        raise AdapterError(f"a name of 1 to 255 bytes is needed for {'an' if what[0] in 'aeiou' else 'a'} {what}")
    if name.startswith("amq."):
        raise AdapterError(f"{what} {name!r}: names that begin with amq. are the broker's own")
