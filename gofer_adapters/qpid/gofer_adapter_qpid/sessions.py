"""What happens on a connection and its subscriptions, as events of gofer's interface."""

from __future__ import annotations

from typing import Any

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api

from gofer_adapter_qpid.amqp_0_10 import Connection, Ends, Publisher, SessionClosed, Subscription, Tasks, Transfer

__all__ = ["Consumer", "Home", "error_of"]


def error_of(closed: SessionClosed) -> MessagingError:
    """Return the error of the operation that a session was closed for."""
    # 404 is not-found.
    return NotFound(closed.text) if closed.code == 404 else AdapterError(closed.text)


class Home(Connection):
    """A connection with what its sessions share: ``events`` is what has happened, ``tasks`` are operations."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: list[api.Event] = []
        self.tasks = Tasks(self)
        self.publisher = Publisher(self, self.tasks, self)

    @property
    def is_broker_j(self) -> bool:
        """Whether the broker is Broker-J, by the name that it tells."""
        return "Broker-J" in str(self.server.get("product"))

    def on_outcome(self, token: int, outcome: str, text: str) -> None:
        """Tell what became of a message."""
        self.events.append(api.Confirmed(token, api.Outcome(outcome), text))

    def on_flow(self, allowed: bool) -> None:
        """Tell that the broker takes no messages, or takes them again."""
        self.events.append(api.Blocked(None if allowed else "the broker asks to wait: a queue or its disk is full"))


class Consumer(Subscription):
    """A subscription. ``active``: the broker delivers.

    It is the first half of each delivery's ``tag``; the second is the message's number. It is opened once, so its
    deliveries cannot be taken for those of another. After its end it lives until all are settled.
    """

    home: Home

    def __init__(self, home: Home, id: int, asked: api.Subscribe) -> None:
        super().__init__(home, Ends(asked.limit, api.HEAD, api.TAIL))
        self.queue, self.active = asked.queue, False
        self._number, self._over, self._cancels = asked.number, False, list[int]()
        self._subscribing: int | None = id
        if (closed := self.open()) is not None:
            self.on_closed(closed)
        else:
            self.subscribe(asked.queue, asked.prefetch, exclusive=asked.exclusive, look=home.is_broker_j)

    def cancel_for(self, id: int) -> None:
        """End the subscription; the session stays for what is not settled."""
        if self._over:
            self.home.events.append(api.Done(id))
            return
        self.active = False
        self._cancels.append(id)
        if len(self._cancels) == 1:
            self.cancel()

    def flush(self) -> None:
        """Send what is due."""
        super().flush()
        if self._over and not self.unsettled:
            self.close()

    def end(self, reason: str) -> None:
        """End the subscription, once."""
        if not self._over and not self._cancels:
            self.home.events.append(api.SubscriptionLost(self._number, reason))
        self.home.events += [api.Done(id) for id in self._cancels]
        self._cancels, self._over, self.active, self.due = [], True, False, True

    def on_subscribed(self) -> None:
        """Answer."""
        self.home.events.append(api.Done(self._subscribing or 0))
        self._subscribing, self.active = None, not self._cancels

    def on_cancelled(self) -> None:
        """Answer."""
        self.end("")

    def on_transfer(self, transfer: Transfer) -> None:
        """Hand the message on as an event."""
        super().on_transfer(transfer)
        id, _, body, cut, redelivered, ttl, _ = transfer
        told, seconds = redelivered or (False if self.alone else None), None if ttl is None else ttl / 1000
        self.home.events.append(api.Delivery(self._number, body, told, seconds, (self, id), cut))

    def on_closed(self, closed: SessionClosed) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        if self._subscribing is not None:
            self.home.events.append(api.Done(self._subscribing, error=error_of(closed)))
            self._over = True
        self.end(closed.text)
