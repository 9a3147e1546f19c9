"""Signals as values: the main thread waits for them, and nothing of ours ever runs inside a handler."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from time import monotonic
from types import FrameType, TracebackType

__all__ = ["Signals"]

_WOKEN = 0  # no signal has this number


class Signals:
    """The signals that this process wants to hear of, from entering ``with`` to its end. For the main thread alone.

    One that arrives while nobody waits is kept for the next ``wait``. They are not blocked, so that what plugins start
    does not inherit a mask under which it could not be ended.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        """Remember which signals are wanted."""
        self._wanted = tuple(wanted)

    def __enter__(self) -> Signals:
        """Begin to keep the signals."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._wanted:
            signal.signal(number, _ignore)
        os.register_at_fork(after_in_child=self._leave_them)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ignore the signals from now on: what ends now has been told to, or has failed."""
        for number in self._wanted:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._former)
        os.close(self._read)
        write, self._write = self._write, -1
        os.close(write)

    def _leave_them(self) -> None:
        # A process that a plugin has forked has our pipe: what ends that process would be told to this one.
        if self._write < 0:
            return
        signal.set_wakeup_fd(-1)
        for number in self._wanted:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)
        self._write = -1

    def wake(self) -> None:
        """Have ``wait`` return None soon. Any thread may call this; after the end it does nothing."""
        try:
            os.write(self._write, bytes([_WOKEN]))
        except OSError:
            pass  # full: it wakes anyhow; closed: nobody waits any more

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """Wait for the next signal, at most ``timeout`` seconds; None: no limit.

        Returns:
            The signal, or None when the time is over or ``wake`` was called.
        """
        deadline = None if timeout is None else monotonic() + timeout
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, deadline - monotonic()) * 1000
            if not poller.poll(left):
                return None
            try:
                number = os.read(self._read, 1)[0]
            except BlockingIOError:
                continue
            if number == _WOKEN:
                return None
            if number in self._wanted:
                return signal.Signals(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Stand as a handler, so that the default action does not; the wake-up descriptor tells of the signal."""
