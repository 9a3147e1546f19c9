"""A connection that an event loop drives: for callers with ``async`` and ``await``.

Everything runs in the loop's thread but opening a socket, which blocks and has a thread of its own. All output of one
turn of the loop is one write: it is written after the tasks that the turn has woken.
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

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.core import State, fresh
from gofer.messaging.subscription import Subscription

__all__ = ["AsyncioConnection", "AsyncioWaiter"]

#: A turn that comes this many seconds late: the process stood still, and what the broker has sent is read first.
_LATE = 1.0
#: Seconds that ``aclose`` waits for the broker.
_CLOSE = 5.0


class AsyncioWaiter:
    """One waiting task's alarm clock. ``wake`` may be called by any thread."""

    __slots__ = ("_loop", "_sleeper", "_thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._sleeper: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Have the task look again."""
        if threading.get_ident() == self._thread:
            self._ring()
        else:
            try:
                self._loop.call_soon_threadsafe(self._ring)
            except RuntimeError:
                pass  # the loop is closed: nobody sleeps there any more

    async def sleep(self, deadline: float | None) -> None:
        """Sleep until woken, at most to the deadline (``time.monotonic()``)."""
        self._sleeper = self._loop.create_future()
        timer = None if deadline is None else self._loop.call_later(max(0.0, deadline - monotonic()), self._ring)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()

    def _ring(self) -> None:
        sleeper = self._sleeper
        if sleeper is not None and not sleeper.done():
            sleeper.set_result(None)


class AsyncioConnection(Connection):
    """See :class:`Connection`. Used in its loop's thread; ``users_changed`` and ``close`` from any."""

    def __init__(
        self, connector: Connector, retire: Callable[[Connection], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(connector, company=0.0, retire=retire)
        self.loop = loop
        self._thread = threading.get_ident()
        self._watchers: dict[AsyncioWaiter, None] = {}
        self._waiting = 0
        self._scheduled = self._writing = False
        self._watched = -1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._housekeeping_at = monotonic() + 1.0
        self._outliving: threading.Thread | None = None
        self._end = self._at_end_of_loop()
        with contextlib.suppress(StopIteration):
            self._end.__anext__().__await__().send(None)  # it is begun, which makes it known to the loop

    # -- waiting ------------------------------------------------------------------------------------------------------

    async def wait(
        self, ready: Callable[[], object], deadline: float | None, waiter: AsyncioWaiter | None = None
    ) -> bool:
        """Wait until ``ready()`` is true or the deadline has passed; return whether it is.

        Args:
            waiter: a callback wakes it when ``ready`` may have become true. None: look after each turn.

        Raises:
            ConnectionLost: the connection was closed.
        """
        if ready():
            return True
        watcher = waiter or AsyncioWaiter(self.loop)
        if waiter is None:
            self._watchers[watcher] = None
        self._waiting += 1
        try:
            while not ready():
                self.check_usable()
                if deadline is not None and monotonic() >= deadline:
                    return False
                await watcher.sleep(deadline)
            return True
        finally:
            self._waiting -= 1
            self._watchers.pop(watcher, None)

    async def open(self, deadline: float | None) -> None:
        """Wait for the connection. See :meth:`ThreadConnection.open`."""
        if self.core.state is not State.OPEN:
            self.check_usable()
            tries = self.core.tries
            self.want()
            await self.wait(lambda: self.connect_outcome(tries), deadline)
            self.raise_down()

    async def wait_sendable(self, deadline: float | None) -> None:
        """Wait until a message can be sent.

        Raises:
            MessagingError: not possible by the deadline.
        """
        while not self.sendable:
            await self.open(deadline)
            if not await self.wait(lambda: self.sendable, deadline):
                raise ConnectionLost(f"cannot send to {self.connector.url}: {self.state}")

    async def subscribe(self, subscription: Subscription, deadline: float | None) -> None:
        """Have a queue's messages delivered from now on; one that fails stays wanted.

        Raises:
            MessagingError: the broker refused, or did not answer by the deadline.
        """
        made = subscription.made
        if not subscription.active:
            subscription.error = None  # of an earlier try
        self.subscribe_nowait(subscription)
        await self.open(deadline)
        if not await self.wait(lambda: subscription.made > made or subscription.active or subscription.error, deadline):
            raise ConnectionLost(f"the broker did not answer for the queue {subscription.queue!r}: {self.state}")
        if not subscription.active and subscription.error is not None:
            raise fresh(subscription.error)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close for good; the goodbye is said by the loop, if it still runs."""
        if self._closing:
            return
        self._closing = True
        if self.loop.is_closed():
            self.core.close()
            self.abandon()
        else:
            self._submit(0, self.core.close)

    async def aclose(self) -> None:
        """Close for good, and wait for the goodbye, some seconds at most."""
        self.close()
        deadline, watcher = monotonic() + _CLOSE, AsyncioWaiter(self.loop)
        self._watchers[watcher] = None
        while self._wire is not None and monotonic() < deadline:
            await watcher.sleep(deadline)
        self._watchers.pop(watcher, None)

    async def _at_end_of_loop(self) -> AsyncIterator[None]:
        """Close when the loop ends: ``asyncio.run`` ends the asynchronous generators of its loop.

        What the broker has not confirmed by then goes on in a thread.
        """
        try:
            yield
        finally:
            if self.core.unconfirmed or self.backlog:
                self._detach()
                self._outliving = threading.Thread(target=self._outlive, name="gofer-io", daemon=True)
                self._outliving.start()
            elif not self._closing:
                await self.aclose()

    def _outlive(self, ready: Callable[[], object] = lambda: False, deadline: float = inf) -> None:
        """Drive the connection without its loop until the broker has answered for everything, and close it."""
        self._thread = threading.get_ident()
        readable = False
        while not (self.core.closed or ready() or monotonic() >= deadline):
            if not self.core.unconfirmed and not self.backlog:
                self.core.close()
            self._turn(readable)
            wire = self._wire
            if wire is None:
                break
            poll = select.poll()
            poll.register(wire.fileno(), select.POLLIN | (select.POLLOUT if wire.unsent else 0))
            readable = bool(poll.poll(100)) or wire.pending
        self._closing = True

    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Drive the connection until ``ready()``, at the end of the process: its loop does not run any more."""
        if self._outliving is None:
            self._outlive(ready, deadline)
        while not ready() and self._outliving is not None and self._outliving.is_alive() and monotonic() < deadline:
            self._outliving.join(0.02)

    # -- in the loop --------------------------------------------------------------------------------------------------

    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._thread:
            now = monotonic()
            if now - self.core.now > _LATE:
                while self._read():
                    pass  # to the end: the broker may have hung up while this process stood still
            self.core.now = now
            self._guard(command, *arguments)
            self._soon()
        elif not self.loop.is_closed():
            try:
                self.loop.call_soon_threadsafe(self._submit, size, command, *arguments)
            except RuntimeError:
                pass  # closed at this moment: nobody drives it any more

    def _soon(self) -> None:
        if not self._scheduled and self._outliving is None and not self.loop.is_closed():
            self._scheduled = True
            self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._scheduled = False
        self._go_on()

    def _readable(self) -> None:
        # What is read wakes tasks. They run before what is then scheduled, and their output goes with it.
        self._read()
        self._soon()

    def _on_timer(self) -> None:
        self._timer, at, self._timer_at = None, self._timer_at, inf
        if monotonic() - at > _LATE and self._wire is not None:
            self._read()
        self._go_on()

    def _go_on(self) -> None:
        self._turn(False)
        core = self.core
        if core.state is State.DOWN and core.now >= core.connect_at:
            self._connect()
        self._watch()
        for watcher in list(self._watchers):
            watcher.wake()
        due = min(core.deadline, self._housekeeping_at) if core.state is not State.CLOSED else inf
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_later(max(0.0, due - monotonic()), self._on_timer)

    def _watch(self) -> None:
        wire = self._wire
        if wire is None:
            return
        descriptor = wire.fileno()
        if self._watched != descriptor:
            self._watched = descriptor
            self.loop.add_reader(descriptor, self._readable)
        if (wire.unsent > 0) != self._writing:
            self._writing = wire.unsent > 0
            if self._writing:
                self.loop.add_writer(descriptor, self._take_turn)
            else:
                self.loop.remove_writer(descriptor)
        if wire.pending:
            self._soon_readable()

    def _soon_readable(self) -> None:
        self.loop.call_soon(self._readable)

    def _detach(self) -> None:
        # Before the descriptor is closed, and given out anew: that one would be taken from this loop.
        if self._watched >= 0 and not self.loop.is_closed():
            self.loop.remove_reader(self._watched)
            if self._writing:
                self.loop.remove_writer(self._watched)
        self._watched, self._writing = -1, False

    def _connect(self) -> None:
        self.core.connecting()

        def work() -> None:
            try:
                outcome: Any = self._open()
            except MessagingError as error:
                outcome = error
            try:
                self.loop.call_soon_threadsafe(self._connected, outcome)
            except RuntimeError:  # the loop was closed meanwhile
                if isinstance(outcome, tuple):
                    outcome[1].close()

        threading.Thread(target=work, name="gofer-connect", daemon=True).start()

    def _connected(self, outcome: Any) -> None:
        if isinstance(outcome, tuple):
            self._opened(*outcome)
        else:
            self._guard(self.core.connect_failed, outcome, monotonic())
        self._go_on()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits on it at the moment."""
        return self._waiting > 0
