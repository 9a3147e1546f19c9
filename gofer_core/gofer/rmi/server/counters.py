"""Counts of what became of requests."""

from __future__ import annotations

from threading import get_ident

__all__ = ["Counters"]


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
