"""Channels: opened without waiting for the answer, closed for one reason, their numbers used again late."""

from __future__ import annotations

from amqp import spec
from gofer.errors import AdapterError
from gofer.messaging.adapter import Blocked, Event

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import Closed, ProtocolError

__all__ = ["Channel", "Channels"]

_DELIVER, _RETURN = spec.Basic.Deliver, spec.Basic.Return
_PAUSE = "the broker asks for a pause (channel.flow)"


class Channels:
    """The channels of one connection and what they share.

    ``output`` is what is to be sent; ``events`` is what has happened; ``unflushed`` are channels whose acknowledgements
    are not in the output yet. A message's body over ``max_message`` bytes is skipped.
    """

    def __init__(self, max_message: int) -> None:
        self.output: list[bytes] = []
        self.events: list[Event] = []
        self.unflushed: list[Channel] = []
        self.open: dict[int, Channel] = {}
        self.max_message = max_message
        self.channel_max, self.frame_max = 65_535, 131_072
        self._last = 0

    def add(self, channel: Channel) -> int:
        """Return a number for a channel, the one unused for longest: frames of an earlier one must not reach it.

        Raises:
            AdapterError: the broker allows no more channels.
        """
        for _ in range(self.channel_max):
            self._last = self._last % self.channel_max + 1
            if self._last not in self.open:
                self.open[self._last] = channel
                return self._last
        raise AdapterError(f"all {self.channel_max} channels of the connection are in use")


class Channel:
    """One channel. Subclasses handle answers, messages and the end. ``usable``: neither side has closed it.

    Raises:
        AdapterError: the broker allows no more channels.
    """

    def __init__(self, home: Channels) -> None:
        self.home = home
        self.number = home.add(self)
        self.usable = True
        # A message whose frames are still coming: its method, header, size, missing bytes, and parts unless skipped.
        self._method = self._header = b""
        self._size = self._missing = 0
        self._parts: list[bytes] = []
        self.send(spec.Channel.Open, "s", "")

    def send(self, method: tuple[int, int], format: str = "", *arguments: object) -> None:
        """Send a method; ``format`` as in :func:`gofer_adapter_amqp.wire.method_frame`."""
        self.home.output.append(wire.method_frame(self.number, method, format, *arguments))

    def close(self) -> None:
        """Close the channel. What still arrives on it is dropped."""
        if self.usable:
            self.usable = False
            self.send(spec.Channel.Close, "BsBB", 0, "", 0, 0)

    def flush(self) -> None:
        """Put acknowledgements into the output."""

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Handle a method that is neither a message's nor the channel's own."""
        raise ProtocolError(f"unexpected method {method} on channel {self.number}")

    def on_message(self, method: bytes, header: bytes, body: bytes, size: int) -> None:
        """Handle a message, delivered or returned. A body over the limit is empty."""
        raise ProtocolError(f"unexpected message on channel {self.number}")

    def on_closed(self, closed: Closed) -> None:
        """Handle the end of the channel: the broker closed it."""

    def receive_method(self, payload: bytes) -> None:
        """Take a method frame."""
        method = wire.signature(payload)
        if method == spec.Channel.Close:
            self.send(spec.Channel.CloseOk)
            if self.usable:  # else both close at once: the answer to ours follows, and the number is free after that
                self.usable = False
                del self.home.open[self.number]
                self.on_closed(Closed(*wire.reply(payload)))
        elif not self.usable:
            if method == spec.Channel.CloseOk:
                del self.home.open[self.number]
        elif self._method:
            raise ProtocolError(f"method {method} inside a message")
        elif method == _DELIVER or method == _RETURN:  # noqa: PLR1714 - a fifth of the price of building a tuple
            self._method = payload
        elif method == spec.Channel.Flow:
            self.send(spec.Channel.FlowOk, "b", payload[4] & 1)
            self.home.events.append(Blocked(None if payload[4] & 1 else _PAUSE))
        elif method != spec.Channel.OpenOk:
            self.on_method(method, payload)

    def receive_header(self, payload: bytes) -> None:
        """Take a content header frame."""
        if self.usable:
            if not self._method or self._header:
                raise ProtocolError("a content header outside a message")
            self._header = payload
            self._size = self._missing = wire.body_size(payload)
            if not self._missing:
                self._finish(b"")

    def receive_body(self, payload: bytes) -> None:
        """Take a content body frame."""
        if self.usable:
            self._missing -= len(payload)
            if not self._header or self._missing < 0:
                raise ProtocolError("a content body outside a message")
            if self._size > self.home.max_message:
                payload = b""
            if not self._missing and not self._parts:
                self._finish(payload)
            else:
                self._parts.append(payload)
                if not self._missing:
                    self._finish(b"".join(self._parts))

    def _finish(self, body: bytes) -> None:
        method, header = self._method, self._header
        self._method, self._header, self._parts = b"", b"", []
        self.on_message(method, header, body, self._size)
