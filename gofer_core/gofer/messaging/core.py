"""The state of a connection, without I/O, threads or a clock: what is open, pending, published and subscribed.

A driver opens the socket, hands in what it reads and the time, and writes what ``take`` returns::

    DOWN -- connect_at has come --> CONNECTING -- socket open --> LOGIN -- Opened --> OPEN
      ^                                 |                          |                   |
      +--------- pause, full jitter ----+--------------------------+-------------------+-- close --> CLOSING --> CLOSED

All of it is called by one thread at a time. Callbacks run inside these calls, one at a time and in the order in which
the broker sent what they are about; they may call anything here.
"""

from __future__ import annotations

import enum
import itertools
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import (
    Adapter,
    Blocked,
    Cancel,
    Closed,
    Confirmed,
    Delivery,
    Done,
    Event,
    Opened,
    Operation,
    Outcome,
    Subscribe,
    SubscriptionLost,
)
from gofer.messaging.address import Address
from gofer.messaging.backoff import Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Steps, Subscription

__all__ = ["OPERATION", "Answer", "Core", "Settle", "State", "fresh"]

log = logging.getLogger(__name__)

#: Called with what became of a published message, and the broker's reason.
Settle = Callable[[Outcome, str], None]
#: Called with an operation's value, or the error that it failed with.
Answer = Callable[[Any, Exception | None], None]

#: Seconds for the broker to answer one operation, and to log us in.
OPERATION = 10.0
_LOGIN = 30.0
#: Seconds to clean up when the connection is closed, and for the broker to answer the goodbye.
_DISPOSE = 1.0
_GOODBYE = 1.0
#: Seconds that a connection must have lasted for the next pause to be short again.
_LASTING = 5.0


class State(enum.Enum):
    """Where a connection is between nothing and open."""

    DOWN = "down"
    CONNECTING = "connecting"
    LOGIN = "logging in"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class _Pending:
    """An operation that the broker has not answered. ``late``: called with a value that came after the deadline."""

    __slots__ = ("answer", "deadline", "late", "operation")

    def __init__(self, operation: Operation, answer: Answer, deadline: float, late: Callable[[], None] | None) -> None:
        self.operation = operation
        self.answer: Answer | None = answer
        self.deadline = deadline
        self.late = late


class _Wanted:
    """A subscription that is wanted: when it is tried again, and whether it is being made now."""

    __slots__ = ("making", "retry")

    def __init__(self, retry: Backoff) -> None:
        self.retry = retry
        self.making = False


class Core:
    """One connection over all its reconnects.

    Args:
        connector: where, and how.
        company: seconds that an acknowledgement may wait for other output.
    """

    def __init__(self, connector: Connector, *, company: float = 0.0) -> None:
        self.connector = connector
        self.state = State.DOWN
        self.adapter: Adapter | None = None
        #: The time, as last handed in.
        self.now = 0.0
        #: When the driver is to open a socket; inf: not now.
        self.connect_at = inf
        #: How many tries to connect have ended, with a connection or without.
        self.tries = 0
        self.opened_before = False
        #: Why there is no connection, as the last try or loss said.
        self.error: MessagingError | None = None
        #: Why the broker takes no messages for now, in its words.
        self.blocked: str | None = None
        self.up_since: float | None = None
        #: When something was last published or delivered.
        self.used_at = 0.0
        #: Messages that the broker has not answered for, by token.
        self.unconfirmed: dict[int, Settle | None] = {}
        self._company = company
        self._flush_at = 0.0
        self._until = inf  # of logging in, or closing
        self._wanted = self._final = self._draining = False
        self._events: deque[Event] = deque()
        self._last_words = b""
        # Messages that were on their way here when the connection was lost; they go with the next one.
        self._unsent: dict[int, tuple[Any, ...]] = {}
        self._blocked_at = 0.0
        self._retry = Backoff(connector.reconnect_max)
        self._ids = itertools.count(1)
        # Never used again, not by the next socket either: a stale delivery cannot be taken for another's.
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._subscriptions: dict[Subscription, _Wanted] = {}
        self._by_number: dict[int, Subscription] = {}

    # -- for the driver ---------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it has ended for good."""
        return self.state is State.CLOSED

    @property
    def deadline(self) -> float:
        """When ``tick`` is wanted."""
        if self.state is State.DOWN:
            return self.connect_at
        adapter = self.adapter
        if adapter is None:
            return inf
        due = min(adapter.deadline, self._until)
        if self._flush_at:
            due = min(due, self._flush_at)
        if self.blocked is None:
            for pending in self._pending.values():
                due = min(due, pending.deadline)
            if self.state is State.OPEN:
                for subscription, wanted in self._subscriptions.items():
                    if subscription.number is None and not wanted.making:
                        due = min(due, wanted.retry.due)
        return due

    def connecting(self) -> None:
        """Note that the driver opens a socket now."""
        self.state, self.connect_at = State.CONNECTING, inf

    def connected(self, adapter: Adapter, now: float) -> None:
        """Log in: the socket is open."""
        self.now = now
        if self.state is not State.CONNECTING:
            return  # closed meanwhile
        self.state, self.adapter, self._until = State.LOGIN, adapter, now + _LOGIN
        adapter.begin(now)
        self._drain()

    def connect_failed(self, error: MessagingError, now: float) -> None:
        """Note that no socket could be opened."""
        self.now = now
        if self.state is State.CONNECTING:
            self._down(error)

    def receive(self, data: bytes, now: float) -> None:
        """Take what was read."""
        self.now = now
        if self.adapter is not None:
            self.adapter.receive(data, now)
            self._drain()

    def lost(self, reason: str, now: float) -> None:
        """Note that the socket has ended."""
        self.now = now
        if self.adapter is not None:
            self.adapter.lost(reason, now)
            self._drain()

    def failed(self, error: Exception) -> None:
        """Drop the connection after an adapter's own fault."""
        if self.adapter is not None:
            self.adapter = None  # it is not asked for anything any more
            self._down(AdapterError(f"the adapter failed: {type(error).__name__}: {error}"))

    def tick(self, now: float) -> None:
        """Do what is due: heartbeats, deadlines, subscriptions."""
        self.now = now
        adapter = self.adapter
        if adapter is None:
            return
        if now >= adapter.deadline:
            adapter.tick(now)
            self._drain()
        if now >= self._until and self.adapter is adapter:
            if self.state is State.CLOSING:
                self._say_goodbye()
            else:
                self._down(ConnectionLost(f"no answer to the login within {_LOGIN:g} s"))
        if self.blocked is None:
            self._expire()
            self._make_subscriptions()

    def take(self, now: float) -> bytes:
        """Return what is to be written now."""
        adapter = self.adapter
        if adapter is None:
            words, self._last_words = self._last_words, b""
            return words
        if now < self._flush_at and not adapter.urgent:
            return b""
        self._flush_at = 0.0
        return adapter.take(now)

    # -- wanting a connection -----------------------------------------------------------------------------------------

    def want(self) -> None:
        """Have a connection. One that was never made is tried at once, whatever an earlier try said."""
        self._wanted = True
        self.used_at = self.now
        if self.state is State.DOWN and (self.connect_at == inf or not self.opened_before):
            self.connect_at = self.now

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and no subscription keeps the connection open."""
        return not (
            self.unconfirmed
            or self._unsent
            or any(pending.answer for pending in self._pending.values())
            or any(subscription.keep_open for subscription in self._subscriptions)
        )

    def suspend(self) -> None:
        """Close the connection until it is wanted again."""
        self._wanted = False
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self._say_goodbye(polite=True)
        elif self.state is State.DOWN:
            self.connect_at = inf

    def close(self) -> None:
        """Close for good: subscriptions clean up, and the broker hears a goodbye."""
        if self._final:
            return
        self._final, self._wanted = True, False
        if self.state is not State.OPEN:
            if self.state is not State.CLOSING:
                self._down(ConnectionLost(f"the connection to {self.connector.url} was closed"))
            return
        self.state, self._until = State.CLOSING, self.now + _DISPOSE
        disposals = [s.dispose() for s in self._subscriptions if s.dispose is not None and s.active]
        left = len(disposals)

        def disposed(_: object, error: Exception | None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                log.debug("%s: not cleaned up: %s", self.connector.url, error)
            if left == 0:
                self._say_goodbye(polite=True)

        for steps in disposals:
            self.run(steps, disposed, _DISPOSE)
        if not disposals:
            self._say_goodbye(polite=True)

    def abandon(self) -> None:
        """Forget the connection in a forked child: it is the parent's. Nobody is told anything."""
        self.adapter, self.state = None, State.CLOSED
        self._final = True
        self.unconfirmed.clear()
        self._pending.clear()

    def describe(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        if self._final:
            return "closed"
        if self.state is State.OPEN:
            return "open" if self.blocked is None else f"blocked by the broker ({self.blocked})"
        return f"no connection ({self.error})" if self.error else "no connection yet"

    # -- commands -----------------------------------------------------------------------------------------------------

    def publish(  # noqa: PLR0917 - it goes through a queue of commands, which keeps no names
        self,
        token: int,
        address: Address,
        body: bytes,
        ttl: float | None,
        durable: bool,
        confirm: bool,
        isolated: bool,
        settle: Settle | None,
    ) -> None:
        """Send a message; ``settle`` is called once (without ``confirm`` perhaps never, and never after ``forget``)."""
        adapter = self.adapter
        if adapter is None or self.state is not State.OPEN:
            if self._final or not self._wanted:
                if settle is not None:
                    self._call(settle, Outcome.UNKNOWN, self.describe())
            else:  # it was lost at this moment: nothing was sent, so nothing is unknown
                self._unsent[token] = (address, body, ttl, durable, confirm, isolated, settle)
            return
        self.used_at = self.now
        if confirm or settle is not None:
            self.unconfirmed[token] = settle
        try:
            adapter.publish(token, address, body, ttl=ttl, durable=durable, confirm=confirm, isolated=isolated)
        except (ValueError, TypeError) as wrong:
            self.unconfirmed.pop(token, None)
            if settle is not None:
                self._call(settle, Outcome.REFUSED, str(wrong))
        self._drain()

    def forget(self, token: int) -> None:
        """Have the outcome of a message told no more."""
        self._unsent.pop(token, None)
        if self.unconfirmed.pop(token, None) is not None and self.adapter is not None:
            self.adapter.forget(token)

    def accept(self, delivery: Delivery) -> None:
        """Acknowledge a delivery; it may wait for company."""
        if self.adapter is not None:
            self.adapter.accept(delivery)
            self._flush_at = self._flush_at or self.now + self._company

    def flush(self) -> None:
        """Have what waits for company written now."""
        self._flush_at = 0.0

    def release(self, delivery: Delivery) -> None:
        """Give a delivery back to its queue."""
        if self.adapter is not None:
            self.adapter.release(delivery)
            self._flush_at = 0.0

    def reject(self, delivery: Delivery) -> None:
        """Have the broker drop or dead-letter a delivery."""
        if self.adapter is not None:
            self.adapter.reject(delivery)
            self._flush_at = 0.0

    def ask(
        self, operation: Operation, answer: Answer, timeout: float = OPERATION, late: Callable[[], None] | None = None
    ) -> None:
        """Ask the broker for something; ``answer`` is called once.

        A deadline that passes costs this operation alone: the connection stays. While the broker has blocked it,
        deadlines stand still.

        Args:
            late: called when the operation succeeds after its deadline.
        """
        adapter = self.adapter
        if adapter is None or self.state not in (State.OPEN, State.CLOSING):
            self._call(answer, None, ConnectionLost(f"{self.connector.url}: {self.describe()}"))
            return
        self.used_at = self.now
        number = next(self._ids)
        self._pending[number] = _Pending(operation, answer, self.now + timeout, late)
        try:
            adapter.ask(number, operation)
        except (ValueError, TypeError) as wrong:
            del self._pending[number]
            self._call(answer, None, wrong)
        self._drain()

    def run(self, steps: Steps, answer: Answer, timeout: float = OPERATION) -> None:
        """Ask what a generator yields, one operation after another; ``answer`` gets what it returns or raises.

        Args:
            timeout: seconds for all of it.
        """
        until = self.now + timeout

        def advance(value: Any, error: Exception | None) -> None:
            try:
                operation = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._call(answer, end.value, None)
            except (MessagingError, ValueError, TypeError) as failed:
                self._call(answer, None, failed)
            else:
                self.ask(operation, advance, max(0.001, until - self.now))

        advance(None, None)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    @property
    def subscriptions(self) -> list[Subscription]:
        """All that are wanted."""
        return list(self._subscriptions)

    def subscribe(self, subscription: Subscription) -> None:
        """Have a queue's messages delivered from now on. One that waits to be tried again is tried at once."""
        wanted = self._subscriptions.setdefault(subscription, _Wanted(Backoff(self.connector.reconnect_max)))
        wanted.retry.hurry()
        if not wanted.making:
            subscription.error = None
        self.want()
        self._make_subscriptions()

    def unsubscribe(self, subscription: Subscription, answer: Answer, timeout: float = OPERATION) -> None:
        """End a subscription. Deliveries that are on their way are released. An unknown one is no error."""
        self._subscriptions.pop(subscription, None)
        number, subscription.number = subscription.number, None
        if number is None:
            self._call(answer, None, None)
        else:
            self._by_number.pop(number, None)
            self.ask(Cancel(number), answer, timeout)

    def _make_subscriptions(self) -> None:
        if self.state is not State.OPEN:
            return
        for subscription, wanted in list(self._subscriptions.items()):
            if subscription.number is None and not wanted.making and wanted.retry.due <= self.now:
                wanted.making = True
                self._make(subscription, wanted, self.adapter)

    def _make(self, subscription: Subscription, wanted: _Wanted, adapter: Adapter | None) -> None:
        number = next(self._numbers)

        def steps() -> Steps:
            if subscription.prepare is not None:
                yield from subscription.prepare()

        def subscribe(_: Any, error: Exception | None) -> None:
            if error is None and self._subscriptions.get(subscription) is wanted:
                # Registered before it is asked for: its first deliveries may come with the answer.
                self._by_number[number] = subscription
                operation = Subscribe(
                    number, subscription.queue, subscription.prefetch, subscription.exclusive, subscription.limit
                )
                self.ask(operation, made, late=lambda: self.ask(Cancel(number), _ignore))
            else:
                made(None, error)

        def made(_: Any, error: Exception | None) -> None:
            wanted.making = False
            if self._subscriptions.get(subscription) is not wanted:  # unwanted meanwhile
                if self._by_number.pop(number, None) is not None and error is None:
                    self.ask(Cancel(number), _ignore)
                if subscription in self._subscriptions:  # and wanted again
                    self._make_subscriptions()
            elif error is not None:
                self._by_number.pop(number, None)
                if adapter is self.adapter:
                    self._subscription_failed(subscription, error)
            else:
                subscription.number, subscription.error = number, None
                subscription.made += 1
                wanted.retry.reset()
                if subscription.on_made is not None:
                    self._call(subscription.on_made)

        self.run(steps(), subscribe)

    def _subscription_failed(self, subscription: Subscription, why: Exception) -> None:
        error = why if isinstance(why, MessagingError) else AdapterError(str(why))
        news = subscription.active or subscription.error is None
        if subscription.number is not None:
            self._by_number.pop(subscription.number, None)
        subscription.number, subscription.error = None, fresh(error)
        self._subscriptions[subscription].retry.failed(self.now)
        if news and subscription.on_lost is not None:
            self._call(subscription.on_lost, str(error))

    # -- events -------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Handle what the adapter has to tell. Callbacks may get here again: order is kept by the outermost."""
        if self._draining:
            return
        self._draining = True
        try:
            while True:
                while self._events:
                    self._handle(self._events.popleft())
                if self.adapter is None or not (events := self.adapter.events()):
                    break
                self._events.extend(events)
        finally:
            self._draining = False

    def _handle(self, event: Event) -> None:
        match event:
            case Delivery():
                self._deliver(event)
            case Confirmed():
                settle = self.unconfirmed.pop(event.token, None)
                if settle is not None:
                    self._call(settle, event.outcome, event.reason)
            case Done():
                self._answered(event)
            case SubscriptionLost():
                subscription = self._by_number.get(event.number)
                if subscription is not None and subscription.number == event.number:
                    self._subscription_failed(subscription, NotFound(event.reason))
            case Blocked():
                self._block(event.reason)
            case Opened():
                self._opened()
            case Closed():
                self._down(event.error or ConnectionLost("closed"))

    def _deliver(self, delivery: Delivery) -> None:
        self.used_at = self.now
        subscription = self._by_number.get(delivery.subscription)
        if subscription is None:
            self.release(delivery)
        else:
            self._call(subscription.on_delivery, delivery)

    def _answered(self, event: Done) -> None:
        pending = self._pending.pop(event.id, None)
        if pending is None:
            return
        if pending.answer is not None:
            self._call(pending.answer, event.value, event.error)
        elif event.error is None and pending.late is not None:
            self._call(pending.late)

    def _expire(self) -> None:
        for pending in list(self._pending.values()):
            if pending.deadline <= self.now:
                answer, pending.answer, pending.deadline = pending.answer, None, inf
                if answer is not None:
                    what = type(pending.operation).__name__
                    error = ConnectionLost(f"{self.connector.url}: the broker did not answer {what} in time")
                    self._call(answer, None, error)

    def _block(self, reason: str | None) -> None:
        if self.blocked is None and reason is not None:
            self._blocked_at = self.now
        elif self.blocked is not None and reason is None:
            for pending in self._pending.values():
                pending.deadline += self.now - self._blocked_at
        self.blocked = reason

    def _opened(self) -> None:
        log.info("%s: connected", self.connector.url)
        self.state, self._until = State.OPEN, inf
        self.tries += 1
        self.error, self.opened_before = None, True
        self.up_since = self.used_at = self.now
        self._make_subscriptions()
        unsent, self._unsent = self._unsent, {}
        for token, message in unsent.items():
            self.publish(token, *message)

    def _say_goodbye(self, *, polite: bool = False) -> None:
        adapter = self.adapter
        if adapter is None:
            return
        if polite:
            self._until = self.now + _GOODBYE
            adapter.close(self.now)
            self._drain()
        else:
            self._down(ConnectionLost("closed"))

    def _down(self, error: MessagingError) -> None:
        """Go on without a connection: what is unanswered fails, what was subscribed waits for the next one."""
        quiet = self.state is State.CLOSING or self._final
        if self.state is State.OPEN and not self._final:
            log.warning("%s: connection lost: %s", self.connector.url, error)
        if self.state in (State.CONNECTING, State.LOGIN):
            self.tries += 1
            level = logging.INFO if self._retry.failures else logging.WARNING
            log.log(level, "%s: cannot connect: %s", self.connector.url, error)
        if quiet or (self.up_since is not None and self.now - self.up_since >= _LASTING):
            self._retry.reset()
        if self.adapter is not None:
            self._last_words = self.adapter.take(self.now)
        self.adapter, self.up_since, self.blocked, self._until, self._flush_at = None, None, None, inf, 0.0
        self._events.clear()
        self.error = None if quiet and not self._final else fresh(error)
        self.state = State.CLOSED if self._final else State.DOWN
        if not quiet:
            self._retry.failed(self.now)
        self.connect_at = self._retry.due if self._wanted and not self._final else inf
        self._by_number.clear()
        for subscription, wanted in self._subscriptions.items():
            subscription.number, wanted.making = None, False
            wanted.retry.reset()
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        if self._final:
            unconfirmed |= {token: message[-1] for token, message in self._unsent.items()}
            self._unsent.clear()
        pending, self._pending = self._pending, {}
        for settle in unconfirmed.values():
            if settle is not None:
                self._call(settle, Outcome.UNKNOWN, str(error))
        for operation in pending.values():
            if operation.answer is not None:
                self._call(operation.answer, None, fresh(error))

    def _call(self, callback: Callable[..., object], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:  # a callback's fault must not become everybody's
            log.exception("%s: a callback failed", self.connector.url)


def _ignore(_: object, __: Exception | None) -> None:
    """Take an answer that nobody waits for."""


def fresh(error: MessagingError) -> MessagingError:
    """Return an error that says the same: one that is raised twice grows, and keeps the frames of who raised it."""
    try:
        return type(error)(*error.args)
    except TypeError:  # an adapter's own class, made in its own way
        return AdapterError(str(error))
