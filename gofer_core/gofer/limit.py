"""A limit on how often something is done."""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["Limit", "LimitedLog"]


class Limit:
    """Lets through ``burst`` at once, and ``rate`` a second in the long run. Any thread."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._left = float(burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def allows(self) -> bool:
        """Tell whether it may be done once more now, and count it if so."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < 1:
                return False
            self._left -= 1
            return True


class LimitedLog:
    """Writes lines that whoever sends messages can cause: ``burst`` at once, ``rate`` a second in the long run.

    How many were left out is said in the next line that is written. Any thread.
    """

    def __init__(self, log: logging.Logger, *, rate: float = 1.0, burst: int = 20) -> None:
        self._log = log
        self._limit = Limit(rate, burst)
        self._left_out = 0

    def __call__(self, level: int, text: str, *values: object, error: BaseException | None = None) -> None:
        """Write a line, if there were not too many, with the traceback of ``error``."""
        if not self._log.isEnabledFor(level):
            return
        if not self._limit.allows():
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        if left_out:
            text, values = f"{text} (%d more such lines were left out before this one)", (*values, left_out)
        self._log.log(level, text, *values, exc_info=error, stacklevel=2)
