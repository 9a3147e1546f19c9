"""Who does the waiting: one of several threads drives a connection for all of them.

Threads that wait for something on one connection do not each read it: the first becomes the pumper and takes turns
(wait, read, hand out); the others sleep until what they wait for is there, or until it is their turn to pump.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

__all__ = ["Pump", "Waiter"]

#: A sleeper looks around this often, in seconds. Every hand-over wakes the next one, so this is only a net below the
#: trapeze: an interrupt that strikes inside a ``finally`` cannot leave the others without a pumper for longer.
_LOOK_AROUND = 0.5


class Waiter:
    """One waiting thread's own alarm clock. ``wake`` may be called by any thread, any number of times."""

    __slots__ = ("_alarm",)

    def __init__(self) -> None:
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def wake(self) -> None:
        """End the sleep, or the next one if its thread does not sleep at the moment."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it rings already

    def sleep(self, timeout: float) -> None:
        """Sleep until woken, at most ``timeout`` seconds."""
        self._alarm.acquire(timeout=timeout)


class Pump:
    """Chooses the thread that takes the turns.

    Args:
        turn: does one turn of at most so many seconds: waits for input, reads it, hands it out.
        interrupt: makes a turn that waits return soon. Called by any thread.
        occupied: whether the thread that takes the turns is at a place where it cannot take one in between, as a
            handler; elsewhere a signal handler in that thread can.
    """

    def __init__(
        self,
        turn: Callable[[float], None],
        interrupt: Callable[[], None],
        occupied: Callable[[], bool] = lambda: True,
    ) -> None:
        self._turn = turn
        self._interrupt = interrupt
        self._occupied = occupied
        self._guard = threading.RLock()  # a signal handler may come to it in the thread that has it
        self._pumper: Waiter | None = None
        self._thread: int | None = None
        self._sleepers: dict[Waiter, None] = {}  # in the order they came

    @property
    def busy(self) -> bool:
        """Whether some thread pumps."""
        return self._pumper is not None

    @property
    def mine(self) -> bool:
        """Whether the calling thread is the pumper (it is then inside a handler, of the link's or of a signal)."""
        return self._thread == threading.get_ident()

    def drive(self, ready: Callable[[], object], deadline: float | None, waiter: Waiter | None = None) -> bool:
        """Wait until ``ready()`` is true or the deadline (``time.monotonic()``) has passed; pump if nobody else does.

        Args:
            ready: quick, without side effects; asked by this thread only.
            waiter: whom a handler wakes when ``ready`` may have become true. Without one nobody can, and the thread
                looks by itself twice a second, and at each turn while it pumps.

        Returns:
            Whether it is ready.

        Raises:
            RuntimeError: called from a handler: the thread that reads cannot wait for what it would read.
        """
        if ready():
            return True
        if self.mine:
            if self._occupied():
                raise RuntimeError("cannot wait for a message in the thread that reads them (a hook or a callback)")
            try:
                self._pump(ready, deadline)
            finally:
                self._interrupt()  # the wait that was interrupted may be for what was heard here: it looks again
            return bool(ready())
        waiter = waiter or Waiter()
        try:
            while not ready():
                timeout = _LOOK_AROUND if deadline is None else deadline - monotonic()
                if timeout <= 0:
                    return False
                if self._take(waiter):
                    self._pump(ready, deadline)
                else:
                    waiter.sleep(min(timeout, _LOOK_AROUND))
            return True
        finally:
            try:
                self._leave(waiter)
            finally:
                self._leave(waiter)  # an interrupt on its way in left everybody without a pumper for ever

    def alone(self, work: Callable[[], None], timeout: float) -> bool:
        """Do something as the pumper, when nobody else is.

        Returns:
            False when somebody else still was after so many seconds; the work is not done.
        """
        waiter, deadline = Waiter(), monotonic() + timeout
        try:
            while not self._take(waiter):
                left = deadline - monotonic()
                if left <= 0:
                    return False
                waiter.sleep(min(left, _LOOK_AROUND))
            work()
            return True
        finally:
            try:
                self._leave(waiter)
            finally:
                self._leave(waiter)

    def wake_all(self) -> None:
        """Have every waiting thread look at its ``ready`` again."""
        with self._guard:
            sleepers = list(self._sleepers)
        for waiter in sleepers:
            waiter.wake()
        self._interrupt()

    def abandon(self) -> None:
        """Forget the other threads, in a forked child: the guard may be held by one of them for ever."""
        self._guard = threading.RLock()
        self._sleepers.clear()

    def _pump(self, ready: Callable[[], object], deadline: float | None) -> None:
        while not ready():
            timeout = 3600.0 if deadline is None else deadline - monotonic()
            if timeout <= 0:
                return
            self._turn(timeout)

    def _take(self, waiter: Waiter) -> bool:
        with self._guard:
            if self._pumper is not None and self._pumper is not waiter:
                self._sleepers[waiter] = None
                return False
            self._pumper, self._thread = waiter, threading.get_ident()
            self._sleepers.pop(waiter, None)
            return True

    def _leave(self, waiter: Waiter) -> None:
        # The order matters when an interrupt strikes in here: first the post is given up, then the next one is woken.
        with self._guard:
            if self._pumper is waiter:
                self._pumper = self._thread = None
            self._sleepers.pop(waiter, None)
            if self._pumper is None and self._sleepers:
                next(iter(self._sleepers)).wake()
