"""Progress reports of a running method."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from gofer.messaging.value import plain
from gofer.rmi.clock import Clock, Timer

__all__ = ["INTERVAL", "Progress"]

#: The least time between two reports, in seconds.
INTERVAL = 0.1

_MOMENT = 0.02  # seconds in which a method may set the other attributes, too: one report tells them together


class Progress:
    """How far a method is: ``total``, ``completed`` and ``details``, any plain JSON values. Any thread.

    Setting ``completed`` or ``details`` reports a moment later, so that values set together are one report, and at
    most ten times a second. The last is always sent, 0.1 s later or before the result. Setting ``total`` does not
    report.

    Raises:
        TypeError: what is set is not plain JSON.
    """

    __slots__ = ("_clock", "_completed", "_details", "_last", "_lock", "_send", "_timer", "_total")

    def __init__(self, clock: Clock, send: Callable[[], None] | None) -> None:
        """Start with nothing done.

        Args:
            send: sends what the progress says when it is called; never waits. None: nobody listens.
        """
        self._clock = clock
        self._send = send
        self._lock = threading.Lock()
        self._last = 0.0
        self._timer: Timer | None = None
        self._total: Any = 0
        self._completed: Any = 0
        self._details: Any = {}

    @property
    def total(self) -> Any:
        """How much there is to do."""
        return self._total

    @total.setter
    def total(self, value: Any) -> None:
        self._total = plain(value, "progress.total")

    @property
    def completed(self) -> Any:
        """How much is done."""
        return self._completed

    @completed.setter
    def completed(self, value: Any) -> None:
        self._completed = plain(value, "progress.completed")
        self._changed()

    @property
    def details(self) -> Any:
        """Whatever else there is to say."""
        return self._details

    @details.setter
    def details(self, value: Any) -> None:
        self._details = plain(value, "progress.details")
        self._changed()

    def report(self) -> None:
        """Report now, however short after the last time.

        Raises:
            TypeError: ``details`` were changed in place to what is not plain JSON.
        """
        self._details = plain(self._details, "progress.details")
        self._flush(held=False)

    def relay(self, total: Any, completed: Any, details: Any) -> None:
        """Report what the progress in another process has reported, now.

        Raises:
            TypeError: something is not plain JSON.
        """
        self._total = plain(total, "progress.total")
        self._completed = plain(completed, "progress.completed")
        self._details = details
        self.report()

    def finish(self) -> None:
        """Send what was held back; nothing is reported after that."""
        self._flush(last=True)

    def _changed(self) -> None:
        if self._send is None:
            return
        with self._lock:
            if self._send is not None and self._timer is None:
                when = max(self._last + INTERVAL, time.monotonic() + _MOMENT)
                self._timer = self._clock.call_at(when, self._flush)

    def _flush(self, *, held: bool = True, last: bool = False) -> None:
        """Send what the progress is now. ``held``: only if something was held back; ``last``: nothing after that."""
        with self._lock:
            send = self._send
            if last:
                self._send = None
            if send is None or (held and self._timer is None):
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            self._last = time.monotonic()
        send()
