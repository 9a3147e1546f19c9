"""Whether a run that was noted in the ledger has begun: a note is on the disk a moment before its run begins."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gofer.rmi.ledger import Unavailable

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Beginnings"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NOTED, _BEGUN = b"n", b"b"
_MOST_SPARED = 3
_SIZE = 17  # of a record: which of the two, and 16 bytes for the key
_MOST = 1024 * 1024  # bytes of records, before those that say nothing any more are left out


class Beginnings:
    """A file that says of the first noted run of a request that it is noted, and then that it has begun. Any thread.

    What an agent that was killed had noted, and not begun, the next one may begin: that is no second run. (Three times:
    perhaps it is what comes before a beginning that kills the agents.) The file is written without a wait for the disk:
    it outlives the process, which is all that it is good for. After a reboot, and of everything else that it does not
    tell, a run that was noted counts as begun.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._noted: Counter[bytes] = Counter()  # and not begun, as far as the file says; how often
        self._read = False
        self._size = 0  # of what the file says; 0: it says nothing

    def noting(self, note: Callable[[sqlite3.Connection], _T], key: str) -> Callable[[sqlite3.Connection], _T]:
        """Return work for the ledger that does ``note``, and writes here if that has noted a first run."""

        def work(file: sqlite3.Connection) -> _T:
            found = note(file)
            row = file.execute("SELECT runs FROM requests WHERE key = ?", (key,)).fetchone()
            if found is None and row == (1,):
                self._note(_short(key))
            return found

        return work

    def begins(self, key: str) -> None:
        """Write that a noted run begins.

        Raises:
            Unavailable: that cannot be written, and so it must not begin.
        """
        short = _short(key)
        with self._lock:
            if short in self._noted:
                try:
                    self._append(_BEGUN + short)
                except OSError as failed:
                    self._clear(failed)
                self._noted.pop(short, None)

    def spared(self, key: str) -> bool:
        """Tell whether the run of a request that an agent before this one has noted is known not to have begun."""
        with self._lock:
            self._load()
            return 1 <= self._noted[_short(key)] < _MOST_SPARED

    def _note(self, short: bytes) -> None:
        with self._lock:
            try:
                self._load()
                if not self._size or self._size > _MOST:
                    self._rewrite()
                self._append(_NOTED + short)
                self._noted[short] += 1
            except OSError as failed:
                log.debug("%s: %s: what is noted counts as begun", self._path, failed)
                try:
                    self._clear(failed)
                except Unavailable as worse:
                    log.error("%s: what was noted and has not begun is not run", worse)

    # -- the file, under the lock ---------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._read:
            return
        self._read = True
        try:
            data, boot = self._path.read_bytes(), _BOOT.read_bytes()
        except OSError:
            return
        if not data.startswith(boot):
            return
        for at in range(len(boot), len(data) - _SIZE + 1, _SIZE):
            kind, short = data[at : at + 1], data[at + 1 : at + _SIZE]
            if kind == _NOTED:
                self._noted[short] += 1
            else:
                self._noted.pop(short, None)

    def _rewrite(self) -> None:
        """Write the file anew, with nothing but what is noted and not begun."""
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)
        data = _BOOT.read_bytes() + b"".join(_NOTED + short for short in self._noted.elements())
        _write(new, data, os.O_CREAT | os.O_EXCL)
        os.replace(new, self._path)
        self._size = len(data)

    def _append(self, record: bytes) -> None:
        _write(self._path, record, os.O_APPEND)
        self._size += len(record)

    def _clear(self, why: OSError) -> None:
        """Have the file say nothing any more: what it says may be wrong from now on."""
        self._size = 0
        try:
            os.truncate(self._path, 0)
        except FileNotFoundError:
            pass  # it says nothing
        except OSError as worse:
            raise Unavailable(f"{self._path}: {why}; {worse}") from worse
        self._noted.clear()


def _write(path: Path, data: bytes, flags: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        if os.write(file, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(file)


def _short(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]
