"""Subscriptions: queues whose messages are delivered, over every reconnect."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from msgspec.structs import replace

from gofer.errors import MessagingError
from gofer.messaging.adapter import NO_EXPIRY, DeclareQueue, DeleteQueue, Delivery, Operation

__all__ = ["Steps", "Subscription", "declare_temporary"]

#: Operations in a row: each ``yield`` gives the operation's value back, or raises its error.
Steps = Generator[Operation, str | None, Any]


def declare_temporary(wanted: DeclareQueue) -> Steps:
    """Declare a queue that expires; where the broker cannot do that, one that goes with the connection.

    Nobody else would delete it for a process that was killed.
    """
    if (yield wanted) == NO_EXPIRY:
        yield DeleteQueue(wanted.name)
        yield replace(wanted, expires=None, auto_delete=True)


@dataclass(eq=False, repr=False, slots=True)
class Subscription:
    """A queue whose messages are delivered.

    All callables run in the driver's thread: they must be quick and never wait.

    Args:
        on_delivery: called with each delivery, which the callee settles (``connection.accept`` ...).
        prepare: makes the operations that run before each (re)subscribing, to declare the queue for instance.
        on_lost: called with a sentence when it ends or cannot be made; the connection tries again by itself.
        limit: of a larger body only the ends are kept: see :class:`gofer.messaging.adapter.Subscribe`.
        on_made: called each time that it is made: the first time, and after each loss.
        dispose: makes the operations that clean up when the connection is closed for good.
        keep_open: it keeps the connection open: an agent's queue. False: the connection may close while nothing is in
            flight, and opens at the next use.
    """

    queue: str
    prefetch: int
    on_delivery: Callable[[Delivery], None]
    prepare: Callable[[], Steps] | None = None
    on_lost: Callable[[str], None] | None = None
    _: KW_ONLY
    on_made: Callable[[], None] | None = None
    exclusive: bool = False
    limit: int | None = None
    dispose: Callable[[], Steps] | None = None
    keep_open: bool = True
    #: Its number at the adapter, None while the broker does not deliver.
    number: int | None = field(default=None, init=False)
    #: The number that the broker is being asked for.
    making: int | None = field(default=None, init=False)
    #: How often it was made.
    made: int = field(default=0, init=False)
    #: Why the last try failed.
    error: MessagingError | None = field(default=None, init=False)

    @property
    def active(self) -> bool:
        """Whether messages are coming."""
        return self.number is not None

    @property
    def waiting(self) -> bool:
        """Whether it waits for its next try."""
        return self.number is None and self.making is None

    def __repr__(self) -> str:
        return f"<Subscription {self.queue!r} {'active' if self.active else 'waiting'}>"
