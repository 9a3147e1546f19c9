"""The adapter of the local broker: ``local://`` or ``local:///path/to.sock``."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

from msgspec.structs import astuple

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Closed, Confirmed, Delivery, Done, Event, Opened, SubscriptionLost
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.local import wire
from gofer.messaging.local.paths import path_of

__all__ = ["LocalAdapter"]


class LocalAdapter(Adapter):
    """A connection to the local broker. Messages live as long as the broker's process does."""

    durable: ClassVar[bool] = False
    checks_queues: ClassVar[bool] = True

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._where = f"local broker at {path_of(connector.url)}"
        self._reader = wire.Reader()
        self._out = bytearray()
        self._events: list[Event] = []
        self._opened = self._closing = self._closed = False
        self._heard_at = self._spoke_at = 0.0
        # What may still be answered. The numbers of subscriptions stay: they tell our deliveries from an earlier one's.
        self._asked: set[int] = set()
        self._published: set[int] = set()
        self._subscribed: set[int] = set()

    # -- bytes -----------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        self._heard_at = self._spoke_at = now
        self._put(wire.Hello(wire.VERSION, self.connector.heartbeat))
        self._plan()

    def receive(self, data: bytes, now: float) -> None:
        self._heard_at = now
        for frame in () if self._closed else self._reader.feed(data):
            if not self._closed:
                self._keep(frame)
        self._plan()

    def lost(self, reason: str, now: float) -> None:
        self._end(None if self._closing else ConnectionLost(f"{self._where}: {reason}"))

    def tick(self, now: float) -> None:
        heartbeat = self.connector.heartbeat
        if not heartbeat or self._closed:
            return
        silent = now - self._heard_at
        if silent >= 2 * heartbeat:
            self._end(ConnectionLost(f"{self._where}: silent for {silent:.1f} s, two heartbeats"))
        elif now - self._spoke_at >= heartbeat / 2 and not self._out:
            self._put(wire.Beat())

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def take(self, now: float) -> bytes:
        if not self._out:
            return b""
        out, self._out = self._out, bytearray()
        self.urgent = False
        self._spoke_at = now
        self._plan()
        return bytes(out)

    def close(self, now: float) -> None:
        self._closing = True
        self._put(wire.Bye())

    def _plan(self) -> None:
        if self.connector.heartbeat and not self._closed:
            half = self.connector.heartbeat / 2
            self.deadline = min(self._spoke_at + half, self._heard_at + 4 * half)

    def _put(self, frame: wire.Frame) -> None:
        if not self._closed:
            wire.put(self._out, frame)
            self.urgent |= not isinstance(frame, wire.Settle)

    def _end(self, error: MessagingError | None) -> None:
        if not self._closed:
            self._events.append(Closed(error))
            self._closed = True
            self._out, self.urgent, self.deadline = bytearray(), False, inf

    def _keep(self, frame: Any) -> None:
        """Keep what the broker says, if it may say that."""
        broken = ConnectionLost if self._opened else AdapterError
        fits = self._opened
        match frame:
            case Closed(error):
                self._end(None if self._closing else broken(f"{self._where}: {error or 'it hung up'}"))
                return
            case wire.Beat():
                return  # that it came is all it says
            case Opened():
                fits, self._opened = not self._opened, True
            case Done(id):
                fits &= id in self._asked
                self._asked.discard(id)
            case Confirmed(token):
                fits &= token in self._published
                self._published.discard(token)
            case Delivery(number):
                fits &= number in self._subscribed
            case SubscriptionLost(number):
                fits &= number in self._subscribed
            case _:
                fits = False
        if fits:
            self._events.append(frame)
        else:
            why = getattr(frame, "reason", "") or f"{type(frame).__name__} was not awaited"
            self._end(broken(f"{self._where}: it breaks the protocol: {why}"))

    # -- commands --------------------------------------------------------------------------------------------

    def ask(self, id: int, operation: api.Operation) -> None:
        _check_names(*astuple(operation))
        if isinstance(operation, api.Subscribe):
            if not 1 <= operation.prefetch <= 65535:
                raise ValueError(f"a prefetch of {operation.prefetch} is not between 1 and 65535")
            self._subscribed.add(operation.number)
        self._asked.add(id)
        self._put(wire.Ask(id, operation))

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
        _check_names(*address)
        if len(body) > wire.MAX_BODY and not self._closed:
            reason = f"a body of {len(body)} bytes is over the local broker's limit of {wire.MAX_BODY}"
            self._events.append(Confirmed(token, api.Outcome.REFUSED, reason))
            return
        self._put(wire.Publish(token, address.exchange, address.key, body, ttl))
        self._published.add(token)

    def forget(self, token: int) -> None:
        """Do nothing: this broker answers every message, and quickly."""

    def accept(self, delivery: Delivery) -> None:
        self._settle(delivery, back=False)

    def release(self, delivery: Delivery) -> None:
        self._settle(delivery, back=True)

    def reject(self, delivery: Delivery) -> None:
        self._settle(delivery, back=False)  # there are no dead letters

    def _settle(self, delivery: Delivery, *, back: bool) -> None:
        if delivery.subscription in self._subscribed and isinstance(delivery.tag, int):
            self._put(wire.Settle(delivery.tag, back))


def _check_names(*fields: object) -> None:
    for name in fields:
        # Only text of more than 63 characters can have more than 255 bytes, and that is cheaper to know.
        if isinstance(name, str) and len(name) > 63 and len(name.encode()) > 255:
            raise ValueError(f"{name[:60]!r}... is a name of more than 255 bytes")
