"""A subscription: a channel of its own with one consumer."""

from __future__ import annotations

from itertools import takewhile

from amqp import spec
from gofer.messaging.adapter import Delivery, Done, Subscribe, SubscriptionLost

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import Closed
from gofer_adapter_amqp.channel import Channel, Channels

__all__ = ["Consumer"]


class Consumer(Channel):
    """A subscription.

    It is the first half of each delivery's ``tag``; the second is the broker's number. A closed channel is never opened
    again, so its deliveries cannot be taken for those of another. After its end it lives until all are settled.
    """

    def __init__(self, home: Channels, id: int, asked: Subscribe) -> None:
        super().__init__(home)
        self.ended = False
        self._subscription = asked.number
        self._subscribing: int | None = id
        self._cancelling: list[int] = []
        self._unsettled: dict[int, bool] = {}  # tag -> whether it is accepted, in the order of delivery
        self._accepted: list[int] = []
        self.send(spec.Basic.Qos, "lBb", 0, asked.prefetch, False)
        queue, tag, exclusive = asked.queue, str(asked.number), asked.exclusive
        self.send(spec.Basic.Consume, "BssbbbbF", 0, queue, tag, False, False, exclusive, False, {})

    def cancel(self, id: int) -> None:
        """End the subscription; the channel stays for what is not settled."""
        if not self._cancelling:
            self.send(spec.Basic.Cancel, "sb", str(self._subscription), False)
        self._cancelling.append(id)

    def settle(self, tag: int, requeue: bool | None) -> None:
        """Settle a delivery that is not: give it back to its queue, or not. None: accept it, by the next ``flush``."""
        if self._unsettled.get(tag) is not False:
            return
        if requeue is None:
            self._unsettled[tag] = True
            if not self._accepted:
                self.home.unflushed.append(self)
            self._accepted.append(tag)
        else:  # not by basic.nack: RabbitMQ counts both alike against a delivery limit
            del self._unsettled[tag]
            self.home.output.append(wire.settle_frame(self.number, spec.Basic.Reject, tag, requeue))
            self._close_when_settled()

    def flush(self) -> None:
        """Acknowledge what is accepted: by one frame all that stand before the first that is not."""
        unsettled, output = self._unsettled, self.home.output
        accepted, self._accepted = self._accepted, []
        if self.usable:
            first = list(takewhile(unsettled.__getitem__, unsettled))
            if first:
                output.append(wire.settle_frame(self.number, spec.Basic.Ack, first[-1], len(first) > 1))
                for tag in first:
                    del unsettled[tag]
            if len(first) < len(accepted):
                for tag in accepted:
                    if unsettled.pop(tag, False):
                        output.append(wire.settle_frame(self.number, spec.Basic.Ack, tag, False))
            self._close_when_settled()

    def on_message(self, method: bytes, header: bytes, body: bytes, size: int) -> None:
        """Hand the message on as an event."""
        tag, redelivered = wire.delivered(method)
        self._unsettled[tag] = False
        ttl = wire.expiration(header)
        self.home.events.append(Delivery(self._subscription, body, redelivered, ttl, (self, tag), size))

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take the answers to our questions, and the broker's own cancel."""
        match method:
            case spec.Basic.ConsumeOk if self._subscribing is not None:
                self.home.events.append(Done(self._subscribing))
                self._subscribing = None
            case spec.Basic.CancelOk if self._cancelling:
                self._end("")
            case spec.Basic.Cancel:
                if not self._cancelling:  # else it crosses our own, whose answer is still to come
                    self._end("the broker cancelled the consumer: its queue was deleted, or is not available")
            case spec.Basic.QosOk:
                pass
            case _:
                super().on_method(method, payload)

    def on_closed(self, closed: Closed) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        self._unsettled.clear()
        if self._subscribing is not None:
            self.home.events.append(Done(self._subscribing, error=closed.error()))
            self.ended = True
        self._end(closed.text)

    def _end(self, reason: str) -> None:
        if not self.ended and not self._cancelling:
            self.home.events.append(SubscriptionLost(self._subscription, reason))
        self.home.events += [Done(id) for id in self._cancelling]
        self._cancelling = []
        self.ended = True
        self._close_when_settled()

    def _close_when_settled(self) -> None:
        if self.ended and not self._unsettled:
            self.close()
