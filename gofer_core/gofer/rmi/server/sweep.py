"""One thread that looks, again and again, for what is due: statuses, time limits, takeovers, retries."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Sweep"]

log = logging.getLogger(__name__)

_INTERVAL = 0.025  # seconds between two looks, while requests come
_LINGER = 1.0  # seconds after the last request in which it goes on so: waking a thread costs more than a look


class Sweep:
    """Calls ``look`` often while there is something to see, and at the time that it names. Any thread.

    Args:
        look: is given the time (``time.monotonic()``), and returns when it has to be called again.
    """

    def __init__(self, look: Callable[[float], float]) -> None:
        self._look = look
        self._wakeup = threading.Event()
        self._asleep = False
        self._last = 0.0
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def nudge(self, now: float) -> None:
        """Have it look soon: something has come."""
        self._last = now
        if self._asleep:
            self._wakeup.set()
        elif self._thread is None:
            self._start()

    def stop(self) -> None:
        """End the thread. May be repeated."""
        self._stopped = True
        self._wakeup.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="gofer-sweep", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            now = time.monotonic()
            due = self._see(now)
            if now - self._last < _LINGER:
                self._wakeup.wait(_INTERVAL)
            else:
                # First this, then one more look: what comes before that is seen, what comes after wakes it.
                self._asleep = True
                due = min(due, self._see(time.monotonic()))
                self._wakeup.wait(max(0.0, min(due - time.monotonic(), 3600.0)))
                self._asleep = False
            self._wakeup.clear()

    def _see(self, now: float) -> float:
        try:
            return self._look(now)
        except Exception:
            log.exception("looking for what is due failed")
            return now + _LINGER
