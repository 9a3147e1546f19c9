"""One event loop per plugin, for its ``async def`` methods."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["Loop", "Run"]

log = logging.getLogger(__name__)


class Run:
    """One coroutine in a loop."""

    __slots__ = ("_loop", "coroutine", "done", "dropped", "task")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
        dropped: Callable[[], object],
    ) -> None:
        self._loop = loop
        self.coroutine = coroutine
        self.done = done
        self.dropped = dropped
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Have CancelledError raised in it; ``done`` is called with what comes of that. Any thread."""
        try:
            self._loop.call_soon_threadsafe(lambda: None if self.task is None else self.task.cancel())
        except RuntimeError:
            pass  # the loop is closed, and the coroutine has ended with it


class Loop:
    """An event loop in a thread of its own, started with the first coroutine. Any thread.

    Args:
        name: the plugin's; the thread is named ``gofer-<plugin>-loop``.
    """

    def __init__(self, name: str) -> None:
        self._name = f"gofer-{name}-loop"
        self._changed = threading.Condition(threading.Lock())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
        self._running = 0
        self._stopped = False

    @property
    def running(self) -> int:
        """How many coroutines have not ended."""
        return self._running

    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
        dropped: Callable[[], object] = lambda: None,
    ) -> Run | None:
        """Run a coroutine, within a copy of this thread's context variables.

        Args:
            done: called in the loop's thread with its value, or with what it raised; it must not wait.
            dropped: called instead for a coroutine that ``stop`` has cancelled.

        Returns:
            What can cancel it; None when stopped: the coroutine was closed.
        """
        with self._changed:
            if self._stopped:
                coroutine.close()
                return None
            if self._loop is None:
                import asyncio  # 3 MB that an agent without such methods does not need

                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            self._running += 1
            run = Run(self._loop, coroutine, done, dropped)
            self._loop.call_soon_threadsafe(self._begin, run, context=copy_context())
        return run

    def wait(self, timeout: float) -> bool:
        """Wait until none runs, at most ``timeout`` seconds; tell whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)

    def stop(self, timeout: float) -> int:
        """Wait for what runs, at most ``timeout`` seconds, then cancel the rest and end the thread. May be repeated.

        Returns:
            How many were cancelled.
        """
        with self._changed:
            self._stopped = True
            self._changed.wait_for(lambda: not self._running, timeout)
            left, loop, thread = self._running, self._loop, self._thread
            self._loop = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(1.0)  # a coroutine that blocks keeps its thread; nothing here can end that
        return left

    def _begin(self, run: Run) -> None:
        loop = self._loop
        if loop is None:  # stopped meanwhile, with this one counted as cancelled
            run.coroutine.close()
            run.dropped()
            return
        run.task = task = loop.create_task(self._guard(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, run: Run) -> None:
        from asyncio import CancelledError

        value, raised = None, None
        try:
            value = await run.coroutine
        except BaseException as any_kind:  # noqa: BLE001 - SystemExit, too, would end the loop that others need
            raised = any_kind
        # A coroutine may raise CancelledError for its own reasons; only one that we have cancelled is not told.
        if isinstance(raised, CancelledError) and self._stopped:
            run.dropped()
        else:
            run.done(value, raised)
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        except (
            BaseException
        ):  # a task that a method has left behind may raise SystemExit: the next call gets a new loop
            log.exception("the event loop of %s failed", self._name)
        with self._changed:
            if self._loop is loop:
                self._loop = None
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException:
            log.exception("the event loop of %s cannot end cleanly", self._name)
        finally:
            asyncio.set_event_loop(None)
            loop.close()
