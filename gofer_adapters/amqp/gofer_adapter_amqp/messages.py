"""The channels that carry messages, to us and from us."""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from amqp import spec
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Confirmed, Outcome, Outgoing
from gofer.messaging.endings import ProtocolError

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import NOT_FOUND, REFUSED, Closed
from gofer_adapter_amqp.channel import Channel, Channels, Steps, Task

__all__ = ["Consumer", "Publisher"]

_PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.topic")


class Consumer(Channel):
    """A subscription: a channel of its own with one consumer. ``accepted`` are tags to be acknowledged by ``flush``.

    It is the first half of each delivery's ``tag``; the second is the broker's number. It never has another channel, so
    its deliveries cannot be taken for those of another. After its end it lives until all are settled.
    """

    def __init__(self, home: Channels, id: int, asked: api.Subscribe) -> None:
        super().__init__(home)
        self.ended, self.limit, self._asked = False, asked.limit, asked
        self._subscribing: int | None = id
        self._cancelling: list[int] = []
        self._unsettled: dict[int, bool] = {}  # tag -> whether it is accepted, in the order of delivery
        self.accepted: list[int] = []
        if (closed := self.open()) is not None:
            self.on_closed(closed)
            return
        self.send(spec.Basic.Qos, "lBb", 0, asked.prefetch, False)
        if asked.exclusive and home.dialect.broker_j:
            self.asking = (spec.Queue.Declare,)
            self.send(spec.Queue.Declare, "BsbbbbbF", 0, asked.queue, True, False, False, False, False, {})
        else:
            self._consume()

    def open(self) -> Closed | None:
        """Take the channel of the task that has declared the queue, or open another.

        Not one on which a message was sent: Broker-J may return it after the task has ended.
        """
        spare = self.home.spare
        if spare is None or spare.published:
            return super().open()
        self.take(spare)
        return None

    def _consume(self) -> None:
        queue, tag, exclusive = self._asked.queue, str(self._asked.number), self._asked.exclusive
        self.asking = (spec.Basic.Consume,)
        self.send(spec.Basic.Consume, "BssbbbbF", 0, queue, tag, False, False, exclusive, False, {})

    def cancel(self, *ids: int) -> None:
        """End the subscription; the channel stays for what is not settled."""
        if ids and self._subscribing is None and not self._cancelling:
            self.send(spec.Basic.Cancel, "sb", str(self._asked.number), False)
        self._cancelling += ids

    def settle(self, tag: int, how: api.Settlement) -> None:
        """Settle a delivery that is not; it is accepted by the next ``flush``."""
        if self._unsettled.get(tag) is not False:
            return
        if how is api.Settlement.ACCEPT:
            self._unsettled[tag] = True
            self.accepted.append(tag)
        else:  # not by basic.nack: RabbitMQ counts both alike against a delivery limit
            del self._unsettled[tag]
            requeue = how is api.Settlement.RELEASE
            self.home.output.append(wire.settle_frame(self.number, spec.Basic.Reject, tag, requeue))
            self._close_when_settled()

    def flush(self) -> None:
        """Acknowledge what is accepted: by one frame all that stand before the first that is not."""
        unsettled, output = self._unsettled, self.home.output
        accepted, self.accepted = self.accepted, []
        first = list(takewhile(unsettled.__getitem__, unsettled))
        if first:
            output.append(wire.settle_frame(self.number, spec.Basic.Ack, first[-1], len(first) > 1))
            for tag in first:
                del unsettled[tag]
        for tag in accepted:
            if unsettled.pop(tag, False):
                output.append(wire.settle_frame(self.number, spec.Basic.Ack, tag, False))
        if self.ended:
            self._close_when_settled()

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Hand the message on as an event."""
        tag, redelivered = wire.tag_and_flag(method)
        self._unsettled[tag] = False
        ttl, cut = wire.expiration(header), int.from_bytes(header[4:12]) - len(body)
        self.home.events.append(api.Delivery(self._asked.number, body, redelivered, ttl, (self, tag), cut))

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take the answers to our questions, and the broker's own cancel."""
        match method:
            case spec.Queue.DeclareOk if spec.Queue.Declare in self.asking:
                if wire.consumers(payload):
                    self.on_closed(Closed(REFUSED, f"queue {self._asked.queue!r} has another consumer"))
                else:
                    self._consume()
            case spec.Basic.ConsumeOk if self._subscribing is not None:
                self.home.events.append(api.Done(self._subscribing))
                waiting, self._subscribing, self._cancelling, self.asking = self._cancelling, None, [], ()
                self.cancel(*waiting)  # not before: RabbitMQ 3.10 would close the connection (INTERNAL_ERROR)
            case spec.Basic.Cancel | spec.Basic.CancelOk:  # or both, when the broker's own crosses ours
                self._end("the broker cancelled the consumer: its queue was deleted, or is not available")
            case _ if method != spec.Basic.QosOk:
                super().on_method(method, payload)

    def on_closed(self, closed: Closed) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        self._unsettled.clear()
        if self._subscribing is not None:
            self.home.events.append(api.Done(self._subscribing, error=closed.error()))
            self.ended = True
        self._end(closed.text)

    def _end(self, reason: str) -> None:
        if not self.ended and not self._cancelling:
            self.home.events.append(api.SubscriptionLost(self._asked.number, reason))
        self.home.events += [api.Done(id) for id in self._cancelling]
        self._cancelling = []
        self.ended = True
        self._close_when_settled()

    def _close_when_settled(self) -> None:
        if self.ended and not self._unsettled:
            self.close()


class _SharedChannel(Channel):
    """A channel that all messages to exchanges that are ``proven`` share. It opens for the next message.

    ``confirms``: the broker confirms each message. Without that, only what fails has an event, until it is forgotten.
    """

    def __init__(self, home: Channels, confirms: bool, proven: set[str]) -> None:
        super().__init__(home)
        self.unconfirmed: dict[int, int] = {}  # the channel's count of a message (or its token) -> its token, in order
        self._returned: dict[int, str] = {}  # token -> the broker's words
        self._confirms, self._proven, self._count = confirms, proven, 0

    def publish(self, message: Outgoing) -> None:
        """Send a message."""
        if not self.usable:
            if (closed := self.open()) is not None:
                self.home.events.append(Confirmed(message.token, Outcome.REFUSED, closed.text))
                return
            self._count = 0
            if self._confirms:
                self.send(spec.Confirm.Select, "b", True)
        self.home.output.append(self.frames(message))
        self.written(message.token)

    def written(self, token: int) -> None:
        """Note that a message was sent."""
        self._count += 1
        self.unconfirmed[self._count if self._confirms else token] = token

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Take a message that had no route. Its confirm follows, if the channel has confirms."""
        id = wire.message_id(header)
        if wire.signature(method) != spec.Basic.Return or not id.isdigit():
            raise ProtocolError(f"a message with the id {id[:40]!r}, which we did not send, on channel {self.number}")
        token, reason = int(id), wire.reply(method)[1]
        if self._confirms:
            if token in self.unconfirmed.values():  # Broker-J nacks it first: then it is told already
                self._returned[token] = reason
        elif self.unconfirmed.pop(token, None) is not None:
            self.home.events.append(Confirmed(token, Outcome.RETURNED, reason))

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take a confirm of a message, or of all up to it."""
        if method not in self.home.outcomes:
            super().on_method(method, payload)
        count, multiple = wire.tag_and_flag(payload)
        unconfirmed = self.unconfirmed
        if multiple:
            for number in list(takewhile(lambda number: number <= count, unconfirmed) if count else unconfirmed):
                self._confirm(unconfirmed.pop(number), *self.home.outcomes[method])
        elif count in unconfirmed:
            self._confirm(unconfirmed.pop(count), *self.home.outcomes[method])

    def on_closed(self, closed: Closed) -> None:
        """Tell that the outcome of all is unknown that the broker had not confirmed."""
        if closed.code == NOT_FOUND:  # an exchange was deleted, and the words that name it are the broker's own
            self._proven.intersection_update(_PREDECLARED)
        for token in self.unconfirmed.values():
            self._confirm(token, Outcome.UNKNOWN, closed.text)
        self.unconfirmed.clear()

    def _confirm(self, token: int, outcome: Outcome, reason: str) -> None:
        if self._returned and token in self._returned:
            outcome, reason = Outcome.RETURNED, self._returned.pop(token)
        self.home.events.append(Confirmed(token, outcome, reason))


class Publisher:
    """Publishes messages, each by the right channel.

    A broker closes the channel on which something is sent to an exchange that does not exist, and forgets all that was
    on its way there. So the first message to each exchange goes alone; its confirm proves the exchange, and those after
    it wait for that and go on the shared channel. Messages to one exchange keep their order. What needs no confirm has
    a shared channel of its own: confirms, and the writing to disk behind them, are had by channel.

    ``proven``: the exchanges that exist, as far as is known.
    """

    def __init__(self, home: Channels) -> None:
        self.proven = set(_PREDECLARED)
        self._home = home
        self._confirmed, self._plain = (_SharedChannel(home, confirms, self.proven) for confirms in (True, False))
        self._probing: dict[str, deque[Outgoing]] = {}  # exchange -> those that wait until it is proven

    def publish(self, message: Outgoing) -> None:
        """Send a message."""
        exchange = message.address.exchange
        if message.isolated:
            Task(self._home, self._send_alone(message))
        elif exchange in self._probing:
            self._probing[exchange].append(message)
        elif exchange in self.proven:
            (self._confirmed if message.confirm else self._plain).publish(message)
        else:
            self._probing[exchange] = deque([message])
            Task(self._home, self._probe(exchange))

    def frames(self, message: Outgoing) -> bytes | None:
        """Return the frames of a message that its channel can take now; None: ``publish`` it."""
        channel, exchange = self._confirmed if message.confirm else self._plain, message.address.exchange
        if channel.usable and exchange in self.proven and exchange not in self._probing:
            return channel.frames(message)
        return None

    def written(self, message: Outgoing) -> None:
        """Note that these frames were sent."""
        (self._confirmed if message.confirm else self._plain).written(message.token)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._plain.unconfirmed.pop(token, None)

    def _send_alone(self, message: Outgoing) -> Steps:
        try:
            answer = yield message
            returned = (Outcome.RETURNED, wire.reply(answer)[1])
            outcome, reason = self._home.outcomes.get(wire.signature(answer), returned)
            self.proven.add(message.address.exchange)
        except Closed as closed:
            outcome, reason = Outcome.RETURNED if closed.code == NOT_FOUND else Outcome.REFUSED, closed.text
            self.proven.discard(message.address.exchange)
        self._home.events.append(Confirmed(message.token, outcome, reason))

    def _probe(self, exchange: str) -> Steps:
        waiting = self._probing[exchange]
        while waiting and exchange not in self.proven:
            yield from self._send_alone(waiting.popleft())
        del self._probing[exchange]
        for message in waiting:
            self._confirmed.publish(message)
