"""Requests in the store: the SQL, within a transaction of :class:`gofer.rmi.store.Database`; and their bodies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gofer.messaging.auth import verify
from gofer.messaging.document import Request, decode_request

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "ANSWERING", "CANCELLED", "DAY", "DONE", "INTERRUPTED", "MOST_KEPT", "QUEUED", "RUNNING", "UNDELIVERABLE",
    "Record", "Row", "absent", "begin", "bury", "buried", "claim", "clean", "count", "count_all", "decode", "drop",
    "find", "keep", "known", "kept", "light", "load", "pull", "pull_these", "remove", "revive", "revoke", "rows",
    "settle", "take", "trim",
]  # fmt: skip

DAY = 86_400.0  # seconds

#: States. The last one is that of a tombstone: a request that was cancelled, perhaps before it came.
QUEUED, RUNNING, ANSWERING = "queued", "running", "answering"
DONE, UNDELIVERABLE, INTERRUPTED, CANCELLED = "done", "undeliverable", "interrupted", "cancelled"

#: The most results that nobody took which are kept, and the most bytes of them; the oldest go first.
MOST_KEPT = 10_000
_MOST_BYTES = 256 * 1024 * 1024


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


def take(records: Sequence[Record], file: sqlite3.Connection) -> None:
    """Write requests; one that stands there already is left as it is."""
    now = time.time()
    file.executemany(
        "INSERT INTO requests (sn, plugin, body, identity, digest, state, tries, created, updated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (sn) DO NOTHING",
        [(*record, now, now) for record in records],
    )


def find(sn: str, file: sqlite3.Connection) -> Row | None:
    """Read a request."""
    row = file.execute(f"{_SELECT} WHERE sn = ?", (sn,)).fetchone()
    return None if row is None else Row(*row)


def load(record: Record, file: sqlite3.Connection) -> Row | None:
    """Read the request of the same number that stands there; else write this one."""
    row = find(record.sn, file)
    if row is None:
        take([record], file)
    return row


def claim(
    record: Record, file: sqlite3.Connection, *, once: bool, again: bool, boot: bytes | None = None
) -> Row | None:
    """Write that a request is about to start, and count the try.

    Args:
        once: it must not start if it did before; the row of before is returned then.
        again: this run has claimed it already.
        boot: this boot of the machine, until :func:`begin` says that the run has begun; None: it has.
    """
    before = find(record.sn, file) if once else None
    if before is not None and (before.once or before.state not in (QUEUED, RUNNING)):
        return before
    take([record], file)
    file.execute(
        "UPDATE requests SET state = ?, tries = tries + ?, once = ?, boot = ?, updated = ? WHERE sn = ?",
        (RUNNING, int(not again), int(once), boot, time.time(), record.sn),
    )
    return None


def begin(sn: str, file: sqlite3.Connection) -> None:
    """Write that a run which was claimed begins now."""
    file.execute("UPDATE requests SET boot = NULL WHERE sn = ?", (sn,))


def keep(record: Record, result: bytes, state: str, reason: str | None, file: sqlite3.Connection) -> None:
    """Write the result of a request beside it, before it is sent (ANSWERING) or when nobody took it."""
    take([record], file)
    file.execute(
        "UPDATE requests SET state = ?, result = ?, reason = ?, updated = ?, body = ? WHERE sn = ?",
        (state, result, reason, time.time(), record.body, record.sn),
    )


def settle(sn: str, result: bytes, file: sqlite3.Connection, *, whole: bool = False) -> None:
    """Write that the result of a request was taken. One that nobody can mistake for a second run is forgotten.

    Args:
        whole: it was interrupted; then it is kept with its body for a day, for operators.
    """
    body = "body" if whole else "x''"
    if not whole:
        file.execute("DELETE FROM requests WHERE sn = ? AND tries < 2 AND NOT once AND state <> ?", (sn, INTERRUPTED))
    file.execute(
        f"UPDATE requests SET state = ?, result = ?, reason = NULL, updated = ?, body = {body}"  # noqa: S608 - our own words
        " WHERE sn = ? AND state <> ?",
        (INTERRUPTED if whole else DONE, result, time.time(), sn, INTERRUPTED),
    )


def revoke(sn: str, digest: bytes, file: sqlite3.Connection) -> None:
    """Forget a request that was rejected: it must not run. Another one of its number, and what has ended, stay."""
    which = "sn = ? AND digest = ? AND state IN (?, ?)"
    file.execute(f"DELETE FROM requests WHERE {which}", (sn, digest, QUEUED, RUNNING))  # noqa: S608 - our own words


def remove(sn: str, file: sqlite3.Connection) -> None:
    """Forget a request."""
    file.execute("DELETE FROM requests WHERE sn = ?", (sn,))


def rows(plugin: str, states: Sequence[str], after: int, most: int, file: sqlite3.Connection) -> list[Row]:
    """Read the requests of a plugin in some states, in the order of their arrival.

    Args:
        after: the number of the last one that was read.
    """
    which = f"WHERE plugin = ? AND state IN ({_marks(states)}) AND number > ? ORDER BY number LIMIT ?"
    return [Row(*row) for row in file.execute(f"{_SELECT} {which}", (plugin, *states, after, most))]


def pull(plugin: str, most: int, size: int, mine: set[str], file: sqlite3.Connection) -> list[Row]:
    """Read the first requests of a plugin that wait, and that no one has in memory.

    Args:
        size: no more after so many bytes of bodies.
        mine: the numbers of those that are in memory; what is read is added.
    """
    found: list[Row] = []
    left = size
    which = "WHERE plugin = ? AND state = ? ORDER BY number"
    for number, sn in file.execute(f"SELECT number, sn FROM requests {which}", (plugin, QUEUED)):  # noqa: S608 - our own words
        if len(found) >= most or left <= 0:
            break
        if sn not in mine:
            found.append(Row(*file.execute(f"{_SELECT} WHERE number = ?", (number,)).fetchone()))
            left -= len(found[-1].body)
    mine.update(row.sn for row in found)
    return found


def pull_these(sns: Sequence[str], mine: set[str], file: sqlite3.Connection) -> list[Row]:
    """Read those requests that wait, and that no one has in memory; their numbers are added to ``mine``."""
    found = [row for sn in sns if sn not in mine and (row := find(sn, file)) is not None and row.state == QUEUED]
    mine.update(row.sn for row in found)
    return found


def count(plugin: str, file: sqlite3.Connection) -> int:
    """Count the requests of a plugin that wait."""
    found = file.execute("SELECT count(*) FROM requests WHERE plugin = ? AND state = ?", (plugin, QUEUED))
    return int(found.fetchone()[0])


def count_all(file: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """Count all requests, by plugin and state."""
    return file.execute("SELECT plugin, state, count(*) FROM requests GROUP BY plugin, state").fetchall()


def known(plugin: str, most: int, file: sqlite3.Connection) -> list[str]:
    """Read the numbers of a plugin's requests, the latest ``most``; the oldest of these first."""
    found = file.execute(
        "SELECT sn FROM requests WHERE plugin = ? AND state <> ? ORDER BY number DESC LIMIT ?",
        (plugin, CANCELLED, most),
    ).fetchall()
    return [sn for (sn,) in reversed(found)]


# -- for operators -------------------------------------------------------------------------------------------------


def kept(plugin: str | None, states: Sequence[str], most: int, file: sqlite3.Connection) -> tuple[list[Row], int]:
    """Read the requests in some states, the latest first; and how many there are."""
    which = f"WHERE state IN ({_marks(states)}) AND (? IS NULL OR plugin = ?)"
    values = (*states, plugin, plugin)
    found = file.execute(f"{_SELECT} {which} ORDER BY updated DESC LIMIT ?", (*values, max(0, most))).fetchall()
    total: int = file.execute(f"SELECT count(*) FROM requests {which}", values).fetchone()[0]  # noqa: S608 - our own words
    return [Row(*row) for row in found], total


def absent(
    plugin: str | None, states: Sequence[str], away: Callable[[str], bool], most: int, file: sqlite3.Connection
) -> tuple[list[Row], int]:
    """Read the requests in some states that are not in memory, the first ones first; and how many there are.

    Args:
        away: tells by its number whether a request is not in memory.
    """
    which = f"WHERE state IN ({_marks(states)}) AND (? IS NULL OR plugin = ?) ORDER BY number"
    all_found = file.execute(f"SELECT sn FROM requests {which}", (*states, plugin, plugin)).fetchall()  # noqa: S608 - our own words
    found = [sn for (sn,) in all_found if away(sn)]
    return [row for sn in found[: max(0, most)] if (row := find(sn, file)) is not None], len(found)


def revive(sn: str, file: sqlite3.Connection) -> Row | None:
    """Have what is undeliverable sent again, or what was interrupted run again; None: it is neither (any more).

    Nobody is answered for what was interrupted: its caller has an answer.
    """
    found = find(sn, file)
    if found is None or found.state not in (UNDELIVERABLE, INTERRUPTED):
        return None
    if found.state == UNDELIVERABLE:
        found = found._replace(state=ANSWERING)
    else:
        found = found._replace(state=QUEUED, result=None, body=_silenced(found.body), tries=1, once=0)
    file.execute(
        "UPDATE requests SET state = ?, result = ?, body = ?, tries = ?, once = ? WHERE sn = ?",
        (found.state, found.result, found.body, found.tries, found.once, sn),
    )
    return found


def drop(sn: str, away: Callable[[str, str], bool], file: sqlite3.Connection) -> bool:
    """Drop what is undeliverable or interrupted, or waits for a plugin that is not loaded; tell whether it was there.

    A request that has started stays known for the rest of its day.

    Args:
        away: tells by number and plugin whether a request waits for a plugin that is not loaded.
    """
    found = find(sn, file)
    if found is None or found.state in (DONE, CANCELLED):
        return False
    if found.state not in (UNDELIVERABLE, INTERRUPTED) and not away(sn, found.plugin):
        return False
    if found.tries > 1 or found.once:
        file.execute("UPDATE requests SET state = ?, body = x'' WHERE sn = ?", (DONE, sn))
    else:
        remove(sn, file)
    return True


# -- tombstones ----------------------------------------------------------------------------------------------------


def bury(plugin: str, sn: str, owner: str | None, file: sqlite3.Connection) -> None:
    """Write that a request was cancelled, which may come later.

    Args:
        owner: the identity whose request alone is meant; None: anybody's.
    """
    key = f"{sn}\n{plugin}" if owner is None else f"{sn}\n{plugin}\n{owner}"
    now = time.time()
    file.execute(
        "INSERT INTO requests (sn, plugin, state, created, updated) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (sn) DO UPDATE SET updated = excluded.updated",
        (key, plugin, CANCELLED, now, now),
    )


def buried(plugin: str, file: sqlite3.Connection) -> list[tuple[str, str | None, float]]:
    """Read the tombstones of a plugin: number, owner, and for how many seconds they hold."""
    now = time.time()
    found = file.execute(
        "SELECT sn, updated + ? - ? FROM requests WHERE plugin = ? AND state = ? AND updated > ? ORDER BY updated",
        (DAY, now, plugin, CANCELLED, now - DAY),
    )
    keys = [(key.split("\n", 2), left) for key, left in found]
    return [(parts[0], parts[2] if len(parts) > 2 else None, left) for parts, left in keys]


def trim(most: int, file: sqlite3.Connection) -> None:
    """Forget the oldest tombstones, where they are more than so many."""
    file.execute(
        "DELETE FROM requests WHERE state = ? AND updated <="
        " (SELECT updated FROM requests WHERE state = ? ORDER BY updated DESC LIMIT 1 OFFSET ?)",
        (CANCELLED, CANCELLED, most),
    )


def clean(file: sqlite3.Connection) -> None:
    """Forget what has ended, and tombstones, after a day; old nonces; and undeliverable results that are too many."""
    ended = (DONE, UNDELIVERABLE, INTERRUPTED, CANCELLED)
    file.execute(
        f"DELETE FROM requests WHERE state IN ({_marks(ended)}) AND updated < ?",  # noqa: S608 - question marks
        (*ended, time.time() - DAY),
    )
    file.execute("DELETE FROM nonces WHERE expires < ?", (time.time(),))
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


# -- bodies: they were verified when they came -----------------------------------------------------------------------


def decode(body: bytes) -> Request:
    """Read a request.

    Raises:
        DocumentError: it is none.
    """
    return decode_request(verify(body, None)[0])


def light(document: Request) -> bytes:
    """Write what is needed of a request to answer it; nothing where that cannot be written."""
    request = msgspec.structs.replace(document.request, cntr=None, args=None, kws=None, kwargs=None)
    return _written(msgspec.structs.replace(document, request=request, secret=None, pam=None))


def _silenced(body: bytes) -> bytes:
    """Write a request so that it runs as ever, and is not answered."""
    return _written(msgspec.structs.replace(decode(body), replyto=None)) or body


def _written(document: Request) -> bytes:
    try:
        return msgspec.json.encode(document)
    except (UnicodeEncodeError, msgspec.MsgspecError):  # lone surrogates, which only the original's encoder writes
        return b""


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))
