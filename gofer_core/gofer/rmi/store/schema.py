"""The tables, a file of an earlier version, and what a process that died has left in them."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

__all__ = ["VERSION", "boot", "prepare", "recover", "version_of"]

log = logging.getLogger(__name__)

VERSION = 3
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MOST_CLAIMS = 5  # a request that was claimed so often and never began is interrupted
#: ``sn`` is the request's serial number (or what stands for one); that of a tombstone is told by requests.tombstone.
#: ``boot``: the boot of the machine in which a run was claimed that has not begun since; NULL: it has, or none runs.
_TABLES = """
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY AUTOINCREMENT, sn TEXT NOT NULL UNIQUE, plugin TEXT NOT NULL, digest BLOB,
        identity TEXT, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, once INTEGER NOT NULL DEFAULT 0,
        boot BLOB, body BLOB NOT NULL DEFAULT x'', result BLOB, reason TEXT, created REAL NOT NULL,
        updated REAL NOT NULL
    );
    CREATE INDEX requests_of ON requests (plugin, state, number);
    CREATE TABLE nonces (
        authenticator BLOB NOT NULL, nonce BLOB NOT NULL, expires REAL NOT NULL, PRIMARY KEY (authenticator, nonce)
    ) WITHOUT ROWID;
"""
#: From version 2 (of which version 1 is a part). A run that was noted there counts as the second one.
_MOVE_REQUESTS = """
    INSERT INTO requests (number, sn, plugin, digest, identity, state, tries, body, result, reason, created, updated)
    SELECT number, key, plugin, digest, identity,
        CASE state WHEN 0 THEN CASE WHEN runs > 0 THEN 'running' ELSE 'queued' END
            WHEN 1 THEN 'answering' WHEN 2 THEN 'done' WHEN 3 THEN 'undeliverable' ELSE 'interrupted' END,
        CASE WHEN runs > 0 THEN runs + 1 ELSE 0 END, body, result, {reason}, arrived, coalesce(ended, arrived)
    FROM old_requests ORDER BY number;
    INSERT OR IGNORE INTO requests (sn, plugin, state, created, updated)
    SELECT replace(key, char(10), char(10) || plugin || char(10)) ||
        CASE WHEN instr(key, char(10)) THEN '' ELSE char(10) || plugin END,
        plugin, 'cancelled', until - 86400.0, until - 86400.0
    FROM tombstones;
    DROP TABLE old_requests;
    DROP TABLE tombstones;
"""
_MOVE_NONCES = """
    INSERT OR IGNORE INTO nonces
    SELECT CASE WHEN length(nonce) < 16 THEN nonce ELSE substr(nonce, 1, length(nonce) - 16) END,
        CASE WHEN length(nonce) < 16 THEN x'' ELSE substr(nonce, -16) END, expires
    FROM old_nonces;
    DROP TABLE old_nonces;
"""


def version_of(file: sqlite3.Connection) -> int:
    """Return the version of a file; 0: it is new.

    Raises:
        OSError: it was written by a later version.
    """
    version: int = file.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise OSError(f"it was written by a later version of gofer ({version}, this one knows {VERSION})")
    return version


def prepare(file: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or move what a file of an earlier version holds into new ones: all of it, or nothing."""
    version = version_of(file)
    if version == VERSION:
        return
    steps = [_TABLES]
    if version > 0:
        reason, nonces = ("reason", True) if version > 1 else ("NULL", False)
        steps = [
            "ALTER TABLE requests RENAME TO old_requests; DROP INDEX requests_of;",
            "ALTER TABLE nonces RENAME TO old_nonces;" if nonces else "",
            *steps,
            _MOVE_REQUESTS.format(reason=reason),
            _MOVE_NONCES if nonces else "",
        ]
    notes = path.with_name("begun")
    try:
        file.executescript(f"BEGIN; {' '.join(steps)}")
        for sn in _not_begun(file, notes) if version > 0 else ():
            file.execute("UPDATE requests SET state = 'queued', tries = 1 WHERE sn = ? AND tries = 2", (sn,))
        file.execute(f"PRAGMA user_version = {VERSION}")
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise
    if version > 0:
        notes.unlink(missing_ok=True)
        log.info("the ledger %s was written by an earlier version of gofer; its entries were moved", path)


def recover(file: sqlite3.Connection) -> None:
    """Count the try of each request that a process which died may have started; those that may run again are queued.

    A run that was claimed and never began is none, as far as that is known: after a reboot it counts as begun. A
    request is spared like this a few times only: perhaps what comes before its method kills the agents.
    """
    file.execute("BEGIN")
    file.execute("UPDATE requests SET tries = 1 WHERE state IN ('queued', 'running') AND tries = 0")
    file.execute(
        "UPDATE requests SET state = 'queued', once = 0, boot = NULL"
        " WHERE state = 'running' AND boot = ? AND tries < ?",
        (boot(), _MOST_CLAIMS),
    )
    file.execute("UPDATE requests SET state = 'queued' WHERE state = 'running' AND tries < 2 AND NOT once")
    file.execute("COMMIT")


def boot() -> bytes | None:
    """Name this boot of the machine; None: the platform has no name for it."""
    try:
        return _BOOT.read_bytes()
    except OSError:
        return None


def _not_begun(file: sqlite3.Connection, notes: Path) -> list[str]:
    """Read, of an earlier version's second file, which noted runs had not begun when the agent was killed."""
    size, start = 17, boot()
    try:
        data = notes.read_bytes()
    except OSError:
        return []
    if start is None or not data.startswith(start):
        return []  # of another boot: then all that was noted counts as begun
    noted: Counter[bytes] = Counter()
    for at in range(len(start), len(data) - size + 1, size):
        kind, short = data[at : at + 1], data[at + 1 : at + size]
        if kind == b"n":
            noted[short] += 1
        else:
            noted.pop(short, None)
    rows = file.execute("SELECT sn FROM requests WHERE state = 'running' AND tries = 2").fetchall()
    return [sn for (sn,) in rows if 1 <= noted[hashlib.sha256(sn.encode("utf-8", "surrogatepass")).digest()[:16]] < 3]
