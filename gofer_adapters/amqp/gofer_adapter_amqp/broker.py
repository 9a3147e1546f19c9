"""What brokers say and what they do differently: refusals, logins, and the dialect of each."""

from __future__ import annotations

from collections.abc import Mapping
from time import time

from amqp import sasl, spec
from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.endings import BrokerClosed, LoginRefused, NoVirtualHost

from gofer_adapter_amqp.wire import LONGEST

__all__ = ["DIFFERS", "LOCKED", "NOT_FOUND", "OPENED", "REFUSED", "Closed", "Dialect", "logins"]

# The protocol's reply codes.
REFUSED, NOT_FOUND, LOCKED, DIFFERS, _NOT_ALLOWED = 403, 404, 405, 406, 530
#: The login is done: no method of it is awaited.
OPENED = (0, 0)


class Closed(Exception):
    """The broker closed the connection or a channel, with a code and in its own words."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text

    def ending(self, stage: tuple[int, int]) -> Exception:
        """Return what it means when it ends the connection; ``stage``: the method of the login that was awaited."""
        if stage == spec.Connection.OpenOk and self.code == _NOT_ALLOWED:
            return NoVirtualHost(self.text)
        refused = stage != OPENED and self.code in (REFUSED, _NOT_ALLOWED)
        return LoginRefused(self.text) if refused else BrokerClosed(self.text)

    def error(self) -> MessagingError:
        """Return the error of the operation that it answers."""
        return NotFound(self.text) if self.code == NOT_FOUND else AdapterError(self.text)


class Dialect:
    """The ways of one broker, as its server properties tell. The default is the protocol's text."""

    def __init__(self, properties: Mapping[str, object]) -> None:
        capabilities, major = properties.get("capabilities"), str(properties.get("version")).partition(".")[0]
        #: It says so when it refuses a login; others just hang up.
        self.says_refused = isinstance(capabilities, dict) and bool(capabilities.get("authentication_failure_close"))
        #: RabbitMQ. A queue's type can be declared; without that it is the virtual host's default. ``if_empty``
        #: closes the whole connection where the queue is not a classic one.
        self.rabbitmq = properties.get("product") == "RabbitMQ"
        #: A quorum queue drops what was delivered too often, unless it is declared without a limit.
        self.has_delivery_limit = self.rabbitmq and major.isdecimal() and int(major) >= 4
        #: Broker-J. What it refuses closes the whole connection in many cases, so look first. basic.nack means that a
        #: message had no route; basic.return comes after it. basic.reject without requeue puts a message back into its
        #: queue; only basic.ack gets rid of it. A message expires at a point in time, in milliseconds since 1970.
        self.broker_j = properties.get("product") == "Apache Qpid Broker-J Core"

    def queue_arguments(self, queue: DeclareQueue) -> dict[str, object]:
        """Return the arguments of a queue's declaration.

        Raises:
            AdapterError: the broker has no queues of that kind.
        """
        arguments: dict[str, object] = {}
        if self.broker_j and queue.kind != "classic":
            raise AdapterError(f"this broker has no {queue.kind} queues; allowed: classic")
        if self.rabbitmq or queue.kind != "classic":
            arguments["x-queue-type"] = queue.kind
        if self.has_delivery_limit and queue.kind == "quorum":
            # A message that is released or whose agent was killed counts, too: 25 kills in a row must not lose it.
            arguments["x-delivery-limit"] = -1
        if queue.expires is not None and not self.broker_j:
            arguments["x-expires"] = round(max(1, min(LONGEST, queue.expires * 1000)))
        return arguments

    def expiration(self, ttl: float) -> tuple[int | None, int | None]:
        """Return a message's time to live in milliseconds; or when it expires, and the present, both since 1970.

        One that is too long is none: the message is kept.
        """
        if ttl * 1000 > LONGEST:
            return None, None
        live, now = round(max(1, ttl * 1000)), round(time() * 1000)
        return (now + live, now) if self.broker_j else (live, None)


def logins(connector: Connector) -> list[sasl.SASL]:
    """Return the ways to log in, the preferred one first."""
    user, password = connector.url.user, connector.url.password
    login = ("guest", "guest") if user is None and password is None else (user or "", password or "")
    certificate = [sasl.EXTERNAL()] if user is None and password is None and connector.clientcert is not None else []
    return [*certificate, sasl.PLAIN(*login), sasl.AMQPLAIN(*login)]
