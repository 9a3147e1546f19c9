"""The threads that run the methods of one plugin."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

__all__ = ["Task", "Workers"]

log = logging.getLogger(__name__)


class Task(Protocol):
    """Something to be done by a worker.

    ``beside``, if it has that and it is true: it only begins something that holds no thread, like an ``async def``.
    """

    def run(self) -> None:
        """Do it. Whatever it raises is logged, and its thread goes on."""


class _Lane:
    """Threads that take tasks in the order in which they came, of which any can be taken back. Any thread.

    A thread starts when a task finds no other one idle. It ends with the lane: the plugin's own objects, as those of
    sqlite3, may belong to the thread that made them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.tasks: OrderedDict[Task, None] = OrderedDict()
        self.running: list[Task | None] = [None] * len(names)
        self.threads: list[threading.Thread] = []
        self._names = names
        self._tickets: queue.SimpleQueue[bool] = queue.SimpleQueue()  # at least one for each task; False: end
        self._starting = threading.Lock()
        self._open = False

    def start(self) -> None:
        self._open = True
        for _ in self._names:
            self._start_thread()

    def put(self, task: Task) -> None:
        self.tasks[task] = None
        self._tickets.put(True)
        if self._open and len(self.threads) < len(self._names):
            self._start_thread()

    def end(self) -> None:
        with self._starting:
            self._open = False
        for _ in self.threads:
            self._tickets.put(False)

    def discard(self, task: Task) -> bool:
        return self.tasks.pop(task, self) is None

    def _start_thread(self) -> None:
        """Start one more thread if a task waits, all others are busy, and there may be more."""
        with self._starting:
            number = len(self.threads)
            idle = self.running[:number].count(None)
            if not self._open or number == len(self._names) or self._tickets.qsize() <= idle:
                return
            thread = threading.Thread(target=self._work, args=(number,), name=self._names[number], daemon=True)
            try:
                thread.start()
            except RuntimeError as failed:  # the system has no more threads; the next task tries again
                log.error("%s cannot be started: %s", thread.name, failed)
            else:
                self.threads.append(thread)

    def _work(self, number: int) -> None:
        while self._tickets.get():
            try:
                task = self.tasks.popitem(last=False)[0]
            except KeyError:
                continue  # it was taken back
            self.running[number] = task
            if len(self.threads) < len(self._names):
                self._start_thread()  # for a task that came while this one seemed to be idle
            try:
                task.run()
            except BaseException as raised:  # noqa: BLE001 - SystemExit, too: no task may end the thread that others need
                _tell(raised)
            self.running[number] = None
            del task  # or the last request would live until the next one


class Workers:
    """Threads that take tasks in the order in which they came. Each is started when it is needed.

    One more thread takes those that go ``beside`` the others, so that these never wait for what holds a thread.

    Args:
        name: the plugin's; the threads are named ``gofer-<plugin>-<n>``.
        threads: how many there may be.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._lane = _Lane([f"gofer-{name}-{n + 1}" for n in range(threads)])
        self._beside = _Lane([f"gofer-{name}-async"])
        self._heir: Workers | None = None

    def start(self) -> None:
        """Begin with the tasks."""
        self._lane.start()
        self._beside.start()

    def put(self, task: Task) -> None:
        """Have a task done by the next thread that is free. Any thread; never waits."""
        if getattr(task, "beside", False):
            self._beside.put(task)
        else:
            self._lane.put(task)
        if self._heir is not None:
            self._pass_on(self._heir)

    def hand_over(self, heir: Workers) -> None:
        """Have others do what waits, in its order, and what is put here from now on. ``stop`` follows."""
        self._heir = heir
        self._pass_on(heir)

    def _pass_on(self, heir: Workers) -> None:
        for task in self.withdraw():
            heir.put(task)

    @property
    def waiting(self) -> int:
        """How many tasks no thread has taken."""
        return len(self._lane.tasks) + len(self._beside.tasks)

    @property
    def busy(self) -> int:
        """How many of the threads have a task; the one beside them is not counted."""
        return sum(task is not None for task in self._lane.running)

    def running(self) -> list[Task]:
        """Return the tasks that threads are busy with."""
        return [task for task in self._lane.running + self._beside.running if task is not None]

    def withdraw(self, wanted: Callable[[Task], bool] = lambda task: True) -> list[Task]:
        """Take back those tasks that no thread has taken yet, in their order. The others stay, in theirs."""
        lanes = (self._lane, self._beside)
        return [task for lane in lanes for task in list(lane.tasks) if wanted(task) and lane.discard(task)]

    def discard(self, task: Task) -> None:
        """Take back a task, if no thread has taken it."""
        if not self._lane.discard(task):
            self._beside.discard(task)

    def stop(self, timeout: float) -> tuple[list[Task], list[Task]]:
        """Start nothing more, and wait for what runs, at most ``timeout`` seconds. May be repeated.

        Returns:
            What was not started (and not handed over), to be given back by the caller; and what still runs. Its threads
            end when it does.
        """
        deadline = time.monotonic() + timeout
        waiting = self.withdraw()
        if self._heir is not None:
            for task in waiting:
                self._heir.put(task)
            waiting = []
        for lane in (self._lane, self._beside):
            lane.end()
        for thread in self._lane.threads + self._beside.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        return waiting, self.running()


def _tell(raised: BaseException) -> None:
    try:
        log.error("a worker's task failed", exc_info=raised)
    except BaseException:  # noqa: BLE001 - a plugin's log handler, or what the exception says of itself
        with suppress(OSError):
            os.write(2, b"goferd: a worker's task failed, and so did telling the log\n")
