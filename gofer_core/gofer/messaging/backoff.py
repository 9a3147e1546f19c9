"""When to try again: exponential backoff with full jitter."""

from __future__ import annotations

from random import SystemRandom

__all__ = ["OF_MANY", "Backoff"]

#: The first pause is at most this many seconds.
_FIRST = 0.25
#: ``first`` and ``growth`` of a client that is one of many. With smaller values a restarted broker gets more than 15 %
#: of a fleet in one second.
OF_MANY = (5.0, 4.0)


class Backoff:
    """When to try again. ``due`` is the time of the next try, on the clock of ``now``.

    Pauses are drawn evenly between nothing and the limit: clients that lost a broker together must not come back
    together.

    Args:
        most: the highest limit, in seconds.
        first: the first limit, in seconds.
        growth: by how much each failure multiplies the limit.
    """

    __slots__ = ("_first", "_growth", "_most", "due", "failures")

    def __init__(self, most: float, first: float = _FIRST, growth: float = 2.0) -> None:
        self._most = most
        self._first = first
        self._growth = growth
        self.failures = 0
        self.due = 0.0

    def failed(self, now: float) -> None:
        """Note a failure, and set ``due``."""
        # Not the generator of the module: a program that seeds it would have its fleet come back together.
        limit = min(self._most, self._first * self._growth ** min(self.failures, 20))
        self.failures += 1
        self.due = now + SystemRandom().uniform(0, limit)

    def hurry(self) -> None:
        """Allow a try now; the pauses after it go on growing."""
        self.due = 0.0

    def reset(self) -> None:
        """Start with short pauses again, after a success."""
        self.failures = 0
        self.due = 0.0
