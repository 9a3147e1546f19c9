"""Measuring how long something takes, with the names of gofer 2::

with Timer() as timer:
    work()
log.info("took %s", timer)


@Timer()
def work(): ...  # how long each call took is logged
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Self, TypeVar, cast

__all__ = ["Timer", "timestamp"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Timer:
    """Measures the time from ``start`` to ``stop``. A context manager, which does both. For one thread at a time.

    A decorator, too: each call is measured by a Timer of its own, so any threads may call the function. The time is
    logged at DEBUG, by the logger of the function's module. A call of ``async def`` takes until it has returned.

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

    def __call__(self, function: _F) -> _F:
        """Return a function that does what this one does, and logs how long that took."""

        @wraps(function)
        def call(*args: Any, **kws: Any) -> Any:
            with _logged(function):
                return function(*args, **kws)

        @wraps(function)
        async def call_async(*args: Any, **kws: Any) -> Any:
            with _logged(function):
                return await function(*args, **kws)

        return cast("_F", call_async if inspect.iscoroutinefunction(function) else call)

    def __str__(self) -> str:
        seconds = self.duration()
        if not self.started:
            return "not started"
        if seconds < 1:
            return f"{seconds * 1000:.3f} (ms)"
        return f"{seconds:.3f} (seconds)" if seconds < 60 else f"{seconds / 60:.3f} (minutes)"


@contextmanager
def _logged(function: Callable[..., Any]) -> Iterator[None]:
    timer = Timer()
    try:
        with timer:
            yield
    finally:
        logging.getLogger(function.__module__).debug("%s() took %s", function.__qualname__, timer)


def timestamp() -> str:
    """Return the time now, in UTC: ISO 8601, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
