"""The database: one SQLite file, and the one thread that reads and writes it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gofer.rmi.store import schema
from gofer.root import sync

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Database", "Unavailable", "Work"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: What is done to the file, within a transaction of the store's thread.
Work = Callable[["sqlite3.Connection"], Any]

_SOON = 0.025  # seconds between two commits for which nobody waits: one for each call would cost as much as the call
_GROUP = 500  # most pieces of work in one transaction
_BUSY = 1.0  # seconds to wait for somebody who has locked the file
_QUIET = 60.0  # seconds after a line in the log in which no other is written for the same failure
_PAUSE = 2.0  # seconds after a failure in which nothing is tried
_WAIT = 15  # seconds that ``call`` waits
_MOST_KEPT = 20_000  # pieces of work that wait for a file that cannot be written


class Unavailable(Exception):
    """The store cannot be read or written at the moment; the text says why.

    ``unsure``: what was to be written may be there, now or after the next start.
    """

    def __init__(self, why: str, *, unsure: bool = False) -> None:
        super().__init__(why)
        self.unsure = unsure


class _Piece(NamedTuple):
    """Some work, what is called at its end, and whether it is tried again when it failed."""

    work: Work
    done: Callable[[Any, Unavailable | None], object] | None
    kept: bool


class Database:
    """The file ``ledger.db`` in a directory. Any thread; only ``call`` waits.

    Nothing is opened, and sqlite3 not even imported, before there is work. All work that has come meanwhile is one
    transaction. It is on the disk (``synchronous=FULL``) before anybody is told that it is done.

    A file that is corrupt is set aside under another name, and a new one is made. A file that cannot be opened or
    written fails all work of the next two seconds; then it is tried again.

    Args:
        prepare: makes the directory; what it raises makes the store unavailable.
    """

    def __init__(self, directory: Path, prepare: Callable[[], object]) -> None:
        self.path = directory / "ledger.db"
        #: Called by the store's thread when a corrupt file was set aside: write again what you know.
        self.lost: list[Callable[[], object]] = []
        self._prepare = prepare
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[_Piece] = deque()
        self._kept: deque[_Piece] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._urgent = False  # somebody waits for what waits here
        self._committed = 0.0
        self._using = threading.Lock()  # held for a transaction; in it the other attributes of the file may change
        self._file: sqlite3.Connection | None = None
        self._opened = False  # by this process: its own rows are not those of a process that died
        self._failed = -_PAUSE
        self._said = 0.0
        self._error: Unavailable | None = None

    @property
    def error(self) -> str | None:
        """Why the store cannot be used; None: it can, as far as is known."""
        return None if self._error is None else str(self._error)

    @property
    def stopping(self) -> bool:
        """Whether what is left is done, and nothing more is taken."""
        return self._stopping

    def exists(self) -> bool:
        """Tell whether there is a file; one in a directory that may not be read is not seen."""
        return os.path.lexists(self.path)

    def post(
        self,
        work: Work,
        done: Callable[[Any, Unavailable | None], object] | None = None,
        *,
        kept: bool = False,
        soon: bool = False,
    ) -> None:
        """Have work done, in the order of posting.

        Args:
            done: called by the store's thread, after the commit, with what the work returned; or why it was not done.
            kept: work that fails is tried again until it succeeds, as long as this process lives.
            soon: nobody waits for it: it shares a commit with all that comes within some milliseconds.
        """
        with self._changed:
            stopped = self._stopping
            if not stopped:
                self._urgent = self._urgent or not soon
                if self._urgent or not self._waiting:
                    self._changed.notify()
                self._waiting.append(_Piece(work, done, kept))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="gofer-store", daemon=True)
                    self._thread.start()
        if stopped and done is not None:
            done(None, Unavailable("the agent is stopping"))

    def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Have work done, and wait for it.

        Raises:
            Unavailable: it was not done, as far as anybody can tell: what a disk has failed to write, or has not
                answered for, may be there later. What is posted after this finds out.
        """
        ended = threading.Event()
        found: list[Any] = []
        owner: dict[None, str] = {}  # of the work: who is first begins it, or gives it up

        def begin(file: sqlite3.Connection) -> _T | None:
            return work(file) if owner.setdefault(None, "store") == "store" else None

        def done(value: Any, failed: Unavailable | None) -> None:
            found[:] = [value, failed]
            ended.set()

        self.post(begin, done)
        # Second by second: one in which the whole process stood still (SIGSTOP, a suspended machine) counts as one.
        if not any(ended.wait(1.0) for _ in range(_WAIT)):
            unsure = owner.setdefault(None, "caller") == "store"
            later = "; it may still be done" if unsure else ""
            raise Unavailable(f"the ledger {self.path} has not answered within {_WAIT} s{later}", unsure=unsure)
        if found[1] is not None:
            raise found[1]
        value: _T = found[0]
        return value

    def mark(self, work: Work) -> None:
        """Do small work at once, in the calling thread. It outlives this process, but perhaps not a power failure.

        Raises:
            Unavailable: it was not done.
        """
        with self._using:
            file = self._file
            if file is None:
                raise self._error or Unavailable(f"{self.path}: not open")
            try:
                file.execute("PRAGMA synchronous = NORMAL")  # nothing waits for the disk
                try:
                    work(file)
                finally:
                    file.execute("PRAGMA synchronous = FULL")
            except Exception as why:
                self._close()
                raise Unavailable(f"the ledger {self.path} cannot be used: {why}") from why

    def stop(self) -> None:
        """Do what is left and close the file. May be repeated."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_WAIT)

    # -- in the store's own thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._wait_for_work()
                group: list[_Piece] = []
                # There is room first for what somebody waits for, where all work is likely to fail. What was kept is
                # older, and done first.
                room = _GROUP if self._error is None else max(0, _GROUP - len(self._waiting))
                group += [self._kept.popleft() for _ in range(min(room, len(self._kept)))]
                group += [self._waiting.popleft() for _ in range(min(_GROUP - len(group), len(self._waiting)))]
                self._urgent = bool(self._waiting)
                stopping = self._stopping and not self._waiting and not self._kept
            done = self._commit(group) if group else True
            if stopping or (self._stopping and not done):
                break
        if self._kept:
            text = "%s: %d entries could not be written before the end: what has ended, or was rejected, may run again"
            log.error(text, self.path, len(self._kept))
        with self._using:
            self._close()

    def _wait_for_work(self) -> None:
        while not (self._stopping or self._urgent):
            left = _PAUSE if self._kept else None
            if self._waiting:
                left = self._committed + _SOON - time.monotonic()
                if left <= 0:
                    return
            if not self._changed.wait(left) and self._kept:
                return

    def _commit(self, group: list[_Piece]) -> bool:
        """Do a group of pieces; tell whether that was possible."""
        values: list[Any] = []
        failed: Unavailable | None = None
        try:
            values = self._transact(group)
        except Unavailable as why:
            failed = why
            values = [None] * len(group)
        except _Faulty as why:
            if len(group) > 1:  # the others have done nothing wrong
                done = [self._commit([piece]) for piece in group]
                return all(done)
            log.error("%s: one entry cannot be written: %s", self.path, why, exc_info=why.__cause__)
            failed = Unavailable(f"the entry in {self.path} cannot be written: {why}")
            values, group = [None], [group[0]._replace(kept=False)]  # nor ever
        for piece, value in zip(group, values, strict=True):
            if failed is not None and piece.kept and len(self._kept) < _MOST_KEPT:
                self._kept.append(piece)
            elif piece.done is not None:
                try:
                    piece.done(value, failed)
                except Exception:
                    log.exception("the step after an entry in the store failed")
        return failed is None

    def _transact(self, group: list[_Piece]) -> list[Any]:
        if self._error is not None and time.monotonic() < self._failed + _PAUSE and not self._stopping:
            raise self._error
        with self._using:
            for attempt in (1, 2):
                try:
                    file = self._file = self._file or self._open()
                    before = file.total_changes
                    file.execute("BEGIN IMMEDIATE")
                    values = [_done(piece.work, file) for piece in group]
                    file.execute("COMMIT")
                    self._committed = time.monotonic()
                except _Faulty:
                    self._close()
                    raise
                except Exception as why:  # noqa: BLE001 - told to those who asked, whatever it is; the thread goes on
                    self._close()
                    if _is_corrupt(why) and attempt == 1 and self._set_aside(why):
                        for tell in self.lost:
                            tell()
                        continue
                    self._fail(why)
                else:
                    if self._error is not None and (file.total_changes > before or self._can_write(file)):
                        log.warning("the ledger %s can be used again", self.path)
                        self._error = None
                    return values
        raise AssertionError("not reached")

    def _can_write(self, file: sqlite3.Connection) -> bool:
        """Try to write: work that had nothing to write tells nothing of a full disk."""
        try:
            file.execute(f"PRAGMA user_version = {schema.VERSION}")
        except Exception:  # noqa: BLE001 - as above; the work itself was done
            self._close()
            self._failed = time.monotonic()
            return False
        return True

    def _fail(self, why: Exception) -> None:
        text = f"the ledger {self.path} cannot be used: {why}"
        now = time.monotonic()
        # One line when it begins; another one when the reason is another one, but not all the time.
        if self._error is None or (str(self._error) != text and now > self._said + _QUIET):
            log.error("%s; quick calls continue, requests that need the ledger are rejected", text)
            self._said = now
        self._failed = now
        self._error = Unavailable(text)
        raise Unavailable(text, unsure=_is_unsynced(why)) from why

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        self._prepare()
        if not os.path.lexists(self.path):
            self._make()
        if os.path.getsize(self.path) == 0 and not os.path.lexists(f"{self.path}-wal"):
            raise _Corrupt("it is empty")  # what some file systems leave of it after a power failure
        file = sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            os.chmod(self.path, 0o600)
            schema.version_of(file)  # first: a later version's file is not touched
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = FULL")
            file.execute("PRAGMA cache_size = -512")
            file.execute("PRAGMA secure_delete = FAST")  # there may be passwords among arguments
            broken = file.execute("PRAGMA quick_check(1)").fetchone()[0]
            if broken != "ok":
                raise _Corrupt(broken)
            schema.prepare(file, self.path)
            if not self._opened:
                schema.recover(file)
                self._opened = True
        except BaseException:
            file.close()
            raise
        return file

    def _make(self) -> None:
        """Make a new file under another name: of one that is not whole nobody could tell whether it is corrupt."""
        import sqlite3

        new = self.path.with_name("new.db")
        new.unlink(missing_ok=True)
        with closing(sqlite3.connect(new, isolation_level=None)) as file:
            os.chmod(new, 0o600)
            file.execute("PRAGMA journal_mode = MEMORY")  # no second file: to close one says nothing of a full disk
            file.execute("PRAGMA synchronous = OFF")  # it is synced below, as a whole
            file.execute("PRAGMA auto_vacuum = INCREMENTAL")  # what many large requests took is given back
            schema.prepare(file, self.path)
        sync(new)
        for end in ("-wal", "-shm", "-journal"):  # of a file that is gone: SQLite would read them into this one
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        new.rename(self.path)
        sync(self.path.parent)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _set_aside(self, why: Exception) -> bool:
        aside = f"corrupt-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09}"
        try:
            for end in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + end)
                if os.path.lexists(part):
                    os.rename(part, self.path.with_name(f"ledger-{aside}.db{end}"))
        except OSError as failed:
            log.error("the corrupt ledger %s cannot be set aside: %s", self.path, failed)
            return False
        text = "the ledger %s is corrupt (%s): it is kept as ledger-%s.db, and a new one is made; its entries are lost"
        log.error(text, self.path, why, aside)
        return True


class _Corrupt(OSError):
    """The file's own check has found something."""


class _Faulty(Exception):
    """A piece of work is wrong in itself; the file is not to blame."""


def _done(work: Work, file: sqlite3.Connection) -> Any:
    import sqlite3

    try:
        return work(file)
    except (sqlite3.Error, OSError):
        raise
    except Exception as why:
        raise _Faulty(f"{type(why).__name__}: {why}") from why


def _is_unsynced(why: Exception) -> bool:
    # SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC: all is written then, and is found when the file is opened anew.
    return getattr(why, "sqlite_errorcode", 0) in (1034, 1290)


def _is_corrupt(why: Exception) -> bool:
    # SQLITE_CORRUPT and SQLITE_NOTADB; the low byte is the primary code.
    return isinstance(why, _Corrupt) or getattr(why, "sqlite_errorcode", 0) & 0xFF in (11, 26)
