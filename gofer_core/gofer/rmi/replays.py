"""What an agent remembers of signatures, so that a copy of a signed request is not run."""

from __future__ import annotations

import enum
import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gofer.limit import Limit
from gofer.rmi.clock import Clock
from gofer.rmi.ledger import Ledger, Unavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Proof", "Replays", "Seen"]

log = logging.getLogger(__name__)

_PAUSE = 0.01  # seconds between two commits: one for each call would cost as much as the call

_FLOOR = b""  # what stands in the ledger for the time up to which everything counts as seen


class Proof(NamedTuple):
    """What makes a signature that one: 16 bytes, and the time (seconds since 1970) from which it is too old anyway.

    ``exact``: each publication has its own, so that one that was given again says that it was copied.
    """

    nonce: bytes
    expires: float
    exact: bool = True


class Seen(enum.Enum):
    """Whether a signature was seen."""

    NEVER = "never"
    BEFORE = "before"  # since this process began
    EARLIER = "earlier"  # by one that ran before: it may have died over the request


class Replays:
    """The signatures seen by one agent, as long as their age would let them pass. Any thread.

    Only ``restore`` and ``flush`` wait.

    No more than ``most`` are remembered; when there are more, the oldest go, and then whatever was signed before them
    counts as seen: it fails closed.

    With a ledger they survive the end of the process, and of the machine: a signed request is acknowledged after its
    signature is on the disk (``secured``). Until then the broker holds it; what is lost with the power is delivered
    again, and a copy is that one's second try at most. Nothing waits for the disk before it runs or is answered.
    While the ledger cannot be used, memory alone serves, and the log says so.
    """

    def __init__(self, ledger: Ledger | None = None, clock: Clock | None = None, *, most: int = 100_000) -> None:
        self._ledger = ledger
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[bytes, float] = {}
        self._earlier: set[bytes] = set()
        self._order: list[tuple[float, bytes]] = []
        self._floor = 0.0
        self._restored = False
        # What is to be written: signatures, and None for one that shall pass once more. Then what the ledger is at.
        self._unwritten: dict[bytes, float | None] = {}
        self._writing: dict[bytes, float | None] = {}
        self._posted = False
        self._posted_at = 0.0
        self._grown = 0
        self._waiting: list[tuple[bytes, Callable[[], object]]] = []
        self._complaints = Limit(0.1, 1)

    def restore(self) -> None:
        """Read what was seen before this process began; once."""
        if self._ledger is None or self._restored:
            return
        self._restored = True
        if not self._ledger.exists():
            return
        try:
            found = self._ledger.call(self._read)
        except Unavailable as failed:
            log.error("signatures that were seen before this start cannot be told: %s", failed)
            return
        with self._lock:
            for nonce, expires in found:
                if nonce == _FLOOR:
                    self._floor = max(self._floor, expires)
                elif nonce not in self._known:
                    self._earlier.add(nonce)
                    self._add(nonce, expires)

    def note(self, proof: Proof) -> Seen:
        """Remember a signature, and tell whether it was known."""
        with self._lock:
            if proof.nonce in self._known:
                if proof.nonce not in self._earlier:
                    return Seen.BEFORE
                self._earlier.discard(proof.nonce)
                return Seen.EARLIER
            if proof.expires <= self._floor:
                return Seen.BEFORE
            self._add(proof.nonce, proof.expires)
            due = self._is_due(proof.nonce, proof.expires)
        if due:
            self._post()
        return Seen.NEVER

    def forget(self, proof: Proof | None) -> None:
        """Let a signature pass once more: its request was given back to the broker."""
        if proof is None:
            return
        with self._lock:
            self._earlier.discard(proof.nonce)
            due = self._known.pop(proof.nonce, None) is not None and self._is_due(proof.nonce, None)
        if due:
            self._post()

    def secured(self, proof: Proof | None, then: Callable[[], object]) -> None:
        """Call a function when a signature is on the disk, or cannot be put there: now, or soon by another thread."""
        if proof is not None and (self._unwritten or self._writing):
            with self._lock:
                if (proof.nonce in self._unwritten and self._posted) or proof.nonce in self._writing:
                    self._waiting.append((proof.nonce, then))
                    return
        then()

    def flush(self, timeout: float) -> None:
        """Have all on the disk now, and go on with what waits for that. Waits, at most so many seconds."""
        if self._ledger is None or not (self._unwritten or self._writing):
            return
        ended = threading.Event()

        def done(value: object, failed: Unavailable | None) -> None:
            self._written(value, failed)
            ended.set()

        self._ledger.post(self._put, done)
        ended.wait(timeout)

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, nonce: bytes, expires: float) -> None:
        self._known[nonce] = expires
        heapq.heappush(self._order, (expires, nonce))
        now = time.time()
        while self._order and (self._order[0][0] < now or len(self._order) > self._most):
            oldest, gone = heapq.heappop(self._order)
            if oldest >= now:
                self._floor = max(self._floor, oldest)
            self._known.pop(gone, None)
            self._earlier.discard(gone)
            self._unwritten.pop(gone, None)

    # -- the ledger -----------------------------------------------------------------------------------------------

    def _is_due(self, nonce: bytes, expires: float | None) -> bool:
        """Put something among what is to be written; tell whether that has to be posted. (Not under the lock.)"""
        if self._ledger is None:
            return False
        self._unwritten[nonce] = expires
        while len(self._unwritten) > 2 * self._most:  # the ledger cannot be used for long
            del self._unwritten[next(iter(self._unwritten))]
        due = not self._posted  # else it goes with what is posted and not written yet
        self._posted = True
        return due

    def _post(self) -> None:
        """Have the ledger write what is to be written, not more often than is good for quick calls."""
        pause = self._posted_at + _PAUSE - time.monotonic()
        if pause > 0 and self._clock is not None:
            self._clock.call_after(pause, self._post)
        elif self._ledger is not None:
            self._posted_at = time.monotonic()
            self._ledger.post(self._put, self._written)

    def _put(self, file: sqlite3.Connection) -> None:
        with self._lock:
            self._writing.update(self._unwritten)
            self._unwritten.clear()
            self._posted = False
            new = [(nonce, expires) for nonce, expires in self._writing.items() if expires is not None]
            gone = [(nonce,) for nonce, expires in self._writing.items() if expires is None]
            if self._floor:
                new.append((_FLOOR, self._floor))
        file.executemany("INSERT OR REPLACE INTO nonces VALUES (?, ?)", new)
        file.executemany("DELETE FROM nonces WHERE nonce = ?", gone)
        self._grown += len(new)
        if self._grown > self._most:
            self._trim(file)

    def _written(self, _: object, failed: Unavailable | None) -> None:
        with self._lock:
            written, self._writing = self._writing, {}
            if failed is not None:
                self._posted = False
                self._unwritten = {**written, **self._unwritten}  # which go with the next one
                ready, self._waiting = self._waiting, []
            else:
                ready = [one for one in self._waiting if one[0] not in self._unwritten]
                self._waiting = [one for one in self._waiting if one[0] in self._unwritten]
        if failed is not None and self._complaints.allows():
            log.error("signed requests sent again after a restart cannot be told: %s", failed)
        for _, then in ready:
            then()

    def _read(self, file: sqlite3.Connection) -> list[tuple[bytes, float]]:
        self._trim(file)
        return list(file.execute("SELECT nonce, expires FROM nonces"))

    def _trim(self, file: sqlite3.Connection) -> None:
        """Throw out those that are too old or too many."""
        self._grown = 0
        file.execute("DELETE FROM nonces WHERE expires < ?", (time.time(),))
        last = file.execute(
            "SELECT expires FROM nonces WHERE nonce <> ? ORDER BY expires DESC LIMIT 1 OFFSET ?", (_FLOOR, self._most)
        ).fetchone()
        if last is not None:
            file.execute("DELETE FROM nonces WHERE expires <= ?", last)
            file.execute("INSERT OR REPLACE INTO nonces VALUES (?, ?)", (_FLOOR, *last))
