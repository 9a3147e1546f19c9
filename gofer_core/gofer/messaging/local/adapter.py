"""The adapter of the local broker: ``local://`` or ``local:///path/to.sock``."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Closed, Confirmed, Delivery, Done, Event, Opened, SubscriptionLost
from gofer.messaging.connector import Connector
from gofer.messaging.local import wire
from gofer.messaging.local.paths import path_of

__all__ = ["LocalAdapter"]


class LocalAdapter(Adapter):
    """A connection to the local broker. Messages live as long as the broker's process does."""

    checks_queues: ClassVar[bool] = True

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._where = f"local broker at {path_of(connector.url)}"
        self._reader = wire.Reader()
        self._output = bytearray()
        self._events: list[Event] = []
        self._opened = self._closing = self._closed = False
        self._received_at = self._sent_at = 0.0
        self._unanswered: set[tuple[type, int]] = set()
        # Numbers stay here for good: they tell our deliveries from those of an earlier connection.
        self._subscribed: set[int] = set()

    # -- bytes -----------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        self._received_at = self._sent_at = now
        self._send(wire.Hello(wire.VERSION, self.connector.heartbeat))
        self._set_deadline()

    def receive(self, data: bytes, now: float) -> None:
        self._received_at = now
        for frame in () if self._closed else self._reader.feed(data):
            if not self._closed:
                self._handle(frame)
        self._set_deadline()

    def lost(self, reason: str, now: float) -> None:
        self._end(None if self._closing else ConnectionLost(f"{self._where}: {reason}"))

    def tick(self, now: float) -> None:
        heartbeat = self.connector.heartbeat
        if not heartbeat or self._closed:
            return
        silent = now - self._received_at
        if silent >= 2 * heartbeat:
            self._end(ConnectionLost(f"{self._where}: silent for {silent:.1f} s, two heartbeats"))
        elif now - self._sent_at >= heartbeat / 2 and not self._output:
            self._send(wire.Heartbeat())

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def take(self, now: float) -> bytes:
        if not self._output:
            return b""
        out, self._output = self._output, bytearray()
        self.urgent = False
        self._sent_at = now
        self._set_deadline()
        return bytes(out)

    def close(self, now: float) -> None:
        self._closing = True
        self._send(wire.Close())

    def _set_deadline(self) -> None:
        if self.connector.heartbeat and not self._closed:
            half = self.connector.heartbeat / 2
            self.deadline = min(self._sent_at + half, self._received_at + 4 * half)

    def _send(self, frame: wire.Frame) -> None:
        if not self._closed:
            wire.write(self._output, frame)
            self.urgent |= not isinstance(frame, wire.Settle)

    def _end(self, error: MessagingError | None) -> None:
        if not self._closed:
            self._events.append(Closed(error))
            self._closed = True
            self._output, self.urgent, self.deadline = bytearray(), False, inf

    def _handle(self, frame: Any) -> None:
        """Turn a frame of the broker into an event."""
        broken = ConnectionLost if self._opened else AdapterError
        match frame:
            case wire.Heartbeat():
                return  # it has come: that is all
            case Closed(error):
                self._end(None if self._closing else broken(f"{self._where}: {error or 'it hung up'}"))
            case Opened() if not self._opened:
                self._opened = True
                self._events.append(frame)
            case Done(number) | Confirmed(number) if (type(frame), number) in self._unanswered:
                self._unanswered.discard((type(frame), number))
                self._events.append(frame)
            case Delivery(number) | SubscriptionLost(number) if number in self._subscribed:
                self._events.append(frame)
            case _:
                why = getattr(frame, "reason", "") or f"{type(frame).__name__} is not what a broker sends here"
                self._end(broken(f"{self._where}: it breaks the protocol: {why}"))

    # -- commands --------------------------------------------------------------------------------------------

    def start(self, id: int, operation: api.Operation) -> None:
        if isinstance(operation, api.Subscribe):
            self._subscribed.add(operation.number)
        self._unanswered.add((Done, id))
        self._send(wire.Ask(id, operation))

    def send(self, message: api.Outgoing) -> None:
        token, (exchange, key), size = message.token, message.address, len(message.body)
        if size > wire.MAX_BODY and not self._closed:
            reason = f"a body of {size} bytes is over the local broker's limit of {wire.MAX_BODY}"
            self._events.append(Confirmed(token, api.Outcome.REFUSED, reason))
            return
        self._unanswered.add((Confirmed, token))
        self._send(wire.Publish(token, exchange, key, message.body, message.ttl))

    def encode(self, message: api.Outgoing) -> bytes | None:
        if self._closed or len(message.body) > wire.MAX_BODY:
            return None
        encoded = bytearray()
        wire.write(encoded, wire.Publish(message.token, *message.address, message.body, message.ttl))
        return bytes(encoded)

    def written(self, message: api.Outgoing) -> None:
        self._unanswered.add((Confirmed, message.token))

    def forget(self, token: int) -> None:
        """Do nothing: this broker answers every message, and quickly."""

    def settle(self, delivery: Delivery, how: api.Settlement) -> None:
        if delivery.subscription in self._subscribed and isinstance(delivery.tag, int):
            # There are no dead letters: what is rejected is dropped.
            self._send(wire.Settle(delivery.tag, requeue=how is api.Settlement.RELEASE))
