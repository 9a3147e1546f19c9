"""What a reply says, as an object for the one who listens: six kinds, and the listener they are told to."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

from gofer import errors
from gofer.errors import DocumentError
from gofer.messaging.document import Reply, Result, shown
from gofer.rmi.exceptions import from_result

__all__ = [
    "Notice",
    "Accepted",
    "Started",
    "Progress",
    "Rejected",
    "Succeeded",
    "Failed",
    "Listener",
    "check_listener",
    "read_notice",
    "tell",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What all kinds of replies have.

    Attributes:
        kind: the name of the listener's method: ``accepted``, ``started``, ``progress``, ``rejected``, ``succeeded``
            or ``failed``.
        done: whether this is the request's end; nothing follows it.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Notice):
    """The agent has the request."""

    kind: ClassVar[str] = "accepted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Notice):
    """The method was started."""

    kind: ClassVar[str] = "started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Notice):
    """The method reports how far it is, in values of its own: ``completed`` of ``total``, and ``details``."""

    kind: ClassVar[str] = "progress"

    total: Any
    completed: Any
    details: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(Notice):
    """The agent refused the request. ``code`` says why for programs, ``description`` and ``details`` for people."""

    kind: ClassVar[str] = "rejected"
    done: ClassVar[bool] = True

    code: str
    description: str
    details: Any

    @property
    def exception(self) -> Exception:
        """What ``throw`` raises: a :class:`gofer.errors.Rejected`."""
        return errors.Rejected(self.sn or "", self.code, self.description, self.details)

    def throw(self) -> None:
        """Raise :class:`gofer.errors.Rejected`."""
        raise self.exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded(Notice):
    """The method returned ``retval``."""

    kind: ClassVar[str] = "succeeded"
    done: ClassVar[bool] = True

    retval: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Notice):
    """The method raised, or the request ended otherwise without a value."""

    kind: ClassVar[str] = "failed"
    done: ClassVar[bool] = True

    result: Result

    @property
    def exception(self) -> Exception:
        """What ``throw`` raises, made anew: as a call that waits would have raised it."""
        return from_result(self.result)

    @property
    def exval(self) -> Exception:
        """The same as ``exception``: its name in gofer 2."""
        return self.exception

    @property
    def xmodule(self) -> str | None:
        """The module of the exception's class."""
        return self.result.xmodule

    @property
    def xclass(self) -> str | None:
        """The name of the exception's class."""
        return self.result.xclass

    @property
    def xstate(self) -> Any:
        """The attributes of the exception, as plain data; ``trace`` among them is its traceback, as text."""
        return self.result.xstate

    @property
    def xargs(self) -> Any:
        """The arguments of the exception, as plain data."""
        return self.result.xargs

    def throw(self) -> None:
        """Raise what the method raised."""
        raise self.exception


class Listener:
    """Hears replies. Override what you want to hear; a listener need not have this base, nor all of the methods."""

    def accepted(self, reply: Accepted) -> None:
        """Hear that the agent has the request."""

    def started(self, reply: Started) -> None:
        """Hear that the method was started."""

    def progress(self, reply: Progress) -> None:
        """Hear how far the method is."""

    def rejected(self, reply: Rejected) -> None:
        """Hear that the agent refused the request. Nothing follows."""

    def succeeded(self, reply: Succeeded) -> None:
        """Hear what the method returned. Nothing follows."""

    def failed(self, reply: Failed) -> None:
        """Hear what the method raised. Nothing follows."""


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


def tell(listener: Any, notice: Notice) -> None:
    """Tell a listener: call it if it is callable, else its method for the reply's kind, if it has one."""
    if callable(listener):
        listener(notice)
        return
    method = getattr(listener, notice.kind, None)
    if method is not None:
        method(notice)


def read_notice(reply: Reply) -> Notice:
    """Make the notice of a reply.

    Raises:
        DocumentError: it has neither a result nor a status that is known.
    """
    common = {"sn": reply.sn, "origin": reply.origin, "timestamp": reply.timestamp, "data": reply.data}
    result = reply.result
    if result is not None:
        if result.exval is not None or result.xclass is not None:
            return Failed(**common, result=result)
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
