"""The state of a connection, without I/O, threads or a clock: what is open, pending, published and subscribed.

A driver opens the socket, hands in what it reads and the time, and writes what ``take`` returns::

    DOWN -- at connect_at --> CONNECTING -- socket open --> LOGIN -- Opened --> OPEN
      ^                           |                           |                   |
      +--- pause, full jitter ----+---------------------------+-------------------+-- close --> CLOSING --> CLOSED

One thread at a time calls it. Callbacks run inside these calls, one at a time and in the order in which the broker sent
the events; a callback may call every method here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Delivery, Outcome, Outgoing, Settlement
from gofer.messaging.backoff import OF_MANY, Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.operations import MOST_PATIENCE, State, copy_error
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.subscriptions import Subscriptions

__all__ = ["Core", "Settle"]

log = logging.getLogger(__name__)

#: Called with the outcome of a published message, and the broker's reason.
Settle = Callable[[Outcome, str], None]
#: Seconds of silence that end a login. Who gives up earlier wins nothing: the next try has the broker do the work
#: again, and a broker that is slow because ten thousand come back at once gets slower by each. So the limit doubles
#: with each try in a row that it has ended, up to MOST_PATIENCE times as much: the limit of the whole login, too.
_LOGIN = 30.0
#: Seconds for subscriptions to clean up before the connection closes, and for the broker to answer the close.
_DISPOSE = 1.0
_CLOSE = 1.0
#: So many acknowledgements do not wait for more: for a broker they are little more work than one.
_MANY = 50
#: After a connection of this many seconds the next pause is short again.
_STABLE = 5.0


class Core(Subscriptions):
    """One connection over all its reconnects.

    Args:
        connector: where, and how.
        ack_delay: seconds that an acknowledgement may wait for other output.
    """

    def __init__(self, connector: Connector, *, ack_delay: float = 0.0) -> None:
        super().__init__(connector)
        #: When the driver is to open a socket; inf: not now.
        self.connect_at = inf
        #: How many tries to connect have ended, with a connection or without.
        self.tries = 0
        self.opened_before = False
        #: How many tries have ended with a connection.
        self.openings = 0
        self.up_since: float | None = None
        #: How many messages were delivered.
        self.deliveries = 0
        #: Bytes received that made no event: of a large message on its way, and heartbeats.
        self.unfinished = 0
        #: Messages whose outcome is not known yet, by token.
        self.unconfirmed: dict[int, Settle | None] = {}
        self._ack_delay = ack_delay
        self._silent = True  # the broker, on this connection
        self._flush_at = 0.0
        self._waiting = 0  # acknowledgements
        self._deadline = inf  # of the login, or of the close
        self._login_since = 0.0
        self._patience = 1  # how many times as long as usual a login may take
        self._reconnect = self._draining = False
        self._last_output = b""
        # Messages that were published just after the connection was lost. The next connection sends them.
        self._unsent: dict[int, tuple[Outgoing, Settle | None]] = {}
        self._backoff = Backoff(connector.reconnect_max)

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
            self._deadline = min(now + self._patience * _LOGIN, self._login_since + MOST_PATIENCE * _LOGIN)
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
                self._patience = min(2 * self._patience, MOST_PATIENCE)
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
        hint = "" if self.connector.url.tls or self.opened_before else ". Does the port expect TLS? Then write amqps://"
        return f"{text}, not a byte{hint}"

    def take(self, now: float) -> bytes:
        """Return what is to be written now."""
        if self._commanded:
            self._drain()
        adapter = self.adapter
        if adapter is None:
            output, self._last_output = self._last_output, b""
            return output
        if now < self._flush_at and not adapter.urgent:
            return b""
        self._flush_at, self._waiting = 0.0, 0
        return adapter.take(now)

    # -- open and close -----------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription) -> None:
        """Subscribe to a queue now and after each reconnect; connect. See :class:`Subscriptions`."""
        self.connect()
        super().subscribe(subscription)

    def connect(self) -> None:
        """Connect, and reconnect after a loss. If no connection was ever made, the next try is now."""
        self._reconnect = True
        self.used_at = self.now
        if self.state is State.DOWN and (self.connect_at == inf or not self.opened_before):
            self.connect_at = self.now

    def spread(self) -> None:
        """Come back as one of many: with longer first pauses, so that the broker gets few of them in each second."""
        self._backoff = Backoff(self.connector.reconnect_max, *OF_MANY)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight and no subscription keeps the connection open."""
        asked = any(pending.answer for pending in self._pending.values())
        kept_open = any(subscription.keep_open for subscription in self._subscriptions)
        return not (self.unconfirmed or self._unsent or asked or kept_open)

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
        self._commanded = True
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

    def settle(self, delivery: Delivery, how: Settlement, within: float = 0.0) -> None:
        """Settle a delivery. An acknowledgement waits for other output, or for so many that one more is no work."""
        if self.adapter is None:
            return
        self._commanded = True
        self.adapter.settle(delivery, how)
        self._waiting += 1
        if how is Settlement.ACCEPT and self._waiting < _MANY:
            self._flush_at = min(self._flush_at or inf, self.now + max(within, self._ack_delay))
        else:
            self._flush_at = 0.0

    def flush(self) -> None:
        """Write waiting acknowledgements in this turn."""
        self._flush_at = 0.0

    # -- events -------------------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Handle the adapter's events, and those that callbacks cause. Returns whether there were any.

        A callback may call this again: the outermost call keeps the order.
        """
        if self._draining:
            return False
        self._draining, found = True, False
        try:
            while self.adapter is not None:
                self._commanded = False
                for event in self.adapter.events():
                    found = True
                    self._handle(event)
                if not self._commanded:
                    break
        finally:
            self._draining = False
        return found

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
                self._lost(event)
            case api.Blocked():
                self._block(event.reason)
            case api.Opened():
                self._opened()
            case api.Closed():
                self._down(event.error or ConnectionLost("closed"))

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
        if tried and not intended:
            level = logging.INFO if self._backoff.failures else logging.WARNING
            log.log(level, "%s: cannot connect: %s", self.connector.url, error)
        if intended or (self.up_since is not None and self.now - self.up_since >= _STABLE):
            self._backoff.reset()
        if not intended:
            self._backoff.failed(self.now)
        if self.adapter is not None:
            self._last_output = self.adapter.take(self.now)
        self.adapter, self.up_since, self.blocked, self._deadline, self._flush_at = None, None, None, inf, 0.0
        self.error = None if intended and not self._final else copy_error(error)
        self.state = State.CLOSED if self._final else State.DOWN
        self.connect_at = self._backoff.due if self._reconnect and not self._final else inf
        self.tries += tried  # after the error: a waiting thread that sees the number looks at the error next
        self._all_lost()
        unconfirmed, self.unconfirmed = self.unconfirmed, {}
        if self._final:
            unconfirmed |= {token: settle for token, (_, settle) in self._unsent.items()}
            self._unsent.clear()
        pending, self._pending = self._pending, {}
        for settle in unconfirmed.values():
            self._call(settle, Outcome.UNKNOWN, str(error))
        for operation in pending.values():
            self._call(operation.answer, None, copy_error(error))
