"""What an agent remembers of signatures, so that a copy of a signed request is not run."""

from __future__ import annotations

import enum
import hashlib
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from gofer.limit import Limit
from gofer.messaging.document import shown
from gofer.messaging.stamped import SKEW
from gofer.rmi.store import Database, Unavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Nonce", "Nonces", "Seen"]

log = logging.getLogger(__name__)

_HANGS = 5  # seconds after which a ledger that has not answered counts as one that cannot be used
_QUIET = 3600.0  # seconds between two lines that say that not all signatures of a signer are remembered
_LOST = b"lost"  # the row that says until when signatures may have been seen by a ledger that was lost
_FAR = 10 * 365 * 86400.0  # seconds that such a row outlives that time: longer than any age limit
_REALM = 8  # bytes that stand for a signer in the ledger

Done = Callable[[list[Any]], object]


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
        return _realm_of(self.signer) if self.signer else b""


@lru_cache(256)
def _realm_of(signer: str) -> bytes:
    return hashlib.sha256(signer.encode("utf-8", "surrogatepass")).digest()[:_REALM]


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


@dataclass(eq=False, slots=True)
class _Signer:
    """The signatures of one signer, by the time when they are too old; and the mark below which all count as seen."""

    order: list[tuple[float, bytes]] = field(default_factory=list)
    floor: float = 0.0
    name: str = "somebody"
    good_for: float = 0.0
    told: float = -_QUIET


class Nonces:
    """The signatures seen by one agent, as long as their age would let them pass. Any thread.

    Only ``restore`` and ``flush`` wait.

    No more than ``most`` are remembered. When there are more, the oldest go of the signer who has most; whatever that
    one signed before them counts as seen from then on: it fails closed. The log says so. Nobody else is concerned.

    With a ledger they survive the end of the process, and of the machine: a signed request is acknowledged after its
    signature is on the disk (``secured``). Until then the broker holds it; what is lost with the power is delivered
    again, and a copy is that one's second try at most. Nothing waits for the disk before it runs or is answered.
    While the ledger cannot be used, or has not answered for some seconds, memory alone serves, and the log says so.
    """

    def __init__(self, store: Database | None = None, *, most: int = 100_000) -> None:
        self._store = store
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[bytes, bytes] = {}  # the realm of each nonce
        self._earlier: set[bytes] = set()
        self._signers: dict[bytes, _Signer] = {}
        self._restored = False
        self._lost = 0.0  # what was signed before that may have been seen
        self._unwritten: dict[bytes, list[tuple[Done, Any]]] = {}  # nonces to be written, and what waits for that
        self._silent = 0  # seconds for which the ledger has not answered; one is over at ``_next``
        self._next = 0.0
        self._batch: list[_Row] | None = None  # rows that are written together; None: the next row begins with them
        self._complaints = Limit(0.1, 1)
        if store is not None:
            store.lost.append(self._rewrite)

    def restore(self) -> None:
        """Read what was seen before this process began; once, when that is possible.

        Raises:
            Unavailable: it is not now; until it is, no signed request may be taken.
        """
        if self._store is None or self._restored:
            return
        found = self._store.call(_read) if self._store.exists() else []
        with self._lock:
            self._restored = True
            for realm, nonce, expires in found:
                if realm == _LOST:
                    self._lost = max(self._lost, expires - _FAR)
                elif not nonce:
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
            rows: list[_Row] = []
            if self._store is not None:
                if not self._unwritten:
                    self._answered()
                self._unwritten[nonce.value] = []
                rows, self._batch = self._batch or rows, self._batch or rows
                rows.append((realm, nonce.value, nonce.expires))
            self._add(realm, nonce.value, nonce.expires)
            signer = self._signers[realm]
            signer.name, signer.good_for = nonce.signer or signer.name, nonce.good_for
        if len(rows) == 1 and self._store is not None:
            self._store.post(partial(self._write_batch, rows), partial(self._written, rows), soon=True)
        return Seen.NEVER

    def forget(self, nonce: Nonce | None) -> None:
        """Let a signature pass once more: its request was given back to the broker."""
        if nonce is None:
            return
        with self._lock:
            self._earlier.discard(nonce.value)
            realm = self._known.pop(nonce.value, None)
            self._batch = None  # what is noted after this is written after this
        if realm is not None and self._store is not None:
            self._store.post(partial(_delete, realm, nonce.value), soon=True)

    def secured(self, nonce: Nonce | None, then: Done, what: Any) -> None:
        """Call a function when a signature is on the disk, or cannot be put there: now, or soon by another thread.

        Args:
            then: called with a list of what was given here together with it: that for which nothing is left to wait.
        """
        if nonce is not None and nonce.value in self._unwritten and self._silent < _HANGS:
            with self._lock:
                waiting = self._unwritten.get(nonce.value)
                if waiting is not None:
                    waiting.append((then, what))
                    return
        then([what])

    def look(self, now: float) -> float:
        """Go on with what waits for a ledger that does not answer. Returns when to look again.

        Else the window of what is not acknowledged would be full, and nothing more would come.
        """
        if not self._unwritten:
            return inf
        with self._lock:
            if not self._unwritten or self._silent == _HANGS:
                return inf
            if now >= self._next:  # one in which the whole process stood still counts as one
                self._silent, self._next = self._silent + 1, now + 1.0
            if self._silent < _HANGS:
                return self._next
            ready = self._let_go(self._unwritten)
        self._complain(f"the ledger has not answered for {_HANGS} s")
        for then, all_of_it in ready.items():
            then(all_of_it)
        return inf

    def _answered(self) -> None:
        self._silent, self._next = 0, time.monotonic() + 1.0

    def _let_go(self, values: Iterable[bytes]) -> dict[Done, list[Any]]:
        """Take what waits for signatures to be on the disk. Under the lock."""
        ready: dict[Done, list[Any]] = {}
        for value in values:
            for then, what in self._unwritten.get(value, ()):
                ready.setdefault(then, []).append(what)
            if value in self._unwritten:
                self._unwritten[value] = []
        return ready

    def _complain(self, why: object) -> None:
        if self._complaints.allows():
            log.error("copies of signed requests cannot be recognised after a restart: %s", why)

    def flush(self, timeout: float) -> None:
        """Have all on the disk now, and go on with what waits for that. Waits, at most so many seconds."""
        if self._store is not None and self._unwritten:
            ended = threading.Event()
            self._store.post(lambda file: None, lambda *_: ended.set())
            ended.wait(timeout)

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, realm: bytes, nonce: bytes, expires: float) -> None:
        signer = self._signers.get(realm) or self._signers.setdefault(realm, _Signer())
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
        raised: dict[bytes, _Signer] = {}
        while len(self._known) > self._most - (self._most // 200 if raised else 0):  # some more at once
            # Whoever signs least is not to be concerned by those who sign most.
            realm, signer = max(self._signers.items(), key=lambda one: len(one[1].order))
            oldest, gone = heapq.heappop(signer.order)
            if self._known.get(gone) == realm:
                self._forget_one(gone)
                signer.floor = max(signer.floor, oldest)
                raised[realm] = signer
        for realm, signer in raised.items():
            if self._store is not None:
                self._store.post(partial(_raise_floor, realm, signer.floor), soon=True)
            self._tell(signer, now)

    def _drop(self, realm: bytes, signer: _Signer, now: float) -> None:
        """Forget the signatures of a signer that are too old anyway."""
        while signer.order and signer.order[0][0] < now:
            _, gone = heapq.heappop(signer.order)
            if self._known.get(gone) == realm:
                self._forget_one(gone)

    def _forget_one(self, nonce: bytes) -> None:
        del self._known[nonce]
        self._earlier.discard(nonce)

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

    def _write_batch(self, rows: list[_Row], file: sqlite3.Connection) -> None:
        with self._lock:
            if self._batch is rows:
                self._batch = None
        _write(rows, file)

    def _written(self, rows: list[_Row], _: object, failed: Unavailable | None) -> None:
        values = [nonce for _, nonce, _ in rows]
        with self._lock:
            if self._batch is rows:  # it was not even tried
                self._batch = None
            ready = self._let_go(values)
            for value in values:
                self._unwritten.pop(value, None)
            self._answered()
        if failed is not None and self._store is not None:
            self._complain(failed)
            # Later, unless they shall pass once more by then.
            self._store.post(lambda file: _write([row for row in rows if row[1] in self._known], file), kept=True)
        for then, all_of_it in ready.items():
            then(all_of_it)

    def _rewrite(self) -> None:
        """Write down again what is known of a file that was corrupt; what is not known is refused from now on."""
        rows: list[_Row] = []
        with self._lock:
            if not self._restored:
                self._lost = time.time() + SKEW
            if self._lost:
                rows.append((_LOST, b"", self._lost + _FAR))
            for realm, signer in self._signers.items() if self._restored else ():
                rows.append((realm, b"", signer.floor))
                rows += [(realm, nonce, at) for at, nonce in signer.order if self._known.get(nonce) == realm]
        if self._store is not None:
            self._store.post(partial(_write, rows), kept=True)


# -- the table: (authenticator, nonce, expires); without a nonce, a signer's low-water mark ------------------------

_Row = tuple[bytes, bytes, float]


def _write(rows: Iterable[_Row], file: sqlite3.Connection) -> None:
    file.executemany("INSERT OR REPLACE INTO nonces VALUES (?, ?, ?)", rows)


def _delete(realm: bytes, nonce: bytes, file: sqlite3.Connection) -> None:
    file.execute("DELETE FROM nonces WHERE authenticator = ? AND nonce = ?", (realm, nonce))


def _raise_floor(realm: bytes, floor: float, file: sqlite3.Connection) -> None:
    """Remember one time instead of all signatures up to that."""
    file.execute("DELETE FROM nonces WHERE authenticator = ? AND expires <= ?", (realm, floor))
    _write([(realm, b"", floor)], file)


def _read(file: sqlite3.Connection) -> list[_Row]:
    file.execute("DELETE FROM nonces WHERE expires < ?", (time.time(),))
    return file.execute("SELECT * FROM nonces").fetchall()
