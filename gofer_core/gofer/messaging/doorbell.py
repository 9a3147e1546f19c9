"""Waiting on a connection in a way that another thread can end."""

from __future__ import annotations

import math
import os
import select

__all__ = ["Doorbell"]


class Doorbell:
    """A descriptor beside the connection's: ``ring`` ends a ``wait``. One thread waits, any thread rings."""

    def __init__(self) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll, self._alone = select.poll(), select.poll()
        for poll in (self._poll, self._alone):
            poll.register(self._bell, select.POLLIN)
        self._watched = -1
        self._mask = 0

    def fileno(self) -> int:
        """Return the bell's own descriptor, readable when it rings: for an event loop; -1 when closed."""
        return self._bell

    def watch(self, descriptor: int) -> None:
        """Wait on a connection's descriptor too, in place of an earlier one's."""
        self.forget()
        self._poll.register(descriptor, select.POLLIN)
        self._watched, self._mask = descriptor, select.POLLIN

    def forget(self) -> None:
        """Wait on the bell alone. The descriptor watched before may be closed already."""
        if self._watched >= 0:
            try:
                self._poll.unregister(self._watched)
            except KeyError:
                pass  # two threads forget at once
            self._watched = -1

    def wait(self, seconds: float, *, writing: bool = False) -> None:
        """Wait until the connection can be read (with ``writing``: or written), the bell rings, or the time is over."""
        mask = select.POLLIN | (select.POLLOUT if writing else 0)
        watched = self._watched
        try:
            if watched >= 0 and mask != self._mask:
                self._poll.modify(watched, mask)
                self._mask = mask
        except (OSError, ValueError):
            return  # closed by another thread meanwhile; whoever asks next sees that
        self._wait(self._poll, seconds, watched, mask)

    def wait_alone(self, seconds: float) -> None:
        """Wait until the bell rings, or the time is over; the connection is not looked at."""
        if seconds > 0:
            self._wait(self._alone, seconds)

    def _wait(self, poll: select.poll, seconds: float, watched: int = -1, mask: int = 0) -> None:
        milliseconds = math.ceil(max(0.0, seconds) * 1000)
        try:
            try:
                ready = poll.poll(milliseconds)
            except RuntimeError:  # this is a signal handler that waits while its own thread does
                other = select.poll()
                other.register(self._bell, select.POLLIN)
                if watched >= 0:
                    other.register(watched, mask)
                ready = other.poll(milliseconds)
        except (OSError, ValueError):
            return  # as above
        if any(descriptor == self._bell for descriptor, _ in ready):
            self.quieten()

    def ring(self) -> None:
        """End the wait, or the next one."""
        try:
            os.eventfd_write(self._bell, 1)
        except (OSError, ValueError):
            pass  # closed: there is nobody left to wake

    def quieten(self) -> None:
        """Take back what was rung: its reason is about to be looked at."""
        try:
            os.eventfd_read(self._bell)
        except (OSError, ValueError):
            pass  # it had not rung, or is closed

    def close(self) -> None:
        """Give back the descriptor. Idempotent."""
        bell, self._bell = self._bell, -1
        if bell >= 0:
            os.close(bell)
