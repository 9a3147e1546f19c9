"""The qpid adapter: AMQP 0-10, for Qpid Broker-J and qpidd."""

from __future__ import annotations

import os
from math import inf
from typing import cast

from gofer.errors import ConnectionLost
from gofer.messaging import adapter as api
from gofer.messaging.connector import Connector
from gofer.messaging.endings import BrokerClosed, LoginRefused, NoVirtualHost, ProtocolError, ending, who_answers

from gofer_adapter_qpid import amqp_0_10 as amqp
from gofer_adapter_qpid.amqp_0_10.frames import PROTOCOL_HEADER
from gofer_adapter_qpid.operations import steps
from gofer_adapter_qpid.sessions import Consumer, Home

__all__ = ["QpidAdapter"]

# Broker-J does not tell that a queue was deleted, so those that are subscribed to are looked at, in seconds.
_LOOK = 5.0


class QpidAdapter(api.Adapter):
    """One AMQP 0-10 connection. See :class:`gofer.messaging.adapter.Adapter` for what all methods promise.

    A subscription has a session of its own, and so has publishing. What may fail (an operation, a message to an
    exchange not seen before) never runs on either.
    """

    checks_queues = True

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        url = connector.url
        ways = amqp.logins(url.user, url.password, certificate=url.tls and connector.clientcert is not None)
        ours = {"heartbeat": connector.heartbeat, "properties": {"product": "gofer", "qpid.client_pid": os.getpid()}}
        self._home = Home(ways, url.path or "", **ours)
        self._consumers: dict[int, Consumer] = {}
        self._heard = self._opened = self._ended = self._looking = False
        self._next_look = 0.0

    # -- bytes --------------------------------------------------------------------------------------------------------

    @property
    def urgent(self) -> bool:  # type: ignore[override] # the driver reads it, and nobody writes it
        """Whether there is more to send than acknowledgements."""
        return bool(self._home.output)

    @property
    def deadline(self) -> float:  # type: ignore[override] # as above
        """When the next heartbeat is due, or the next look at the queues."""
        looks = any(consumer.active for consumer in self._consumers.values())
        return inf if self._ended else min(self._home.deadline, self._next_look if looks else inf)

    def begin(self, now: float) -> None:
        """Greet."""
        self._home.begin(now)

    def receive(self, data: bytes, now: float) -> None:
        """Have the bytes read by the sessions."""
        if not self._ended:
            try:
                self._home.receive(data, now)
                if self._home.open and not self._opened:
                    self._opened = True
                    self._home.events.append(api.Opened())
            except Exception as error:  # noqa: BLE001 - whatever a decoder makes of a peer's bytes, they are wrong
                stranger = not self._heard and not PROTOCOL_HEADER.startswith(data[: len(PROTOCOL_HEADER)])
                self._end(ProtocolError(who_answers(data)) if stranger else error)
            self._heard = True
            if self._home.ended:
                self._end(None)

    def lost(self, reason: str, now: float) -> None:
        """Note the end of the socket."""
        self._end(ConnectionLost(reason))

    def tick(self, now: float) -> None:
        """Send a heartbeat, see whether the broker is alive, and look at the queues, when these are due."""
        try:
            if not self._ended:
                self._home.tick(now)
        except amqp.PeerSilent as silent:
            self._end(silent)
        if self._home.open and now >= self._next_look and not self._looking:
            self._looking, self._next_look = True, now + _LOOK
            self._home.tasks.start(self._look())

    def events(self) -> list[api.Event]:
        """Return what has happened."""
        events, self._home.events = self._home.events, []
        return events

    def take(self, now: float) -> bytes:
        """Return all output, acknowledgements included."""
        if self._home.open:
            self._flush()
        return self._home.take(now)

    def close(self, now: float) -> None:
        """Say goodbye, or end at once when the login is not done."""
        if self._home.open:
            self._flush()
            self._home.close()
        elif not self._home.closing:
            self._end(None)

    # -- commands -----------------------------------------------------------------------------------------------------

    def start(self, id: int, operation: api.Operation) -> None:
        """Start an operation."""
        if not self._home.open:
            return
        match operation:
            case api.Subscribe(number):
                self._consumers = {other: consumer for other, consumer in self._consumers.items() if consumer.usable}
                self._consumers[number] = Consumer(self._home, id, operation)
            case api.Cancel(number) if number in self._consumers:
                self._consumers[number].cancel_for(id)
            case api.Cancel():
                self._home.events.append(api.Done(id))
            case _:
                self._home.tasks.start(steps(self._home, id, operation))

    def send(self, message: api.Outgoing) -> None:
        """Publish, to be rejected if it has no route."""
        if self._home.open:
            (exchange, key), ttl, body = message.address, message.ttl, message.body
            # What lives for 30,000 years lives for ever.
            milliseconds = None if ttl is None or ttl > 1e12 else round(max(1, ttl * 1000))
            header = amqp.encode_header(key, len(body), durable=message.durable, ttl=milliseconds)
            self._home.publisher.publish(message.token, exchange, header, body, message.confirm, message.isolated)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._home.publisher.forget(token)

    def settle(self, delivery: api.Delivery, how: api.Settlement) -> None:
        """Accept, release, or reject, to be dropped or dead-lettered."""
        consumer, number = cast("tuple[Consumer, int]", delivery.tag)
        if self._home.open and consumer.home is self._home and consumer.usable:
            consumer.settle(number, how.value)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._home.publisher.flush()
        for consumer in self._consumers.values():
            if consumer.due and consumer.usable:
                consumer.flush()

    def _look(self) -> amqp.Steps:
        try:
            for consumer in [each for each in self._consumers.values() if each.active]:
                found = yield "queue.query", {"queue": consumer.queue}
                # One that was made anew meanwhile does not have us as a subscriber.
                consumer.note_consumers(found.get("subscriber_count", 0))
                if consumer.active and not found.get("subscriber_count"):
                    consumer.end(f"queue {consumer.queue!r} was deleted")
                    consumer.close()
        except amqp.SessionClosed:
            pass  # we may not look: then nobody tells
        self._looking = False

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended, self._home.open = True, False
            if not isinstance(error, amqp.ConnectionClosed | amqp.LoginRefused):
                self._home.output.clear()
            told = None
            if error is not None and not self._home.closing:
                told = ending(self.connector, "AMQP 0-10", self._opened, self._why(error))
            self._home.events.append(api.Closed(told))

    def _why(self, error: Exception) -> Exception:
        match error:
            case amqp.LoginRefused():
                return LoginRefused(str(error))
            case amqp.ConnectionClosed(code=402) if not self._opened:  # invalid-path
                return NoVirtualHost(error.text)
            case amqp.ConnectionClosed():
                return BrokerClosed(error.text)
            case amqp.PeerSilent():
                return ConnectionLost(str(error))
            case amqp.AmqpError():
                return ProtocolError(str(error))
        return error
