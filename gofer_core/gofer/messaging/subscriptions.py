"""The queues of a connection whose messages are delivered: subscribed to again after each reconnect."""

from __future__ import annotations

import itertools
from math import inf
from typing import Any

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Cancel, Subscribe
from gofer.messaging.backoff import Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.operations import MOST_PATIENCE, OPERATION, Answer, Operations, State, copy_error
from gofer.messaging.subscription import Steps, Subscription

__all__ = ["Subscriptions"]

#: Seconds for each operation that makes a subscription, at the first try. Each further try in a row has twice as long.
_SUBSCRIBING = 30.0


class Subscriptions(Operations):
    """A connection and its subscriptions."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._subscriptions: dict[Subscription, Backoff] = {}
        self._by_number: dict[int, Subscription] = {}
        # The numbers of subscriptions are unique over all sockets: a stale delivery never matches a newer subscription.
        self._numbers = itertools.count(1)
        self._retry_at = inf  # the next try of a subscription

    def subscribe(self, subscription: Subscription) -> None:
        """Subscribe to a queue now and after each reconnect. A subscription that waits for its retry is tried now."""
        self._subscriptions.setdefault(subscription, Backoff(self.connector.reconnect_max)).hurry()
        self._make_subscriptions()

    def unsubscribe(self, subscription: Subscription, answer: Answer, timeout: float = OPERATION) -> None:
        """End a subscription. Deliveries on their way are released. An unknown subscription is ignored."""
        self._subscriptions.pop(subscription, None)
        number, subscription.number = subscription.number, None
        self._by_number.pop(number or subscription.making or 0, None)
        if number is None:
            self._call(answer, None, None)
        else:
            self.ask(Cancel(number), answer, timeout)

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions. Any thread."""
        return list(self._subscriptions)

    def resubscribe(self, subscription: Subscription, reason: str) -> None:
        """Make a subscription again that the broker seems to have forgotten. One that is not active is left alone."""
        number = subscription.number
        if number is not None and subscription in self._subscriptions:
            self._by_number.pop(number, None)
            self._subscription_failed(subscription, NotFound(reason))
            self.ask(Cancel(number), None)

    def _make_subscriptions(self) -> None:
        if self.state is State.OPEN:
            self._retry_at = inf
            for subscription, backoff in list(self._subscriptions.items()):
                if subscription.waiting and backoff.due <= self.now:
                    self._make_subscription(subscription)
                elif subscription.waiting:
                    self._retry_at = min(self._retry_at, backoff.due)

    def _make_subscription(self, subscription: Subscription) -> None:
        number = subscription.making = next(self._numbers)

        def steps() -> Steps:
            if subscription.prepare is not None:
                yield from subscription.prepare()
            if subscription not in self._subscriptions:
                return  # it was unsubscribed meanwhile
            # Registered before the broker is asked: the first deliveries may come with its answer.
            self._by_number[number] = subscription
            queue, exclusive = subscription.queue, subscription.exclusive
            yield Subscribe(number, queue, subscription.prefetch, exclusive, subscription.limit)

        def made(_: Any, error: Exception | None) -> None:
            if subscription.making != number:
                return  # it was lost with its connection
            subscription.making = None
            if subscription not in self._subscriptions:  # it was unsubscribed meanwhile
                self._by_number.pop(number, None)
                if error is None:
                    self.ask(Cancel(number), None)
            elif error is not None:
                self._by_number.pop(number, None)
                self._subscription_failed(subscription, error)
            else:
                self._by_number[number] = subscription  # again, if it was unsubscribed and subscribed meanwhile
                subscription.number, subscription.error = number, None
                subscription.made += 1
                self._subscriptions[subscription].reset()
                self._call(subscription.on_made)

        patience = min(2 ** min(self._subscriptions[subscription].failures, 8), MOST_PATIENCE)
        self.run(steps(), made, patience * _SUBSCRIBING)

    def _subscription_failed(self, subscription: Subscription, why: Exception) -> None:
        error = why if isinstance(why, MessagingError) else AdapterError(str(why))
        first = subscription.active or subscription.error is None
        subscription.number, subscription.error = None, copy_error(error)
        backoff = self._subscriptions[subscription]
        backoff.failed(self.now)
        self._retry_at = min(self._retry_at, backoff.due)
        if first:
            self._call(subscription.on_lost, str(error))

    def _lost(self, event: api.SubscriptionLost) -> None:
        subscription = self._by_number.pop(event.number, None)
        if subscription is not None and subscription.number == event.number:
            self._subscription_failed(subscription, NotFound(event.reason))

    def _all_lost(self) -> None:
        """Note that the connection has ended: the next one makes them again."""
        self._retry_at = inf
        self._by_number.clear()
        for subscription, backoff in self._subscriptions.items():
            subscription.number = subscription.making = None
            backoff.reset()
