"""Timers: one thread per agent calls functions later."""

from __future__ import annotations

import logging
import sched
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

__all__ = ["Clock", "Timer"]

log = logging.getLogger(__name__)

_LONGEST = 3600.0  # seconds of one sleep; a caller may ask for a time that no lock can wait for


@dataclass(frozen=True, slots=True)
class Timer:
    """A call that a clock is to make."""

    scheduler: sched.scheduler
    event: sched.Event

    def cancel(self) -> None:
        """Have the function not called, unless its call has begun. May be repeated; any thread."""
        with suppress(ValueError):  # it was called, or cancelled
            self.scheduler.cancel(self.event)


class Clock:
    """Calls functions when their time has come, one after another, in the order of their times.

    Calls of the same time are made in the order in which they were asked for. The functions must be quick: they all
    share one thread. All methods may be called by any thread.
    """

    def __init__(self, name: str = "gofer-clock") -> None:
        # It would sleep for an instant after each call, which hands the interpreter to who computes: 5 ms a call.
        self._scheduler = sched.scheduler(time.monotonic, lambda seconds: None)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._wakeup = threading.Event()
        self._sleeps_until = inf
        self._stopped = False

    def start(self) -> None:
        """Start the thread. What was asked for before is called now or at its time.

        Raises:
            RuntimeError: started or stopped before.
        """
        if self._stopped:
            raise RuntimeError("a clock is started once")
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is not due yet is never called. Idempotent.

        Returns when the function being called has returned (at once when it is that function that stops the clock).
        """
        self._stopped = True
        self._wakeup.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def call_after(self, delay: float, function: Callable[[], object]) -> Timer:
        """Call the function in ``delay`` seconds."""
        return self.call_at(time.monotonic() + delay, function)

    def call_at(self, when: float, function: Callable[[], object]) -> Timer:
        """Call the function when ``time.monotonic()`` has reached ``when``. After ``stop`` it is never called."""
        event = self._scheduler.enterabs(when, 0, partial(self._call, function))
        # Waking the thread costs more than all the rest here: only an earlier end of its sleep is worth that.
        if when < self._sleeps_until:
            self._wakeup.set()
        return Timer(self._scheduler, event)

    def _call(self, function: Callable[[], object]) -> None:
        if self._stopped:
            return
        try:
            function()
        except Exception:
            log.exception("a timer's function failed")

    def _run(self) -> None:
        while not self._stopped:
            self._wakeup.clear()
            self._sleeps_until = inf  # whoever comes from here on, and is not seen, wakes it
            left = self._scheduler.run(blocking=False)
            left = _LONGEST if left is None else min(left, _LONGEST)
            self._sleeps_until = time.monotonic() + left
            if not self._stopped:  # asked after ``clear``: a later stop wakes it
                self._wakeup.wait(left)
