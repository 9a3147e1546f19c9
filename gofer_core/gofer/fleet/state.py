"""Where a caller keeps what it must not forget: one directory of the user's, with SQLite databases in it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gofer.errors import ConfigError
from gofer.ownership import refusal

__all__ = ["Database", "StateError", "state_directory"]


class StateError(ConfigError):
    """A file of the state directory cannot be used; nothing was sent for it. The text names the file."""


def state_directory() -> Path:
    """Return ``$XDG_STATE_HOME/gofer``, by default ``~/.local/state/gofer``; made with mode 0700.

    Raises:
        StateError: it cannot be made, or others may write to it.
    """
    base = os.environ.get("XDG_STATE_HOME") or ""
    try:
        path = (Path(base) if os.path.isabs(base) else Path.home() / ".local/state") / "gofer"
    except RuntimeError as error:  # a user whom the machine does not know
        raise StateError(f"user {os.geteuid()} has no home directory; set HOME or XDG_STATE_HOME") from error
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateError(f"{path}: cannot be made: {error.strerror}; or set XDG_STATE_HOME") from error
    if reason := refusal(path, found):
        raise StateError(f"{path}: {reason}")
    return path


class Database:
    """One file of the state directory. Any thread; what was changed is on the disk when ``change`` returns.

    Args:
        schema: the statements that make its tables.
        number: of the schema; a file with another one is refused.

    Raises:
        StateError: it cannot be used, as all methods may raise later.
    """

    def __init__(self, path: Path, schema: str, number: int) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = _connect(path, schema, number)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def read(self, statement: str, *values: Any) -> list[Any]:
        """Return the rows that a statement selects."""
        rows: list[Any] = self._guarded(lambda: self._file.execute(statement, values).fetchall())
        return rows

    def change(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Call ``work`` with the database in one transaction. Returns its value."""

        def changed() -> Any:
            self._file.execute("BEGIN IMMEDIATE")
            try:
                value = work(self._file)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
            return value

        return self._guarded(changed)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            with self._lock:
                return work()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error


def _connect(path: Path, schema: str, number: int) -> sqlite3.Connection:
    """Open a database, and make its tables if it is new."""
    try:
        if not path.exists():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            (found,) = database.execute("PRAGMA user_version").fetchone()
            if found == 0:
                database.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {number}; COMMIT")
            elif found != number:
                raise StateError(f"{path}: was made by another version of gofer (schema {found}, here {number})")
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise _unusable(path, error) from error
    return database


def _unusable(path: Path, error: sqlite3.Error | OSError) -> StateError:
    """Say why a database cannot be used. A damaged one may be moved away; one on a full disk is still whole."""
    why = error.strerror if isinstance(error, OSError) else str(error)
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
    advice = "; move the file away, and gofer makes a new one" if damaged else ""
    return StateError(f"{path}: cannot be used: {why}{advice}")
