"""Statuses: accepted, started and progress, in this order, and never after the result."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gofer.messaging.adapter import Outcome
from gofer.rmi.request import ANSWERING, RUNNING, Received
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.replies import CannotSign

__all__ = ["MOST_HELD", "Statuses"]

log = logging.getLogger(__name__)

#: The longest that accepted and started are held back, in seconds.
MOST_HELD = 0.1

_ACCEPTED, _STARTED = 1, 2  # what was told of a request
_STATUS, _PROGRESS = 1, 2  # what is to be told


class Statuses:
    """Tells callers how far their requests are. Any thread; never waits.

    A caller that says how long it waits hears accepted and started only after min(0.1, wait / 4) seconds, so that a
    fast call is two messages. Statuses are sent once, if they can be.

    The connection may not be called under a lock, and two threads must not overtake each other. So a thread that comes
    while another one tells of the same request leaves its work to that one.
    """

    def __init__(self, registry: Registry) -> None:
        self._lock = registry.lock

    @staticmethod
    def held(request: Received) -> float | None:
        """Return for how many seconds accepted and started are held back; None: they are told at once."""
        wait = request.document.wait
        return min(MOST_HELD, wait / 4) if wait else None

    def tell(self, request: Received, *, progress: bool = False) -> None:
        """Tell what was not told yet: accepted, started if it has; and its progress as it is now."""
        wanted = _PROGRESS if progress else _STATUS
        with self._lock:
            if request.state >= ANSWERING or request.replyto is None:
                return
            if request.telling:
                request.again |= wanted
                return
            request.telling = True
        while True:
            try:
                self._tell(request, progress=wanted == _PROGRESS)
            except Exception:
                log.exception("%r: cannot tell its status", request)
            with self._lock:
                if request.again:
                    wanted = _PROGRESS if request.again & _PROGRESS else _STATUS
                    request.again = 0
                    continue
                request.telling = False
                final, request.final = request.final, None
            if final is not None:
                final()
            return

    def after(self, request: Received, send: Callable[[], object]) -> None:
        """Send the result of a request, which is ANSWERING: at once, or by the thread that tells of it, after that."""
        if request.telling:
            with self._lock:
                if request.telling:
                    request.final = send
                    return
        send()

    def _tell(self, request: Received, *, progress: bool) -> None:
        if request.told < _ACCEPTED:
            request.told = _ACCEPTED
            self._send(request, "accepted")
        if request.told < _STARTED and request.started is not None and request.state >= RUNNING:
            request.told = _STARTED
            self._send(request, "started")
        if progress:
            now = request.progress
            self._send(request, "progress", total=now.total, completed=now.completed, details=now.details)

    @staticmethod
    def _send(request: Received, status: str, **more: object) -> None:
        channel = request.channel  # another one, after a redelivery
        try:
            body = channel.encoder.status(request, status, **more)
        except CannotSign as failed:
            channel.counters.add("statuses_lost")
            text = "plugin %s: cannot sign, so nothing is sent: %s"
            channel.complain(logging.ERROR, text, channel.service.name, failed)
            return

        def settled(outcome: Outcome, reason: str) -> None:
            if outcome is not Outcome.CONFIRMED:
                channel.counters.add("statuses_lost")

        if not channel.link.publish_nowait(request.replyto, body, durable=request.durable, settled=settled):
            channel.counters.add("statuses_lost")
