"""What an agent remembers of signatures, so that a copy of a signed request is not run."""

from __future__ import annotations

import enum
import hashlib
import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from gofer.limit import Limit
from gofer.messaging.document import shown
from gofer.messaging.stamped import SKEW
from gofer.rmi.clock import Clock
from gofer.rmi.store import Database, Unavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Nonce", "Nonces", "Seen"]

log = logging.getLogger(__name__)

_PAUSE = 0.01  # seconds between two commits: one for each call would cost as much as the call
_QUIET = 3600.0  # seconds between two lines that say that not all signatures of a signer are remembered
_BACKLOG = 10_000  # of what is to be written, beside three times what is remembered
_LOST = b"lost"  # the row that says until when signatures may have been seen by a ledger that was lost
_FAR = 10 * 365 * 86400.0  # seconds that such a row outlives that time: longer than any age limit
_REALM = 8  # bytes that stand for a signer in the ledger, before a nonce; alone: that one's low-water mark


class Nonce(NamedTuple):
    """What tells a signature from all others: 16 bytes, and the time (seconds since 1970) when it is too old anyway.

    ``exact``: each publication has its own, so that one that was given again says that it was copied. ``signer``: who
    has signed, and how. ``good_for``: so many seconds before ``expires`` it was signed.
    """

    value: bytes
    expires: float
    exact: bool = True
    signer: str = ""
    good_for: float = 0.0

    @property
    def realm(self) -> bytes:
        """What stands for the signer in memory and in the ledger."""
        return hashlib.sha256(self.signer.encode("utf-8", "surrogatepass")).digest()[:_REALM] if self.signer else b""


class Seen(enum.Enum):
    """Whether a signature was seen."""

    NEVER = "never"
    BEFORE = "before"  # since this process began
    EARLIER = "earlier"  # by one that ran before: it may have died over the request
    FORGOTTEN = "forgotten"  # nobody can tell: it is older than what is remembered of its signer
    LOST = "lost"  # nobody can tell: it was made before the ledger was lost

    @property
    def unsure(self) -> str | None:
        """Why it counts as a copy that nobody can call one; None: it is one, or none."""
        return _UNSURE.get(self)


_UNSURE = {
    Seen.FORGOTTEN: "signed before the oldest signature of this signer that the agent remembers",
    Seen.LOST: "signed before the agent's ledger was found corrupt, which held the signatures seen until then",
}


class _Signer:
    """The signatures of one signer, by the time when they are too old; and the mark below which all count as seen."""

    __slots__ = ("floor", "good_for", "name", "order", "told")

    def __init__(self) -> None:
        self.order: list[tuple[float, bytes]] = []
        self.floor = 0.0
        self.name = "somebody"
        self.good_for = 0.0
        self.told = -_QUIET


class Nonces:
    """The signatures seen by one agent, as long as their age would let them pass. Any thread.

    Only ``restore`` and ``flush`` wait.

    No more than ``most`` are remembered. When there are more, the oldest go of the signer who has most; whatever that
    one signed before them counts as seen from then on: it fails closed. The log says so. Nobody else is concerned.

    With a ledger they survive the end of the process, and of the machine: a signed request is acknowledged after its
    signature is on the disk (``secured``). Until then the broker holds it; what is lost with the power is delivered
    again, and a copy is that one's second try at most. Nothing waits for the disk before it runs or is answered.
    While the ledger cannot be used, memory alone serves, and the log says so.
    """

    def __init__(self, store: Database | None = None, clock: Clock | None = None, *, most: int = 100_000) -> None:
        self._store = store
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[bytes, bytes] = {}  # the realm of each nonce
        self._earlier: set[bytes] = set()
        self._signers: dict[bytes, _Signer] = {}
        self._restored = False
        self._lost = 0.0  # what was signed before that may have been seen
        self._lost_unwritten = False
        if store is not None:
            store.lost.append(self._rewrite)
        # What is to be written: signatures, and None for one that shall pass once more. Then what the ledger is at.
        self._unwritten: dict[bytes, float | None] = {}
        self._writing: dict[bytes, float | None] = {}
        self._raised: set[bytes] = set()  # the signers whose marks are to be written
        self._posted = False
        self._posted_at = 0.0
        self._grown = 0
        self._waiting: list[tuple[bytes, Callable[[], object]]] = []
        self._complaints = Limit(0.1, 1)

    def restore(self) -> None:
        """Read what was seen before this process began; once, when that is possible.

        Raises:
            Unavailable: it is not now; until it is, no signed request may be taken.
        """
        if self._store is None or self._restored:
            return
        found = self._store.call(self._read) if self._store.exists() else []
        with self._lock:
            self._restored = True
            for row, expires in found:
                if row == _LOST:
                    self._lost = max(self._lost, expires - _FAR)
                    continue
                realm, nonce = (row, b"") if len(row) in (0, _REALM) else (row[:-16], row[-16:])
                if not nonce:
                    signer = self._signers.setdefault(realm, _Signer())
                    signer.floor = max(signer.floor, expires)
                elif nonce not in self._known:
                    self._earlier.add(nonce)
                    self._add(realm, nonce, expires)

    def note(self, nonce: Nonce) -> Seen:
        """Remember a signature, and tell whether it was known."""
        with self._lock:
            if nonce.value in self._known:
                if nonce.value not in self._earlier:
                    return Seen.BEFORE
                self._earlier.discard(nonce.value)
                return Seen.EARLIER
            realm = nonce.realm
            floors = [self._signers[one].floor for one in (realm, b"") if one in self._signers]
            if nonce.expires <= max(floors, default=0.0):
                return Seen.FORGOTTEN
            if self._lost and nonce.expires - nonce.good_for <= self._lost:
                return Seen.LOST
            self._add(realm, nonce.value, nonce.expires)
            signer = self._signers.setdefault(realm, _Signer())
            signer.name, signer.good_for = nonce.signer or signer.name, nonce.good_for
            due = self._is_due(realm + nonce.value, nonce.expires)
        if due:
            self._post()
        return Seen.NEVER

    def forget(self, nonce: Nonce | None) -> None:
        """Let a signature pass once more: its request was given back to the broker."""
        if nonce is None:
            return
        with self._lock:
            self._earlier.discard(nonce.value)
            realm = self._known.pop(nonce.value, None)
            due = realm is not None and self._is_due(realm + nonce.value, None)
        if due:
            self._post()

    def secured(self, nonce: Nonce | None, then: Callable[[], object]) -> None:
        """Call a function when a signature is on the disk, or cannot be put there: now, or soon by another thread."""
        if nonce is not None and (self._unwritten or self._writing):
            row = nonce.realm + nonce.value
            with self._lock:
                if (row in self._unwritten and self._posted) or row in self._writing:
                    self._waiting.append((row, then))
                    return
        then()

    def flush(self, timeout: float) -> None:
        """Have all on the disk now, and go on with what waits for that. Waits, at most so many seconds."""
        if self._store is None or not (self._unwritten or self._writing):
            return
        ended = threading.Event()

        def done(value: object, failed: Unavailable | None) -> None:
            self._written(value, failed)
            ended.set()

        self._store.post(self._put, done)
        ended.wait(timeout)

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, realm: bytes, nonce: bytes, expires: float) -> None:
        signer = self._signers.setdefault(realm, _Signer())
        self._known[nonce] = realm
        heapq.heappush(signer.order, (expires, nonce))
        now = time.time()
        self._drop(realm, signer, now)
        if len(self._known) <= self._most:
            return
        for other, one in list(self._signers.items()):
            self._drop(other, one, now)
            if not one.order and one.floor < now:
                del self._signers[other]
        while len(self._known) > self._most:
            # Whoever signs least is not to be concerned by those who sign most.
            realm, signer = max(self._signers.items(), key=lambda one: len(one[1].order))
            oldest, gone = heapq.heappop(signer.order)
            if self._known.get(gone) == realm:
                self._forget_one(realm, gone)
                signer.floor = max(signer.floor, oldest)
                self._raised.add(realm)
                self._tell(signer, now)

    def _drop(self, realm: bytes, signer: _Signer, now: float) -> None:
        """Forget the signatures of a signer that are too old anyway."""
        while signer.order and signer.order[0][0] < now:
            _, gone = heapq.heappop(signer.order)
            if self._known.get(gone) == realm:
                self._forget_one(realm, gone)

    def _forget_one(self, realm: bytes, nonce: bytes) -> None:
        del self._known[nonce]
        self._earlier.discard(nonce)
        if self._store is not None:
            self._unwritten[realm + nonce] = None  # goes with the next that is written

    @staticmethod
    def _tell(signer: _Signer, now: float) -> None:
        if time.monotonic() - signer.told < _QUIET:
            return
        signer.told = time.monotonic()
        log.warning(
            "%s has signed more requests than are remembered: what that one signed more than %.0f s ago is refused now"
            " (security.replayed), as nobody can tell whether it was run",
            shown(signer.name),
            max(0.0, now - (signer.floor - signer.good_for)),
        )

    # -- the ledger -----------------------------------------------------------------------------------------------

    def _is_due(self, nonce: bytes, expires: float | None) -> bool:
        """Put something among what is to be written; tell whether that has to be posted. (Not under the lock.)"""
        if self._store is None:
            return False
        self._unwritten[nonce] = expires
        while len(self._unwritten) > 3 * self._most + _BACKLOG:  # the ledger cannot be used for long
            del self._unwritten[next(iter(self._unwritten))]
        due = not self._posted  # else it goes with what is posted and not written yet
        self._posted = True
        return due

    def _post(self) -> None:
        """Have the ledger write what is to be written, not more often than is good for quick calls."""
        pause = self._posted_at + _PAUSE - time.monotonic()
        if pause > 0 and self._clock is not None:
            self._clock.call_after(pause, self._post)
        elif self._store is not None:
            self._posted_at = time.monotonic()
            self._store.post(self._put, self._written)

    def _put(self, file: sqlite3.Connection) -> None:
        with self._lock:
            self._writing.update(self._unwritten)
            self._unwritten.clear()
            self._posted = False
            new = [(row, expires) for row, expires in self._writing.items() if expires is not None]
            gone = [row for row, expires in self._writing.items() if expires is None]
            new += [(one, self._signers[one].floor) for one in self._raised if one in self._signers]
            if self._lost_unwritten:
                new.append((_LOST, self._lost + _FAR))
        file.executemany("INSERT OR REPLACE INTO nonces VALUES (?, ?, ?)", [(*_split(row), at) for row, at in new])
        file.executemany("DELETE FROM nonces WHERE authenticator = ? AND nonce = ?", map(_split, gone))
        self._grown += len(new)
        if self._grown > self._most:
            self._trim(file)

    def _written(self, _: object, failed: Unavailable | None) -> None:
        with self._lock:
            written, self._writing = self._writing, {}
            if failed is None:
                self._raised.clear()
                self._lost_unwritten = False
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
        return [(realm + nonce, at) for realm, nonce, at in file.execute("SELECT * FROM nonces")]

    def _trim(self, file: sqlite3.Connection) -> None:
        """Throw out those that are too old."""
        self._grown = 0
        file.execute("DELETE FROM nonces WHERE expires < ?", (time.time(),))

    def _rewrite(self) -> None:
        """Write down again what is known of a file that was corrupt; what is not known is refused from now on."""
        with self._lock:
            if not self._restored:
                self._lost = time.time() + SKEW
            self._lost_unwritten = bool(self._lost)
            for realm, signer in self._signers.items() if self._restored else ():
                self._raised.add(realm)
                for expires, nonce in signer.order:
                    if self._known.get(nonce) == realm:
                        self._unwritten[realm + nonce] = expires
            self._posted = True
        if self._store is not None:
            self._store.post(self._put, self._written)


def _split(row: bytes) -> tuple[bytes, bytes]:
    """Split what stands for a signature into the columns of the table."""
    return (row, b"") if len(row) < 16 else (row[:-16], row[-16:])
