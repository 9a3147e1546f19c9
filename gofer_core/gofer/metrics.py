"""Measuring how long something takes, with the names of gofer 2::

with Timer() as timer:
    work()
log.info("took %s", timer)
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Self

__all__ = ["Timer", "timestamp"]


class Timer:
    """Measures the time from ``start`` to ``stop``. A context manager, which does both. For one thread at a time.

    ``started`` and ``stopped`` are seconds since 1970; 0 where that has not happened.
    """

    def __init__(self) -> None:
        self.started = 0.0
        self.stopped = 0.0
        self._began = self._ended = 0.0  # by a clock that nobody sets

    def start(self) -> Self:
        """Begin, once more if that is so."""
        self.started, self.stopped = time.time(), 0.0
        self._began = time.monotonic()
        return self

    def stop(self) -> Self:
        """End."""
        if self.started:
            self.stopped = time.time()
            self._ended = time.monotonic()
        return self

    def duration(self) -> float:
        """Return the seconds between start and stop; while it runs, since start; 0 before that."""
        if not self.started:
            return 0.0
        return (self._ended if self.stopped else time.monotonic()) - self._began

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __str__(self) -> str:
        seconds = self.duration()
        if not self.started:
            return "not started"
        if seconds < 1:
            return f"{seconds * 1000:.3f} (ms)"
        return f"{seconds:.3f} (seconds)" if seconds < 60 else f"{seconds / 60:.3f} (minutes)"


def timestamp() -> str:
    """Return the time now, in UTC: ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
