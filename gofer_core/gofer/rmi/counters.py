"""Counts of what became of requests."""

from __future__ import annotations

import threading

__all__ = ["Counters"]


class Counters:
    """Numbers by name, for one service. Any thread.

    ========================  =========================================================================
    ``accepted``              requests taken on
    ``running``               methods running now
    ``done``                  ended by a value
    ``failed``                ended by an exception
    ``rejected``              refused, with a code
    ``cancelled``             cancelled before they ended
    ``interrupted``           begun by an agent that died, and not run again
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
        "cancelled",
        "interrupted",
        "repeated",
        "dropped",
        "undeliverable",
        "retried",
        "statuses_lost",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(self.NAMES, 0)

    def add(self, name: str, number: int = 1) -> None:
        """Add to one of ``NAMES``."""
        with self._lock:
            self._counts[name] += number

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def snapshot(self) -> dict[str, int]:
        """Return all counts as they stand."""
        with self._lock:
            return dict(self._counts)
