"""A limit on how often something is done."""

from __future__ import annotations

import threading
import time

__all__ = ["Limit"]


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
