"""The two kinds of channel that carry messages: a consumer's and a publisher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gofer.messaging.adapter.base import Delivery, Outcome, Settled, SubscriptionLost

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.connection import Channel
from gofer_adapter_amqp.errors import ClosedByBroker, ProtocolError

if TYPE_CHECKING:
    from gofer_adapter_amqp.connection import Connection

__all__ = ["Consumer", "Message", "Publisher"]

_ACK, _REJECT = (60 << 16) | 80, (60 << 16) | 90


class Consumer(Channel):
    """A subscription: a channel with one consumer on it.

    It is the first half of each delivery's ``tag``; the second is the broker's number. A closed channel is never opened
    again, so its deliveries cannot be taken for those of another.
    """

    def __init__(self, connection: Connection, number: int, limit: int | None = None) -> None:
        super().__init__(connection)
        self.limit = limit
        self.home = connection
        self.number = number
        self.unsettled: set[int] = set()
        self.begun = self.ended = False
        self._loss: str | None = None

    def on_delivery(self, method: bytes, header: bytes, body: bytes) -> None:
        """Hand the message on as an event."""
        tag, redelivered = wire.delivered(method)
        self.unsettled.add(tag)
        cut = wire.body_size(header) - len(body)
        self.home.events.append(Delivery(self.number, body, redelivered, wire.expiration(header), (self, tag), cut))

    def closed(self, error: ClosedByBroker) -> None:
        """Tell that the subscription is gone. The broker has taken back what was not settled."""
        self.unsettled.clear()
        self._lost(error.text)

    def settle(self, tag: int, *, accept: bool, requeue: bool = False) -> None:
        """Settle a delivery; one that is settled, or whose channel is closed, is ignored."""
        if tag not in self.unsettled:
            return
        self.unsettled.remove(tag)
        self.home.wire.outbox += wire.settle_frame(
            self.channel_id, _ACK if accept else _REJECT, tag, 1 if requeue else 0
        )
        if self.ended and not self.unsettled:
            self.close_soon()

    def begin(self) -> None:
        """Note that the subscription is made: from here on its loss is an event. It may be lost already."""
        self.begun = True
        if self._loss is not None:
            self.home.events.append(SubscriptionLost(self.number, self._loss))

    def end(self) -> None:
        """Close the channel as soon as its last delivery is settled."""
        self.ended = True
        if not self.unsettled:
            self.close_soon()

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        if not self.ended:  # else it crosses our own cancel, whose answer is still to come
            self._lost("the broker cancelled the consumer: its queue was deleted, or is not available")
            self.end()

    def _lost(self, reason: str) -> None:
        if not self.ended:
            self.ended = True
            self._loss = reason
            if self.begun:
                self.home.events.append(SubscriptionLost(self.number, reason))


class Message(NamedTuple):
    """A message as it is published; ``token`` is its sender's number."""

    token: int
    exchange: str
    key: str
    milliseconds: int | None
    body: bytes
    durable: bool


class Publisher(Channel):
    """A channel to send on. Opening it and sending on it waits for nothing.

    Args:
        confirm: the broker confirms each message. Without that, only what fails has an event, until it is forgotten.
        on_closed: told why the broker closed the channel; returns what becomes of what was not settled.
        on_idle: called when the last unsettled message is settled, also by closing.
    """

    def __init__(
        self,
        connection: Connection,
        on_closed: Callable[[ClosedByBroker], Outcome],
        on_idle: Callable[[], None] | None = None,
        *,
        confirm: bool = True,
    ) -> None:
        super().__init__(connection)
        self._home = connection
        self._on_closed = on_closed
        self._on_idle = on_idle
        self._count = 0
        self._unsettled: dict[int, int] = {}  # the channel's count of a message (or its token) -> its token, in order
        self._returned: dict[int, str] = {}  # token -> the broker's words
        self._confirms = confirm
        if confirm:
            self.confirm_select(nowait=True)

    def publish(self, message: Message) -> None:
        """Put a message into the outbox.

        Raises:
            ValueError: a name that is too long.
        """
        home = self._home
        token, exchange, key, milliseconds, body, durable = message
        frames = wire.publish_frames(self.channel_id, home.frame_max, exchange, key, token, milliseconds, body, durable)
        if self._confirms:
            self._count += 1
            self._unsettled[self._count] = token
        else:
            self._unsettled[token] = token
        home.wire.outbox += frames

    def forget(self, token: int) -> None:
        """Have no event for a message, on a channel without confirms."""
        self._unsettled.pop(token, None)

    def on_return(self, method: bytes, header: bytes) -> None:
        """Note that a message had no route; its confirm follows, if the channel has confirms."""
        token = wire.message_id(header)
        if not token.isdigit():
            raise ProtocolError(f"a returned message with the id {token[:40]!r}, which we did not send")
        if self._confirms:
            self._returned[int(token)] = wire.returned(method)
        elif self._unsettled.pop(int(token), None) is not None:
            self._home.events.append(Settled(int(token), Outcome.RETURNED, wire.returned(method)))

    def on_confirm(self, method: bytes, nack: bool) -> None:
        """Settle the message, or all up to it."""
        count, multiple = wire.settled(method)
        unsettled = self._unsettled
        if not multiple:
            counts = [count] if count in unsettled else []
        else:
            counts = []
            for waiting in unsettled:
                if waiting > count > 0:  # 0 means all
                    break
                counts.append(waiting)
        for number in counts:
            token = unsettled.pop(number)
            reason = self._returned.pop(token, None) if self._returned else None
            if reason is not None:
                event = Settled(token, Outcome.RETURNED, reason)
            elif nack:
                event = Settled(token, Outcome.REFUSED, "the broker did not take the message (nack)")
            else:
                event = Settled(token, Outcome.TAKEN)
            self._home.events.append(event)
        if self._on_idle is not None and counts and not unsettled:
            self._on_idle()

    def closed(self, error: ClosedByBroker) -> None:
        """Settle all that the broker had not."""
        outcome = self._on_closed(error)
        tokens, self._unsettled = list(self._unsettled.values()), {}
        for token in tokens:
            returned = self._returned.pop(token, None)
            if returned is None:
                self._home.events.append(Settled(token, outcome, error.text))
            else:
                self._home.events.append(Settled(token, Outcome.RETURNED, returned))
        if self._on_idle is not None and tokens:
            self._on_idle()
