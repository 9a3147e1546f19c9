"""What the local broker keeps: queues, exchanges, and a message's way among them. Pure state, no input or output.

Operations raise NotFound when a queue or an exchange does not exist, and AdapterError when they are not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.broker.exchanges import KINDS, Exchange
from gofer.messaging.broker.queues import Queue, Usage, cost

__all__ = ["Model", "Owner"]

#: Seconds between two searches for expired messages in a full broker.
_SWEEP = 1.0


class Owner(Protocol):
    """Whose a queue can be, alone."""

    owned: dict[Queue, None]


class Model:
    """Queues and exchanges, and the way of a message from one to the other.

    ``clock`` tells the time in seconds; ``total_limit`` and ``queue_limit`` are in bytes.
    """

    def __init__(self, clock: Callable[[], float], *, total_limit: int, queue_limit: int) -> None:
        self.clock = clock
        self._queues: dict[str, Queue] = {}
        self._expiring: dict[Queue, None] = {}
        self._owners: dict[Queue, Owner] = {}
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

    # -- messages --------------------------------------------------------------------------------------------

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

    # -- queues ----------------------------------------------------------------------------------------------

    def queue(self, name: str, session: Owner | None) -> Queue:
        """Return a queue that the session may use."""
        queue = self._queues.get(name)
        if queue is None:
            raise NotFound(f"there is no queue {name!r}")
        if self._owners.get(queue, session) is not session:
            raise AdapterError(f"queue {name!r} is exclusive to another connection")
        return queue

    def declare_queue(self, spec: QueueSpec, session: Owner | None) -> str | None:
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
        queue = Queue(spec, Usage(self._queue_limit), self._total, now)
        self._queues[spec.name] = queue
        if spec.expires is not None:
            self._expiring[queue] = None
        if owner is not None:
            owner.owned[queue] = None
            self._owners[queue] = owner
        return None

    def delete_queue(self, name: str, session: Owner | None, *, if_unused: bool, if_empty: bool) -> None:
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
        owner = self._owners.pop(queue, None)
        if owner is not None:
            owner.owned.pop(queue, None)
        for exchange in tuple(self._exchanges.values()):
            if exchange.bound:
                exchange.forget(queue)
                self._drop_unbound(exchange)
        for consumer in tuple(queue.consumers):
            queue.leave(consumer, 0.0)
            consumer.taker.lose(consumer, reason)

    def purge_queue(self, name: str, session: Owner | None) -> None:
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

    # -- exchanges -------------------------------------------------------------------------------------------

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

    def bind(self, queue: str, exchange: str, key: str, session: Owner | None) -> None:
        """Bind a queue to an exchange."""
        found = self.exchange(exchange)
        found.bind(self.queue(queue, session), key)

    def unbind(self, queue: str, exchange: str, key: str, session: Owner | None) -> None:
        """Undo a binding, if there is one."""
        found = self.exchange(exchange)
        bound = found.bound
        found.unbind(self.queue(queue, session), key)
        if bound:
            self._drop_unbound(found)

    def _drop_unbound(self, exchange: Exchange) -> None:
        if exchange.spec.auto_delete and not exchange.bound:
            self._exchanges.pop(exchange.name, None)


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
