"""The statuses of one request, in order, and never after its result."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from gofer.messaging.adapter import Outcome
from gofer.rmi.answers import CannotSign
from gofer.rmi.clock import Clock, Timer

if TYPE_CHECKING:
    from gofer.rmi.request import Received

__all__ = ["MOST_HELD", "Statuses"]

log = logging.getLogger(__name__)

#: The longest that accepted and started are held back, in seconds.
MOST_HELD = 0.1

_NOTHING, _ACCEPTED, _STARTED = 0, 1, 2


class Statuses:
    """Tells the caller of one request how far it is. Any thread; never waits.

    A caller that says how long it waits hears accepted and started only after min(0.1, wait / 4) seconds, so that a
    fast call is two messages. Statuses are sent once, if they can be; the result follows them.

    The link may not be called under a lock, and two threads must not overtake each other: so whoever comes while
    another sends leaves its work to that one.
    """

    __slots__ = (
        "_busy",
        "_closed",
        "_due",
        "_held",
        "_jobs",
        "_lock",
        "_reached",
        "_request",
        "_told",
    )

    def __init__(self, request: Received) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] | None = None
        self._busy = False
        self._closed = False
        self._held: Timer | None = None
        self._reached = _NOTHING
        self._told = _NOTHING
        self._due = False  # what is held back may be told

    @property
    def held(self) -> bool:
        """Whether accepted and started are held back, for a caller that says how long it waits."""
        return bool(self._request.document.wait)

    def accepted(self, clock: Clock) -> None:
        """Tell that the request was accepted, now or, when that is held back, when the caller has waited long enough.

        What is held back may be told of after the request has started, or ended.
        """
        self._reached = max(self._reached, _ACCEPTED)
        if not self.held:
            self._post(self._tell)
        elif not self._closed:
            delay = min(MOST_HELD, (self._request.document.wait or 0.0) / 4)
            self._held = clock.call_after(delay, self._release)
            if self._closed:
                self._held.cancel()

    def started(self) -> None:
        """Tell that the request has started, unless that is held back."""
        self._reached = _STARTED
        if not self.held or self._due:
            self._post(self._tell)

    def progress(self) -> None:
        """Tell the progress as it is now, after whatever was held back."""
        self._post(self._tell_progress)

    def end(self, send: Callable[[], None]) -> None:
        """Send nothing more, and call ``send``, after what is being sent."""
        if self._held is not None:
            self._held.cancel()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._busy:
                self._queue(send)
                return
        send()

    def _release(self) -> None:
        self._due = True  # first: a thread that starts the request now looks at it after saying so
        self._post(self._tell)

    def _queue(self, job: Callable[[], None]) -> None:
        if self._jobs is None:
            self._jobs = deque()
        self._jobs.append(job)

    def _post(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._closed:
                return
            if self._busy:
                self._queue(job)
                return
            self._busy = True
        while True:
            try:
                job()
            except Exception:
                log.exception("%r: cannot tell its status", self._request)
            with self._lock:
                if not self._jobs:
                    self._busy = False
                    return
                job = self._jobs.popleft()

    def _tell(self) -> None:
        if self._told < _ACCEPTED <= self._reached:
            self._told = _ACCEPTED
            self._send("accepted")
        if self._told < _STARTED <= self._reached:
            self._told = _STARTED
            self._send("started")

    def _tell_progress(self) -> None:
        self._tell()
        self._send("progress")

    def _send(self, status: str) -> None:
        request = self._request
        receiver = request.receiver  # another one, after a redelivery
        if request.replyto is None:
            return
        try:
            body = (
                receiver.answers.progress(request) if status == "progress" else receiver.answers.status(request, status)
            )
        except CannotSign as failed:
            receiver.counters.add("statuses_lost")
            text = "plugin %s: cannot sign, so nothing is sent: %s"
            receiver.complain(logging.ERROR, text, receiver.service.name, failed)
            return
        if not receiver.link.publish_nowait(request.replyto, body, durable=request.durable, settled=self._settled):
            receiver.counters.add("statuses_lost")

    def _settled(self, outcome: Outcome, reason: str) -> None:
        if outcome is not Outcome.CONFIRMED:
            self._request.receiver.counters.add("statuses_lost")
