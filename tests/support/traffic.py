"""Callers of all kinds that go on while something breaks, and what must be true of their calls afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from gofer import aio
from gofer.messaging.connector import Connector
from gofer.proxy import Agent

from support.probe import runs
from support.waiting import eventually

__all__ = ["Traffic"]

_THREADS, _TASKS = 4, 8


class Traffic:
    """Calls ``Probe.note`` from threads and from an event loop, one call after another each. A context manager.

    At the end every call must have its value, and every method must have run once (``most``: at most so often).
    """

    def __init__(self, connector: Connector, queue: str, trace: Path, *, wait: float = 120.0, most: int = 1) -> None:
        self._connector, self._queue, self._trace = connector, queue, trace
        self._wait, self._most = wait, most
        self._numbers = count()
        self._over = threading.Event()
        self.done: Counter[str] = Counter()
        self._ended = [0] * (_THREADS + _TASKS)  # the calls of each caller
        self._pool = ThreadPoolExecutor(_THREADS + 1)
        self._work: list[Future[Any]] = []

    def go_on(self, calls: int = 40, timeout: float = 120.0) -> None:
        """Wait until each kind of caller has made so many more calls; fail when one of them has failed.

        Each has ended the call that it was in, too: none is in flight at two misfortunes in a row.
        """
        before, ended = Counter(self.done), list(self._ended)
        kinds = ("thread", "loop")

        def look() -> bool:
            for work in self._work:
                if work.done():
                    work.result()
            over = all(now >= then + 2 for now, then in zip(self._ended, ended, strict=True))
            return over and all(self.done[kind] - before[kind] >= calls for kind in kinds)

        eventually(look, timeout)

    def _thread(self, number: int) -> None:
        with Agent(self._connector, self._queue, wait=self._wait) as agent:
            while not self._over.is_set():
                name = f"t{next(self._numbers)}"
                assert agent.Probe().note(str(self._trace), name) == name
                self.done["thread"] += 1
                self._ended[number] += 1

    def _loop(self) -> None:
        async def main() -> None:
            async with aio.Agent(self._connector, self._queue, wait=self._wait) as agent:
                await asyncio.gather(*(task(agent, _THREADS + number) for number in range(_TASKS)))

        async def task(agent: aio.Agent, number: int) -> None:
            while not self._over.is_set():
                name = f"a{next(self._numbers)}"
                assert await agent.Probe().note(str(self._trace), name) == name
                self.done["loop"] += 1
                self._ended[number] += 1

        asyncio.run(main())

    def __enter__(self) -> Traffic:
        self._work = [self._pool.submit(self._thread, number) for number in range(_THREADS)]
        self._work.append(self._pool.submit(self._loop))
        self.go_on(5)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for work in self._work:
            work.result()
        if kind is None:
            ran = runs(self._trace)
            assert sum(self.done.values()) == len(ran)
            assert max(ran.values()) <= self._most, [name for name, times in ran.items() if times > self._most]
