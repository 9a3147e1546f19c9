"""The amqp adapter: AMQP 0-9-1, for RabbitMQ and other brokers that speak it."""

from __future__ import annotations

import os
import socket
from math import inf
from typing import cast

from amqp import spec
from amqp.serialization import loads
from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import Closed, Dialect, ProtocolError, expiration, login_error, logins, place
from gofer_adapter_amqp.channel import Channels
from gofer_adapter_amqp.consumer import Consumer
from gofer_adapter_amqp.control import Control
from gofer_adapter_amqp.operations import check, steps
from gofer_adapter_amqp.publisher import Publisher

__all__ = ["AmqpAdapter"]

_CAPABILITIES = ("authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify")
_DONE = (0, 0)


class AmqpAdapter(api.Adapter):
    """One AMQP 0-9-1 connection. See :class:`gofer.messaging.adapter.Adapter` for what all methods promise.

    A subscription has a channel of its own, and so has publishing. What may fail (an operation, a message to an
    exchange not seen before) never runs on either.
    """

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._channels = Channels(connector.max_message)
        self._control = Control(self._channels)
        self._publisher = Publisher(self._channels, self._control)
        self._dialect = Dialect()
        self._consumers: dict[int, Consumer] = {}
        self._due = spec.Connection.Start  # the next method of the login
        self._says_refused = False  # the broker says so when it refuses a login
        self._open = self._closing = self._ended = False
        self._rest = b""
        self._heartbeat = 0
        self._last_read = self._last_write = -inf

    # -- bytes --------------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:  # type: ignore[override] # the driver reads it, and nobody writes it
        """Whether there is more to send than acknowledgements."""
        return bool(self._channels.output)

    def begin(self, now: float) -> None:
        """Greet."""
        self._last_read = self._last_write = now
        self._channels.output.append(wire.PROTOCOL_HEADER)

    def receive(self, data: bytes, now: float) -> None:
        """Cut the bytes into frames, and hand those to their channels."""
        if self._ended:
            return
        self._last_read = now
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._receive_frames(data) :]
        except Closed as closed:
            lost = ConnectionLost(f"closed by the broker: {closed.text}")
            self._end(lost if self._due == _DONE else login_error(self.connector, closed))
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes make of a decoder, they are not the protocol
            words = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
            if self._due == _DONE:
                self._end(ConnectionLost(f"protocol error: {words}"))
            else:
                self._end(AdapterError(f"{place(self.connector)} does not speak AMQP 0-9-1: {words}"))

    def lost(self, reason: str, now: float) -> None:
        """Note the end of the socket."""
        if self._due == _DONE:
            self._end(ConnectionLost(reason))
        elif self._due == spec.Connection.Tune and not self._says_refused:
            self._end(login_error(self.connector, Closed(0, "the broker closed the connection")))
        else:
            self._end(ConnectionLost(f"{place(self.connector)}: {reason}"))

    def tick(self, now: float) -> None:
        """Send a heartbeat when nothing was sent for half of one, and see whether the broker is alive."""
        heartbeat, quiet_since = self._heartbeat, self._last_write
        if heartbeat and not self._ended:
            if now - self._last_read > 2 * heartbeat:
                self._end(ConnectionLost(f"the broker was silent for {2 * heartbeat} s"))
                return
            if now - quiet_since >= heartbeat / 2:
                quiet_since = now
                if not self._channels.output:
                    self._channels.output.append(wire.HEARTBEAT)
            self.deadline = min(quiet_since + heartbeat / 2, self._last_read + 2.01 * heartbeat)

    def events(self) -> list[api.Event]:
        """Return what has happened."""
        events = self._channels.events.copy()
        self._channels.events.clear()
        return events

    def take(self, now: float) -> bytes:
        """Return all output, acknowledgements included."""
        channels = self._channels
        if channels.unflushed and self._open:
            self._flush()
        if not channels.output:
            return b""
        self._last_write = now
        output = b"".join(channels.output)
        channels.output.clear()
        return output

    def close(self, now: float) -> None:
        """Say goodbye, or end at once when the login is not done."""
        if self._open:
            self._flush()
            self._open, self._closing = False, True
            self._send(spec.Connection.Close, "BsBB", 0, "", 0, 0)
        elif not self._closing:
            self._end(None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def ask(self, id: int, operation: api.Operation) -> None:
        """Start an operation."""
        check(operation)
        if not self._open:
            return
        match operation:
            case api.Subscribe(number):
                self._consumers = {other: consumer for other, consumer in self._consumers.items() if not consumer.ended}
                try:
                    self._consumers[number] = Consumer(self._channels, id, operation)
                except AdapterError as error:
                    self._channels.events.append(api.Done(id, error=error))
            case api.Cancel(number):
                consumer = self._consumers.get(number)
                if consumer is None or consumer.ended:
                    self._channels.events.append(api.Done(id))
                else:
                    consumer.cancel(id)
            case _:
                self._control.run(steps(id, operation, self._dialect, self._publisher.proven, self._channels.events))

    def publish(
        self,
        token: int,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        durable: bool = True,
        confirm: bool = True,
        isolated: bool = False,
    ) -> None:
        """Publish, mandatory, and persistent if it is durable."""
        if self._open:
            message = wire.Message(*address, token, expiration(ttl), body, durable)
            self._publisher.publish(message, isolated=isolated, confirm=confirm)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._publisher.forget(token)

    def accept(self, delivery: api.Delivery) -> None:
        """Acknowledge."""
        self._settle(delivery, None)

    def release(self, delivery: api.Delivery) -> None:
        """Reject, to be queued again."""
        self._settle(delivery, True)

    def reject(self, delivery: api.Delivery) -> None:
        """Reject, to be dropped or dead-lettered."""
        self._settle(delivery, False)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _settle(self, delivery: api.Delivery, requeue: bool | None) -> None:
        consumer, tag = cast("tuple[Consumer, int]", delivery.tag)
        if self._open and consumer.home is self._channels:
            consumer.settle(tag, requeue)

    def _flush(self) -> None:
        unflushed, self._channels.unflushed = self._channels.unflushed, []
        for channel in unflushed:
            channel.flush()

    def _send(self, method: tuple[int, int], format: str, *arguments: object) -> None:
        self._channels.output.append(wire.method_frame(0, method, format, *arguments))

    def _end(self, error: MessagingError | None) -> None:
        if not self._ended:
            self._ended, self._open = True, False
            self.deadline = inf
            self._channels.output.clear()
            self._channels.events.append(api.Closed(None if self._closing else error))

    def _receive_frames(self, data: bytes) -> int:
        """Take all frames that are whole, and return where the rest begins."""
        offset, length = 0, len(data)
        channels = self._channels
        while length - offset >= 8:
            kind, number, size = wire.frame_head(data, offset)
            end = offset + 7 + size
            if kind not in (1, 2, 3, 8) or size > channels.frame_max:
                raise ProtocolError(f"not AMQP 0-9-1: {data[offset : offset + 40]!r}")
            if end >= length:
                break
            if data[end] != wire.FRAME_END:
                raise ProtocolError(f"a frame that does not end: {data[offset : offset + 40]!r}")
            payload = data[offset + 7 : end]
            offset = end + 1
            channel = channels.open.get(number)
            if kind == 8:
                continue
            if channel is not None:
                if kind == 1:
                    channel.receive_method(payload)
                elif kind == 2:
                    channel.receive_header(payload)
                else:
                    channel.receive_body(payload)
            elif number == 0 and kind == 1:
                self._receive_method(wire.signature(payload), payload)
                if self._ended:
                    break
            # RabbitMQ's timer may close a channel twice, if our answer to the first takes long.
            elif kind != 1 or wire.signature(payload) not in (spec.Channel.Close, spec.Channel.CloseOk):
                raise ProtocolError(f"a frame for channel {number}, which is not open")
        return offset

    def _receive_method(self, method: tuple[int, int], payload: bytes) -> None:
        opened = self._due == _DONE
        match method:
            case spec.Connection.Close:
                raise Closed(*wire.reply(payload))
            case spec.Connection.Start if method == self._due:
                self._start(*loads("ooFSS", payload, 4)[0])
            case spec.Connection.Tune if method == self._due:
                self._tune(*loads("BlB", payload, 4)[0])
            case spec.Connection.OpenOk if method == self._due:
                self._due, self._open = _DONE, True
                self._channels.events.append(api.Opened())
            case spec.Connection.Blocked if opened:
                self._channels.events.append(api.Blocked(payload[5:].decode(errors="replace")))
            case spec.Connection.Unblocked if opened:
                self._channels.events.append(api.Blocked(None))
            case spec.Connection.CloseOk if self._closing:
                self._end(None)
            case _:
                raise ProtocolError(f"unexpected method {method}")

    def _start(self, major: int, minor: int, properties: dict[str, object], mechanisms: str, locales: str) -> None:
        capabilities = properties.get("capabilities")
        self._says_refused = isinstance(capabilities, dict) and bool(capabilities.get("authentication_failure_close"))
        self._dialect = Dialect.of(properties)
        offered = mechanisms.encode().split()
        login = next((login for login in logins(self.connector) if login.mechanism in offered), None)
        if login is None:
            raise Closed(0, f"the broker offers only {mechanisms}")
        ours = {
            "product": "gofer",
            "connection_name": f"gofer {socket.gethostname()} {os.getpid()}",
            "capabilities": dict.fromkeys(_CAPABILITIES, True),
        }
        self._send(spec.Connection.StartOk, "FsSs", ours, login.mechanism, login.start(None), "en_US")
        self._due = spec.Connection.Tune

    def _tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        channels = self._channels
        channels.channel_max = channel_max or channels.channel_max
        channels.frame_max = min(frame_max or channels.frame_max, channels.frame_max)
        # The protocol has whole seconds; 0 turns them off.
        ours = max(1, round(self.connector.heartbeat)) if self.connector.heartbeat > 0 else 0
        self._heartbeat = min(ours, heartbeat) if heartbeat else ours
        self._send(spec.Connection.TuneOk, "BlB", channels.channel_max, channels.frame_max, self._heartbeat)
        self._send(spec.Connection.Open, "ssb", self.connector.url.path or "/", "", False)
        self._due = spec.Connection.OpenOk
        self.deadline = self._last_read if self._heartbeat else inf
