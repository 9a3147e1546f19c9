"""The SQL of requests: each function returns work for :class:`gofer.rmi.store.Database`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "ANSWERING",
    "CANCELLED",
    "DAY",
    "DONE",
    "INTERRUPTED",
    "MOST_KEPT",
    "QUEUED",
    "RUNNING",
    "UNDELIVERABLE",
    "Record",
    "Row",
    "absent",
    "bury",
    "buried",
    "claim",
    "clean",
    "count",
    "drop",
    "find",
    "keep",
    "known",
    "kept",
    "load",
    "pull",
    "pull_one",
    "remove",
    "revive",
    "rows",
    "settle",
    "take",
    "trim",
]

DAY = 86_400.0  # seconds

#: States. The last one is that of a tombstone: a request that was cancelled, perhaps before it came.
QUEUED, RUNNING, ANSWERING = "queued", "running", "answering"
DONE, UNDELIVERABLE, INTERRUPTED, CANCELLED = "done", "undeliverable", "interrupted", "cancelled"

#: The most results that nobody took which are kept, and the most bytes of them; the oldest go first.
MOST_KEPT = 10_000
_MOST_BYTES = 256 * 1024 * 1024

_T = TypeVar("_T")


class Record(NamedTuple):
    """A request as it is written. ``tries``: how often a run of it may have started."""

    sn: str
    plugin: str
    body: bytes
    identity: str | None
    digest: bytes
    state: str = QUEUED
    tries: int = 0


class Row(NamedTuple):
    """A request as it stands in the database. ``once``: it must not run a second time, and has started."""

    number: int
    sn: str
    plugin: str
    digest: bytes
    identity: str | None
    state: str
    tries: int
    once: int
    body: bytes
    result: bytes | None
    reason: str | None
    created: float
    updated: float


_ROW = ", ".join(Row._fields)
_SELECT = f"SELECT {_ROW} FROM requests"  # noqa: S608 - our own names of columns, here and below


def take(records: Sequence[Record]) -> Callable[[sqlite3.Connection], None]:
    """Write requests; one that stands there already is left as it is."""

    def work(file: sqlite3.Connection) -> None:
        now = time.time()
        file.executemany(
            "INSERT INTO requests (sn, plugin, body, identity, digest, state, tries, created, updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sn) DO NOTHING",
            [(*record, now, now) for record in records],
        )

    return work


def find(sn: str) -> Callable[[sqlite3.Connection], Row | None]:
    """Read a request."""

    def work(file: sqlite3.Connection) -> Row | None:
        row = file.execute(f"{_SELECT} WHERE sn = ?", (sn,)).fetchone()
        return None if row is None else Row(*row)

    return work


def load(record: Record) -> Callable[[sqlite3.Connection], Row | None]:
    """Read the request of the same number that stands there; else write this one."""

    def work(file: sqlite3.Connection) -> Row | None:
        row = find(record.sn)(file)
        if row is None:
            take([record])(file)
        return row

    return work


def claim(record: Record, *, once: bool, again: bool) -> Callable[[sqlite3.Connection], Row | None]:
    """Write that a request starts, and count the try.

    Args:
        once: it must not start if it did before; the row of before is returned then.
        again: this run has claimed it already.
    """

    def work(file: sqlite3.Connection) -> Row | None:
        before = find(record.sn)(file) if once else None
        if before is not None and (before.once or before.state not in (QUEUED, RUNNING)):
            return before
        take([record])(file)
        file.execute(
            "UPDATE requests SET state = ?, tries = tries + ?, once = ?, updated = ? WHERE sn = ?",
            (RUNNING, int(not again), int(once), time.time(), record.sn),
        )
        return None

    return work


def keep(record: Record, result: bytes, state: str, reason: str | None = None) -> Callable[[sqlite3.Connection], None]:
    """Write the result of a request beside it, before it is sent (ANSWERING) or when nobody took it."""

    def work(file: sqlite3.Connection) -> None:
        take([record])(file)
        file.execute(
            "UPDATE requests SET state = ?, result = ?, reason = ?, updated = ?, body = ? WHERE sn = ?",
            (state, result, reason, time.time(), record.body, record.sn),
        )

    return work


def settle(sn: str, result: bytes, *, whole: bool = False) -> Callable[[sqlite3.Connection], None]:
    """Write that the result of a request was taken. One that nobody can mistake for a second run is forgotten.

    Args:
        whole: it was interrupted; then it is kept with its body for a day, for operators.
    """

    def work(file: sqlite3.Connection) -> None:
        body = "body" if whole else "x''"
        if not whole:
            file.execute(
                "DELETE FROM requests WHERE sn = ? AND tries < 2 AND NOT once AND state <> ?", (sn, INTERRUPTED)
            )
        file.execute(
            f"UPDATE requests SET state = ?, result = ?, reason = NULL, updated = ?, body = {body}"  # noqa: S608 - ours
            " WHERE sn = ? AND state <> ?",
            (INTERRUPTED if whole else DONE, result, time.time(), sn, INTERRUPTED),
        )

    return work


def remove(sn: str) -> Callable[[sqlite3.Connection], None]:
    """Forget a request."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("DELETE FROM requests WHERE sn = ?", (sn,))

    return work


def rows(plugin: str, states: Sequence[str], after: int, most: int) -> Callable[[sqlite3.Connection], list[Row]]:
    """Read the requests of a plugin in some states, in the order of their arrival.

    Args:
        after: the number of the last one that was read.
    """

    def work(file: sqlite3.Connection) -> list[Row]:
        which = f"WHERE plugin = ? AND state IN ({_marks(states)}) AND number > ? ORDER BY number LIMIT ?"
        return [Row(*row) for row in file.execute(f"{_SELECT} {which}", (plugin, *states, after, most))]

    return work


def pull(plugin: str, most: int, size: int, mine: set[str]) -> Callable[[sqlite3.Connection], list[Row]]:
    """Read the first requests of a plugin that wait, and that no one has in memory.

    Args:
        size: no more after so many bytes of bodies.
        mine: the numbers of those that are in memory; what is read is added.
    """

    def work(file: sqlite3.Connection) -> list[Row]:
        found: list[Row] = []
        left = size
        which = "WHERE plugin = ? AND state = ? ORDER BY number"
        for number, sn in file.execute(f"SELECT number, sn FROM requests {which}", (plugin, QUEUED)):  # noqa: S608
            if len(found) >= most or left <= 0:
                break
            if sn not in mine:
                mine.add(sn)
                found.append(Row(*file.execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()))
                left -= len(found[-1].body)
        return found

    return work


def pull_one(sn: str, mine: set[str]) -> Callable[[sqlite3.Connection], Row | None]:
    """Read one request, if it waits, and no one has it in memory; it is added to ``mine`` then."""

    def work(file: sqlite3.Connection) -> Row | None:
        row = None if sn in mine else find(sn)(file)
        if row is None or row.state != QUEUED:
            return None
        mine.add(sn)
        return row

    return work


def count(plugin: str) -> Callable[[sqlite3.Connection], int]:
    """Count the requests of a plugin that wait."""

    def work(file: sqlite3.Connection) -> int:
        found = file.execute("SELECT count(*) FROM requests WHERE plugin = ? AND state = ?", (plugin, QUEUED))
        return int(found.fetchone()[0])

    return work


def known(plugin: str, most: int) -> Callable[[sqlite3.Connection], list[str]]:
    """Read the numbers of a plugin's requests, the latest ``most``; the oldest of these first."""

    def work(file: sqlite3.Connection) -> list[str]:
        found = file.execute(
            "SELECT sn FROM requests WHERE plugin = ? AND state <> ? ORDER BY number DESC LIMIT ?",
            (plugin, CANCELLED, most),
        ).fetchall()
        return [sn for (sn,) in reversed(found)]

    return work


# -- for operators -------------------------------------------------------------------------------------------------


def kept(
    read: Callable[[Row], _T], plugin: str | None, states: Sequence[str], most: int
) -> Callable[[sqlite3.Connection], tuple[list[_T], int]]:
    """Read the requests in some states, the latest first, each by ``read``; and how many there are."""

    def work(file: sqlite3.Connection) -> tuple[list[_T], int]:
        which = f"WHERE state IN ({_marks(states)}) AND (? IS NULL OR plugin = ?)"
        values = (*states, plugin, plugin)
        found = file.execute(f"{_SELECT} {which} ORDER BY updated DESC LIMIT ?", (*values, max(0, most)))
        told = [read(Row(*row)) for row in found]
        total: int = file.execute(f"SELECT count(*) FROM requests {which}", values).fetchone()[0]  # noqa: S608
        return told, total

    return work


def absent(
    read: Callable[[Row], _T], plugin: str | None, states: Sequence[str], away: Callable[[str], bool], most: int
) -> Callable[[sqlite3.Connection], tuple[list[_T], int]]:
    """Read the requests in some states that are not in memory, the first ones first; and how many there are.

    Args:
        away: tells by its number whether a request is not in memory.
    """

    def work(file: sqlite3.Connection) -> tuple[list[_T], int]:
        which = f"WHERE state IN ({_marks(states)}) AND (? IS NULL OR plugin = ?) ORDER BY number"
        all_found = file.execute(f"SELECT sn FROM requests {which}", (*states, plugin, plugin)).fetchall()  # noqa: S608
        found = [sn for (sn,) in all_found if away(sn)]
        every = (find(sn)(file) for sn in found[: max(0, most)])
        return [read(row) for row in every if row is not None], len(found)

    return work


def revive(sn: str, quiet: Callable[[bytes], bytes]) -> Callable[[sqlite3.Connection], Row | None]:
    """Have what is undeliverable sent again, or what was interrupted run again; None: it is neither (any more).

    Args:
        quiet: makes a body that nobody is answered for: the caller of an interrupted request has its answer.
    """

    def work(file: sqlite3.Connection) -> Row | None:
        found = find(sn)(file)
        if found is None or found.state not in (UNDELIVERABLE, INTERRUPTED):
            return None
        if found.state == UNDELIVERABLE:
            found = found._replace(state=ANSWERING)
        else:
            found = found._replace(state=QUEUED, result=None, body=quiet(found.body), tries=1, once=0)
        file.execute(
            "UPDATE requests SET state = ?, result = ?, body = ?, tries = ?, once = ? WHERE sn = ?",
            (found.state, found.result, found.body, found.tries, found.once, sn),
        )
        return found

    return work


def drop(sn: str, away: Callable[[str, str], bool]) -> Callable[[sqlite3.Connection], bool]:
    """Drop what is undeliverable or interrupted, or waits for a plugin that is not loaded; tell whether it was there.

    A request that has started stays known for the rest of its day.

    Args:
        away: tells by number and plugin whether a request waits for a plugin that is not loaded.
    """

    def work(file: sqlite3.Connection) -> bool:
        found = find(sn)(file)
        if found is None or found.state in (DONE, CANCELLED):
            return False
        if found.state not in (UNDELIVERABLE, INTERRUPTED) and not away(sn, found.plugin):
            return False
        if found.tries > 1 or found.once:
            file.execute("UPDATE requests SET state = ?, body = x'' WHERE sn = ?", (DONE, sn))
        else:
            remove(sn)(file)
        return True

    return work


# -- tombstones ----------------------------------------------------------------------------------------------------


def bury(plugin: str, sn: str, owner: str | None) -> Callable[[sqlite3.Connection], None]:
    """Write that a request was cancelled, which may come later.

    Args:
        owner: the identity whose request alone is meant; None: anybody's.
    """

    def work(file: sqlite3.Connection) -> None:
        key = f"{sn}\n{plugin}" if owner is None else f"{sn}\n{plugin}\n{owner}"
        now = time.time()
        file.execute(
            "INSERT INTO requests (sn, plugin, state, created, updated) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (sn) DO UPDATE SET updated = excluded.updated",
            (key, plugin, CANCELLED, now, now),
        )

    return work


def buried(plugin: str) -> Callable[[sqlite3.Connection], list[tuple[str, str | None, float]]]:
    """Read the tombstones of a plugin: number, owner, and for how many seconds they hold."""

    def work(file: sqlite3.Connection) -> list[tuple[str, str | None, float]]:
        now = time.time()
        found = file.execute(
            "SELECT sn, updated + ? - ? FROM requests WHERE plugin = ? AND state = ? AND updated > ? ORDER BY updated",
            (DAY, now, plugin, CANCELLED, now - DAY),
        )
        keys = [(key.split("\n", 2), left) for key, left in found]
        return [(parts[0], parts[2] if len(parts) > 2 else None, left) for parts, left in keys]

    return work


def trim(most: int) -> Callable[[sqlite3.Connection], None]:
    """Forget the oldest tombstones, where they are more than so many."""

    def work(file: sqlite3.Connection) -> None:
        file.execute(
            "DELETE FROM requests WHERE state = ? AND updated <="
            " (SELECT updated FROM requests WHERE state = ? ORDER BY updated DESC LIMIT 1 OFFSET ?)",
            (CANCELLED, CANCELLED, most),
        )

    return work


def clean(file: sqlite3.Connection) -> None:
    """Forget what has ended, and tombstones, after a day; and undeliverable results that are too many."""
    ended = (DONE, UNDELIVERABLE, INTERRUPTED, CANCELLED)
    file.execute(
        f"DELETE FROM requests WHERE state IN ({_marks(ended)}) AND updated < ?",  # noqa: S608 - question marks
        (*ended, time.time() - DAY),
    )
    total, last = 0, None
    sizes = "SELECT number, length(result) + length(body) FROM requests WHERE state = ? ORDER BY number DESC"
    for n, (number, size) in enumerate(file.execute(sizes, (UNDELIVERABLE,))):
        total += size or 0
        if n >= MOST_KEPT or total > _MOST_BYTES:
            last = number
            break
    if last is not None:
        file.execute("DELETE FROM requests WHERE state = ? AND number <= ?", (UNDELIVERABLE, last))
    file.execute("PRAGMA incremental_vacuum(20000)").fetchall()


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
