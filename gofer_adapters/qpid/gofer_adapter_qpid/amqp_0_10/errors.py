"""What goes wrong between two peers of AMQP 0-10."""

from __future__ import annotations

__all__ = ["AmqpError", "ConnectionClosed", "LoginRefused", "PeerSilent", "ProtocolError", "SessionClosed"]


class AmqpError(Exception):
    """The base of all errors of this package."""


class ProtocolError(AmqpError):
    """The peer sent bytes that are not AMQP 0-10, or not at this point. The connection cannot go on."""


class LoginRefused(AmqpError):
    """The peer offers no mechanism that we have, or closed the connection on our login."""


class PeerSilent(AmqpError):
    """The peer sent nothing for two heartbeats."""


class ConnectionClosed(AmqpError):
    """The peer closed the connection (connection.close): ``code`` is one of CLOSE_CODES, ``text`` the peer's words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class SessionClosed(AmqpError):
    """The peer ended a session (execution.exception, session.detached).

    ``code`` is one of ERROR_CODES; 0: the session could not be attached, or was detached without an exception.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text
