"""The conversation about one request, as a pure state machine: replies go in, a value or an error comes out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gofer.errors import CallError, Rejected, RequestTimeout
from gofer.messaging.document import Reply, shown
from gofer.rmi.exceptions import from_result
from gofer.rmi.options import Report

__all__ = ["Conversation"]

#: Reasons for not believing replies that are kept for the error.
_MOST_REASONS = 3
_ORDER = {"not sent": 0, "sent": 1, "accepted": 2, "started": 3, "progress": 4}


class Conversation:
    """What is known about one request. No input or output, no threads.

    ``state`` is one of: not sent, sent (to the broker), accepted, started, progress. ``old`` is true when the agent has
    shown itself as one of gofer 2.12, which names no ``origin`` in its statuses and runs again what it is sent again.
    """

    def __init__(self, sn: str) -> None:
        self.sn = sn
        #: What was called, and at which address: for errors. None until ``about`` has told.
        self._method: str | None = None
        self._address: str | None = None
        self.state = "not sent"
        self.report: Report | None = None
        self.done = False
        self.old = False
        self._disbelieved: dict[str, int] = {}  # why replies were not believed, and how many of these
        self._value: Any = None
        self._error: Callable[[], Exception] | None = None

    @property
    def accepted(self) -> bool:
        """Whether the agent is known to have accepted the request."""
        return _ORDER[self.state] >= _ORDER["accepted"]

    def about(self, method: str, address: str) -> None:
        """Set what errors name: the method (``Dog.bark``) and the agent's address."""
        self._method, self._address = method, address

    def reached(self, state: str) -> None:
        """Note that the request got so far; it never goes back."""
        if _ORDER[state] > _ORDER[self.state]:
            self.state = state

    def disbelieve(self, why: str) -> bool:
        """Note that a reply came which nobody can vouch for; tell whether it was the first of this call."""
        first = not self._disbelieved
        if why in self._disbelieved or len(self._disbelieved) < _MOST_REASONS:
            self._disbelieved[why] = self._disbelieved.get(why, 0) + 1
        return first

    def feed(self, reply: Reply) -> Report | None:
        """Take in a reply, in any order and any number of times; return the report if it is one of progress."""
        if self.done:
            return None
        self.old = self.old or (reply.status is not None and not reply.origin)
        if reply.result is not None:
            self.done = True
            if reply.result.exval is not None or reply.result.xclass is not None:
                called = None if self._address is None else f"{self._method}() at {self._address!r}"
                self._error = partial(from_result, reply.result, called)
            else:
                self._value = reply.result.retval
        elif reply.status == "rejected":
            self.done = True
            code, description = reply.code or "unknown", reply.description or "rejected"
            self._error = partial(Rejected, self.sn, code, description, reply.details)
        elif reply.status == "progress":
            self.reached("progress")
            self.report = {
                "sn": self.sn,
                "data": reply.data,
                "any": reply.data,
                "total": reply.total,
                "completed": reply.completed,
                "details": reply.details,
            }
            return self.report
        elif reply.status in ("accepted", "started"):
            self.reached(reply.status)
        return None

    def outcome(self) -> Any:
        """Return the value, or raise what the request ended with. Only when ``done``."""
        if self._error is not None:
            # Made now: one that is kept here would keep the frames that it was raised in.
            raise self._named(self._error())
        return self._value

    def _named(self, error: Exception) -> Exception:
        # An error that names a call already tells of one that the method itself has made.
        if isinstance(error, CallError) and error.address is None:
            error.method, error.address = self._method, self._address
        return error

    def timeout(self, wait: float | None, ttl: float | None, link: str) -> RequestTimeout:
        """Make the error for a caller that waits no longer; it says how far the request got.

        Args:
            link: the connection's state in words.
        """
        until = "" if ttl is None else f" until its ttl of {ttl:g} s is over"
        if self.state == "not sent":
            detail = f"it was not sent: {link}"
        elif self.state == "sent":
            cut = "" if link == "open" else f" (connection: {link})"
            word = "no word from the agent" if not self._disbelieved else "no word that can be believed"
            detail = f"it was sent, and there was {word}{cut}; it may still run{until}"
        elif self.state == "progress" and self.report is not None:
            done = f"{shown(self.report['completed'], 40)} of {shown(self.report['total'], 40)}"
            details = shown(self.report["details"])
            detail = f"it was started; last progress: {done}, details {details}; it may still end"
        else:
            detail = f"it was {self.state} by the agent; it may still run"
        if self._disbelieved:
            reasons = "; ".join(f"{count} for {shown(why)}" for why, count in self._disbelieved.items())
            detail += f". Replies came, and were not believed: {reasons}"
        error = RequestTimeout(self.sn, wait, self.state, detail, self.report)
        error.method, error.address = self._method, self._address
        return error
