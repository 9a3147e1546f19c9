"""The lock of a connection's socket and state, which one thread drives at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from operator import call, not_

from gofer.messaging.wire import Wire

__all__ = ["DriverLock"]

#: The parts of the main thread's one step, and the seconds that it may take.
_STEPS, _STUCK = 8, 1.0


class DriverLock:
    """Held by the I/O thread while it is awake; others may acquire it while that one sleeps.

    Python runs signal handlers in the main thread, between any two of its own instructions, and they may raise, or
    call. So the main thread never acquires it as others do. It does all that it needs the lock for in one step: one
    call of ``list.extend`` whose parts are all written in C.
    """

    def __init__(self) -> None:
        #: True while the I/O thread sleeps: another object each time.
        self.asleep: object = False
        self._lock = threading.Lock()
        self._steps: list[object] = []  # what the main thread has done of its one step

    def try_acquire(self) -> bool:
        """Acquire it, in a thread that runs no signal handlers; return whether it was free. ``release`` follows."""
        return self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Release what ``try_acquire`` has acquired."""
        self._lock.release()

    # -- for the I/O thread -------------------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Acquire it, before the first ``sleep``."""
        self._lock.acquire()

    def sleep(self) -> None:
        """Release it until ``wake_up``."""
        self.asleep = object()
        self._lock.release()

    def wake_up(self) -> bool:
        """Acquire it again; return whether an interrupt had struck the main thread, which then held it for ever."""
        interrupted = False
        while not self._lock.acquire(timeout=_STUCK):
            if self.is_interrupted:
                self._steps, self._lock, interrupted = [], threading.Lock(), True
        self.asleep = False
        return interrupted

    # -- for the main thread ------------------------------------------------------------------------------------------

    @property
    def is_interrupted(self) -> bool:
        """Whether the main thread has left its one step half done, or an interrupt runs in the middle of it."""
        return 0 < len(self._steps) < _STEPS

    def write(
        self, asleep: object, wire: Wire, data: bytes, note: Callable[[], None], failed: Callable[[OSError], object]
    ) -> bool | None:
        """Write bytes, in one step.

        Args:
            asleep: what ``asleep`` was when the bytes were made: the I/O thread must not have been awake since.
            note: called first; written in C.
            failed: called when the socket has ended.

        Returns:
            Whether all was written; False: the I/O thread has to go on with it. None: nothing was, and nothing noted.
        """
        lock, done, sent = self._lock, list[object](), list[int]()
        steps: tuple[Callable[[], object], ...] = (
            partial(lock.acquire, False),
            partial(setattr, self, "_steps", done),
            partial(getattr, self, "asleep"),
            partial(not_, wire.buffer),
            note,
            partial(sent.extend, map(wire.sock.send, (data,))),
            partial(sent.__contains__, len(data)),
            lock.release,
        )
        error = None
        try:
            done.extend(takewhile({True, asleep, None}.__contains__, map(call, steps)))
        except OSError as raised:
            error = raised
        if len(done) == _STEPS:
            return True
        if not done:
            return None
        # Rare, and no single step: if an interrupt strikes here, the I/O thread drops the connection.
        noted = len(done) > 4
        if noted and (error is None or isinstance(error, BlockingIOError)):
            wire.buffer += data[sum(sent) :]
        elif noted and error is not None:
            failed(error)
        done.clear()
        lock.release()
        return False if noted else None
