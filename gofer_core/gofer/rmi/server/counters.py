"""Counts of what became of requests, and how long that took."""

from __future__ import annotations

from bisect import bisect_left
from threading import get_ident

__all__ = ["BOUNDS", "Counters"]

#: The upper bounds of the classes that durations are counted in, in seconds. Above the last one is one class more.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Counters:
    """Numbers by name, for one plugin. Any thread; no lock: each thread counts on its own.

    ========================  =========================================================================
    ``accepted``              requests taken on
    ``running``               methods running now
    ``done``                  ended by a value
    ``failed``                ended by an exception
    ``rejected``              refused, with a code
    ``denied``                of these, the ones that the rules of ``[access]`` do not allow
    ``cancelled``             cancelled before they ended
    ``interrupted``           started by an agent that died, and not run again
    ``repeated``              deliveries of a request that was known already (not run again)
    ``dropped``               messages that nobody could be answered for
    ``undeliverable``         results and rejections given up because no broker took them
    ``retried``               results and rejections sent more than once
    ``statuses_lost``         statuses that could not be sent, or were not taken
    ========================  =========================================================================

    And durations, by what took so long: no word of it is a caller's own, so there are only so many.

    =============================================  ====================================================
    ``("ran", outcome, namespace, method)``        a request, from the start of its method to its result
    ``("left", outcome, namespace, method)``       a request that did not start, since its delivery; two
                                                   empty names where no method was found
    ``("waited",)``                                a request that has started, from its delivery to that
    ``("rejected", code)``                         a rejection, since the delivery
    ``("hook", name)``                             plugins' implementations of a hook, without the method
    =============================================  ====================================================
    """

    NAMES = (
        "accepted",
        "running",
        "done",
        "failed",
        "rejected",
        "denied",
        "cancelled",
        "interrupted",
        "repeated",
        "dropped",
        "undeliverable",
        "retried",
        "statuses_lost",
    )

    def __init__(self) -> None:
        self._of_threads: dict[int, dict[str, int]] = {}
        self._times: dict[int, dict[tuple[str, ...], list[float]]] = {}

    def add(self, name: str, number: int = 1) -> None:
        """Add to one of ``NAMES``."""
        counts = self._of_threads.get(get_ident())
        if counts is None:
            counts = self._of_threads[get_ident()] = dict.fromkeys(self.NAMES, 0)
        counts[name] += number

    def __getitem__(self, name: str) -> int:
        return sum(counts[name] for counts in list(self._of_threads.values()))

    def snapshot(self) -> dict[str, int]:
        """Return all counts as they stand."""
        return {name: self[name] for name in self.NAMES}

    def time(self, what: tuple[str, ...], seconds: float = 0.0) -> None:
        """Count one more duration."""
        times = self._times.get(get_ident())
        if times is None:
            times = self._times[get_ident()] = {}
        classes = times.get(what)
        if classes is None:
            classes = times[what] = [0] * (len(BOUNDS) + 1) + [0.0]
        classes[bisect_left(BOUNDS, seconds)] += 1
        classes[-1] += seconds

    def times(self) -> dict[tuple[str, ...], list[float]]:
        """Return the durations by what took so long: how many are in each class, and last their sum in seconds."""
        found: dict[tuple[str, ...], list[float]] = {}
        for of_thread in list(self._times.values()):
            for what, classes in list(of_thread.items()):
                found[what] = [a + b for a, b in zip(classes, found.get(what, [0] * len(classes)), strict=True)]
        return found
