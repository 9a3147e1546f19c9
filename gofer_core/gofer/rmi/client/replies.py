"""Replies: each is read here, for waiting calls and for consumers, and is handed to the call that waits for it.

A reply becomes a notice of one of six kinds.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import msgspec

from gofer import errors
from gofer.errors import DocumentError, MessagingError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue, DeleteQueue, Delivery
from gofer.messaging.auth import Authenticator, verify
from gofer.messaging.document import Reply, Result, decode_reply, shown, unwrap
from gofer.messaging.subscription import Steps, Subscription
from gofer.rmi.exceptions import from_result

if TYPE_CHECKING:
    from gofer.messaging.connection import Connection

__all__ = ["Accepted", "Failed", "Notice", "Progress", "Received", "Rejected", "ReplyQueue", "Resubscribed", "Started"]
__all__ += ["Succeeded", "read_reply"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_QUEUE_EXPIRES = 600.0
#: Replies that the broker may deliver before they are acknowledged.
_PREFETCH = 1000
#: Seconds within which they are acknowledged, many at once. One that is delivered again before ends no other call.
_ACK_WITHIN = 0.05


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


class Resubscribed(NamedTuple):
    """An event: the reply queue's subscription was made again; replies before that may be lost."""

    number: int


class WaitingCall(Protocol):
    """What the reply queue knows of a call: the subscription in which it was sent (0: not yet), and its inbox."""

    sent_in: int

    def put(self, event: Received | Resubscribed, /) -> None: ...

    def answered_by(self, received: Received, /) -> int: ...


class ReplyQueue:
    """A queue with a name of its own, declared and subscribed to again after each reconnect.

    Its methods run in the thread that reads the broker.

    Attributes:
        address: where agents reply to.
        calls: the calls that wait, by serial number. Any thread adds and removes its own.

    Args:
        exchange: what the queue is bound to; None: the default exchange.
        queue: its name; None: a new one.
    """

    def __init__(self, connection: Connection, exchange: str | None, queue: str | None = None) -> None:
        self._connection = connection
        self._queue = queue or str(uuid.uuid4())
        self._exchange = exchange
        self.address = f"{exchange}/{self._queue}" if exchange else self._queue
        self.calls: dict[str, WaitingCall] = {}
        self._declaration = DeclareQueue(self._queue, expires=_QUEUE_EXPIRES)
        self._complain = LimitedLog(log)
        self.subscription = Subscription(
            self._queue,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            on_made=self._on_made,
            dispose=self._dispose,
            keep_open=False,
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        self._connection.accept(delivery, _ACK_WITHIN)
        try:
            received = read_reply(delivery.body)
            call = self.calls.get(received.notice.sn or "")
            if call is not None:  # else it comes too late: its caller has gone
                # Here, and not by the caller's thread, which would have to queue a command for it.
                self._connection.forget(call.answered_by(received))
                call.put(received)
        except DocumentError as bad:
            text = "a reply that cannot be read was dropped: %s: %s"
            self._complain(logging.WARNING, text, bad, shown(repr(delivery.body[:200])))

    def _on_made(self) -> None:
        made = self.subscription.made
        for call in list(self.calls.values()):
            if call.sent_in and call.sent_in != made:
                call.put(Resubscribed(made))

    def _prepare(self) -> Steps:
        answer = yield self._declaration
        if answer == NO_EXPIRY and self._declaration.expires is not None:
            # Nobody deletes it for a caller that was killed. So where it cannot expire, it goes with the connection: a
            # caller repeats its request after a reconnect, and an agent repeats a reply that had no queue.
            try:
                yield DeleteQueue(self._queue)
            except MessagingError:
                self._declaration = DeclareQueue(self._queue)  # nor can the broker delete it: it is used as it is
            else:
                self._declaration = DeclareQueue(self._queue, auto_delete=True)
                yield self._declaration
        if self._exchange:
            yield Bind(self._queue, self._exchange, self._queue)

    def _dispose(self) -> Steps:
        yield DeleteQueue(self._queue)

    def leave(self) -> None:
        """Delete the queue, now that no call uses it any more, and the connection goes on."""
        self._connection.unsubscribe_nowait(self.subscription, dispose=True)
