"""Subscriptions: queues whose messages are wanted, over every reconnect."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from gofer.errors import MessagingError
from gofer.messaging.adapter import Delivery, Operation

__all__ = ["Steps", "Subscription"]

#: Operations in a row: each ``yield`` gives the operation's value back, or raises its error.
Steps = Generator[Operation, str | None, Any]


class Subscription:
    """A queue whose messages are wanted.

    All callables run in the driver's thread: they must be quick and never wait.

    Args:
        on_delivery: called with each delivery, which the callee settles (``connection.accept`` ...).
        prepare: makes the operations that come before each (re)subscribing, to declare what is needed.
        on_lost: called with a sentence when it ends or cannot be made; the connection tries again by itself.
        limit: of a larger body only the ends are kept: see :class:`gofer.messaging.adapter.Subscribe`.
        on_made: called each time that it is made: the first, and after each loss.
        dispose: makes the operations that clean up when the connection is closed for good.
        keep_open: the connection is kept, and made again, for this: an agent's queue. False: it may be closed while
            nothing is in flight, and is opened at the next use.
    """

    __slots__ = (
        "dispose",
        "error",
        "exclusive",
        "keep_open",
        "limit",
        "made",
        "number",
        "on_delivery",
        "on_lost",
        "on_made",
        "prefetch",
        "prepare",
        "queue",
    )

    def __init__(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        prepare: Callable[[], Steps] | None = None,
        on_lost: Callable[[str], None] | None = None,
        *,
        on_made: Callable[[], None] | None = None,
        exclusive: bool = False,
        limit: int | None = None,
        dispose: Callable[[], Steps] | None = None,
        keep_open: bool = True,
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.on_delivery = on_delivery
        self.prepare = prepare
        self.on_lost = on_lost
        self.on_made = on_made
        self.exclusive = exclusive
        self.limit = limit
        self.dispose = dispose
        self.keep_open = keep_open
        #: Its number at the adapter, None while it is not there.
        self.number: int | None = None
        #: How often it was made.
        self.made = 0
        #: Why it is not there, as the last try said.
        self.error: MessagingError | None = None

    @property
    def active(self) -> bool:
        """Whether messages are coming."""
        return self.number is not None

    def __repr__(self) -> str:
        return f"<Subscription {self.queue!r} {'active' if self.active else 'waiting'}>"
