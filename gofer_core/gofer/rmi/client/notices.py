"""Replies: each is read here, for waiting calls and for consumers, and becomes a notice of one of six kinds."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import msgspec

from gofer import errors
from gofer.errors import DocumentError
from gofer.messaging.auth import Authenticator, verify
from gofer.messaging.document import Reply, Result, decode_reply, shown, unwrap
from gofer.rmi.exceptions import from_result

__all__ = ["Accepted", "Failed", "Notice", "Progress", "Received", "Rejected", "Resubscribed", "Started", "Succeeded"]
__all__ += ["read_reply"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What all kinds of replies have.

    Attributes:
        kind: the name of the listener's method: ``accepted``, ``started``, ``progress``, ``rejected``, ``succeeded``
            or ``failed``.
        done: whether the request has ended; nothing follows.
        sn: the request's serial number, None if it had none.
        origin: the address of the agent, None from agents of gofer 2.12.
        timestamp: when the agent wrote it: UTC, ISO 8601. None if it does not say.
        data: what the request was sent with (the option ``data``).
    """

    kind: ClassVar[str] = ""
    done: ClassVar[bool] = False

    sn: str | None
    origin: str | None
    timestamp: str | None
    data: Any

    def throw(self) -> None:
        """Raise the exception that the request ended with, if it ended with one."""


class Accepted(Notice, frozen=True):
    """The agent has the request."""

    kind: ClassVar[str] = "accepted"


class Started(Notice, frozen=True):
    """The method was started."""

    kind: ClassVar[str] = "started"


class Progress(Notice, frozen=True, kw_only=True):
    """The method reports its progress, in values of its own: ``completed`` of ``total``, and ``details``."""

    kind: ClassVar[str] = "progress"

    total: Any
    completed: Any
    details: Any


class _Error(Notice, frozen=True):
    """The request ended without a value."""

    done: ClassVar[bool] = True

    def error(self, called: str | None = None) -> Exception:
        """Make a new exception each time. ``called``: the method and the address, for its note."""
        raise NotImplementedError

    @property
    def exception(self) -> Exception:
        """A new exception, the one that ``throw`` and a waiting call raise."""
        return self.error()

    def throw(self) -> None:
        """Raise the exception that the request ended with."""
        raise self.error()


class Rejected(_Error, frozen=True, kw_only=True):
    """The agent refused the request. ``code`` says why for programs, ``description`` and ``details`` for people."""

    kind: ClassVar[str] = "rejected"

    code: str
    description: str
    details: Any

    def error(self, called: str | None = None) -> Exception:
        """Make a :class:`gofer.errors.Rejected`."""
        return errors.Rejected(self.sn or "", self.code, self.description, self.details)


class Succeeded(Notice, frozen=True, kw_only=True):
    """The method returned ``retval``."""

    kind: ClassVar[str] = "succeeded"
    done: ClassVar[bool] = True

    retval: Any


class Failed(_Error, frozen=True, kw_only=True):
    """The method raised, or the request ended otherwise without a value.

    Attributes:
        xmodule, xclass: the class of the exception, by its names.
        xargs, xstate: its arguments and attributes, as plain data; ``trace`` in the state is its traceback, as text.
    """

    kind: ClassVar[str] = "failed"

    result: Result
    xmodule: str | None
    xclass: str | None
    xstate: dict[str, Any] | None
    xargs: list[Any] | None

    def error(self, called: str | None = None) -> Exception:
        """Make the exception that the method raised."""
        return from_result(self.result, called)

    @property
    def exval(self) -> Exception:
        """The same as ``exception``: its name in gofer 2."""
        return self.error()


class Received(NamedTuple):
    """A reply that was read, and not verified yet: its notice, its document, and the body for the verification."""

    notice: Notice
    reply: Reply
    body: bytes

    def verify(self, authenticator: Authenticator) -> None:
        """Verify who signed it.

        Raises:
            DocumentError: it is not signed, or not validly.
        """
        verify(self.body, authenticator)


class Resubscribed(NamedTuple):
    """An event for a waiting call: its reply queue was subscribed to again; replies before that may be lost."""

    number: int


def read_reply(body: bytes) -> Received:
    """Read a reply, signed or not.

    Raises:
        DocumentError: it cannot be read, or has neither a result nor a known status.
    """
    signed = unwrap(body)
    reply = decode_reply(body if signed is None else signed.message.encode("utf-8", "surrogatepass"))
    return Received(_notice(reply), reply, body)


def _notice(reply: Reply) -> Notice:
    common = {"sn": reply.sn, "origin": reply.origin, "timestamp": reply.timestamp, "data": reply.data}
    result = reply.result
    if result is not None:
        if result.exval is not None or result.xclass is not None:
            names = {name: getattr(result, name) for name in ("xmodule", "xclass", "xstate", "xargs")}
            return Failed(**common, result=result, **names)
        return Succeeded(**common, retval=result.retval)
    match reply.status:
        case "accepted":
            return Accepted(**common)
        case "started":
            return Started(**common)
        case "progress":
            return Progress(**common, total=reply.total, completed=reply.completed, details=reply.details)
        case "rejected":
            code, description = reply.code or "unknown", reply.description or "rejected"
            return Rejected(**common, code=code, description=description, details=reply.details)
    raise DocumentError("model.invalid", "MODEL: document not valid", f"status {shown(str(reply.status), 60)}")
