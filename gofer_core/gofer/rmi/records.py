"""What stands in the ledger of requests: pieces of work for :class:`gofer.rmi.ledger.Ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "DAY",
    "ENDED",
    "INTERRUPTED",
    "MOST_KEPT",
    "OPEN",
    "UNDELIVERABLE",
    "UNSENT",
    "Found",
    "Record",
    "Row",
    "absent",
    "bury",
    "buried",
    "clean",
    "drop",
    "end",
    "find",
    "keep",
    "known",
    "load",
    "note",
    "open_rows",
    "remove",
    "revive",
    "take",
    "told",
    "trim",
    "unnote",
]

DAY = 86_400.0  # seconds

#: What may have become of a request (its ``state``): it waits or runs; it has ended, and its result is still to be
#: sent; that was taken; that was not taken; and it was begun, and is not run again.
OPEN, UNSENT, ENDED, UNDELIVERABLE, INTERRUPTED = range(5)

#: The most results that nobody took which are kept, and the most bytes of them; the oldest go first.
MOST_KEPT = 10_000
_MOST_BYTES = 256 * 1024 * 1024

_T = TypeVar("_T")


class Record(NamedTuple):
    """A request as it is written down."""

    key: str
    plugin: str
    body: bytes
    identity: str | None
    digest: bytes


class Row(NamedTuple):
    """A request as it stands in the ledger. ``result``: it has ended, and its result was not taken."""

    key: str
    plugin: str
    body: bytes
    identity: str | None
    digest: bytes
    runs: int
    state: int
    result: bytes | None
    reason: str | None
    arrived: float
    ended: float | None


class Found(NamedTuple):
    """What is known of a request that comes again: its digest, its result, and how often it was begun."""

    digest: bytes
    result: bytes | None
    runs: int


_ROW = "key, plugin, body, identity, digest, runs, state, result, reason, arrived, ended"


def take(record: Record, *, begun: bool = False) -> Callable[[sqlite3.Connection], None]:
    """Write a request, and whether a run of it was begun. One that stands there already is left as it is."""

    def work(file: sqlite3.Connection) -> None:
        file.execute(
            "INSERT INTO requests (key, plugin, body, identity, digest, arrived, runs, state)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO NOTHING",
            (*record, time.time(), int(begun)),
        )

    return work


def note(record: Record, *, once: bool = False) -> Callable[[sqlite3.Connection], Found | None]:
    """Write a request, if need be, and that it is about to run.

    Args:
        once: not if it was begun before; then that is returned.
    """

    def work(file: sqlite3.Connection) -> Found | None:
        before = find(record.key, begun=True)(file) if once else None
        if before is None:
            take(record)(file)
            file.execute("UPDATE requests SET runs = runs + 1 WHERE key = ?", (record.key,))
        return before

    return work


def unnote(key: str) -> Callable[[sqlite3.Connection], None]:
    """Take back the note of a first run, which has not begun."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("UPDATE requests SET runs = 0 WHERE key = ? AND state = ? AND runs = 1", (key, OPEN))

    return work


def end(key: str, result: bytes, *, interrupted: bool = False) -> Callable[[sqlite3.Connection], None]:
    """Write that the result of a request was taken. One whose run was not noted is forgotten.

    Args:
        interrupted: it was begun and is not run again; then it stays whole, for those who look after the agent.
    """

    def work(file: sqlite3.Connection) -> None:
        if interrupted:
            file.execute(
                "UPDATE requests SET state = ?, result = ?, ended = ? WHERE key = ?",
                (INTERRUPTED, result, time.time(), key),
            )
            return
        file.execute("DELETE FROM requests WHERE key = ? AND runs = 0", (key,))
        file.execute(
            "UPDATE requests SET state = ?, result = ?, ended = ?, reason = NULL, body = x''"
            " WHERE key = ? AND state <> ?",
            (ENDED, result, time.time(), key, INTERRUPTED),
        )

    return work


def keep(
    record: Record, result: bytes, state: int, reason: str | None = None, *, whole: bool = True
) -> Callable[[sqlite3.Connection], None]:
    """Write a request that has ended, with its result, which was not taken: UNSENT or UNDELIVERABLE.

    Args:
        whole: the record's body is to be written over the one that may stand there.
    """

    def work(file: sqlite3.Connection) -> None:
        take(record)(file)
        body = record.body if whole else None
        file.execute(
            "UPDATE requests SET state = ?, result = ?, reason = ?, ended = ?, body = coalesce(?, body) WHERE key = ?",
            (state, result, reason, time.time(), body, record.key),
        )

    return work


def remove(key: str) -> Callable[[sqlite3.Connection], None]:
    """Forget a request: it was refused."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("DELETE FROM requests WHERE key = ?", (key,))

    return work


def find(key: str, *, begun: bool = False) -> Callable[[sqlite3.Connection], Found | None]:
    """Look for a request that has ended, or (``begun``) whose run was noted."""

    def work(file: sqlite3.Connection) -> Found | None:
        row = file.execute(
            "SELECT digest, result, runs FROM requests WHERE key = ? AND (state <> ? OR (? AND runs > 0))",
            (key, OPEN, begun),
        ).fetchone()
        return None if row is None else Found(*row)

    return work


def load(key: str) -> Callable[[sqlite3.Connection], bytes | None]:
    """Read the body of a request."""

    def work(file: sqlite3.Connection) -> bytes | None:
        row = file.execute("SELECT body FROM requests WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    return work


def open_rows(plugin: str, after: int, most: int) -> Callable[[sqlite3.Connection], list[tuple[int, Row]]]:
    """Read the requests of a plugin that have not ended, or whose results are to be sent, by their numbers."""

    def work(file: sqlite3.Connection) -> list[tuple[int, Row]]:
        rows = file.execute(
            f"SELECT number, {_ROW} FROM requests"  # noqa: S608 - our own names of columns
            " WHERE plugin = ? AND state IN (?, ?) AND number > ? ORDER BY number LIMIT ?",
            (plugin, OPEN, UNSENT, after, most),
        )
        return [(number, Row(*rest)) for number, *rest in rows]

    return work


def known(plugin: str, most: int) -> Callable[[sqlite3.Connection], list[str]]:
    """Read the keys of a plugin's requests that have ended, the latest ``most``."""

    def work(file: sqlite3.Connection) -> list[str]:
        rows = file.execute(
            "SELECT key FROM requests WHERE plugin = ? AND state > ? ORDER BY number DESC LIMIT ?", (plugin, OPEN, most)
        )
        return [key for (key,) in rows]

    return work


# -- for those who look after the agent ---------------------------------------------------------------------------


def told(
    read: Callable[[Row], _T], plugin: str | None, states: Sequence[int], most: int
) -> Callable[[sqlite3.Connection], tuple[list[_T], int]]:
    """Read the requests in some states, the latest first, each by ``read``; and how many there are."""

    def work(file: sqlite3.Connection) -> tuple[list[_T], int]:
        which = f"WHERE state IN ({', '.join('?' * len(states))}) AND (? IS NULL OR plugin = ?)"
        values = (*states, plugin, plugin)
        rows = file.execute(f"SELECT {_ROW} FROM requests {which} ORDER BY ended DESC LIMIT ?", (*values, max(0, most)))  # noqa: S608 - names of columns and question marks
        found = [read(Row(*row)) for row in rows]
        count: int = file.execute(f"SELECT count(*) FROM requests {which}", values).fetchone()[0]  # noqa: S608 - question marks, as above
        return found, count

    return work


def absent(
    read: Callable[[Row], _T],
    plugin: str | None,
    states: Sequence[int],
    away: Callable[[str, str], bool],
    most: int,
) -> Callable[[sqlite3.Connection], tuple[list[_T], int]]:
    """Read those requests in some states, the first ones first, of which ``away`` says, by key and plugin, that they
    are nowhere else; and how many there are."""

    def work(file: sqlite3.Connection) -> tuple[list[_T], int]:
        which = f"WHERE state IN ({', '.join('?' * len(states))}) AND (? IS NULL OR plugin = ?) ORDER BY number"
        all_keys = file.execute(f"SELECT key, plugin FROM requests {which}", (*states, plugin, plugin)).fetchall()  # noqa: S608 - question marks
        keys = [key for key, of in all_keys if away(key, of)]
        one = f"SELECT {_ROW} FROM requests WHERE key = ?"  # noqa: S608 - our own names of columns
        return [read(Row(*file.execute(one, (key,)).fetchone())) for key in keys[: max(0, most)]], len(keys)

    return work


def revive(key: str, quiet: Callable[[bytes], bytes]) -> Callable[[sqlite3.Connection], Row | None]:
    """Have what is undeliverable sent again, or what was interrupted run again; None: it is neither (any more).

    Args:
        quiet: makes a body of one that nobody waits for an answer to: the caller of what was interrupted has its own.
    """

    def work(file: sqlite3.Connection) -> Row | None:
        row = file.execute(f"SELECT {_ROW} FROM requests WHERE key = ?", (key,)).fetchone()  # noqa: S608 - our own names of columns
        found = None if row is None else Row(*row)
        if found is None or found.state not in (UNDELIVERABLE, INTERRUPTED):
            return None
        if found.state == UNDELIVERABLE:
            file.execute("UPDATE requests SET state = ? WHERE key = ?", (UNSENT, key))
            return found._replace(state=UNSENT)
        found = found._replace(state=OPEN, result=None, body=quiet(found.body), runs=0)
        file.execute(
            "UPDATE requests SET state = ?, result = NULL, ended = NULL, runs = 0, body = ? WHERE key = ?",
            (OPEN, found.body, key),
        )
        return found

    return work


def drop(key: str, away: Callable[[str, str], bool]) -> Callable[[sqlite3.Connection], bool]:
    """Do away with what is undeliverable or interrupted, or nowhere but here; tell whether there was that.

    What was noted to have run stays known for the rest of its day.

    Args:
        away: tells of a request, by its key and its plugin, whether nobody but the ledger has it.
    """

    def work(file: sqlite3.Connection) -> bool:
        row = file.execute("SELECT plugin, state FROM requests WHERE key = ?", (key,)).fetchone()
        if row is not None and row[1] in (OPEN, UNSENT) and away(key, row[0]):
            file.execute("UPDATE requests SET state = ?, ended = ? WHERE key = ?", (INTERRUPTED, time.time(), key))
        which = (key, UNDELIVERABLE, INTERRUPTED)
        gone = file.execute("DELETE FROM requests WHERE key = ? AND state IN (?, ?) AND runs = 0", which).rowcount
        kept = file.execute(
            f"UPDATE requests SET state = {ENDED}, body = x'' WHERE key = ? AND state IN (?, ?)",  # noqa: S608 - one of our own numbers
            which,
        ).rowcount
        return bool(gone or kept)

    return work


# -- cancelled before they came -----------------------------------------------------------------------------------


def bury(plugin: str, key: str) -> Callable[[sqlite3.Connection], None]:
    """Write that a request was cancelled before it came."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", (plugin, key, time.time() + DAY))

    return work


def trim(most: int) -> Callable[[sqlite3.Connection], None]:
    """Forget the oldest of what was cancelled before it came, where that is more than so many."""

    def work(file: sqlite3.Connection) -> None:
        file.execute(
            "DELETE FROM tombstones WHERE until <= (SELECT until FROM tombstones ORDER BY until DESC LIMIT 1 OFFSET ?)",
            (most,),
        )

    return work


def buried(plugin: str) -> Callable[[sqlite3.Connection], list[tuple[str, float]]]:
    """Read which requests of a plugin were cancelled before they came, and for how many seconds that holds."""

    def work(file: sqlite3.Connection) -> list[tuple[str, float]]:
        now = time.time()
        rows = file.execute(
            "SELECT key, until - ? FROM tombstones WHERE plugin = ? AND until > ? ORDER BY until", (now, plugin, now)
        )
        return [(key, left) for key, left in rows]

    return work


def clean(file: sqlite3.Connection) -> None:
    """Forget what is older than a day: what has ended, and cancellations of what never came; and what is too much."""
    now = time.time()
    file.execute("DELETE FROM requests WHERE state > ? AND ended < ?", (UNSENT, now - DAY))
    file.execute("DELETE FROM tombstones WHERE until < ?", (now,))
    total, last = 0, None
    for count, (number, size) in enumerate(
        file.execute(
            "SELECT number, length(result) + length(body) FROM requests WHERE state = ? ORDER BY number DESC",
            (UNDELIVERABLE,),
        )
    ):
        total += size or 0
        if count >= MOST_KEPT or total > _MOST_BYTES:
            last = number
            break
    if last is not None:
        file.execute("DELETE FROM requests WHERE state = ? AND number <= ?", (UNDELIVERABLE, last))
    file.execute("PRAGMA incremental_vacuum(20000)").fetchall()
