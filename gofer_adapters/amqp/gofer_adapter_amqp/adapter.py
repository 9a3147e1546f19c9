"""The amqp adapter: AMQP 0-9-1, for RabbitMQ and other brokers that speak it."""

from __future__ import annotations

import os
import socket
from math import inf
from typing import Any, ClassVar

from amqp import spec
from amqp.serialization import loads
from gofer.errors import ConnectionLost
from gofer.messaging import adapter as api
from gofer.messaging.connector import Connector
from gofer.messaging.endings import ProtocolError, ending, who_answers

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import OPENED, REFUSED, Closed, Dialect, logins
from gofer_adapter_amqp.channel import Channels, Task
from gofer_adapter_amqp.messages import Consumer, Publisher
from gofer_adapter_amqp.operations import steps

__all__ = ["AmqpAdapter"]

_CAPABILITIES = ("authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify")


class AmqpAdapter(api.Adapter):
    """One AMQP 0-9-1 connection. See :class:`gofer.messaging.adapter.Adapter` for what all methods promise.

    A subscription has a channel of its own, and so has publishing. What may fail (an operation, a message to an
    exchange not seen before) never runs on either.
    """

    checks_queues: ClassVar[bool] = True

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._channels = Channels()
        self._publisher = Publisher(self._channels)
        self._consumers: dict[int, Consumer] = {}
        self._due = spec.Connection.Start  # the next method of the login
        self._open = self._closing = self._ended = False
        self._heartbeat = 0
        self._parts: list[bytes] = []  # of a frame that has not come whole
        self._missing = 0  # bytes of it

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
        if not self._ended:
            self._last_read = now
            try:
                self._missing -= len(data)
                if self._parts or self._missing > 0:
                    self._parts.append(data)
                    if self._missing > 0:
                        return  # a large frame's parts are joined once
                    data, self._parts = b"".join(self._parts), []
                if rest := data[self._receive_frames(data) :]:
                    self._parts.append(rest)
                self._missing = wire.frame_size(rest) - len(rest)
                if self._channels.waiting:
                    self._channels.start_waiting()
            except Exception as error:  # noqa: BLE001 - whatever a decoder makes of a peer's bytes, they are wrong
                self._end(error)

    def lost(self, reason: str, now: float) -> None:
        """Note the end of the socket."""
        refused = self._due == spec.Connection.Tune and not self._channels.dialect.says_refused
        self._end(Closed(REFUSED, "the broker closed the connection") if refused else ConnectionLost(reason))

    def tick(self, now: float) -> None:
        """Send a heartbeat when nothing was sent for half of one, and see whether the broker is alive."""
        if self._heartbeat and now - self._last_read > 2 * self._heartbeat:
            self._end(ConnectionLost(f"the broker was silent for {2 * self._heartbeat} s"))
        elif self._heartbeat and not self._ended:
            self._channels.close_spare()
            if now - self._last_write >= self._heartbeat / 2:
                self._channels.output.append(wire.HEARTBEAT)
            self.deadline = now + self._heartbeat / 4

    def events(self) -> list[api.Event]:
        """Return what has happened."""
        events, self._channels.events = self._channels.events, []
        return events

    def take(self, now: float) -> bytes:
        """Return all output, acknowledgements included."""
        if self._open:
            self._flush()
        output = self._channels.output
        if not output:
            return b""
        self._last_write, self._channels.output = now, []
        return b"".join(output)

    def close(self, now: float) -> None:
        """Say goodbye, or end at once when the login is not done."""
        if self._open:
            self._flush()
            self._open, self._closing = False, True
            self._send(spec.Connection.Close, "BsBB", 0, "", 0, 0)
        elif not self._closing:
            self._end(None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def start(self, id: int, operation: api.Operation) -> None:
        """Start an operation."""
        if not self._open:
            return
        match operation:
            case api.Subscribe(number):
                self._consumers = {other: consumer for other, consumer in self._consumers.items() if consumer.usable}
                self._consumers[number] = Consumer(self._channels, id, operation)
            case api.Cancel(number) if number in self._consumers and not self._consumers[number].ended:
                self._consumers[number].cancel(id)
            case api.Cancel():
                self._channels.events.append(api.Done(id))
            case _:
                Task(self._channels, steps(self._channels, id, operation, self._publisher.proven))

    def send(self, message: api.Outgoing) -> None:
        """Publish, mandatory, and persistent if it is durable."""
        if self._open:
            self._publisher.publish(message)

    def encode(self, message: api.Outgoing) -> bytes | None:
        """Return the frames of a message for a channel that is open."""
        return self._publisher.frames(message) if self._open else None

    def written(self, message: api.Outgoing) -> None:
        """Note that these were written."""
        self._publisher.written(message)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._publisher.forget(token)

    def settle(self, delivery: api.Delivery, how: api.Settlement) -> None:
        """Acknowledge, or reject, to be queued again or not."""
        tag: Any = delivery.tag
        consumer: Consumer = tag[0]
        if how is api.Settlement.REJECT and self._channels.dialect.broker_j:
            how = api.Settlement.ACCEPT  # nothing else gets rid of it there
        if self._open and consumer.home is self._channels:
            consumer.settle(tag[1], how)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for consumer in self._consumers.values():
            if consumer.accepted and consumer.usable:
                consumer.flush()

    def _send(self, method: tuple[int, int], format: str, *arguments: object) -> None:
        self._channels.output.append(wire.method_frame(0, method, format, *arguments))

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._open, self.deadline = True, False, inf
            self._channels.output.clear()
            told = None
            if error is not None and not self._closing:
                why = error.ending(self._due) if isinstance(error, Closed) else error
                told = ending(self.connector, "AMQP 0-9-1", self._due == OPENED, why)
            self._channels.events.append(api.Closed(told))

    def _receive_frames(self, data: bytes) -> int:
        """Take all frames that are whole, and return where the rest begins."""
        offset, length = 0, len(data)
        channels = self._channels
        most = min(channels.frame_max - 8, api.HEAD)  # the limit of a subscription is no less
        while length - offset >= 8 and not self._ended:
            kind, number, size = wire.frame_head(data, offset)
            end = offset + 7 + size
            if kind not in (1, 2, 3, 8) or size > channels.frame_max or data[end : end + 1] not in wire.FRAME_ENDS:
                first = self._due == spec.Connection.Start
                raise ProtocolError(who_answers(data) if first else f"not a frame: {data[offset : offset + 40]!r}")
            if end >= length:
                break
            payload = data[offset + 7 : end]
            offset = end + 1
            channel = channels.open.get(number)
            if channel is not None:
                begins = kind == 1 and payload.startswith(wire.DELIVER) and channel.usable and not channel.method
                whole = wire.message_at(data, offset, number, most) if begins else None
                if whole is None:
                    channel.receive(kind, payload)
                else:
                    header, body, offset = whole
                    channel.on_message(payload, header, body)
            elif number == 0 and kind == 1:
                self._receive_method(wire.signature(payload), payload)
            # RabbitMQ's timer may close a channel twice, if our answer to the first takes long.
            elif kind != 8 and (kind != 1 or wire.signature(payload) not in (spec.Channel.Close, spec.Channel.CloseOk)):
                raise ProtocolError(f"a frame for channel {number}, which is not open")
        return offset

    def _receive_method(self, method: tuple[int, int], payload: bytes) -> None:
        match method:
            case spec.Connection.Close:
                self._fail_culprit(payload)
                raise Closed(*wire.reply(payload))
            case spec.Connection.Start if method == self._due:
                self._start(*loads("ooFSS", payload, 4)[0])
            case spec.Connection.Tune if method == self._due:
                self._tune(*loads("BlB", payload, 4)[0])
            case spec.Connection.OpenOk if method == self._due:
                self._due, self._open = OPENED, True
                self._channels.events.append(api.Opened())
            case spec.Connection.Blocked if self._due == OPENED:
                self._channels.events.append(api.Blocked(payload[5:].decode(errors="replace")))
            case spec.Connection.Unblocked if self._due == OPENED:
                self._channels.events.append(api.Blocked(None))
            case spec.Connection.CloseOk if self._closing:
                self._end(None)
            case _:
                raise ProtocolError(f"unexpected method {method}")

    def _fail_culprit(self, payload: bytes) -> None:
        """Have the operation fail that the broker closes the connection for: the first of those with its method."""
        *_, kind, number = loads("BsBB", payload, 4)[0]
        for channel in (*self._channels.running, *self._channels.open.values()):
            if (kind, number) in channel.asking:
                channel.on_closed(Closed(*wire.reply(payload)))
                break

    def _start(self, major: int, minor: int, properties: dict[str, object], mechanisms: str, locales: str) -> None:
        dialect = self._channels.dialect = Dialect(properties)
        if dialect.broker_j:
            self._channels.outcomes[spec.Basic.Nack] = (api.Outcome.RETURNED, "no queue is bound for it")
        offered = mechanisms.encode().split()
        login = next((login for login in logins(self.connector) if login.mechanism in offered), None)
        if login is None:
            raise Closed(REFUSED, f"the broker offers only {mechanisms}")
        name = f"gofer {socket.gethostname()} {os.getpid()}"
        ours = {"product": "gofer", "connection_name": name, "capabilities": dict.fromkeys(_CAPABILITIES, True)}
        self._send(spec.Connection.StartOk, "FsSs", ours, login.mechanism, login.start(None), "en_US")
        self._due = spec.Connection.Tune

    def _tune(self, channel_max: int, frame_max: int, heartbeat: int) -> None:
        channels = self._channels
        channels.channel_max = channel_max or channels.channel_max
        channels.frame_max = max(4096, min(frame_max or channels.frame_max, channels.frame_max))
        # The protocol has whole seconds; 0 turns them off.
        ours = max(1, round(self.connector.heartbeat)) if self.connector.heartbeat > 0 else 0
        self._heartbeat = min(ours, heartbeat) if heartbeat else ours
        self._send(spec.Connection.TuneOk, "BlB", channels.channel_max, channels.frame_max, self._heartbeat)
        self._send(spec.Connection.Open, "ssb", self.connector.url.path or "/", "", False)
        self._due = spec.Connection.OpenOk
        self.deadline = self._last_read if self._heartbeat else inf
