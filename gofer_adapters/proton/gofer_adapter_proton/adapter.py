"""The proton adapter: AMQP 1.0, for RabbitMQ, Qpid Broker-J, ActiveMQ Artemis and others that speak it."""

from __future__ import annotations

from math import inf
from typing import ClassVar

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.connector import Connector
from gofer.messaging.endings import LoginRefused, NoVirtualHost, ending
from proton import Delivery as Transfer

from gofer_adapter_proton.brokers import Ask, Refused
from gofer_adapter_proton.links import Hub
from gofer_adapter_proton.login import Login
from gofer_adapter_proton.messages import encode
from gofer_adapter_proton.traffic import Consumer, Publisher

__all__ = ["ProtonAdapter"]

_EMPTY_FRAME = b"\x00\x00\x00\x08\x02\x00\x00\x00"
#: Links to addresses that are kept for their next message.
_MOST_PUBLISHERS = 24


# What a connection goes through. In _CLOSING the broker has not confirmed all that was published.
_NEW, _LOGIN, _OPEN, _CLOSING, _GOODBYE, _ENDED = range(6)


class ProtonAdapter(api.Adapter):
    """One AMQP 1.0 connection. See :class:`gofer.messaging.adapter.Adapter` for what all methods promise.

    A subscription has a session of its own, and so have publishing, the management's requests and each probe.
    """

    checks_queues: ClassVar[bool] = True
    subscribes_exclusively: ClassVar[bool] = False

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._output = bytearray()  # what goes before that of the hub
        self._state, self._login = _NEW, Login(connector, self._output)
        self._hub = Hub()
        self._publishers: dict[tuple[str | None, bool], Publisher] = {}  # the one used last is the last
        self._consumers: dict[int, Consumer] = {}
        self._last_read = self._last_write = 0.0

    # -- bytes --------------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:  # type: ignore[override] # the driver reads it, and nobody writes it
        """Whether there is more to send than acknowledgements."""
        return self._hub.urgent

    def begin(self, now: float) -> None:
        """Greet."""
        self._last_read = self._last_write = now
        self._login.begin()
        self._state, self._hub.urgent = _LOGIN, True

    def receive(self, data: bytes, now: float) -> None:
        """Have the bytes taken apart, and see what happened."""
        if self._state == _ENDED:
            return
        self._last_read = self._hub.now = now
        try:
            if not self._login.done:
                data, self._hub.urgent = self._login.receive(data), True
                if self._login.done:
                    self._open_connection()
            self._hub.receive(data)
            self._look()
        except Exception as error:  # noqa: BLE001 - whatever a decoder makes of a peer's bytes, they are wrong
            self._end(error)

    def lost(self, reason: str, now: float) -> None:
        """Note the end of the socket. Some brokers just hang up on a login or a virtual host that they refuse."""
        hung_up = "the broker closed the connection"
        if self._login.offered and not self._login.done:
            self._end(LoginRefused(hung_up))
        elif self._login.done and self._state == _LOGIN and self.connector.url.path is not None:
            self._end(NoVirtualHost(hung_up))
        else:
            self._end(ConnectionLost(reason))

    def tick(self, now: float) -> None:
        """Send an empty frame when nothing was sent for half a heartbeat, and see whether the broker is alive."""
        heartbeat = self.connector.heartbeat
        if heartbeat and now - self._last_read > 2 * heartbeat and self._is_up:
            self._end(ConnectionLost(f"the broker was silent for {2 * heartbeat:g} s"))
        elif self._is_up:
            self._hub.now = now
            self._hub.urgent = self._hub.urgent or self._is_quiet(now)
            # What proton wants is what the broker's own idle timeout asks for, if it has one.
            self.deadline = min(now + heartbeat / 4 if heartbeat else inf, self._hub.transport.tick(now) or inf)
            self._hub.handle_events()
            self._look()

    def events(self) -> list[api.Event]:
        """Return what has happened."""
        events, self._hub.events = self._hub.events, []
        return events

    def take(self, now: float) -> bytes:
        """Return all output."""
        self._hub.now = now
        output = bytes(self._output) + (self._hub.take() if self._login.done else b"")
        self._output.clear()
        if not output and self._is_up and self._is_quiet(now):
            output = _EMPTY_FRAME
        if output:
            self._last_write = now
        self._hub.urgent = False
        return output

    def close(self, now: float) -> None:
        """Say goodbye, or end at once when the login is not done."""
        if self._state == _OPEN:
            # Artemis does not mark as delivered before what it takes back at a goodbye.
            for consumer in self._consumers.values() if self._hub.broker.release_fails else ():
                for tag in list(consumer.unsettled):
                    consumer.settle(tag, Transfer.MODIFIED, failed=True)
            self._state = _CLOSING
            self._look()
        elif self._state < _OPEN:
            self._end(None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def start(self, id: int, operation: api.Operation) -> None:
        """Start an operation."""
        hub = self._hub
        if self._state != _OPEN:
            return
        match operation:
            case api.Subscribe(exclusive=True):
                hub.events.append(api.Done(id, error=hub.broker.cannot("subscribe exclusively")))
            case api.Subscribe(number):
                self._consumers = {n: one for n, one in self._consumers.items() if one.unsettled or not one.ended}
                self._consumers[number] = Consumer(hub, id, operation)
            case api.Cancel(number) if number in self._consumers:
                self._consumers[number].cancel(id)
            case api.Cancel():
                hub.events.append(api.Done(id))
            case _:
                hub.run(self._perform(id, operation))

    def _perform(self, id: int, operation: api.Operation) -> Ask:
        try:
            done = api.Done(id, (yield from self._hub.broker.perform(operation)))
        except (Refused, MessagingError) as error:
            done = api.Done(id, error=error.error() if isinstance(error, Refused) else error)
        if isinstance(operation, api.DeleteQueue):
            for publisher in self._publishers.values():
                publisher.seen_at = -inf
        self._hub.events.append(done)

    def send(self, message: api.Outgoing) -> None:
        """Publish. The broker confirms every message, so that what has no route is told."""
        if self._state != _OPEN:
            return
        address, token = message.address, message.token
        hub, broker = self._hub, self._hub.broker
        try:
            target = broker.target(address)
        except AdapterError as error:
            hub.events.append(api.Confirmed(token, api.Outcome.REFUSED, str(error)))
            return
        hub.unconfirmed.add(token)
        hub.urgent = True
        key = (None if broker.relay else target), message.isolated
        watched = address.key if broker.silent and not address.exchange else None
        publisher = self._publishers.pop(key, None) or Publisher(hub, *key, watched)
        self._publishers[key] = publisher
        for other, idle in list(self._publishers.items())[:-_MOST_PUBLISHERS]:
            if not idle.busy:
                idle.end()
                del self._publishers[other]
        data = encode(message.body, target if broker.relay else None, message.ttl, message.durable)
        publisher.publish(token, data)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._hub.unconfirmed.discard(token)

    def settle(self, delivery: api.Delivery, how: api.Settlement) -> None:
        """Settle, with the next output, as this broker understands it."""
        consumer = self._consumers.get(delivery.subscription)
        if self._state == _OPEN and consumer is not None:
            consumer.settle(delivery.tag, *self._hub.broker.settlement(how))

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _is_up(self) -> bool:
        return _OPEN <= self._state < _ENDED

    def _is_quiet(self, now: float) -> bool:
        return now - self._last_write >= self.connector.heartbeat / 2 > 0

    def _open_connection(self) -> None:
        url, hostname = self.connector.url, self.connector.url.path
        # RabbitMQ has virtual hosts, as 'vhost:NAME', and no other broker has AMQPLAIN.
        if "AMQPLAIN" in self._login.offered and not (hostname or "vhost:").startswith("vhost:"):
            hostname = f"vhost:{hostname}"
        if hostname is None and not url.others:  # nobody tells us which of several hosts it is
            hostname = url.host
        self._hub.open(hostname, idle_timeout=2 * self.connector.heartbeat)  # proton tells the peer half of it

    def _look(self) -> None:
        """See whether the connection has opened or ended."""
        hub, path = self._hub, self.connector.url.path
        if hub.failure is not None:
            self._end(hub.failure)
        elif hub.opened and self._state == _LOGIN:
            if path is not None and hub.broker.vhosts and not str(hub.connection.hostname).startswith("vhost:"):
                self._end(NoVirtualHost(f"write it as 'vhost:{path}': this broker would take its default"))
                return
            self._state = _OPEN
            hub.events.append(api.Opened())
            self.deadline = self._last_read  # the first tick finds the next
        elif self._state == _CLOSING and not any(publisher.busy for publisher in self._publishers.values()):
            # The broker has confirmed all that was published: it may read no more after the goodbye.
            self._state, hub.urgent = _GOODBYE, True
            self._output += hub.take()  # proton would send nothing more after the close
            hub.connection.close()

    def _end(self, error: Exception | None) -> None:
        if self._state != _ENDED:
            told, opened = None, self._state == _OPEN
            if error is not None and self._state <= _OPEN:
                why = error.ending(opened) if isinstance(error, Refused) else error
                told = ending(self.connector, "AMQP 1.0", opened, why)
            self._state, self.deadline, self._hub.urgent = _ENDED, inf, False
            self._publishers, self._consumers = {}, {}
            self._hub.clear()
            self._hub.events.append(api.Closed(told))
