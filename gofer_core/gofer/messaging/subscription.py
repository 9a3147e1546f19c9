"""Subscriptions: queues whose messages are wanted, over every reconnect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from gofer.errors import MessagingError
from gofer.messaging.adapter.base import Adapter, Delivery
from gofer.messaging.backoff import Backoff

__all__ = ["Subscription", "Subscriptions"]


class Subscription:
    """A queue whose messages are wanted.

    Args:
        on_delivery: called with each delivery; the one who gets it settles it (``link.accept`` ...).
        prepare: called with the adapter and a timeout before each (re)subscribing, to declare what is needed.
        on_lost: called with a sentence when it ends or cannot be made; the link tries again by itself.
        limit: see :meth:`Adapter.subscribe`.
        on_made: called each time that it is made: the first, and after each loss.
        dispose: called with the adapter and a timeout when the link is closed for good, to clean up.
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        prepare: Callable[[Adapter, float], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        *,
        on_made: Callable[[], None] | None = None,
        exclusive: bool = False,
        limit: int | None = None,
        dispose: Callable[[Adapter, float], None] | None = None,
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


class Subscriptions:
    """All subscriptions of one link. Used under the link's lock."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._retries: dict[Subscription, Backoff] = {}
        self._numbers: dict[int, Subscription] = {}
        #: When the next one is to be made (``time.monotonic()``).
        self.due = math.inf

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._retries))

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._retries

    def add(self, subscription: Subscription) -> None:
        """Want one; one that is wanted already is tried at once."""
        self._retries.setdefault(subscription, Backoff(self._most)).hurry()
        subscription.error = None
        self.due = 0.0

    def remove(self, subscription: Subscription) -> int | None:
        """Want one no more; return its number if it was there."""
        self._retries.pop(subscription, None)
        number, subscription.number = subscription.number, None
        if number is not None:
            self._numbers.pop(number, None)
        return number

    def next_due(self, now: float) -> Subscription | None:
        """Return one that is to be made now; if there is none, set ``due`` to when there will be."""
        self.due = math.inf
        for subscription, retry in self._retries.items():
            if not subscription.active:
                if retry.due <= now:
                    self.due = 0.0
                    return subscription
                self.due = min(self.due, retry.due)
        return None

    def made(self, subscription: Subscription, number: int) -> bool:
        """Note that one was made; return whether it is wanted still."""
        retry = self._retries.get(subscription)
        if retry is None:
            return False
        self._numbers[number] = subscription
        subscription.number, subscription.error = number, None
        subscription.made += 1
        retry.reset()
        return True

    def of(self, number: int) -> Subscription | None:
        """Return the subscription with that number, if it is still wanted."""
        return self._numbers.get(number)

    def failed(self, subscription: Subscription, why: MessagingError) -> bool:
        """Note that one ended or could not be made; return whether that is news."""
        news = subscription.active or subscription.error is None
        if subscription.number is not None:
            self._numbers.pop(subscription.number, None)
        subscription.number, subscription.error = None, why
        retry = self._retries.get(subscription)
        if retry is not None:
            retry.failed()
            self.due = min(self.due, retry.due)
        return news

    def all_down(self) -> None:
        """Note that the connection is gone; all are due when there is another."""
        self._numbers.clear()
        for subscription, retry in self._retries.items():
            subscription.number = None
            retry.reset()
        self.due = 0.0 if self._retries else math.inf

    def clear(self) -> None:
        """Want none."""
        self.all_down()
        self._retries.clear()
        self.due = math.inf
