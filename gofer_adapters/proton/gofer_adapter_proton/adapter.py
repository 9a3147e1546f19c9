"""The proton adapter: AMQP 1.0, for RabbitMQ, Qpid Broker-J, ActiveMQ Artemis and others that speak it."""

from __future__ import annotations

import os
import socket
import uuid
from math import inf
from typing import Any, ClassVar, cast

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import place
from proton import Collector, Connection, Event, Transport, symbol
from proton import Delivery as Transfer

from gofer_adapter_proton.brokers import Broker, broker_of
from gofer_adapter_proton.errors import NOT_FOUND, Refused
from gofer_adapter_proton.links import Home, Task
from gofer_adapter_proton.login import REFUSED, Login, ProtocolError
from gofer_adapter_proton.operations import check, steps
from gofer_adapter_proton.traffic import Consumer, Publishers

__all__ = ["ProtonAdapter"]

_EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
_FRAME_MAX = 65_536
_MOST_SESSIONS = 1024
#: Seconds after which a session that the broker has ended is answered.
_BURIED_AFTER = 1.0


class ProtonAdapter(api.Adapter):
    """One AMQP 1.0 connection. See :class:`gofer.messaging.adapter.Adapter` for what all methods promise.

    A subscription has a session of its own, and so have publishing and each operation.
    """

    checks_queues: ClassVar[bool] = True
    subscribes_exclusively: ClassVar[bool] = False

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._login = Login(connector)
        self._connection, self._transport, self._collector = Connection(), Transport(), Collector()
        self._home = Home(self._connection, Broker())
        self._publishers = Publishers(self._home)
        self._consumers: dict[int, Consumer] = {}
        self._tag = object()  # of this adapter's deliveries
        self._open = self._opened = self._closing = self._said_goodbye = self._ended = False
        self._begun, self._goodbye, self._last_words = False, b"", b""
        self._last_read = self._last_write = self._peer_deadline = 0.0

    # -- bytes --------------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:  # type: ignore[override] # the driver reads it, and nobody writes it
        """Whether there is more to send than acknowledgements."""
        return self._home.urgent

    def begin(self, now: float) -> None:
        """Greet."""
        self._last_read = self._last_write = self._home.now = now
        self._begun = self._home.urgent = True

    def receive(self, data: bytes, now: float) -> None:
        """Have the bytes taken apart, and see what happened."""
        if self._ended:
            return
        self._last_read = self._home.now = now
        try:
            if not self._login.done:
                data = self._login.receive(data)
                self._home.urgent = True
                if not self._login.done:
                    return
                self._open_connection()
            rest = memoryview(data)
            while rest and not self._ended:
                capacity = self._transport.capacity()
                if capacity <= 0:
                    raise ProtocolError("proton takes no more of it")
                self._transport.push(bytes(rest[:capacity]))
                rest = rest[capacity:]
                self._handle_events()
            self._say_goodbye()
        except Exception as error:  # noqa: BLE001 - whatever a decoder makes of a peer's bytes, they are wrong
            self._end(error)

    def lost(self, reason: str, now: float) -> None:
        """Note the end of the socket."""
        hung_up = "the broker closed the connection"
        if self._login.offered and not self._login.done:
            self._end(Refused(REFUSED, hung_up))
        elif self._login.done and not self._opened and self.connector.url.path is not None:
            self._end(Refused(NOT_FOUND, hung_up))  # as RabbitMQ 4 does when there is none
        else:
            self._end(ConnectionLost(reason))

    def tick(self, now: float) -> None:
        """Send an empty frame when nothing was sent for half a heartbeat, and see whether the broker is alive."""
        heartbeat = self.connector.heartbeat
        if self._ended or not self._opened:
            return
        self._home.now = now
        if heartbeat and now - self._last_read > 2 * heartbeat:
            self._end(ConnectionLost(f"the broker was silent for {2 * heartbeat:g} s"))
            return
        self._home.urgent = self._home.urgent or now - self._last_write >= heartbeat / 2 > 0
        self._peer_deadline = self._transport.tick(now)
        self._handle_events()
        self._set_deadline(now)

    def events(self) -> list[api.Event]:
        """Return what has happened."""
        events, self._home.events = self._home.events, []
        return events

    def take(self, now: float) -> bytes:
        """Return all output, acknowledgements included."""
        if self._ended:
            words, self._last_words = self._last_words, b""
            return words
        self._home.now = now
        self._home.bury(now - _BURIED_AFTER)
        for consumer in list(self._consumers.values()):
            consumer.flush()
        output, self._goodbye = self._goodbye, b""
        if self._begun:
            output += self._login.take() + (self._drain() if self._login.done else b"")
        self._home.urgent = False
        if not output and self._opened and now - self._last_write >= self.connector.heartbeat / 2 > 0:
            output = _EMPTY_FRAME
        if output:
            self._last_write = now
        return output

    def close(self, now: float) -> None:
        """Say goodbye, or end at once when the login is not done."""
        self._home.now = now
        if self._opened and not self._ended and not self._closing:
            for consumer in list(self._consumers.values()):
                consumer.flush()
                if self._home.broker.release_fails:
                    consumer.give_back()
            self._closing, self._open = True, False
            self._say_goodbye()
        elif not self._closing:
            self._end(None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def ask(self, id: int, operation: api.Operation) -> None:
        """Start an operation."""
        check(operation)
        if not self._open:
            return
        match operation:
            case api.Subscribe(number, exclusive=exclusive):
                self._consumers = {other: lane for other, lane in self._consumers.items() if not lane.over}
                if exclusive:
                    self._home.events.append(api.Done(id, error=self._home.broker.cannot("subscribe exclusively")))
                else:
                    self._consumers[number] = Consumer(self._home, id, operation, self._tag)
            case api.Cancel(number) if number in self._consumers and not self._consumers[number].ended:
                self._consumers[number].cancel(id)
            case api.Cancel():
                self._home.events.append(api.Done(id))
            case _:
                Task(self._home, steps(self._home, id, operation, self._publishers.look_again))

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
        """Publish. The broker confirms every message, so that what has no route is told."""
        if any(len(name.encode()) > 255 or "\0" in name for name in address):
            raise ValueError(f"longer than 255 bytes, or one is 0: {address.exchange[:60]!r} or {address.key[:60]!r}")
        if self._open:
            self._home.urgent = True
            self._publishers.publish(token, address, body, ttl=ttl, durable=durable, alone=isolated)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._home.unconfirmed.discard(token)

    def accept(self, delivery: api.Delivery) -> None:
        """Accept, with the next output."""
        if (found := self._find(delivery)) is not None:
            found[0].accept(found[1])

    def release(self, delivery: api.Delivery) -> None:
        """Give back."""
        if (found := self._find(delivery)) is not None:
            failed = self._home.broker.release_fails
            found[0].settle(found[1], Transfer.MODIFIED if failed else Transfer.RELEASED, failed)

    def reject(self, delivery: api.Delivery) -> None:
        """Reject, to be dropped or dead-lettered."""
        if (found := self._find(delivery)) is not None:
            found[0].settle(found[1], Transfer.REJECTED if self._home.broker.rejects else Transfer.ACCEPTED)

    def _say_goodbye(self) -> None:
        """Close the connection, when the broker has confirmed all that was published: it may read no more then."""
        if self._closing and not self._ended and not self._said_goodbye and not self._publishers.busy:
            self._home.urgent = self._said_goodbye = True
            self._goodbye = self._drain()  # proton would send nothing more after the close
            self._connection.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, delivery: api.Delivery) -> tuple[Consumer, int] | None:
        tag, subscription, number = cast("tuple[object, int, int]", delivery.tag)
        consumer = self._consumers.get(subscription)
        return (consumer, number) if self._open and tag is self._tag and consumer is not None else None

    def _drain(self) -> bytes:
        parts, transport = [], self._transport
        while (size := transport.pending()) > 0:
            parts.append(transport.peek(size) or b"")
            transport.pop(size)
        return b"".join(parts)

    def _set_deadline(self, now: float) -> None:
        ours = now + self.connector.heartbeat / 4 if self.connector.heartbeat else inf
        self.deadline = min(ours, self._peer_deadline or inf)

    def _open_connection(self) -> None:
        url, connection = self.connector.url, self._connection
        connection.container = f"gofer-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        # RabbitMQ has virtual hosts, as 'vhost:NAME', and no other broker has AMQPLAIN.
        rabbitmq = "AMQPLAIN" in self._login.offered and not (url.path or "vhost:").startswith("vhost:")
        if url.path is not None:
            connection.hostname = f"vhost:{url.path}" if rabbitmq else url.path
        elif not url.others:  # nobody tells us which of several hosts it is
            connection.hostname = url.host
        connection.properties = {symbol("product"): "gofer", symbol("process"): f"{socket.gethostname()} {os.getpid()}"}
        connection.collect(self._collector)
        transport = self._transport
        transport.idle_timeout = 2 * self.connector.heartbeat  # proton tells the peer half of it
        transport.max_frame_size, transport.channel_max = _FRAME_MAX, _MOST_SESSIONS - 1
        transport.bind(connection)
        connection.open()

    def _handle_events(self) -> None:
        home, collector = self._home, self._collector
        while not self._ended and (event := cast(Any, collector.peek())) is not None:
            kind = event.type
            if kind is Event.DELIVERY:
                link = event.link
                if (lane := home.lanes.get(link)) is not None:
                    lane.on_delivery(event.delivery, link)
            elif kind is Event.LINK_FLOW or kind is Event.LINK_REMOTE_OPEN:
                link = event.link
                if (lane := home.lanes.get(link)) is not None:
                    (lane.on_flow if kind is Event.LINK_FLOW else lane.on_attached)(link)
            elif kind is Event.LINK_REMOTE_CLOSE or kind is Event.LINK_REMOTE_DETACH:
                home.detached(event.link)
            elif kind is Event.SESSION_REMOTE_CLOSE:
                home.ended(event.session)
            elif kind is Event.CONNECTION_REMOTE_OPEN:
                self._take_open()
            elif kind is Event.CONNECTION_REMOTE_CLOSE:
                refused = Refused.of(self._connection.remote_condition, "the broker closed the connection")
                self._connection.close()
                self._end(refused)
            elif kind is Event.TRANSPORT_ERROR or kind is Event.TRANSPORT_CLOSED:
                condition = self._transport.condition
                self._end(ProtocolError(str(condition.description or condition.name) if condition else "it ended"))
            collector.pop()

    def _take_open(self) -> None:
        """Learn who the broker is; one that refuses us says so in what follows."""
        connection, url = self._connection, self.connector.url
        properties = {str(key): value for key, value in dict(connection.remote_properties or {}).items()}
        if properties.get("amqp:connection-establishment-failed"):
            return
        home = self._home
        home.broker = broker_of(properties, [str(one) for one in connection.remote_offered_capabilities or ()])
        if (
            url.path is not None
            and home.broker.name.startswith("RabbitMQ")
            and not str(connection.hostname).startswith("vhost:")
        ):
            self._end(
                Refused(NOT_FOUND, f"write the virtual host as 'vhost:{url.path}': this broker would take its default")
            )
            return
        home.most_sessions = min(_MOST_SESSIONS, self._transport.remote_channel_max + 1)
        self._open = self._opened = True
        home.events.append(api.Opened())
        self._peer_deadline = self._transport.tick(home.now)
        self._set_deadline(home.now)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        told = None if error is None or self._closing else _failure(self.connector, self._opened, error)
        home = self._home
        self._ended, self._open, self.deadline, home.urgent = True, False, inf, False
        self._last_words = self._drain() if isinstance(error, Refused) and self._login.done else b""
        for lane in {lane for lane in home.lanes.values() if lane is not None}:
            lane.forget()
        home.lanes.clear()
        home.idle.clear()
        home.pairs.clear()
        home.dead.clear()
        home.lingering.clear()
        home.waiting.clear()
        home.running.clear()
        home.events.append(api.Closed(told))


def _failure(connector: Connector, opened: bool, error: Exception) -> MessagingError:
    """Say what ended a connection, during the login or after it was ``opened``."""
    url = connector.url
    where = "" if opened else ",".join(place(host, port) for host, port in url.hosts) + ": "
    if isinstance(error, ConnectionLost):
        return ConnectionLost(f"{where}{error}")
    if not isinstance(error, Refused):
        words = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
        return ConnectionLost(f"protocol error: {words}") if opened else AdapterError(f"{where}not AMQP 1.0: {words}")
    if error.condition == REFUSED:  # RabbitMQ 3 tells of a virtual host when it is first used
        certificate = connector.clientcert if url.user is None else None
        who = f"user {url.user or 'guest'!r}" if certificate is None else f"the certificate {certificate}"
        vhost = f" at virtual host {url.path!r}" if url.path is not None else ""
        return AdapterError(f"{where}login refused for {who}{vhost}: {error.text}")
    if not opened and error.condition in (NOT_FOUND, "amqp:not-allowed", "amqp:invalid-field"):
        return AdapterError(f"{where}virtual host {url.path or '/'!r}: {error.text}")
    return ConnectionLost(f"{where}closed by the broker: {error.text}")
