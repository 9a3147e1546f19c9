"""What ends a connection, in words: the same for all adapters."""

from __future__ import annotations

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.url import place

__all__ = ["BrokerClosed", "LoginRefused", "NoVirtualHost", "ProtocolError", "ending", "who_answers", "words"]

#: How the protocols begin that may answer at a broker's address.
_GREETINGS = {
    b"HTTP/": "an HTTP server",
    b"AMQP\x00\x00\x09": "a broker that speaks AMQP 0-9-1",
    b"AMQP\x01\x01\x00\x0a": "a broker that speaks AMQP 0-10",
    b"AMQP\x00\x01\x00\x00": "a broker that speaks AMQP 1.0 without a login",
    b"AMQP\x02\x01\x00\x00": "a broker that speaks AMQP 1.0 and wants TLS inside it",
    b"AMQP\x03\x01\x00\x00": "a broker that speaks AMQP 1.0",
    b"\x15\x03": "a server that wants TLS",
    b"SSH-": "an SSH server",
}


class LoginRefused(Exception):
    """The broker refuses the login, in its words."""


class NoVirtualHost(Exception):
    """The broker has no such virtual host, or not for this user."""


class BrokerClosed(Exception):
    """The broker ended the connection, in its words."""


class ProtocolError(Exception):
    """The peer sent bytes that the protocol does not have, or not at this point."""


def ending(connector: Connector, protocol: str, opened: bool, error: Exception) -> MessagingError:
    """Return the error that tells a user why a connection ended.

    Args:
        protocol: its name, as users know it.
        opened: the login was done: from then on it may work again later.
        error: one of this module, a ConnectionLost (cut, or silent), or what a decoder raised.
    """
    url = connector.url
    where = "" if opened else ",".join(place(host, port) for host, port in url.hosts) + ": "
    match error:
        case LoginRefused():
            certificate = connector.clientcert if url.user is None else None
            who = f"user {url.user or 'guest'!r}" if certificate is None else f"the certificate {certificate}"
            # RabbitMQ 3 refuses a virtual host over AMQP 1.0 only when it is first used, and does not name it.
            vhost = f" at virtual host {url.path!r}" if opened and url.path is not None else ""
            return AdapterError(f"{where}login refused for {who}{vhost}: {error}")
        case NoVirtualHost():
            return AdapterError(f"{where}virtual host {url.path or '/'!r}: {error}")
        case BrokerClosed():
            return ConnectionLost(f"{where}closed by the broker: {error}")
        case ConnectionLost():
            return ConnectionLost(f"{where}{error}")
    words = str(error) if isinstance(error, ProtocolError) else f"{type(error).__name__}: {error}"
    return ConnectionLost(f"protocol error: {words}") if opened else AdapterError(f"{where}not {protocol}: {words}")


def words(error: Exception) -> str:
    """Return the system's words for an error, without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def who_answers(data: bytes) -> str:
    """Say in words who answers, by the first bytes from a peer that does not speak an adapter's protocol."""
    for greeting, who in _GREETINGS.items():
        if data.startswith(greeting):
            return f"{who} answers there"
    text = data[:40].decode("ascii", "replace")
    shown = repr(text) if text.isprintable() else data[:16].hex(" ")
    return f"something else answers there, which begins with {shown}"
