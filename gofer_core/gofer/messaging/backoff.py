"""When to try again: exponential backoff with full jitter."""

from __future__ import annotations

from random import SystemRandom
from time import monotonic

__all__ = ["Backoff"]

#: The first wait is at most this many seconds; it doubles from there.
_FIRST = 0.25


class Backoff:
    """The times of one thing's tries. ``due`` is when the next one may be made (``time.monotonic()``).

    Waits are drawn evenly between nothing and the ceiling: those who lost a broker together must not come back
    together.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self.failures = 0
        self.due = 0.0

    def failed(self) -> float:
        """Note a failure, and return the seconds until the next try."""
        # Not the generator of the module: a program that seeds that would have its fleet come back together.
        delay = SystemRandom().uniform(0, min(self._most, _FIRST * 2.0 ** min(self.failures, 20)))
        self.failures += 1
        self.due = monotonic() + delay
        return delay

    def hurry(self) -> None:
        """Allow a try now; the waits after it go on growing."""
        self.due = 0.0

    def reset(self) -> None:
        """Start anew, after a success."""
        self.failures = 0
        self.due = 0.0
