"""Requests that were cancelled before they came."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from functools import partial
from typing import NamedTuple

from gofer.limit import LimitedLog
from gofer.messaging.document import shown
from gofer.rmi.store import Database, requests

__all__ = ["Owner", "Tombstones"]

log = logging.getLogger(__name__)

_TRIM = 1000  # tombstones written between two looks at how many there are


class Owner(NamedTuple):
    """Whose requests may be cancelled: those that this identity has signed."""

    identity: str | None


class Tombstones:
    """The serial numbers of requests that are cancelled when they come, each plugin's on its own. Any thread.

    They are kept for ``max_age`` seconds and after a restart of the agent, at most ``max_entries`` of them; the oldest
    go first. ``owner`` says whose request is meant; None: anybody's.
    """

    def __init__(self, store: Database, *, max_entries: int = 10_000, max_age: float = requests.DAY) -> None:
        self._store = store
        self._max_entries = max_entries
        self._max_age = max_age
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, str, Owner | None], float] = {}
        self._complain = LimitedLog(log)
        self._written = 0
        store.lost.append(self._rewrite)

    def restore(self, name: str) -> None:
        """Read those of a plugin that were written before this process began. Waits for the disk.

        Raises:
            Unavailable: they cannot be read now; until they are, no request of the plugin may be taken.
        """
        if self._store.exists():
            for sn, owner, left in self._store.call(partial(requests.buried, name)):
                self._remember(name, sn, None if owner is None else Owner(owner or None), left)

    def expect(self, name: str, sn: str, owner: Owner | None) -> None:
        """Have a request cancelled when it comes."""
        self._remember(name, sn, owner, self._max_age)
        self.write(name, sn, owner)

    def has(self, name: str, sn: str | None, identity: str | None) -> bool:
        """Tell whether a request that has just come was cancelled before, by whoever may cancel it."""
        if sn is None or not self._expected:
            return False
        with self._lock:
            found = [self._expected.get((name, sn, owner)) for owner in (None, Owner(identity))]
        now = time.monotonic()
        return any(until is not None and until > now for until in found)

    def write(self, name: str, sn: str, owner: Owner | None = None) -> None:
        """Have a cancellation on the disk, so that it holds after a restart."""
        self._store.post(partial(requests.bury, name, sn, None if owner is None else owner.identity or ""), kept=True)
        self._written += 1
        if self._written >= _TRIM:
            self._written = 0
            self._store.post(partial(requests.trim, 2 * self._max_entries))

    def _rewrite(self) -> None:
        """Write again what a file held that was corrupt."""
        with self._lock:
            expected = list(self._expected)
        for name, sn, owner in expected:
            self.write(name, sn, owner)

    def _remember(self, name: str, sn: str, owner: Owner | None, seconds: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._expected.pop((name, sn, owner), None)
            self._expected[name, sn, owner] = now + seconds
            while next(iter(self._expected.values())) <= now:
                del self._expected[next(iter(self._expected))]
            if len(self._expected) > self._max_entries:
                self._drop_oldest_of_most()

    def _drop_oldest_of_most(self) -> None:
        """Drop a cancellation of the one who has sent most of them: nobody can push out those of others."""
        counts = Counter((name, owner) for name, _, owner in self._expected)
        most = counts.most_common(1)[0][0]
        oldest = next(key for key in self._expected if (key[0], key[2]) == most)
        del self._expected[oldest]
        text = "plugin %s: too many cancellations of requests that have not arrived; %s by %s is forgotten"
        self._complain(logging.WARNING, text, oldest[0], shown(oldest[1]), shown(str(most[1] and most[1].identity)))
