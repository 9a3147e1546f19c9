"""What stands in the ledger: pieces of work for :class:`gofer.rmi.ledger.Ledger`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "DAY",
    "Row",
    "bury",
    "buried",
    "clean",
    "end",
    "find",
    "load",
    "note",
    "open_rows",
    "remove",
    "take",
]

DAY = 86_400.0  # seconds

_OPEN, _UNSENT, _ENDED = 0, 1, 2


class Row(NamedTuple):
    """A request as it stands in the ledger. ``result``: it has ended, and its result was not sent."""

    key: str
    body: bytes
    identity: str | None
    runs: int
    result: bytes | None


_Record = tuple[str, str, bytes, str | None, bytes]


def take(record: _Record) -> Callable[[sqlite3.Connection], None]:
    """Write a request: key, plugin, body, identity, digest. One that stands there already is left as it is."""

    def work(file: sqlite3.Connection) -> None:
        file.execute(
            "INSERT INTO requests (key, plugin, body, identity, digest, arrived, runs, state)"
            " VALUES (?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT (key) DO NOTHING",
            (*record, time.time()),
        )

    return work


def note(record: _Record) -> Callable[[sqlite3.Connection], None]:
    """Write a request, if need be, and that it is about to run."""

    def work(file: sqlite3.Connection) -> None:
        take(record)(file)
        file.execute("UPDATE requests SET runs = runs + 1 WHERE key = ?", (record[0],))

    return work


def end(key: str, result: bytes, *, sent: bool) -> Callable[[sqlite3.Connection], None]:
    """Write how a request has ended. One whose run was not noted, and whose result was sent, is forgotten."""

    def work(file: sqlite3.Connection) -> None:
        if not sent:
            file.execute(
                "UPDATE requests SET state = ?, result = ?, ended = ? WHERE key = ?",
                (_UNSENT, result, time.time(), key),
            )
            return
        file.execute("DELETE FROM requests WHERE key = ? AND runs = 0", (key,))
        file.execute(
            "UPDATE requests SET state = ?, result = ?, ended = ?, body = x'' WHERE key = ?",
            (_ENDED, result, time.time(), key),
        )

    return work


def remove(key: str) -> Callable[[sqlite3.Connection], None]:
    """Forget a request: it was refused."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("DELETE FROM requests WHERE key = ?", (key,))

    return work


def find(key: str) -> Callable[[sqlite3.Connection], tuple[bytes, bytes] | None]:
    """Look for the digest and the result of a request that has ended."""

    def work(file: sqlite3.Connection) -> tuple[bytes, bytes] | None:
        row: tuple[bytes, bytes] | None = file.execute(
            "SELECT digest, result FROM requests WHERE key = ? AND state = ?", (key, _ENDED)
        ).fetchone()
        return row

    return work


def load(key: str) -> Callable[[sqlite3.Connection], bytes | None]:
    """Read the body of a request."""

    def work(file: sqlite3.Connection) -> bytes | None:
        row = file.execute("SELECT body FROM requests WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    return work


def open_rows(plugin: str, after: int, most: int) -> Callable[[sqlite3.Connection], list[tuple[int, Row]]]:
    """Read the requests of a plugin that have not ended, or whose results were not sent, by their numbers."""

    def work(file: sqlite3.Connection) -> list[tuple[int, Row]]:
        rows = file.execute(
            "SELECT number, key, body, identity, runs, result FROM requests"
            " WHERE plugin = ? AND state IN (?, ?) AND number > ? ORDER BY number LIMIT ?",
            (plugin, _OPEN, _UNSENT, after, most),
        )
        return [(number, Row(*rest)) for number, *rest in rows]

    return work


def bury(plugin: str, key: str) -> Callable[[sqlite3.Connection], None]:
    """Write that a request was cancelled before it came."""

    def work(file: sqlite3.Connection) -> None:
        file.execute("INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?)", (plugin, key, time.time() + DAY))

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
    """Forget what is older than a day: results, and cancellations of what never came."""
    now = time.time()
    file.execute("DELETE FROM requests WHERE state = ? AND ended < ?", (_ENDED, now - DAY))
    file.execute("DELETE FROM tombstones WHERE until < ?", (now,))
