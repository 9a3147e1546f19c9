"""What goes wrong, in the adapter's own words: from py-amqp's and the broker's errors to gofer's."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import amqp
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound

if TYPE_CHECKING:
    from gofer.messaging.connector import Connector
    from gofer.messaging.url import URL

    from gofer_adapter_amqp.connection import Connection

__all__ = ["DIFFERS", "NOT_FOUND", "ClosedByBroker", "ProtocolError", "login_error", "place", "reason", "refusal"]

# The protocol's reply codes.
_ACCESS_REFUSED, NOT_FOUND, DIFFERS, _NOT_ALLOWED = 403, 404, 406, 530


class ClosedByBroker(Exception):
    """The broker closed the connection or a channel, with a code and in its own words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


class ProtocolError(Exception):
    """The peer sent what is not AMQP 0-9-1."""


def place(url: URL) -> str:
    """Write host and port."""
    return f"[{url.host}]:{url.port}" if ":" in url.host else f"{url.host}:{url.port}"


def login_error(  # noqa: PLR0911 - a table of cases
    error: Exception, connection: Connection, connector: Connector, timeout: float
) -> MessagingError:
    """Say why no connection came about."""
    url = connector.url
    where = place(url)
    if url.user is None and connector.clientcert is not None:
        refused = f"{where}: login refused for the certificate {connector.clientcert}"
    else:
        refused = f"{where}: login refused for user {url.user or 'guest'!r}"
    match error:
        case ClosedByBroker(code=code, text=text) if code == _ACCESS_REFUSED:
            return AdapterError(f"{refused}: {text}")
        case ClosedByBroker(code=code, text=text) if code == _NOT_ALLOWED:
            return AdapterError(f"{where}: virtual host {url.path or '/'!r}: {text}")
        case ClosedByBroker(text=text):
            return ConnectionLost(f"{where}: {text}")
        case TimeoutError():
            return ConnectionLost(f"{where}: no answer within {timeout:g} s")
        case ssl.SSLError():
            return AdapterError(f"{where}: TLS: {error.reason or error}")
        case OSError():
            said = (connection.server_properties or {}).get("capabilities") or {}
            # Brokers that cannot say so close the socket on a bad login, a moment later than on anything else.
            if connection.mechanisms and not connection.tuned and not said.get("authentication_failure_close"):
                return AdapterError(f"{refused}: the broker closed the connection")
            return ConnectionLost(f"{where}: {reason(error)}")
        case amqp.AMQPError():
            return AdapterError(f"{where}: {error}")
        case _:
            return AdapterError(f"{where} does not speak AMQP 0-9-1: {reason(error)}")


def refusal(error: ClosedByBroker) -> MessagingError:
    """Translate the closing of a channel that an operation caused."""
    return NotFound(error.text) if error.code == NOT_FOUND else AdapterError(error.text)


def reason(error: BaseException) -> str:
    """Say in a few words what ended a connection."""
    if isinstance(error, ClosedByBroker):
        return f"closed by the broker: {error.text}"
    if isinstance(error, ProtocolError):
        return f"protocol error: {error}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}"
