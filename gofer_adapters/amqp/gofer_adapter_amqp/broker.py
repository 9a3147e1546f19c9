"""What brokers say and what they do differently: refusals, logins, and the dialect of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from amqp import sasl
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector

__all__ = ["DIFFERS", "NOT_FOUND", "Closed", "Dialect", "ProtocolError", "expiration", "login_error", "logins", "place"]

# The protocol's reply codes. 0 is ours: the broker closed the socket without a word.
_NO_WORD, _ACCESS_REFUSED, NOT_FOUND, DIFFERS, _NOT_ALLOWED = 0, 403, 404, 406, 530
# RabbitMQ takes no longer time than this (49 days), and refuses a message or a queue that asks for one.
_LONGEST = 4_294_967_295


class Closed(Exception):
    """The broker closed the connection or a channel, with a code and in its own words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def error(self) -> MessagingError:
        """Return the error of the operation that it answers."""
        return NotFound(self.text) if self.code == NOT_FOUND else AdapterError(self.text)


class ProtocolError(Exception):
    """The peer sent bytes that are not AMQP 0-9-1, or not at this point."""


class Dialect(NamedTuple):
    """The ways of one broker. The defaults are those of the protocol's text: no argument that it does not name."""

    #: A queue's type can be declared; without that it is the virtual host's default.
    has_queue_types: bool = False
    #: A quorum queue drops what was delivered too often, unless it is declared without a limit.
    has_delivery_limit: bool = False
    #: ``if_unused`` and ``if_empty`` close the whole connection where the queue is not a classic one.
    checks_classic_only: bool = False

    @classmethod
    def of(cls, properties: Mapping[str, object]) -> Dialect:
        """Choose by the server properties of the broker."""
        if properties.get("product") != "RabbitMQ":
            return cls()
        major = str(properties.get("version")).partition(".")[0]
        return cls(True, major.isdecimal() and int(major) >= 4, True)

    def queue_arguments(self, queue: DeclareQueue) -> dict[str, object]:
        """Return the arguments of a queue's declaration."""
        arguments: dict[str, object] = {}
        if self.has_queue_types or queue.kind != "classic":
            arguments["x-queue-type"] = queue.kind
        if self.has_delivery_limit and queue.kind == "quorum":
            # A message that is released or whose agent was killed counts, too: 25 kills in a row must not lose it.
            arguments["x-delivery-limit"] = -1
        if queue.expires is not None:
            arguments["x-expires"] = max(1, round(min(queue.expires * 1000, _LONGEST)))
        return arguments


def expiration(ttl: float | None) -> int | None:
    """Return a message's time to live in milliseconds. One that is too long is none: the message is kept."""
    return max(1, round(ttl * 1000)) if ttl is not None and ttl * 1000 <= _LONGEST else None


def logins(connector: Connector) -> list[sasl.SASL]:
    """Return the ways to log in, the preferred one first."""
    user, password = connector.url.user, connector.url.password
    if user is None and password is None:
        user = password = "guest"
        if connector.clientcert is not None:
            return [sasl.EXTERNAL(), sasl.PLAIN(user, password), sasl.AMQPLAIN(user, password)]
    return [sasl.PLAIN(user or "", password or ""), sasl.AMQPLAIN(user or "", password or "")]


def place(connector: Connector) -> str:
    """Write host and port."""
    url = connector.url
    return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"


def login_error(connector: Connector, closed: Closed) -> MessagingError:
    """Say why the broker closed the connection during the login."""
    url = connector.url
    if closed.code in (_ACCESS_REFUSED, _NO_WORD):
        certificate = connector.clientcert if url.user is None else None
        who = f"user {url.user or 'guest'!r}" if certificate is None else f"the certificate {certificate}"
        return AdapterError(f"{place(connector)}: login refused for {who}: {closed.text}")
    if closed.code == _NOT_ALLOWED:
        return AdapterError(f"{place(connector)}: virtual host {url.path or '/'!r}: {closed.text}")
    return ConnectionLost(f"{place(connector)}: {closed.text}")
