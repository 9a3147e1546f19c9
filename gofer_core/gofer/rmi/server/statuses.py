"""Statuses: accepted, started and progress, in this order, and never after the result."""

from __future__ import annotations

import logging
import threading
from typing import Any

from gofer.messaging.adapter import Outcome
from gofer.rmi.request import ANSWERING, RUNNING, Received
from gofer.rmi.server.reply_encoder import CannotSign

__all__ = ["MOST_HELD", "Statuses"]

log = logging.getLogger(__name__)

#: The longest that accepted and started are held back, in seconds.
MOST_HELD = 0.1

_ACCEPTED, _STARTED = 1, 2  # what was told of a request


class Statuses:
    """Tells callers how far their requests are. Any thread.

    A caller that says how long it waits hears accepted and started only after min(0.1, wait / 4) seconds, so that a
    fast call is two messages. Statuses are sent once, if they can be. One thread at a time sends statuses, so none
    overtakes another.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a publish in the thread that reads may call back

    @staticmethod
    def held(request: Received) -> float | None:
        """Return for how many seconds accepted and started are held back; None: they are told at once."""
        wait = request.document.wait
        return min(MOST_HELD, wait / 4) if wait else None

    def tell(self, request: Received, *, progress: bool = False) -> None:
        """Tell what was not told yet: accepted, started if it has; and its progress as it is now."""
        if request.replyto is None:
            return
        with self._lock:
            request.telling = True  # before its state is read: see ``wait``
            if request.state >= ANSWERING:
                return
            try:
                self._tell(request, progress=progress)
            except Exception:
                log.exception("%r: its status cannot be sent", request)

    def wait(self, request: Received) -> None:
        """Wait until nothing is told any more of a request that is ANSWERING: its result comes after its statuses."""
        if request.telling:
            with self._lock:
                pass

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
    def _send(request: Received, status: str, **more: Any) -> None:
        channel, replyto = request.channel, request.replyto  # another channel, after a redelivery
        if replyto is None:
            return  # nobody waits
        sent = 0
        try:
            body = channel.encoder.status(request, status, **more)
        except CannotSign as failed:
            text = "plugin %s: cannot sign, so nothing is sent: %s"
            channel.complain(logging.ERROR, text, channel.service.name, failed)
        else:

            def settled(outcome: Outcome, reason: str) -> None:
                if outcome is not Outcome.CONFIRMED:
                    channel.counters.add("statuses_lost")

            sent = channel.link.publish_nowait(replyto, body, durable=request.durable, settled=settled)
        if not sent:
            channel.counters.add("statuses_lost")
