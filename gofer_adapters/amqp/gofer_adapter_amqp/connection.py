"""py-amqp's connection and channel on our own transport: nothing blocks but what waits to a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import amqp
from amqp import sasl, spec
from gofer.errors import AdapterError
from gofer.messaging.adapter.base import HEAD, TAIL

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.errors import ClosedByBroker, ProtocolError
from gofer_adapter_amqp.transport import Transport

if TYPE_CHECKING:
    import socket

    from gofer.messaging.adapter.base import Event
    from gofer.messaging.connector import Connector

__all__ = ["Channel", "Connection"]

_CLOSE = (20 << 16) | 40
_CLOSE_OK = (20 << 16) | 41


class Channel(amqp.Channel):  # type: ignore[misc] # py-amqp publishes no types
    """A channel that opens without waiting for the answer, and does not reopen itself after an error.

    ``error`` says why the broker closed it. Subclasses take deliveries, returns and confirms.
    """

    connection: Connection | None
    channel_id: int

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, connection.unused_number(), auto_decode=False)
        self.error: ClosedByBroker | None = None
        #: Of a body of more bytes the middle is thrown away.
        self.limit: int | None = None
        # A message whose frames are still coming: its method, header, missing bytes and parts. Of one that is cut, the
        # parts of its beginning have so many bytes, and its end so far is beside them.
        self._method = self._header = b""
        self._missing = 0
        self._parts: list[bytes] = []
        self._cut = False
        self._kept = 0
        self._end = b""
        self.send_method(spec.Channel.Open, "s", ("",))

    @property
    def usable(self) -> bool:
        """Whether it was not closed by either side."""
        return self.connection is not None and not self.is_closing

    def close_soon(self) -> None:
        """Close the channel without waiting for the answer; what still arrives on it is dropped."""
        if self.usable:
            self.is_closing = True
            self.send_method(spec.Channel.Close, "BsBB", (0, "", 0, 0))

    def closed(self, error: ClosedByBroker) -> None:
        """Hear that the broker closed the channel."""

    def on_delivery(self, method: bytes, header: bytes, body: bytes) -> None:
        """Take a message that was delivered."""
        raise ProtocolError(f"a delivery on channel {self.channel_id}, which consumes nothing")

    def on_return(self, method: bytes, header: bytes) -> None:
        """Take a message that came back."""
        raise ProtocolError(f"a returned message on channel {self.channel_id}, which sends nothing")

    def on_confirm(self, method: bytes, nack: bool) -> None:
        """Take a confirm."""
        raise ProtocolError(f"a confirm on channel {self.channel_id}, which sends nothing")

    def _on_close(self, code: int, text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Channel.CloseOk)
        if self.is_closing:
            return  # both closed at once: the answer to ours follows, and only then is the number free again
        self.error = ClosedByBroker(code, text)
        self.collect()
        self.closed(self.error)

    def take_method(self, payload: bytes) -> None:
        """Take a method frame."""
        (method,) = wire.signature(payload)
        if self.is_closing and method not in (_CLOSE, _CLOSE_OK):
            return
        if self._method:
            raise ProtocolError(f"method {method:#x} inside a message")
        if method == wire.DELIVER or method == wire.RETURN:  # noqa: PLR1714 - a fifth of the price of building a tuple
            self._method = payload
        elif method == wire.ACK:
            self.on_confirm(payload, False)
        elif method == wire.NACK:
            self.on_confirm(payload, True)
        else:
            self.dispatch_method((method >> 16, method & 0xFFFF), payload, None)

    def take_header(self, payload: bytes) -> None:
        """Take a content header frame."""
        if self.is_closing:
            return
        if not self._method or self._header:
            raise ProtocolError("a content header outside a message")
        size = self._missing = wire.body_size(payload)
        self._cut = self.limit is not None and size > max(self.limit, HEAD + TAIL)
        if self._missing:
            self._header = payload
        else:
            self._finish(payload, b"")

    def take_body(self, payload: bytes) -> None:
        """Take a content body frame."""
        if self.is_closing:
            return
        if not self._header:
            raise ProtocolError("a content body outside a message")
        self._missing -= len(payload)
        if self._cut:
            self._take_part(payload)
        elif self._missing > 0:
            self._parts.append(payload)
        elif self._parts:
            parts, self._parts = self._parts, []
            parts.append(payload)
            self._finish(self._header, b"".join(parts))
        else:
            self._finish(self._header, payload)

    def _take_part(self, payload: bytes) -> None:
        """Take a frame of a body that is over the limit: its ends are kept."""
        if self._kept < HEAD:
            part = payload[: HEAD - self._kept]
            self._parts.append(part)
            self._kept += len(part)
            payload = payload[len(part) :]
        self._end = (self._end + payload)[-TAIL:]
        if self._missing <= 0:
            body = b"".join((*self._parts, self._end))
            self._parts, self._end, self._kept, self._cut = [], b"", 0, False
            self._finish(self._header, body)

    def _finish(self, header: bytes, body: bytes) -> None:
        method, self._method, self._header = self._method, b"", b""
        if wire.signature(method)[0] == wire.DELIVER:
            self.on_delivery(method, header, body)
        else:
            self.on_return(method, header)


class Connection(amqp.Connection):  # type: ignore[misc] # py-amqp publishes no types
    """A connection whose frames are read from and written to a :class:`Transport`.

    ``events`` collects what channels have to tell; ``blocked`` is the broker's reason to take no messages;
    ``deadline`` (monotonic) is how long any of py-amqp's waits may last.
    """

    # py-amqp leaves out the reason.
    _METHODS = amqp.Connection._METHODS | {
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    def __init__(self, sock: socket.socket, connector: Connector, name: str) -> None:
        url = connector.url
        super().__init__(
            authentication=_mechanisms(connector),
            virtual_host=url.path or "/",
            # The protocol has whole seconds; 0 turns them off.
            heartbeat=0 if connector.heartbeat <= 0 else max(1, round(connector.heartbeat)),
            client_properties={"product": "gofer", "connection_name": name},
            frame_handler=lambda connection, callback: None,
            frame_writer=_frame_writer,
        )
        self.wire = Transport(sock)
        self.events: list[Event] = []
        self.blocked: str | None = None
        self.deadline = 0.0
        self.tuned = False
        self._last_number = 0

    def Transport(self, *args: Any, **options: Any) -> Transport:  # noqa: N802 - py-amqp's name
        """Return the transport that is there already."""
        return self.wire

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait until something was read, to ``deadline``; py-amqp calls this wherever it waits.

        Raises:
            TimeoutError: the deadline passed.
        """
        self.wire.flush()
        while not self.read():
            now = time.monotonic()
            if now >= self.deadline:
                raise TimeoutError
            self.wire.wait(min(self.deadline, now + self.heartbeat / 2) if self.heartbeat else self.deadline)
            if self.beat():
                return
            self.wire.flush()

    def unused_number(self) -> int:
        """Return a number for a channel, as long unused as can be: what is late for an earlier one must not reach it.

        Raises:
            AdapterError: the broker allows no more channels.
        """
        for _ in range(self.channel_max):
            self._last_number = self._last_number % self.channel_max + 1
            if self._last_number not in self.channels:
                return self._last_number
        raise AdapterError(f"all {self.channel_max} channels of the connection are in use")

    def read(self) -> int:
        """Read what is there without blocking, and return the number of frames it had.

        Raises:
            OSError: the connection is gone; what was read before that is in ``events``.
            ClosedByBroker: the broker closed it.
            ProtocolError: the peer sent what is not AMQP 0-9-1.
        """
        transport = self.wire
        transport.receive()
        frames = self._take_frames() if transport.inbox else 0
        if transport.lost is not None:
            raise transport.lost
        return frames

    def beat(self) -> int:
        """Put a heartbeat into the outbox when nothing was sent for half of one.

        Returns:
            How many frames were read: what is there is read before the broker is taken for dead.

        Raises:
            ConnectionError: nothing was heard for two heartbeats. And as ``read``.
        """
        if not self.heartbeat:
            return 0
        now, transport, frames = time.monotonic(), self.wire, 0
        if now - transport.last_read > 2 * self.heartbeat:
            frames = self.read()
            if now - transport.last_read > 2 * self.heartbeat:
                raise ConnectionError(f"nothing was heard from the broker for {2 * self.heartbeat} s")
        if now - transport.last_write >= self.heartbeat / 2 and not transport.outbox:
            transport.write(wire.HEARTBEAT)
        return frames

    def _take_frames(self) -> int:
        data = self.wire.inbox
        offset, length, frames = 0, len(data), 0
        channels = self.channels
        while length - offset >= 8:
            kind, number, size = wire.frame_head(data, offset)
            end = offset + 7 + size
            if kind not in (1, 2, 3, 8) or size > self.frame_max:
                raise ProtocolError(f"not AMQP 0-9-1: {data[offset : offset + 40]!r}")
            if end >= length:
                break
            if data[end] != wire.FRAME_END:
                raise ProtocolError(f"a frame that does not end: {data[offset : offset + 40]!r}")
            payload = data[offset + 7 : end]
            offset = end + 1
            frames += 1
            if kind == 8:
                continue
            if number == 0:
                self._take_connection_method(kind, payload)
                continue
            channel = channels.get(number)
            if channel is None:
                # RabbitMQ's timer may close a channel twice, if our answer to the first takes long.
                if kind == 1 and wire.signature(payload)[0] in (_CLOSE, _CLOSE_OK):
                    continue
                raise ProtocolError(f"a frame for channel {number}, which is not open")
            if kind == 1:
                channel.take_method(payload)
            elif kind == 2:
                channel.take_header(payload)
            else:
                channel.take_body(payload)
        self.wire.inbox = data[offset:]
        return frames

    def _take_connection_method(self, kind: int, payload: bytes) -> None:
        if kind != 1:
            raise ProtocolError("content on channel 0")
        (method,) = wire.signature(payload)
        self.dispatch_method((method >> 16, method & 0xFFFF), payload, None)

    def _on_tune(self, *arguments: int) -> None:
        self.tuned = True
        super()._on_tune(*arguments)

    def _on_close(self, code: int, text: str, class_id: int, method_id: int) -> None:
        self.send_method(spec.Connection.CloseOk)
        try:
            self.wire.flush()
        except OSError:
            pass  # a courtesy: the broker's words matter more than that it has hung up already
        raise ClosedByBroker(code, text)

    def _on_close_ok(self) -> None:
        self.wire.connected = False

    def _on_blocked(self, reason: str) -> None:
        self.blocked = reason

    def _on_unblocked(self) -> None:
        self.blocked = None

    def close_politely(self) -> None:
        """Say goodbye and wait for the answer, to ``deadline``."""
        self.send_method(spec.Connection.Close, "BsBB", (0, "", 0, 0))
        while self.wire.connected:
            self.drain_events()


def _mechanisms(connector: Connector) -> list[sasl.SASL]:
    url = connector.url
    if url.user is None and url.password is None:
        guest: list[sasl.SASL] = [sasl.PLAIN("guest", "guest"), sasl.AMQPLAIN("guest", "guest")]
        return guest if connector.clientcert is None else [sasl.EXTERNAL(), *guest]
    user, password = url.user or "", url.password or ""
    return [sasl.PLAIN(user, password), sasl.AMQPLAIN(user, password)]


def _frame_writer(connection: Connection, transport: Transport) -> Any:
    """Make the writer of method frames. Messages do not pass here (see ``wire``)."""

    def write_frame(kind: int, channel: int, method: tuple[int, int], arguments: bytes | str, content: None) -> None:
        payload = b"".join((method[0].to_bytes(2), method[1].to_bytes(2), arguments or b""))  # type: ignore[arg-type] # "" or bytes
        transport.write(
            b"".join((bytes((kind,)), channel.to_bytes(2), len(payload).to_bytes(4), payload, bytes((wire.FRAME_END,))))
        )

    return write_frame
