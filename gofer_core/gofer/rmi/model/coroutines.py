"""One event loop per plugin, for its ``async def`` methods."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = ["Loop", "Run"]

log = logging.getLogger(__name__)

Done = Callable[[Any, BaseException | None], None]


@dataclass(eq=False)
class Run:
    """One coroutine in a loop."""

    loop: asyncio.AbstractEventLoop
    coroutine: Coroutine[Any, Any, Any]
    done: Done
    dropped: Callable[[], object]
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Have CancelledError raised in it; ``done`` is called with what comes of that. Any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the coroutine has ended with it
            self.loop.call_soon_threadsafe(lambda: self.task is not None and self.task.cancel())


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
        self._runs: set[Run] = set()  # with their tasks, to which asyncio itself keeps only weak references
        self._stopped = False

    @property
    def running(self) -> int:
        """How many coroutines have not ended."""
        return len(self._runs)

    def run(
        self, coroutine: Coroutine[Any, Any, Any], done: Done, dropped: Callable[[], object] = lambda: None
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
            run = Run(self._loop, coroutine, done, dropped)
            self._runs.add(run)
            self._loop.call_soon_threadsafe(self._begin, run)
        return run

    def wait(self, timeout: float) -> bool:
        """Wait until none runs, at most ``timeout`` seconds; tell whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._runs, timeout)

    def stop(self, timeout: float) -> int:
        """Wait for what runs, at most ``timeout`` seconds, then cancel the rest and end the thread. May be repeated.

        Returns:
            How many were cancelled.
        """
        with self._changed:
            self._stopped = True
            self._changed.wait_for(lambda: not self._runs, timeout)
            left = len(self._runs)
        if self._loop is not None and self._thread is not None:
            with suppress(RuntimeError):  # it was stopped before
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(1.0)  # a coroutine that blocks keeps its thread; nothing here can end that
        return left

    def _begin(self, run: Run) -> None:
        if self._loop is not None:
            run.task = self._loop.create_task(self._guard(run))

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
        self._forget(run)

    def _forget(self, run: Run) -> None:
        with self._changed:
            self._runs.discard(run)
            self._changed.notify_all()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        import asyncio

        going_on = True
        while going_on:
            try:
                loop.run_forever()
                going_on = False
            except BaseException:  # a task that a method has left behind may raise SystemExit: the others go on
                log.exception("%s: a task of the plugin has interrupted the event loop", self._name)
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
            for run in list(self._runs):  # stopped before they began
                run.coroutine.close()
                run.dropped()
                self._forget(run)
        except BaseException:
            log.exception("the event loop of %s cannot end cleanly", self._name)
        finally:
            loop.close()
