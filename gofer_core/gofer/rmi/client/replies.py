"""What a reply says: six kinds of notices, read in one place for waiting calls and for consumers; and listeners."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, NamedTuple

import msgspec

from gofer import errors
from gofer.errors import DocumentError
from gofer.messaging.auth import Authenticator, verify
from gofer.messaging.document import Reply, Result, decode_reply, shown, unwrap
from gofer.rmi.exceptions import from_result

__all__ = ["Accepted", "Failed", "Listener", "Notice", "Progress", "Received", "Rejected", "Started", "Succeeded"]
__all__ += ["check_listener", "notify", "read_reply"]


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
        """Make the exception, anew each time. ``called``: the method and the address, for its note."""
        raise NotImplementedError

    @property
    def exception(self) -> Exception:
        """What ``throw`` raises, made anew: what a waiting call raises."""
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
        verify(self.body, authenticator, msgspec.to_builtins(self.reply))


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


class Listener:
    """Is told of replies. Override the methods you need; a listener needs neither this base nor all of the methods."""

    def accepted(self, reply: Accepted) -> None:
        """Handle: the agent has the request."""

    def started(self, reply: Started) -> None:
        """Handle: the method was started."""

    def progress(self, reply: Progress) -> None:
        """Handle: the method reports its progress."""

    def rejected(self, reply: Rejected) -> None:
        """Handle: the agent refused the request. Nothing follows."""

    def succeeded(self, reply: Succeeded) -> None:
        """Handle: the method returned. Nothing follows."""

    def failed(self, reply: Failed) -> None:
        """Handle: the method raised. Nothing follows."""


_KINDS = tuple(kind.kind for kind in (Accepted, Started, Progress, Rejected, Succeeded, Failed))


def check_listener(listener: object) -> None:
    """Check that something can be told of replies.

    Raises:
        TypeError: it cannot; the text says what can.
    """
    if isinstance(listener, type):
        raise TypeError(f"a listener is an object: pass {listener.__name__}(), not the class")
    methods = [listener] if callable(listener) else [getattr(listener, kind, None) for kind in _KINDS]
    if not any(map(callable, methods)):
        raise TypeError(
            f"a listener is something callable, or has some of the methods {', '.join(_KINDS)}; "
            f"a {type(listener).__name__} is not and has none"
        )
    for method in methods:
        if inspect.iscoroutinefunction(method):
            raise TypeError(f"a listener is called, not awaited: {method!r} is async")


def notify(listener: Any, notice: Notice) -> None:
    """Call a listener, or its method for the notice's kind, if it has one."""
    method = listener if callable(listener) else getattr(listener, notice.kind, None)
    if method is not None:
        method(notice)
