"""Which channel a message goes by: one shared by all, or one where its failure touches no other."""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from amqp import spec
from gofer.errors import AdapterError
from gofer.messaging.adapter import Confirmed, Outcome

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import NOT_FOUND, Closed, ProtocolError
from gofer_adapter_amqp.channel import Channel, Channels
from gofer_adapter_amqp.control import Control, Steps

__all__ = ["Publisher"]

_PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.topic")
_NACK = "the broker did not take the message (nack)"


class _PublishChannel(Channel):
    """A channel to publish on, shared by all messages to exchanges that are ``proven``.

    ``confirms``: the broker confirms each message. Without that, only what fails has an event, until it is forgotten.
    """

    def __init__(self, home: Channels, confirms: bool, proven: set[str]) -> None:
        super().__init__(home)
        self.unconfirmed: dict[int, int] = {}  # the channel's count of a message (or its token) -> its token, in order
        self._returned: dict[int, str] = {}  # token -> the broker's words
        self._confirms = confirms
        self._proven = proven
        self._count = 0
        if confirms:
            self.send(spec.Confirm.Select, "b", True)

    def publish(self, message: wire.Message) -> None:
        """Send a message."""
        self.home.output.append(wire.publish_frames(self.number, self.home.frame_max, message))
        self._count += 1
        self.unconfirmed[self._count if self._confirms else message.token] = message.token

    def on_message(self, method: bytes, header: bytes, body: bytes, size: int) -> None:
        """Take a message that had no route. Its confirm follows, if the channel has confirms."""
        id = wire.message_id(header)
        if wire.signature(method) != spec.Basic.Return or not id.isdigit():
            raise ProtocolError(f"a message with the id {id[:40]!r}, which we did not send, on channel {self.number}")
        token, reason = int(id), wire.reply(method)[1]
        if self._confirms:
            self._returned[token] = reason
        elif self.unconfirmed.pop(token, None) is not None:
            self.home.events.append(Confirmed(token, Outcome.RETURNED, reason))

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take a confirm of a message, or of all up to it."""
        if method not in (spec.Basic.Ack, spec.Basic.Nack):
            super().on_method(method, payload)
        count, multiple = wire.settled(payload)
        refused = method == spec.Basic.Nack
        outcome, reason = (Outcome.REFUSED, _NACK) if refused else (Outcome.CONFIRMED, "")
        unconfirmed = self.unconfirmed
        if multiple:
            for number in list(takewhile(lambda number: number <= count, unconfirmed) if count else unconfirmed):
                self._confirm(unconfirmed.pop(number), outcome, reason)
        elif count in unconfirmed:
            self._confirm(unconfirmed.pop(count), outcome, reason)

    def on_closed(self, closed: Closed) -> None:
        """Tell that the outcome of all is unknown that the broker had not confirmed."""
        if (
            closed.code == NOT_FOUND
        ):  # one of the exchanges was deleted, and the words that name it are the broker's own
            self._proven.intersection_update(_PREDECLARED)
        for token in self.unconfirmed.values():
            self._confirm(token, Outcome.UNKNOWN, closed.text)
        self.unconfirmed = {}

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

    def __init__(self, home: Channels, control: Control) -> None:
        self.proven = set(_PREDECLARED)
        self._home = home
        self._control = control
        self._shared: dict[bool, _PublishChannel] = {}  # whether it confirms -> the channel
        self._probing: dict[str, deque[wire.Message]] = {}  # exchange -> those that wait until it is proven

    def publish(self, message: wire.Message, *, isolated: bool, confirm: bool) -> None:
        """Send a message.

        Raises:
            ValueError: a name longer than 255 bytes.
        """
        exchange, key, *_ = message
        probing = self._probing.get(exchange)
        if exchange in self.proven and not isolated and probing is None:
            self._share(message, confirm)
            return
        if len(exchange.encode()) > 255 or len(key.encode()) > 255:
            raise ValueError(f"longer than 255 bytes: {exchange[:60]!r} or {key[:60]!r}")
        if isolated:
            self._control.run(self._send_alone(message))
        elif probing is not None:
            probing.append(message)
        else:
            self._probing[exchange] = deque([message])
            self._control.run(self._probe(exchange))

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        if False in self._shared:
            self._shared[False].unconfirmed.pop(token, None)

    def _share(self, message: wire.Message, confirm: bool) -> None:
        channel = self._shared.get(confirm)
        if channel is None or not channel.usable:
            try:
                channel = self._shared[confirm] = _PublishChannel(self._home, confirm, self.proven)
            except AdapterError as error:
                self._home.events.append(Confirmed(message.token, Outcome.REFUSED, str(error)))
                return
        channel.publish(message)

    def _send_alone(self, message: wire.Message) -> Steps:
        outcome, reason = Outcome.CONFIRMED, ""
        try:
            answer = yield message
            self.proven.add(message.exchange)
            if wire.signature(answer) == spec.Basic.Return:
                outcome, reason = Outcome.RETURNED, wire.reply(answer)[1]
            elif wire.signature(answer) == spec.Basic.Nack:
                outcome, reason = Outcome.REFUSED, _NACK
        except Closed as closed:
            outcome, reason = Outcome.RETURNED if closed.code == NOT_FOUND else Outcome.REFUSED, closed.text
            self.proven.discard(message.exchange)
        except AdapterError as error:
            outcome, reason = Outcome.REFUSED, str(error)
        self._home.events.append(Confirmed(message.token, outcome, reason))

    def _probe(self, exchange: str) -> Steps:
        waiting = self._probing[exchange]
        while waiting:
            yield from self._send_alone(waiting.popleft())
            if exchange in self.proven:
                break
        del self._probing[exchange]
        for message in waiting:
            self._share(message, True)
