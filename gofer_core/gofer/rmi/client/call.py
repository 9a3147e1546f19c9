"""One call that waits for its result, without I/O: events go in, what to do next comes out.

A session sends the request, and hands each event to :meth:`Call.take`, until that returns END::

    SEND --> WAIT <--> REPORT
      ^       |
      +-------+--> END: Call.outcome()

Callers with threads and callers with coroutines use the same class.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic, time
from typing import Any, TypeVar

from gofer.errors import AdapterError, CallError, DocumentError, NotFound, RequestTimeout
from gofer.messaging.adapter import Outcome
from gofer.messaging.auth import fault_of
from gofer.messaging.document import EXPIRED, seconds_of, shown
from gofer.rmi.client.notices import Failed, Notice, Progress, Received, Rejected, Resubscribed, Succeeded
from gofer.rmi.client.options import Options, Report

__all__ = ["Call", "Next", "no_agent"]

log = logging.getLogger(__name__)

_E = TypeVar("_E", bound=Exception)

#: Seconds between two tries to reach an agent's queue that a restarted broker does not know yet.
_RETRY = 0.2
#: The same where the broker has refused a request that may be running: a person must change something.
_RETRY_REFUSED = 1.0
#: How many different reasons for disbelieving replies are kept for the error.
_MOST_REASONS = 3
_ORDER = {"not sent": 0, "sent": 1, "accepted": 2, "started": 3, "progress": 4}


class Next(enum.Enum):
    """What a session does next for a call."""

    SEND = "send the request, then wait for an event"
    WAIT = "wait for an event"
    REPORT = "call the progress callback with the report, then wait for an event"
    END = "return or raise the outcome"


class Call:
    """A request, and what its caller knows of it.

    ``state`` is one of: not sent, sent (to the broker), accepted, started, progress. ``old`` is true when the agent has
    shown itself as one of gofer 2.12: it names no ``origin`` in its statuses, and runs again what it is sent again.

    Args:
        document: the request; each repetition is marked ``again`` in it.
        wake: called by other threads when there is an event in the inbox.
    """

    def __init__(self, document: dict[str, Any], options: Options, wake: Callable[[], None]) -> None:
        now = monotonic()
        self.document = document
        self.sn: str = document["sn"]
        self.options = options
        self.wake = wake
        #: Events: a Received, an outcome with the broker's reason, or a Resubscribed.
        self.inbox: deque[Any] = deque()
        self.deadline = None if options.wait is None else now + options.wait
        self._expires = None if options.ttl is None else now + options.ttl
        self.state = "not sent"
        self.report: Report | None = None
        self.old = False
        #: Whether the request is to be sent where it can harm no other.
        self.isolated = False
        #: When it is to be sent again if nothing happens before.
        self.resend_at: float | None = None
        #: By how many seconds the agent's clock is known to be ahead of ours.
        self.ahead = 0.0
        #: The session's notes: the message's token at the connection, in which subscription it was sent, and the token
        #: that the connection has forgotten, as its reply has come.
        self.token = self.sent_in = self.forgotten = 0
        #: Whether it was sent by an earlier process, over a connection, or for a reply queue, that is gone: the agent
        #: may have it.
        self.sent_before = "again" in document
        self._refusal = ""  # why the broker has not taken it again, or our reply queue
        self._disbelieved: dict[str, int] = {}  # why replies were not believed, and how many of these
        #: Told of each believed reply.
        self.on_reply: Callable[[Notice], object] | None = None
        #: Called when the broker has answered for the request.
        self.on_taken: Callable[[], object] | None = None
        #: The notice that it ended with.
        self.end: Notice | None = None

    # -- for handlers, in the driver's thread -------------------------------------------------------------------------

    def put(self, event: Any) -> None:
        """Put an event into the inbox."""
        self.inbox.append(event)
        self.wake()

    def answered_by(self, received: Received) -> int:
        """Return the token of the message that this reply ends; 0: it does not, or is still to be verified."""
        if not received.notice.done or self.options.authenticator is not None:
            return 0
        self.forgotten = self.token
        return self.token

    def settled(self, outcome: Outcome, reason: str) -> None:
        """Take the broker's word on the request; a confirm is no event: the result says more."""
        if self.on_taken is not None:
            self.on_taken()
        if outcome is not Outcome.CONFIRMED:
            self.put((outcome, reason))

    # -- for the session ----------------------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """Until when to wait for the next event."""
        if self.resend_at is None or self.deadline is None:
            return self.resend_at or self.deadline
        return min(self.resend_at, self.deadline)

    @property
    def late(self) -> bool:
        """Whether the caller waits no longer."""
        return self.deadline is not None and monotonic() >= self.deadline

    @property
    def ttl(self) -> float | None:
        """The request's time to live from now on, in seconds."""
        ends = self._limit
        return None if ends is None else max(0.001, ends - monotonic())

    def sent(self) -> None:
        """Note that the request was sent."""
        self.isolated = False
        if self.state == "not sent":
            self.state = "sent"

    def take(self, event: Any) -> Next:
        """Take an event; None: nothing has happened by ``due``.

        Raises:
            NotFound: there is no agent at the address.
            AdapterError: the broker refused the request, which the agent cannot have.
        """
        if event is None:
            return self._send_again()
        if isinstance(event, Received):
            return self._take_reply(event)
        if self.old or (isinstance(event, Resubscribed) and event.number == self.sent_in):
            # An agent of 2.12 has the request, and would run it once more; what it sends waits in our queue.
            return Next.WAIT
        if not isinstance(event, Resubscribed):
            outcome, reason = event
            if outcome is Outcome.REFUSED:
                if self.sent_before or self.state != "sent":
                    return self.refused(reason)
                raise AdapterError(f"{self.called}: the broker refused the request: {reason}")
            if outcome is Outcome.RETURNED:
                if "again" not in self.document:
                    raise NotFound(f"{self.called}: {no_agent(reason)}")
                # The broker was restarted and forgot the queue: its agent needs a moment to declare it again.
                return self.retry()
            self.isolated = True  # it may have been the fault of this request: then the broker refuses it alone
        return self._send_again()

    def retry(self, pause: float = _RETRY) -> Next:
        """Have the request sent again in a moment."""
        self.resend_at = monotonic() + pause
        return Next.WAIT

    def refused(self, reason: str) -> Next:
        """Wait on although the broker has refused to go on: the request was sent before, and may be running."""
        self._refusal = reason
        return self.retry(_RETRY_REFUSED)

    def feed(self, notice: Notice) -> Next:
        """Take a believed notice; they may come in any order and any number of times. The first end counts."""
        if self.end is not None:
            return Next.END
        self._refusal = ""
        if self.on_reply is not None:
            self.on_reply(notice)
        if notice.done:
            self.end = notice
            return Next.END
        self.old = self.old or not notice.origin
        if _ORDER[notice.kind] > _ORDER[self.state]:
            self.state = notice.kind
        if not isinstance(notice, Progress):
            return Next.WAIT
        self.report = {
            "sn": self.sn,
            "data": notice.data,
            "any": notice.data,
            "total": notice.total,
            "completed": notice.completed,
            "details": notice.details,
        }
        return Next.REPORT if self.options.progress is not None else Next.WAIT

    def outcome(self) -> Any:
        """Return the value, or raise what the request ended with. Only when there is an ``end``."""
        if isinstance(self.end, Succeeded):
            return self.end.retval
        assert isinstance(self.end, Failed | Rejected)  # noqa: S101 - a notice that is done is one of the three
        raise self._named(self.end.error(self.called))  # made now: a kept one would keep the frames it was raised in

    def timeout(self, connection: str) -> RequestTimeout:
        """Make the error for a caller that waits no longer; it says how far the request got.

        Args:
            connection: the connection's state in words.
        """
        ttl = self.options.ttl or self.options.wait
        until = "" if ttl is None else f" until its ttl of {ttl:g} s is over"
        if self.state == "not sent":
            detail = f"it was not sent: {connection}"
        elif self.state == "sent":
            cut = "" if connection == "open" else f" (connection: {connection})"
            word = "no word from the agent" if not self._disbelieved else "no reply that can be verified"
            detail = f"it was sent, and there was {word}{cut}; it may still run{until}"
        elif self.state == "progress" and self.report is not None:
            done = f"{shown(self.report['completed'], 40)} of {shown(self.report['total'], 40)}"
            details = shown(self.report["details"])
            detail = f"it was started; last progress: {done}, details {details}; it may still end"
        else:
            detail = f"it was {self.state} by the agent; it may still run"
        if self._refusal:
            detail += f". Since then, the broker has refused: {self._refusal}"
        if self._disbelieved:
            reasons = "; ".join(f"{count} for {shown(why)}" for why, count in self._disbelieved.items())
            detail += f". Replies arrived that could not be verified: {reasons}"
        return self._named(RequestTimeout(self.sn, self.options.wait, self.state, detail, self.report))

    @property
    def called(self) -> str:
        """What was called, for errors: ``Dog.bark() at 'web-42'``."""
        asked = self.document["request"]
        return f"{asked['classname']}.{asked['method']}() at {self.document['routing'][1]!r}"

    # -- private ------------------------------------------------------------------------------------------------------

    def _named(self, error: _E) -> _E:
        """Name the call in an error, unless it does so already: it tells of a call that the method itself has made."""
        if isinstance(error, CallError) and error.address is None:
            asked = self.document["request"]
            error.method, error.address = f"{asked['classname']}.{asked['method']}", self.document["routing"][1]
        return error

    @property
    def _limit(self) -> float | None:
        """When the request ends if the agent has not accepted it; an accepted one is never dropped for its ttl."""
        accepted = _ORDER[self.state] >= _ORDER["accepted"]
        return self.deadline if accepted or self._expires is None else self._expires

    def _in_time(self) -> bool:
        limit = self._limit
        return not self.late and (limit is None or monotonic() < limit)

    def _send_again(self) -> Next:
        # An agent that knows the request answers as it did, or will; none is run again because it was sent again.
        self.resend_at = None
        self.document["again"] = True
        return Next.SEND if self._in_time() else Next.WAIT

    def _take_reply(self, received: Received) -> Next:
        if self.options.authenticator is not None:
            try:
                received.verify(self.options.authenticator)
            except DocumentError as bad:
                self._disbelieve(bad)
                return Next.WAIT
        self.resend_at = None
        notice = received.notice
        if isinstance(notice, Rejected) and notice.code == EXPIRED and self._learns_the_time(notice):
            return Next.SEND  # it was not run: once more, by the agent's clock
        return self.feed(notice)

    def _disbelieve(self, bad: DocumentError) -> None:
        """Note a reply that is not from our agent, as far as anybody can tell: it does not end the call."""
        if not self._disbelieved:
            log.warning("a reply to %s cannot be verified: %s", self.sn, bad, exc_info=fault_of(bad))
        why = str(bad.details or bad)
        if why in self._disbelieved or len(self._disbelieved) < _MOST_REASONS:
            self._disbelieved[why] = self._disbelieved.get(why, 0) + 1

    def _learns_the_time(self, notice: Notice) -> bool:
        """Note, once, what a rejection for being late says of the agent's clock; return whether to send again."""
        there = seconds_of(notice.timestamp)
        if there is None or self.ahead or not self._in_time():
            return False
        self.ahead = there + 0.5 - time()  # the timestamp is in whole seconds
        log.info("the agent's clock is %.0f s ahead of ours; %s is sent again", self.ahead, self.sn)
        return True


def no_agent(reason: str) -> str:
    """Say why the broker returned a request; ``reason`` is the broker's own word."""
    why = "" if reason in ("", "NO_ROUTE") or "no queue" in reason else f" ({reason})"
    return (
        f"no agent at this address: the broker has no such queue{why}. "
        "Is goferd running there? Check [model] queue in the plugin's descriptor"
    )
