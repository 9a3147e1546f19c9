"""A connection that an event loop drives: for callers with ``async`` and ``await``.

Everything runs in the loop's thread, except the opening of a socket where that blocks: it has a thread of its own. All
output of one turn of the loop is one write: it is written after the tasks that the turn has woken.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
from collections.abc import AsyncIterator, Callable
from math import inf
from time import monotonic
from typing import Any

from gofer.errors import ConnectionLost
from gofer.messaging.connection import Connection, Flow
from gofer.messaging.connector import Connector
from gofer.messaging.driver import OPEN, SILENCE, Opened
from gofer.messaging.operations import State
from gofer.messaging.transport import Connecting, start_connecting

__all__ = ["AsyncioConnection", "AsyncioWaiter"]

#: Seconds that ``aclose`` waits for the broker.
_CLOSE = 5.0


class AsyncioWaiter:
    """The alarm clock of one waiting task. Any thread may call ``wake``."""

    __slots__ = ("_loop", "_sleeper", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._sleeper: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End the sleep of the task."""
        if threading.get_ident() != self._thread:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no task sleeps there
                self._loop.call_soon_threadsafe(self.wake)
        elif self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def sleep(self) -> asyncio.Future[None]:
        """Sleep until woken, when it is awaited."""
        self._sleeper = self._loop.create_future()
        return self._sleeper


class AsyncioConnection(Connection):
    """See :class:`Connection`. Used in its loop's thread; any thread may call ``users_changed`` and ``close``."""

    loop: asyncio.AbstractEventLoop

    def __init__(
        self, connector: Connector, may_close: Callable[[Connection], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(connector, ack_delay=0.0, may_close=may_close)
        self.loop = loop
        self._thread = threading.get_ident()
        self._scheduled = self._writing = False
        self._polled = -1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._sleeping: dict[AsyncioWaiter, float] = {}  # those that sleep to a deadline: one timer wakes them all
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = inf
        self._reading = False
        self._finisher: threading.Thread | None = None
        self._connecting: Connecting | None = None
        self._give_up: asyncio.TimerHandle | None = None
        self._fresh: list[Opened] = []  # what a thread has opened, for the loop to take
        self._end = self._at_end_of_loop()
        with contextlib.suppress(StopIteration):
            self._end.__anext__().__await__().send(None)  # started: only then the loop knows of it

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def wait(
        self, ready: Callable[[], object], deadline: float | None, waiter: AsyncioWaiter | None = None
    ) -> bool:
        """Wait until ``ready()`` is true or the deadline has passed; return whether it is.

        Args:
            waiter: a callback wakes it when ``ready`` may have become true. None: check after each turn.

        Raises:
            ConnectionLost: the connection was closed.
        """
        if ready():
            return True
        own = waiter or AsyncioWaiter(self.loop)
        try:
            self._waiters[own] = None
            if waiter is None:
                self._watchers[own] = None
            while not ready():
                if self.closed:
                    self.check_usable()
                if deadline is not None:
                    if monotonic() >= deadline:
                        return False
                    self._wake_at(own, deadline)
                await own.sleep()
            return True
        finally:
            self._sleeping.pop(own, None)
            self._waiters.pop(own, None)
            self._watchers.pop(own, None)

    def _wake_at(self, waiter: AsyncioWaiter, deadline: float) -> None:
        self._sleeping[waiter] = deadline
        if deadline < self._alarm_at:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm_at = deadline
            self._alarm = self.loop.call_later(max(0.0, deadline - monotonic()), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm, self._alarm_at, now = None, inf, monotonic()
        for waiter, deadline in list(self._sleeping.items()):
            if deadline > now:
                self._wake_at(waiter, deadline)
            else:
                waiter.wake()

    async def _run_flow(self, flow: Flow, deadline: float | None) -> None:
        with contextlib.closing(flow), contextlib.suppress(StopIteration):
            ready = next(flow)
            while True:
                ready = flow.send(await self.wait(ready, deadline))

    # -- the end ------------------------------------------------------------------------------------------------------

    def start_closing(self) -> bool:
        """Start to close for good; the loop does the rest, if it still runs."""
        if not self.closed:
            self.closed = True
            self._discard_fresh()
            if self.loop.is_closed():
                self.core.close()
                self.abandon()
            else:
                self._submit(0, self.core.close)
        return False

    def abandon(self) -> None:
        """Drop the connection in a forked child, or after its loop: the loop is not told, its poll is the parent's."""
        super().abandon()
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.close()

    def wait_closed(self, deadline: float) -> None:
        """Do nothing: only a task can wait for it, by ``aclose``."""

    async def aclose(self) -> None:
        """Close for good. Wait some seconds for the broker's answer, and then close the socket without it."""
        self.start_closing()
        deadline, watcher = monotonic() + _CLOSE, AsyncioWaiter(self.loop)
        self._watchers[watcher] = None
        while self._wire is not None and monotonic() < deadline:
            self._wake_at(watcher, deadline)
            await watcher.sleep()
        self._sleeping.pop(watcher, None)
        self._watchers.pop(watcher, None)
        self._stop_connecting()
        self._close_wire()

    async def _at_end_of_loop(self) -> AsyncIterator[None]:
        """Close when the loop ends: ``asyncio.run`` ends the asynchronous generators of its loop.

        A thread waits for what the broker has not confirmed by then.
        """
        try:
            yield
        finally:
            self._stop_connecting()
            if self.core.unconfirmed or self.backlog:
                self._detach()
                self._finisher = threading.Thread(target=self._drive, name="gofer-io", daemon=True)
                self._finisher.start()
            else:
                await self.aclose()  # also where that was started, and the broker has not answered

    def _drive(self, ready: Callable[[], object] = lambda: False, deadline: float = inf) -> None:
        """Drive the connection without its loop until the broker has answered for everything, and close it."""
        self._thread = threading.get_ident()
        while not (ready() or monotonic() >= deadline):
            if not self.core.unconfirmed and not self.backlog:
                self.core.close()
            self._turn(monotonic())
            wire = self._wire
            if wire is None:
                break
            poll = select.poll()
            poll.register(wire, select.POLLIN | (select.POLLOUT if wire.buffer else 0))
            if poll.poll(100):
                self._read(monotonic())
        self.closed = True

    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Drive the connection until ``ready()``, at the end of the process: its loop does not run any more."""
        if self._finisher is None:
            self._drive(ready, deadline)
        while not ready() and self._finisher is not None and self._finisher.is_alive() and monotonic() < deadline:
            self._finisher.join(0.02)

    # -- in the loop --------------------------------------------------------------------------------------------------

    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._thread:
            if self._reading:  # a callback: its output goes with the turn that follows
                command(*arguments)
                return
            now = self.core.now = monotonic()
            if now - self._read_at > SILENCE:
                self._read(now, to_end=True)
            self._guard(command, *arguments)
            if not self._scheduled:
                self._schedule_turn()
        elif not self.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed at this moment
                self.loop.call_soon_threadsafe(self._submit, size, command, *arguments)

    def _schedule_turn(self) -> None:
        if not self._scheduled and self._finisher is None and not self.loop.is_closed():
            self._scheduled = True
            self.loop.call_soon(self._take_turn)

    def _readable(self) -> None:
        # The messages wake tasks. These run before the turn that is then scheduled, which writes their output.
        now = monotonic()
        self._reading = True
        try:
            self._read(now, to_end=now - self._read_at > SILENCE)
        finally:
            self._reading = False
        self._schedule_turn()

    def _on_timer(self) -> None:
        self._timer, self._timer_at, now = None, inf, monotonic()
        if now - self._read_at > SILENCE:
            self._read(now, to_end=True)
        self._take_turn()

    def _take_turn(self) -> None:
        self._scheduled, core, now = False, self.core, monotonic()
        self._turn(now)
        if core.state is State.DOWN and now >= core.connect_at:
            self._connect()
        self._watch()
        for watcher in list(self._watchers):
            watcher.wake()
        if core.closed and self._alarm is not None and not self._sleeping:
            self._alarm.cancel()
            self._alarm, self._alarm_at = None, inf
        due = inf if core.closed else self._due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_later(max(0.0, due - now), self._on_timer)

    def _watch(self) -> None:
        wire = self._wire
        if wire is None:
            return
        if self._polled != wire.descriptor:
            self._polled = wire.descriptor
            self.loop.add_reader(self._polled, self._readable)
        if bool(wire.buffer) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self.loop.add_writer(self._polled, self._take_turn)
            else:
                self.loop.remove_writer(self._polled)

    def _detach(self) -> None:
        # Before the descriptor is closed: the next socket may have the same number.
        if self._polled >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._polled)
            if self._writing:
                self.loop.remove_writer(self._polled)
        self._polled, self._writing = -1, False

    def _connect(self) -> None:
        self._stop_connecting()
        self.core.connecting()
        connecting = self._connecting = start_connecting(self.connector)
        try:
            if connecting is None:
                threading.Thread(target=self._connect_in_thread, name="gofer-connect", daemon=True).start()
            elif connecting.ended:
                self.loop.call_soon(self._end_connecting, connecting)
            else:
                self.loop.add_writer(connecting.fileno(), self._end_connecting, connecting)
                self._give_up = self.loop.call_later(OPEN, self._end_connecting, connecting, OPEN)
        except (OSError, RuntimeError) as error:  # no thread can be started, or no more descriptors polled
            self._stop_connecting()
            self._opened(ConnectionLost(f"{self.connector.url}: {error}"))
            self._schedule_turn()

    def _end_connecting(self, connecting: Connecting, waited: float | None = None) -> None:
        if connecting is self._connecting:
            opened = self._open(connecting, waited)
            self._stop_connecting(keep=isinstance(opened, tuple))
            self._opened(opened)
            self._take_turn()

    def _stop_connecting(self, *, keep: bool = False) -> None:
        connecting, self._connecting = self._connecting, None
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        if connecting is not None:
            if not self.loop.is_closed():
                self.loop.remove_writer(connecting.fileno())
            if not keep:
                connecting.close()

    def _connect_in_thread(self) -> None:
        self._fresh.append(self._open())
        try:
            self.loop.call_soon_threadsafe(self._take_fresh)
        except RuntimeError:  # the loop was closed meanwhile
            self._discard_fresh()
        if self.closed:  # the loop may end before it comes to that
            self._discard_fresh()

    def _take_fresh(self) -> None:
        try:
            opened = self._fresh.pop()
        except IndexError:  # it was discarded
            return
        self._opened(opened)
        self._take_turn()

    def _discard_fresh(self) -> None:
        # Any thread, and two at once.
        with contextlib.suppress(IndexError):
            opened = self._fresh.pop()
            if isinstance(opened, tuple):
                opened[1].close()
