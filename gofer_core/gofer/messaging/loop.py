"""A link in an event loop: the loop reads and writes; what the broker has to answer is asked in a thread beside."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from time import monotonic

from gofer.messaging.link import Link

__all__ = ["Alarm", "LoopDriver"]

#: Turns in a row before others in the loop get theirs.
_TURNS = 32


class Alarm:
    """One waiting task's alarm clock. ``wake`` may be called by any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._sleeper: asyncio.Future[bool] | None = None

    def wake(self) -> None:
        """Have the task look again."""
        if threading.get_ident() == self._thread:
            self._ring(True)
        else:
            try:
                self._loop.call_soon_threadsafe(self._ring, True)
            except RuntimeError:
                pass  # the loop is closed: nobody sleeps there any more

    async def wait(self, ready: Callable[[], object], deadline: float | None) -> bool:
        """Sleep until ``ready()``, at most until the deadline (``time.monotonic()``); return whether it is."""
        while not ready():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            self._sleeper = self._loop.create_future()
            timer = None if left is None else self._loop.call_later(left, self._ring, False)
            try:
                await self._sleeper
            finally:
                self._sleeper = None
                if timer is not None:
                    timer.cancel()
        return True

    def _ring(self, woken: bool) -> None:
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            sleeper.set_result(woken)


class LoopDriver:
    """Drives a link from its event loop. All of it but ``unhook`` runs in the loop's thread."""

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.link = link
        self._loop = loop
        self._waiting: dict[Alarm, None] = {}
        self._watched = -1
        self._writing = False
        self._timer: asyncio.Handle | None = None
        #: When the timer is due, by the loop's clock. Not every loop's handles can be asked.
        self._timer_at = 0.0
        self._stopped = False
        self._calls = 0
        self._going = False
        self._thread = threading.get_ident()
        link.unhook = self.unhook
        link.turns.on_down(self._down)
        loop.add_reader(link.turns.bell.fileno(), self._go_on)

    async def until(self, ready: Callable[[], object], deadline: float | None) -> bool:
        """Wait until something about the link is so; return whether it is. Asked after each of its turns."""
        alarm = Alarm(self._loop)
        self._waiting[alarm] = None
        self._go_on_soon()
        try:
            return await alarm.wait(ready, deadline)
        finally:
            self._waiting.pop(alarm, None)

    def want(self, more: int) -> None:
        """Count the calls in flight: while there are any, a connection that is lost is made again."""
        self._calls += more
        if self._calls and not self.link.is_open:
            self._go_on_soon()

    def stop(self) -> None:
        """Drive no more. The link can then be closed by any thread."""
        if self._stopped:
            return
        self._stopped = True
        self._loop.remove_reader(self.link.turns.bell.fileno())
        self._watch(-1)
        if self._timer is not None:
            self._timer.cancel()

    def unhook(self) -> None:
        """Drive no more, and close the link in a thread beside. Any thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        self._loop.call_soon_threadsafe(self._unhook)

    def _unhook(self) -> None:
        self.stop()
        threading.Thread(target=self.link.close, name="gofer-close", daemon=True).start()

    def _go_on_soon(self) -> None:
        # Once for all who ask: each time wakes all who wait, and thousands may begin to wait at once.
        if not self._going:
            self._going = True
            self._loop.call_soon(self._go_on)

    def _down(self) -> None:
        # Before its descriptor is closed, and perhaps another's: that one would be taken from this loop.
        if threading.get_ident() == self._thread and not self._loop.is_closed():
            self._watch(-1)

    def _go_on(self) -> None:
        """Take the turns that wait for nothing, then arrange for the next."""
        self._going = False
        if self._stopped:
            return
        link, turns = self.link, self.link.turns
        turns.bell.quieten()  # before anything is looked at: what rings from here on is looked at next time
        for _ in range(_TURNS):
            if not (self._wanted or turns.busy) or not link.turn(0.0) or not turns.busy:
                break
        for alarm in list(self._waiting):
            alarm.wake()
        self._watch(turns.fileno())
        self._set_timer()

    @property
    def _wanted(self) -> bool:
        """Whether the connection is wanted: one that is lost is made again for those who wait, and for nobody else."""
        return bool(self._calls or self._waiting or self.link.is_open)

    def _watch(self, descriptor: int) -> None:
        writing = descriptor >= 0 and self.link.turns.writing
        if self._watched >= 0 and self._watched != descriptor:
            for remove in (self._loop.remove_reader, self._loop.remove_writer):
                try:
                    remove(self._watched)
                except OSError:
                    pass  # an errand has closed it already
            self._writing = False
        if descriptor >= 0 and self._watched != descriptor:
            self._loop.add_reader(descriptor, self._go_on)
        self._watched = descriptor
        if writing != self._writing:
            if writing:
                self._loop.add_writer(descriptor, self._go_on)
            else:
                self._loop.remove_writer(descriptor)
            self._writing = writing

    def _set_timer(self) -> None:
        due = self.link.turns.due if self._wanted else math.inf
        if due == math.inf:
            return
        at = self._loop.time() + max(0.0, due - monotonic())
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it comes early enough, and looks again then
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None  # by the clock alone one cannot tell: it may come a moment early
        self._go_on()
