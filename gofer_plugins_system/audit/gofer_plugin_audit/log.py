"""The files of an audit log: written line by line, never changed, continued after a crash."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gofer.errors import ConfigError
from gofer.root import sync

from gofer_plugin_audit.chain import GENESIS, RECOVERED, line_of, lines_of, read_line, torn_digest

__all__ = ["AuditLog", "files_in"]

log = logging.getLogger(__name__)

_NAME = re.compile(r"audit-[0-9]{12,}\.jsonl")
_MOST_TORN = 1 << 20  # bytes: more was not left by a crash


class _End(NamedTuple):
    """How a file ends: its last whole record, what stands behind that, and whether only the end of its line lacks."""

    seq: int
    hash: str
    torn: bytes
    unended: bool


class AuditLog:
    """An audit log in a directory of its own. Any thread.

    A record is one write at the end of the newest file. What a crash or a full disk leaves of one stays there; a record
    ``recovered`` behind it tells its length and hash. The files are named by their first records.

    Args:
        max_size: bytes after which a new file is begun.
        keep: how many files are kept; None: all.
        sync: seconds after which what is written is on the disk at the latest; 0: before ``write`` returns.
    """

    def __init__(self, directory: Path, *, max_size: int, keep: int | None, sync: float) -> None:
        self._directory = directory
        self._max_size = max_size
        self._keep = keep
        self._sync = sync
        self._lock = threading.Lock()
        self._syncing = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._held = self._file = -1
        self._seq, self._hash, self._synced = 0, GENESIS, 0
        self._size = 0
        self._fresh = True  # the file has no record yet
        self._torn, self._lead = b"", b""
        self._broken: OSError | None = None  # what was written did not reach the disk

    def open(self, **about: Any) -> None:
        """Find where the log ends, and go on there with a record ``start``.

        Args:
            about: what this record tells.

        Raises:
            ConfigError: another process writes it, or what is there is no audit log.
            OSError: it cannot be read or written.
        """
        self._held = os.open(self._directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._go_on()
            self.write("start", begin=True, **about)
        except BlockingIOError:
            self._let_go()
            raise ConfigError(f"{self._directory}: another process writes this audit log; each needs its own") from None
        except BaseException:
            self._let_go()
            raise
        if self._sync > 0:
            self._thread = threading.Thread(target=self._sync_again, name="gofer-audit-sync", daemon=True)
            self._thread.start()

    def _go_on(self) -> None:
        files = files_in(self._directory)
        for path in reversed(files):
            end = _end_of(path)
            if path == files[-1]:
                self._torn, self._lead, self._fresh = end.torn, b"\n" if end.unended else b"", not end.seq
            if end.seq:
                self._seq, self._hash = end.seq, end.hash
                break
        if not files:
            self._create()
            return
        self._use(files[-1], os.O_APPEND)
        if self._torn:
            text = "audit: %d bytes at the end of %s are no whole record; the next record tells so"
            log.warning(text, len(self._torn), files[-1])

    def _let_go(self) -> None:
        for descriptor in (self._file, self._held):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._held = -1

    @property
    def where(self) -> str:
        """The last record, by which it can be verified later that nothing is cut off."""
        return f"{self._seq}:{self._hash}"

    def write(self, event: str, *, begin: bool = False, durable: bool = False, **fields: Any) -> None:
        """Write a record.

        Args:
            begin: a file may begin with it.
            durable: where ``sync`` is 0, wait until it is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            if self._broken is not None:
                raise self._broken
            if self._torn:
                torn = self._torn
                told = {"torn": len(torn), "torn_sha256": torn_digest(torn)}
                self._append(RECOVERED, told, b"\n")
                self._torn = b""
            if self._size >= self._max_size and not self._fresh:
                self._sync_file(self._file)
                self._create()
            if self._fresh and not begin:
                dropped = [] if self._keep is None else files_in(self._directory)[: -self._keep]
                self._append("continued", {"dropped": [path.name for path in dropped]})
                for path in dropped:
                    path.unlink(missing_ok=True)
                log.info("audit: a new file is begun; last record %s", self.where)
            self._append(event, fields)
            seq = self._seq
        if durable and self._sync == 0:
            self._flush(seq)

    def close(self) -> None:
        """Write that the log ends, and have all of it on the disk. What fails is logged."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self.write("stop")
            os.fdatasync(self._file)
        except OSError as failed:
            log.error("audit: the end of the log cannot be written: %s", failed)
        with self._lock:
            self._broken = OSError("the audit log is closed")
            self._let_go()

    def _append(self, event: str, fields: dict[str, Any], lead: bytes = b"") -> None:
        fields = {"time": datetime.now(UTC).isoformat().replace("+00:00", "Z"), **fields}
        line, digest = line_of(self._seq + 1, self._hash, event, fields)
        data = (lead or self._lead) + line
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            if done < len(data) - 1:
                self._torn += data[:done] if not self._lead else data[1:done]
                self._lead = b"" if done else self._lead
                raise
        finally:
            self._size += done
        self._seq, self._hash, self._fresh = self._seq + 1, digest, False
        self._lead = b"" if done == len(data) else b"\n"

    def _create(self) -> None:
        name = f"audit-{self._seq + 1:012}.jsonl"
        self._use(self._directory / name, os.O_APPEND | os.O_CREAT | os.O_EXCL)
        self._fresh = True
        sync(self._directory)

    def _use(self, path: Path, flags: int) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, os.fstat(file).st_size

    def _flush(self, seq: int) -> None:
        """Have all records up to a number on the disk; those who come meanwhile share the next time."""
        with self._syncing:
            if self._synced >= seq:
                return
            with self._lock:
                file, written = os.dup(self._file), self._seq
            try:
                self._sync_file(file)
            finally:
                os.close(file)
            self._synced = written

    def _sync_file(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as failed:
            # The kernel does not try again: nobody knows what of it is on the disk.
            text = f"{failed.strerror} when it was synced; reload the plugin, or restart the agent, when the disk works"
            self._broken = OSError(failed.errno, text)
            raise self._broken from failed

    def _sync_again(self) -> None:
        while not self._stopping.wait(self._sync):
            try:
                self._flush(self._seq)
            except OSError as failed:
                log.error("audit: the log cannot be written to the disk: %s", failed)
                return


def files_in(directory: Path) -> list[Path]:
    """Return the files of a log, in their order."""
    found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))


def _end_of(path: Path) -> _End:
    """Return how a file ends; without a record its number is 0.

    Raises:
        ConfigError: too much of it is no record.
    """
    seq, digest, torn, unended = 0, GENESIS, b"", False
    with path.open("rb") as file:
        for line in lines_of(file):
            record = read_line(line)
            if record is not None:
                seq, digest, torn, unended = record.seq, record.hash, b"", not line.endswith(b"\n")
            elif len(torn) + len(line) > _MOST_TORN:
                raise ConfigError(f"{path}: what it ends with is no audit log; verify it, and move it away")
            else:
                torn += line
    return _End(seq, digest, torn, unended)
