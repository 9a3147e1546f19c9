"""The record of runs: one SQLite file, in which a row stands for each machine before its request is sent."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gofer.errors import ConfigError
from gofer.fleet.state import Database, StateError, state_directory
from gofer.suggest import available

__all__ = ["OUTCOMES", "OPEN", "Record", "RunRow", "TargetRow", "WordRow"]

#: How the request of a machine has ended, or (the last four) stands.
OUTCOMES = (
    "value", "exception", "refused", "interrupted", "cancelled", "unreachable", "queued", "running", "untouched",
    "waiting",
)  # fmt: skip
#: Those that ``resume`` asks again.
OPEN = ("queued", "running", "untouched", "waiting")

_TRIES = 20  # to get the lock of a run, ten milliseconds apart

_SCHEMA = """
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, created REAL NOT NULL, broker TEXT NOT NULL,
    targets TEXT NOT NULL, request TEXT NOT NULL, options TEXT NOT NULL, waves TEXT NOT NULL,
    replyto TEXT NOT NULL, state TEXT NOT NULL, why TEXT
);
CREATE TABLE targets (
    run INTEGER NOT NULL, n INTEGER NOT NULL, name TEXT NOT NULL, address TEXT NOT NULL, sn TEXT NOT NULL,
    wave INTEGER NOT NULL, outcome TEXT NOT NULL, sent REAL, ended REAL, details TEXT,
    PRIMARY KEY (run, n)
) WITHOUT ROWID;
CREATE TABLE words (run INTEGER NOT NULL, n INTEGER NOT NULL, at REAL NOT NULL, word TEXT NOT NULL, details TEXT);
CREATE INDEX words_of ON words (run, n)
"""


class RunRow(NamedTuple):
    """A run.

    ``request``: class, method, constructor's arguments, args, kws. ``replyto``: the queue for replies, the same when it
    is taken up: a request is the same one only with that. ``state``: waiting, running, stopping (another process has
    cancelled it), stopped or ended.
    """

    number: int
    id: str
    created: float
    broker: str
    targets: str
    request: list[Any]
    options: dict[str, Any]
    waves: dict[str, Any]
    replyto: str
    state: str
    why: str | None

    @property
    def method(self) -> str:
        """``Class.method``."""
        return f"{self.request[0]}.{self.request[1]}"


class TargetRow(NamedTuple):
    """A machine of a run. ``details``: the value, or what says how it ended. Times: seconds since 1970, or None."""

    n: int
    name: str
    address: str
    sn: str
    wave: int
    outcome: str
    sent: float | None
    ended: float | None
    details: Any


class WordRow(NamedTuple):
    """A word that a request got: accepted, started, progress ...; when it came, and what it said."""

    at: float
    word: str
    details: Any


class Record(Database):
    """All runs of a user. Any thread; everything is on the disk when a method returns.

    Args:
        path: the file; None: that of the user.

    Raises:
        StateError: it cannot be used, as any method may raise later.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path or state_directory() / "runs.db", _SCHEMA, 1)

    def begin(self, run: RunRow, targets: Iterable[TargetRow]) -> RunRow:
        """Write a new run and its machines; return it with its number."""
        values = [_text(one) if isinstance(one, list | dict) else one for one in run[1:]]

        def work(file: sqlite3.Connection) -> int:
            number = file.execute("INSERT INTO runs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values).lastrowid
            rows = ((number, one.n, one.name, one.address, one.sn, one.wave, one.outcome) for one in targets)
            file.executemany("INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)", rows)
            return int(number or 0)

        return run._replace(number=self.change(work))

    def write(
        self,
        run: int,
        *,
        sent: Sequence[int] = (),
        ended: Sequence[TargetRow] = (),
        words: Sequence[tuple[int, WordRow]] = (),
    ) -> bool:
        """Write what has happened: whose requests are sent next, who has ended, and who has said what.

        Returns:
            Whether anything may be sent. If another process has cancelled the run, ``sent`` is not written.
        """
        now = time.time()

        def work(file: sqlite3.Connection) -> bool:
            goes_on: bool = file.execute("SELECT state FROM runs WHERE number = ?", (run,)).fetchone() != ("stopping",)
            file.executemany(
                "UPDATE targets SET sent = coalesce(sent, ?) WHERE run = ? AND n = ?",
                [(now, run, n) for n in sent if goes_on],
            )
            file.executemany(
                "UPDATE targets SET outcome = ?, ended = ?, details = ? WHERE run = ? AND n = ?",
                [(one.outcome, one.ended, _text(one.details), run, one.n) for one in ended],
            )
            file.executemany(
                "INSERT INTO words VALUES (?, ?, ?, ?, ?)",
                [(run, n, word.at, word.word, _text(word.details)) for n, word in words],
            )
            return goes_on

        return bool(self.change(work))

    def goes_on(self, run: int) -> bool:
        """Tell whether anything may be sent: no other process has cancelled the run."""
        return self.read("SELECT state FROM runs WHERE number = ?", run) != [("stopping",)]

    def close_run(self, run: int, state: str, why: str | None = None) -> None:
        """Write that a run goes on, was stopped, or has ended."""
        self.change(lambda file: file.execute("UPDATE runs SET state = ?, why = ? WHERE number = ?", (state, why, run)))

    def stop_run(self, run: RunRow, why: str) -> None:
        """Have whoever runs it send nothing more; from now on, nothing is."""
        state = "stopping" if self.is_held(run) else "stopped"
        change = "UPDATE runs SET state = ?, why = ? WHERE number = ? AND state IN ('waiting', 'running')"
        self.change(lambda file: file.execute(change, (state, why, run.number)))

    @contextmanager
    def held(self, run: RunRow) -> Iterator[None]:
        """Keep other processes from taking up a run.

        Raises:
            ConfigError: one has it.
        """
        file = self._lock_file(run)
        try:
            for again in range(_TRIES):  # whoever watches has it for an instant
                if _locks(file, fcntl.LOCK_EX):
                    break
                if again + 1 == _TRIES:
                    raise ConfigError(f"run {run.id} is being run by another process")
                time.sleep(0.01)
            yield  # the file stays: one that was unlinked could be locked by another process that had opened it
        finally:
            os.close(file)

    def is_held(self, run: RunRow) -> bool:
        """Tell whether a process has a run."""
        file = self._lock_file(run)
        try:
            return not _locks(file, fcntl.LOCK_SH)
        finally:
            os.close(file)

    def _lock_file(self, run: RunRow) -> int:
        path = self.path.with_name(f"{self.path.stem}-{run.number}.lock")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{path}: cannot be made: {error.strerror}") from error

    def forget(self, run: int) -> None:
        """Delete a run."""

        def work(file: sqlite3.Connection) -> None:
            for table, column in (("words", "run"), ("targets", "run"), ("runs", "number")):
                file.execute(f"DELETE FROM {table} WHERE {column} = ?", (run,))  # noqa: S608 - our own names

        self.change(work)

    def run(self, which: str) -> RunRow:
        """Return a run by its id, or by the beginning of it; ``last``: the latest.

        Raises:
            ConfigError: there is none, or several begin so.
        """
        runs = self.runs()
        if which == "last" and runs:
            return runs[0]
        found = [run for run in runs if run.id.startswith(which)]
        exact = [run for run in found if run.id == which]
        if len(exact or found) != 1:
            known = available([run.id for run in (found or runs)[:10]])
            raise ConfigError(
                f"{'several runs begin' if found else 'no run begins'} with {which[:80]!r}; runs: {known}"
            )
        return (exact or found)[0]

    def runs(self) -> list[RunRow]:
        """Return all runs, the latest first."""
        columns = ", ".join(RunRow._fields)
        rows = self.read(f"SELECT {columns} FROM runs ORDER BY number DESC")  # noqa: S608 - our own names
        decode = msgspec.json.decode
        return [RunRow._make([*row[:5], *map(decode, row[5:8]), *row[8:]]) for row in rows]

    def targets(self, run: int) -> list[TargetRow]:
        """Return the machines of a run."""
        columns = ", ".join(TargetRow._fields)
        statement = f"SELECT {columns} FROM targets WHERE run = ? ORDER BY n"  # noqa: S608 - our own names
        rows = self.read(statement, run)
        return [TargetRow._make([*row[:8], None if row[8] is None else msgspec.json.decode(row[8])]) for row in rows]

    def words(self, run: int, n: int) -> list[WordRow]:
        """Return what a machine has said, in the order in which it came."""
        statement = "SELECT at, word, details FROM words WHERE run = ? AND n = ? ORDER BY rowid"
        rows = self.read(statement, run, n)
        return [WordRow(at, word, None if said is None else msgspec.json.decode(said)) for at, word, said in rows]

    def counts(self, run: int) -> Counter[str]:
        """Count the machines of a run by their outcomes."""
        statement = "SELECT outcome, count(*) FROM targets WHERE run = ? GROUP BY outcome"
        return Counter(dict(self.read(statement, run)))


def _locks(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
