"""A fleet for programs without an event loop: what :class:`gofer.fleet.Fleet` has awaited is returned here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from copy import copy
from typing import Any, ParamSpec, Self, TypeVar

from gofer.card import Card
from gofer.fleet.discovery import Found
from gofer.fleet.fleet import FAILURES, Fleet, Selection
from gofer.fleet.run import Confirm, Outcome, Run, Summary
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.targets import Targets

__all__ = ["BlockingFleet", "BlockingRun"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class BlockingFleet:
    """The blocking twin of :class:`gofer.fleet.Fleet`: the same arguments, and the same errors. Any thread.

    Its event loop has a thread of its own, which ``close``, or ``with``, ends.

    ::

        with BlockingFleet("amqp://broker.example.com") as fleet:
            fleet.ask("group=web")
            for outcome in fleet.where("group=web").Dog().bark("hello"):
                print(outcome.name, outcome.kind, outcome.value)
            print(fleet.where("group=db").Dog().bark("hello").summary().counts)
    """

    def __init__(self, url: str | URL | Connector, **options: Any) -> None:
        self._fleet = Fleet(url, **options)
        self._calls = _Calls()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what goes on, and close what is remembered. Idempotent."""
        self._calls.close()
        self._fleet.close()

    def add(self, cards: Iterable[Card]) -> None:
        """Add machines by their addresses."""
        self._calls.call(self._fleet.add, cards)

    def ask(self, targets: Targets | str = "all", **how: Any) -> Found:
        """Ask who is there, and remember the answers; ``how``: as for :meth:`Fleet.ask`."""
        return self._calls.wait(self._fleet.ask(targets, **how))

    def where(self, targets: Targets | str = "all") -> Selection:
        """Select machines among those that are remembered. What is called on them is a :class:`BlockingRun`."""
        return self._blocking(self._calls.call(self._fleet.where, targets))

    def at(self, cards: Iterable[Card], name: str = "addresses") -> Selection:
        """Select machines by their cards."""
        return self._blocking(self._calls.call(self._fleet.at, cards, name))

    def retry(self, which: str, kinds: Iterable[str] = FAILURES) -> Selection:
        """Select the machines of a run that have certain outcomes."""
        return self._blocking(self._calls.call(self._fleet.retry, which, kinds))

    def resume(self, which: str, *, confirm: Confirm | None = None, **waves: Any) -> BlockingRun:
        """Take up a run."""
        return BlockingRun(self._calls.call(self._fleet.resume, which, confirm=confirm, **waves), self._calls)

    def cancel(self, which: str) -> int:
        """Have the agents cancel what they have of a run; return how many were asked."""
        return self._calls.wait(self._fleet.cancel(which))

    def _blocking(self, selection: Selection) -> Selection:
        found, begin = copy(selection), selection.begin
        found.begin = lambda *what: BlockingRun(self._calls.call(begin, *what), self._calls)
        return found


class BlockingRun:
    """``for outcome in run``, or ``run.summary()``: it begins with either, once. See :class:`gofer.fleet.run.Run`."""

    def __init__(self, run: Run, calls: _Calls) -> None:
        self.id = run.id
        self._run = run
        self._calls = calls

    def __len__(self) -> int:
        """How many machines it has."""
        return len(self._run)

    def __iter__(self) -> Iterator[Outcome]:
        """Iterate over outcomes as they come. Whoever leaves the loop ends the run; ``resume`` takes it up."""
        outcomes = aiter(self._run)
        while (outcome := self._calls.wait(_next(outcomes))) is not None:
            try:
                yield outcome
            except BaseException:
                self._calls.wait(outcomes.aclose())
                raise

    def summary(self) -> Summary:
        """Run it to its end, and return what came of it."""
        for _ in self:
            pass
        run = self._run
        return Summary(run.id, len(run), run.counts, run.stopped, run.outcomes)

    def stop(self, why: str = "stopped") -> None:
        """Send nothing more. What was sent goes on, and has its outcome."""
        self._calls.call(self._run.stop, why)

    def cancel(self) -> int:
        """Send nothing more, and have the agents cancel what they have; return how many were asked."""
        return self._calls.wait(self._run.cancel())


class _Calls:
    """An event loop in a thread of its own, and calls in it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._serve, name="gofer fleet", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._runner:  # which ends what goes on
            self._loop.run_forever()

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def wait(self, doing: Coroutine[Any, Any, _T]) -> _T:
        if not self._thread.is_alive():
            doing.close()
            raise RuntimeError("this fleet is closed")
        future = asyncio.run_coroutine_threadsafe(doing, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # if it is this thread that was interrupted
            raise

    def call(self, what: Callable[_P, _T], *args: _P.args, **kws: _P.kwargs) -> _T:
        async def calling() -> _T:
            return what(*args, **kws)

        return self.wait(calling())


async def _next(outcomes: AsyncIterator[Outcome]) -> Outcome | None:
    return await anext(outcomes, None)
