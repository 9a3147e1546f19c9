"""The state of a connection, without I/O, threads or a clock: what is open, pending, published and subscribed.

A driver opens the socket, hands in what it reads and the time, and writes what ``take`` returns::

    DOWN -- at connect_at --> CONNECTING -- socket open --> LOGIN -- Opened --> OPEN
      ^                           |                           |                   |
      +--- pause, full jitter ----+---------------------------+-------------------+-- close --> CLOSING --> CLOSED

One thread at a time calls it. Callbacks run inside these calls, one at a time and in the order in which the broker sent
the events; a callback may call every method here.
"""

from __future__ import annotations

import enum
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Cancel, Delivery, Operation, Outcome, Outgoing, Settlement, Subscribe
from gofer.messaging.backoff import Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Steps, Subscription

__all__ = ["OPERATION", "Answer", "Core", "Settle", "State", "copy_error"]

log = logging.getLogger(__name__)

#: Called with the outcome of a published message, and the broker's reason.
Settle = Callable[[Outcome, str], None]
#: Called with an operation's value, or its error.
Answer = Callable[[Any, Exception | None], None]

#: Seconds for the broker to answer one operation.
OPERATION = 10.0
#: Seconds of silence that end a login, and for each operation that makes a subscription. Who gives up earlier wins
#: nothing: the next try has the broker do the work again, and a broker that is slow because ten thousand come back at
#: once gets slower by each. So the limit doubles with each try in a row that it has ended, up to so many times as much.
#: That is also the limit of the whole login.
_LOGIN = _SUBSCRIBING = 30.0
_MOST_PATIENCE = 4
#: Seconds for subscriptions to clean up before the connection closes, and for the broker to answer the close.
_DISPOSE = 1.0
_CLOSE = 1.0
#: After a connection of this many seconds the next pause is short again.
_STABLE = 5.0
#: The first limit of the pauses of one of many, in seconds, and its growth. With smaller values a restarted broker gets
#: more than 15 % of a fleet in one second.
_FLEET = (5.0, 4.0)


class State(enum.Enum):
    """The states of a connection."""

    DOWN = "down"
    CONNECTING = "connecting"
    LOGIN = "logging in"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(slots=True)
class _PendingOperation:
    """An operation that the broker has not answered. ``answer`` is None after the deadline."""

    operation: Operation
    answer: Answer | None
    deadline: float


class Core:
    """One connection over all its reconnects.

    Args:
        connector: where, and how.
        ack_delay: seconds that an acknowledgement may wait for other output.
    """

    def __init__(self, connector: Connector, *, ack_delay: float = 0.0) -> None:
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
        #: How many tries have ended with a connection.
        self.openings = 0
        #: Why there is no connection: the error of the last try, or of the loss.
        self.error: MessagingError | None = None
        #: Why the broker takes no messages for now, in its words.
        self.blocked: str | None = None
        self.up_since: float | None = None
        #: When something was last published or delivered.
        self.used_at = 0.0
        #: How many messages were delivered.
        self.deliveries = 0
        #: Bytes received that made no event: of a large message on its way, and heartbeats.
        self.unfinished = 0
        #: Messages whose outcome is not known yet, by token.
        self.unconfirmed: dict[int, Settle | None] = {}
        self._ack_delay = ack_delay
        self._silent = True  # the broker, on this connection
        self._flush_at = 0.0
        self._deadline = inf  # of the login, or of the close
        self._login_since = 0.0
        self._patience = 1  # how many times as long as usual a login may take
        self._retry_at = inf  # the next try of a subscription
        self._reconnect = self._final = self._draining = False
        self._last_output = b""
        # Messages that were published just after the connection was lost. The next connection sends them.
        self._unsent: dict[int, tuple[Outgoing, Settle | None]] = {}
        self._blocked_at = 0.0
        self._backoff = Backoff(connector.reconnect_max)
        self._ids = itertools.count(1)
        # The numbers of subscriptions are unique over all sockets: a stale delivery never matches a newer subscription.
        self._numbers = itertools.count(1)
        self._pending: dict[int, _PendingOperation] = {}
        self._subscriptions: dict[Subscription, Backoff] = {}
        self._by_number: dict[int, Subscription] = {}

    # -- for the driver -----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it has ended for good."""
        return self.state is State.CLOSED

    @property
    def deadline(self) -> float:
        """When ``tick`` is wanted."""
        if self.state is State.DOWN:
            return self.connect_at
        if self.adapter is None:
            return inf
        due = min(self.adapter.deadline, self._deadline, self._flush_at or inf)
        if self.blocked is None:
            due = min(due, self._retry_at)
            if self._pending:
                due = min(due, *(pending.deadline for pending in self._pending.values()))
        return due

    def connecting(self) -> None:
        """Note that the driver opens a socket now."""
        self.state, self.connect_at = State.CONNECTING, inf

    def connected(self, adapter: Adapter, now: float) -> None:
        """Log in: the socket is open."""
        self.now = now
        if self.state is not State.CONNECTING:
            return  # closed meanwhile
        self.state, self.adapter, self._deadline = State.LOGIN, adapter, now + self._patience * _LOGIN
        self._login_since, self._silent = now, True
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
        self._silent = False
        if self.state is State.LOGIN:  # a broker that speaks is slow, not dead
            self._deadline = min(now + self._patience * _LOGIN, self._login_since + _MOST_PATIENCE * _LOGIN)
        if self.adapter is not None:
            self.adapter.receive(data, now)
            if not self._drain():
                self.unfinished += len(data)

    def drop(self, reason: str) -> None:
        """Give up an open connection that does not work, and make another one."""
        if self.state is State.OPEN:
            self.lost(reason, self.now)

    def lost(self, reason: str, now: float) -> None:
        """Note that the socket has ended."""
        self.now = now
        if self.adapter is not None:
            self.adapter.lost(reason, now)
            self._drain()

    def failed(self, error: Exception) -> None:
        """Drop the connection after a fault of the adapter."""
        if self.adapter is not None:
            self.adapter = None  # no method of it is called any more
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
        if now >= self._deadline and self.adapter is adapter:
            if self.state is State.CLOSING:
                self._down(ConnectionLost("closed"))
            else:
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
                self._down(ConnectionLost(self._no_login()))
        if self.blocked is None:
            self._expire()
            if now >= self._retry_at:
                self._make_subscriptions()

    def _no_login(self) -> str:
        """Say that the broker did not answer, and what may be wrong if it has said nothing at all."""
        text = f"no answer to the login within {self.now - self._login_since:.0f} s"
        if not self._silent or self.connector.url.protocol == "local":
            return text
        hint = "" if self.connector.url.tls else ". Does the port expect TLS? Then write amqps://"
        return f"{text}, not a byte{hint}"

    def take(self, now: float) -> bytes:
        """Return what is to be written now."""
        while self._drain():  # what commands and callbacks have brought about
            pass
        adapter = self.adapter
        if adapter is None:
            output, self._last_output = self._last_output, b""
            return output
        if now < self._flush_at and not adapter.urgent:
            return b""
        self._flush_at = 0.0
        return adapter.take(now)

    # -- open and close -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect, and reconnect after a loss. If no connection was ever made, the next try is now."""
        self._reconnect = True
        self.used_at = self.now
        if self.state is State.DOWN and (self.connect_at == inf or not self.opened_before):
            self.connect_at = self.now

    def spread(self) -> None:
        """Come back as one of many: with longer first pauses, so that the broker gets few of them in each second."""
        self._backoff = Backoff(self.connector.reconnect_max, *_FLEET)

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
        """Close the connection until the next use."""
        self._reconnect = False
        if self.state is State.OPEN:
            self.state = State.CLOSING
            self._close_adapter()
        elif self.state is State.DOWN:
            self.connect_at = inf

    def close(self) -> None:
        """Close for good: subscriptions clean up, then the adapter closes its connection."""
        if self._final:
            return
        self._final, self._reconnect = True, False
        if self.state is State.OPEN:
            self.state, self._deadline = State.CLOSING, self.now + _DISPOSE
            self.run(self._dispose(), lambda _, __: self._close_adapter(), _DISPOSE)
        elif self.state is not State.CLOSING:
            self._down(ConnectionLost(f"the connection to {self.connector.url} was closed"))

    def _dispose(self) -> Steps:
        for subscription in list(self._subscriptions):
            if subscription.dispose is not None and subscription.active:
                try:
                    yield from subscription.dispose()
                except MessagingError as error:
                    log.debug("%s: not cleaned up: %s", self.connector.url, error)

    def _close_adapter(self) -> None:
        if self.adapter is not None:
            self._deadline = self.now + _CLOSE
            self.adapter.close(self.now)
            self._drain()

    def describe(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        if self._final:
            return "closed"
        if self.state is State.OPEN:
            return "open" if self.blocked is None else f"blocked by the broker ({self.blocked})"
        return f"no connection ({self.error})" if self.error else "no connection yet"

    # -- commands -----------------------------------------------------------------------------------------------------

    def publish(self, message: Outgoing, settle: Settle | None) -> None:
        """Send a message; ``settle`` is called once (without ``confirm`` perhaps never, and never after ``forget``)."""
        adapter = self.adapter
        if adapter is None or self.state is not State.OPEN:
            # Without confirm a caller waits, and sends again by itself, when it has its reply queue again.
            if self._final or not self._reconnect or not message.confirm:
                self._call(settle, Outcome.UNKNOWN, self.describe())
            else:  # the connection was lost just now: nothing was sent, so nothing is unknown
                self._unsent[message.token] = (message, settle)
            return
        self.used_at = self.now
        if message.confirm or settle is not None:
            self.unconfirmed[message.token] = settle
        try:
            adapter.publish(message)
        except (ValueError, TypeError) as wrong:
            self.unconfirmed.pop(message.token, None)
            self._call(settle, Outcome.REFUSED, str(wrong))

    def encode(self, message: Outgoing) -> bytes | None:
        """Return the bytes of a message that can be written as it is; None: ``publish`` it. Changes nothing."""
        adapter = self.adapter
        if adapter is None or self.state is not State.OPEN or message.isolated:
            return None
        try:
            return adapter.encode(api.checked(message))
        except ValueError:
            return None

    def written(self, adapter: Adapter, message: Outgoing, settle: Settle | None) -> None:
        """Note that a message was written, as ``encode`` has returned it, to the socket of an adapter."""
        self.used_at = self.now
        if self.adapter is adapter:
            self.unconfirmed[message.token] = settle
            adapter.written(message)
        else:
            self._call(settle, Outcome.UNKNOWN, self.describe())

    def forget(self, token: int) -> None:
        """Forget a message: its outcome is not reported any more."""
        self._unsent.pop(token, None)
        if self.unconfirmed.pop(token, None) is not None and self.adapter is not None:
            self.adapter.forget(token)

    def settle(self, delivery: Delivery, how: Settlement) -> None:
        """Settle a delivery. An acknowledgement may wait for other output."""
        if self.adapter is not None:
            self.adapter.settle(delivery, how)
            self._flush_at = (self._flush_at or self.now + self._ack_delay) if how is Settlement.ACCEPT else 0.0

    def flush(self) -> None:
        """Write waiting acknowledgements in this turn."""
        self._flush_at = 0.0

    def ask(self, operation: Operation, answer: Answer, timeout: float = OPERATION) -> None:
        """Ask the broker for something; ``answer`` is called once.

        A missed deadline fails this operation alone: the connection stays. Deadlines stand still while the broker has
        blocked the connection.
        """
        adapter = self.adapter
        if adapter is None or self.state not in (State.OPEN, State.CLOSING):
            self._call(answer, None, ConnectionLost(f"{self.connector.url}: {self.describe()}"))
            return
        self.used_at = self.now
        number = next(self._ids)
        self._pending[number] = _PendingOperation(operation, answer, self.now + timeout)
        try:
            adapter.ask(number, operation)
        except (ValueError, TypeError) as wrong:
            del self._pending[number]
            self._call(answer, None, wrong)
        self._drain()

    def run(self, steps: Steps, answer: Answer, timeout: float = OPERATION) -> None:
        """Run the operations of a generator one after another; ``answer`` gets its return value or its error.

        Args:
            timeout: seconds for each operation.
        """

        def advance(value: Any, error: Exception | None) -> None:
            try:
                operation = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._call(answer, end.value, None)
            except (MessagingError, ValueError, TypeError) as failed:
                self._call(answer, None, failed)
            else:
                self.ask(operation, advance, timeout)

        advance(None, None)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Subscribe to a queue now and after each reconnect. A subscription that waits for its retry is tried now."""
        self._subscriptions.setdefault(subscription, Backoff(self.connector.reconnect_max)).hurry()
        self.connect()
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
            self.ask(Cancel(number), _ignore)

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
            yield Subscribe(
                number, subscription.queue, subscription.prefetch, subscription.exclusive, subscription.limit
            )

        def made(_: Any, error: Exception | None) -> None:
            if subscription.making != number:
                return  # it was lost with its connection
            subscription.making = None
            if subscription not in self._subscriptions:  # it was unsubscribed meanwhile
                self._by_number.pop(number, None)
                if error is None:
                    self.ask(Cancel(number), _ignore)
            elif error is not None:
                self._by_number.pop(number, None)
                self._subscription_failed(subscription, error)
            else:
                self._by_number[number] = subscription  # again, if it was unsubscribed and subscribed meanwhile
                subscription.number, subscription.error = number, None
                subscription.made += 1
                self._subscriptions[subscription].reset()
                self._call(subscription.on_made)

        patience = min(2 ** min(self._subscriptions[subscription].failures, 8), _MOST_PATIENCE)
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

    # -- events -------------------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Handle the adapter's events so far; return whether there were any. ``take`` handles those that these cause.

        A callback may call this again: the outermost call keeps the order.
        """
        if self._draining or self.adapter is None:
            return False
        events = self.adapter.events()
        self._draining = bool(events)
        try:
            for event in events:
                self._handle(event)
        finally:
            self._draining = False
        return bool(events)

    def _handle(self, event: api.Event) -> None:
        match event:
            case Delivery():
                self.used_at = self.now
                self.deliveries += 1
                subscription = self._by_number.get(event.subscription)
                if subscription is None:
                    self.settle(event, Settlement.RELEASE)
                else:
                    self._call(subscription.on_delivery, event)
            case api.Confirmed():
                self._call(self.unconfirmed.pop(event.token, None), event.outcome, event.reason)
            case api.Done():
                self._answered(event)
            case api.SubscriptionLost():
                subscription = self._by_number.pop(event.number, None)
                if subscription is not None and subscription.number == event.number:
                    self._subscription_failed(subscription, NotFound(event.reason))
            case api.Blocked():
                self._block(event.reason)
            case api.Opened():
                self._opened()
            case api.Closed():
                self._down(event.error or ConnectionLost("closed"))

    def _answered(self, event: api.Done) -> None:
        pending = self._pending.pop(event.id, None)
        if pending is None:
            return
        if pending.answer is not None:
            self._call(pending.answer, event.value, event.error)
        elif event.error is None and isinstance(pending.operation, Subscribe):  # too late: another try was started
            self.ask(Cancel(pending.operation.number), _ignore)

    def _expire(self) -> None:
        for pending in list(self._pending.values()):
            if pending.deadline <= self.now:
                answer, pending.answer, pending.deadline = pending.answer, None, inf
                asked = type(pending.operation).__name__
                error = ConnectionLost(f"{self.connector.url}: the broker did not answer {asked} in time")
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
        self.state, self._deadline, self._patience = State.OPEN, inf, 1
        self.tries += 1
        self.openings += 1
        self.error, self.opened_before = None, True
        self.up_since = self.used_at = self.now
        self._make_subscriptions()
        unsent, self._unsent = self._unsent, {}
        for message, settle in unsent.values():
            self.publish(message, settle)

    def _down(self, error: MessagingError) -> None:
        """End the connection: unanswered operations fail, subscriptions wait for the next connection."""
        intended = self.state is State.CLOSING or self._final
        if self.state is State.OPEN and not self._final:
            log.warning("%s: connection lost: %s", self.connector.url, error)
        tried = self.state in (State.CONNECTING, State.LOGIN)
        if tried:
            level = logging.INFO if self._backoff.failures else logging.WARNING
            log.log(level, "%s: cannot connect: %s", self.connector.url, error)
        if intended or (self.up_since is not None and self.now - self.up_since >= _STABLE):
            self._backoff.reset()
        if not intended:
            self._backoff.failed(self.now)
        if self.adapter is not None:
            self._last_output = self.adapter.take(self.now)
        self.adapter, self.up_since, self.blocked, self._deadline, self._flush_at = None, None, None, inf, 0.0
        self._retry_at = inf
        self.error = None if intended and not self._final else copy_error(error)
        self.state = State.CLOSED if self._final else State.DOWN
        self.connect_at = self._backoff.due if self._reconnect and not self._final else inf
        self.tries += tried  # after the error: a waiting thread that sees the number looks at the error next
        self._by_number.clear()
        for subscription, backoff in self._subscriptions.items():
            subscription.number = subscription.making = None
            backoff.reset()
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        if self._final:
            unconfirmed |= {token: settle for token, (_, settle) in self._unsent.items()}
            self._unsent.clear()
        pending, self._pending = self._pending, {}
        for settle in unconfirmed.values():
            self._call(settle, Outcome.UNKNOWN, str(error))
        for operation in pending.values():
            self._call(operation.answer, None, copy_error(error))

    def _call(self, callback: Callable[..., object] | None, *arguments: Any) -> None:
        try:
            if callback is not None:
                callback(*arguments)
        except Exception:  # a callback's fault harms no other user
            log.exception("%s: a callback failed", self.connector.url)


def _ignore(_: object, __: Exception | None) -> None:
    """Take an answer that nobody waits for."""


def copy_error(error: MessagingError) -> MessagingError:
    """Copy an error before it is raised: each raise adds its frames to the error, and keeps them alive."""
    try:
        return type(error)(*error.args)
    except TypeError:  # a class of an adapter, with arguments of its own
        return AdapterError(str(error))
