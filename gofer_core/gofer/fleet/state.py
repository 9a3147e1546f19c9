"""Where a caller keeps what it must not forget: one directory of the user's, with SQLite databases in it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from gofer.errors import ConfigError

__all__ = ["StateError", "connect", "state_directory"]


class StateError(ConfigError):
    """A file of the state directory cannot be used; nothing was sent for it. The text names the file."""


def state_directory() -> Path:
    """Return ``$XDG_STATE_HOME/gofer``, by default ``~/.local/state/gofer``; made with mode 0700.

    Raises:
        StateError: it cannot be made, or others may write to it.
    """
    base = os.environ.get("XDG_STATE_HOME") or ""
    path = (Path(base) if os.path.isabs(base) else Path.home() / ".local/state") / "gofer"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateError(f"{path}: cannot be made: {error.strerror}; or set XDG_STATE_HOME") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StateError(f"{path}: must belong to user {os.geteuid()}, and no other may write to it; chmod go-w it")
    return path


def connect(path: Path, schema: str, number: int) -> sqlite3.Connection:
    """Open a database, and make its tables if it is new.

    Args:
        schema: the statements that make them.
        number: of the schema; a database with another one is refused.

    Raises:
        StateError: it cannot be opened, or is damaged.
    """
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
        raise StateError(f"{path}: cannot be used: {error}; move it away to begin anew") from error
    return database
