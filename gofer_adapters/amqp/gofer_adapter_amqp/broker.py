"""What brokers say and what they do differently: refusals, logins, and the dialect of each."""

from __future__ import annotations

from collections.abc import Mapping

from amqp import sasl
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.url import place

__all__ = ["DIFFERS", "LOCKED", "NOT_FOUND", "REFUSED", "Closed", "Dialect", "ProtocolError", "failure", "logins"]

# The protocol's reply codes.
REFUSED, NOT_FOUND, LOCKED, DIFFERS, _NOT_ALLOWED = 403, 404, 405, 406, 530
# RabbitMQ takes no longer time than this (49 days), and refuses a message or a queue that asks for one.
_LONGEST = 4_294_967_295


class Closed(Exception):
    """The broker closed the connection or a channel, with a code and in its own words."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text

    def error(self) -> MessagingError:
        """Return the error of the operation that it answers."""
        return NotFound(self.text) if self.code == NOT_FOUND else AdapterError(self.text)


class ProtocolError(Exception):
    """The peer sent bytes that are not AMQP 0-9-1, or not at this point."""


class Dialect:
    """The ways of one broker, as its server properties tell. The default is the protocol's text."""

    def __init__(self, properties: Mapping[str, object]) -> None:
        capabilities, rabbitmq = properties.get("capabilities"), properties.get("product") == "RabbitMQ"
        major = str(properties.get("version")).partition(".")[0]
        #: It says so when it refuses a login; others just hang up.
        self.says_refused = isinstance(capabilities, dict) and bool(capabilities.get("authentication_failure_close"))
        #: A queue's type can be declared; without that it is the virtual host's default.
        self.has_queue_types = rabbitmq
        #: A quorum queue drops what was delivered too often, unless it is declared without a limit.
        self.has_delivery_limit = rabbitmq and major.isdecimal() and int(major) >= 4
        #: ``if_unused`` and ``if_empty`` close the whole connection where the queue is not a classic one.
        self.checks_classic_only = rabbitmq

    def queue_arguments(self, queue: DeclareQueue) -> dict[str, object]:
        """Return the arguments of a queue's declaration."""
        arguments: dict[str, object] = {}
        if self.has_queue_types or queue.kind != "classic":
            arguments["x-queue-type"] = queue.kind
        if self.has_delivery_limit and queue.kind == "quorum":
            # A message that is released or whose agent was killed counts, too: 25 kills in a row must not lose it.
            arguments["x-delivery-limit"] = -1
        if queue.expires is not None:
            arguments["x-expires"] = round(max(1, min(_LONGEST, queue.expires * 1000)))
        return arguments

    def expiration(self, ttl: float | None) -> int | None:
        """Return a message's time to live in milliseconds. One that is too long is none: the message is kept."""
        return round(max(1, ttl * 1000)) if ttl is not None and ttl * 1000 <= _LONGEST else None


def logins(connector: Connector) -> list[sasl.SASL]:
    """Return the ways to log in, the preferred one first."""
    user, password = connector.url.user, connector.url.password
    login = ("guest", "guest") if user is None and password is None else (user or "", password or "")
    certificate = [sasl.EXTERNAL()] if user is None and password is None and connector.clientcert is not None else []
    return [*certificate, sasl.PLAIN(*login), sasl.AMQPLAIN(*login)]


def failure(connector: Connector, opened: bool, error: Exception) -> MessagingError:
    """Say what ended a connection, during the login or after it was ``opened``."""
    url = connector.url
    where = "" if opened else ",".join(place(host, port) for host, port in url.hosts) + ": "
    if isinstance(error, ConnectionLost):
        return ConnectionLost(f"{where}{error}")
    if not isinstance(error, Closed):
        words = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
        return ConnectionLost(f"protocol error: {words}") if opened else AdapterError(f"{where}not AMQP 0-9-1: {words}")
    if not opened and error.code == _NOT_ALLOWED:
        return AdapterError(f"{where}virtual host {url.path or '/'!r}: {error.text}")
    if not opened and error.code == REFUSED:
        certificate = connector.clientcert if url.user is None else None
        who = f"user {url.user or 'guest'!r}" if certificate is None else f"the certificate {certificate}"
        return AdapterError(f"{where}login refused for {who}: {error.text}")
    return ConnectionLost(f"{where}closed by the broker: {error.text}")
