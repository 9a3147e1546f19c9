"""Timers: one thread per agent calls functions later."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Clock", "Timer"]

log = logging.getLogger(__name__)

_LONGEST = 3600.0  # seconds of one sleep; a caller may ask for a time that no lock can wait for
_FEW = 100  # cancelled timers that may stay until their time


class Timer:
    """A call that is due at ``when``, a time of ``time.monotonic()``. ``hear`` is called when it is cancelled."""

    __slots__ = ("_function", "_hear", "when")

    def __init__(self, when: float, function: Callable[[], object], hear: Callable[[], object] = lambda: None) -> None:
        self.when = when
        self._function: Callable[[], object] | None = function
        self._hear = hear

    def cancel(self) -> None:
        """Have the function not called, unless its call has begun. May be repeated; any thread."""
        if self.take() is not None:
            self._hear()

    @property
    def cancelled(self) -> bool:
        """Whether nothing is left to call: cancelled, or called already."""
        return self._function is None

    def take(self) -> Callable[[], object] | None:
        """Return the function, once; None when it was cancelled."""
        function, self._function = self._function, None
        return function


class Clock:
    """Calls functions when their time has come, one after another, in the order of their times.

    Calls of the same time are made in the order in which they were asked for. The functions must be quick: they all
    share one thread. All methods may be called by any thread.
    """

    def __init__(self, name: str = "gofer-clock") -> None:
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._cancelled = 0  # of those in the heap, about: never less than there are
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread. What was asked for before is called now or at its time.

        Raises:
            RuntimeError: started or stopped before.
        """
        with self._changed:
            if self._thread is not None or self._stopped:
                raise RuntimeError("a clock is started once")
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is not due yet is never called. Idempotent.

        Returns when the function being called has returned (at once when it is that function that stops the clock).
        """
        with self._changed:
            self._stopped = True
            self._heap.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def call_after(self, delay: float, function: Callable[[], object]) -> Timer:
        """Call the function in ``delay`` seconds."""
        return self.call_at(time.monotonic() + delay, function)

    def call_at(self, when: float, function: Callable[[], object]) -> Timer:
        """Call the function when ``time.monotonic()`` has reached ``when``. After ``stop`` it is never called."""
        timer = Timer(when, function, self._forget_one)
        with self._changed:
            if self._stopped:
                return timer
            entry = (when, next(self._numbers), timer)
            heapq.heappush(self._heap, entry)
            # Waking the thread costs more than all the rest here: only an earlier end of its sleep is worth that.
            if self._heap[0] is entry:
                self._changed.notify()
        return timer

    def _forget_one(self) -> None:
        """Hear that a timer was cancelled; when most of them were, they go, however far away their times are."""
        with self._changed:
            self._cancelled += 1
            if self._cancelled > max(_FEW, len(self._heap) // 2):
                self._heap = [entry for entry in self._heap if not entry[2].cancelled]
                heapq.heapify(self._heap)
                self._cancelled = 0

    def _run(self) -> None:
        while (function := self._next()) is not None:
            try:
                function()
            except Exception:
                log.exception("a timer's function failed")

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next function that is due; None when stopped."""
        with self._changed:
            while not self._stopped:
                # All cancelled ones at the head go together, so a thousand of them cost one wake-up at most.
                while self._heap and self._heap[0][2].cancelled:
                    heapq.heappop(self._heap)
                    self._cancelled = max(0, self._cancelled - 1)
                if not self._heap:
                    self._changed.wait()
                    continue
                left = self._heap[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(min(left, _LONGEST))
                    continue
                function = heapq.heappop(self._heap)[2].take()
                if function is not None:
                    return function
        return None
