"""A handler of log lines that never blocks, never raises, and tells once what it cannot write.

An agent's calls wait for nothing that happens to its log: a full disk, a reader that has stopped or gone away.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import threading
from pathlib import Path
from time import monotonic

__all__ = ["NonBlockingHandler"]

_BACKLOG = 1 << 20  # bytes of lines that are kept while a reader is slow
_FLUSH = 1.0  # seconds that the end of the process waits for a slow reader
_GATHERED = 1 << 16  # bytes of lines that are written together
_ATOMIC = select.PIPE_BUF  # what a pipe or a socket that can be written to takes without blocking


class NonBlockingHandler(logging.Handler):
    """Writes lines to a file, reopened when it was moved away, or to standard error.

    What a reader does not take at once is kept, up to a MiB, and written by a thread as soon as it does. What cannot be
    written is lost: the next line that can be is preceded by one that says how many were, and why. For a file, standard
    error is told when that begins.

    A record with a true attribute ``followed`` shares a write with the one that its sender logs right after it. For
    thousands of requests a second, a write for each line would cost as much as the rest of the line.

    ``logging.shutdown``, which ``logging.config`` calls in passing, writes what there is and closes nothing: only
    ``end`` does.
    """

    def __init__(self, file: Path | None = None) -> None:
        """Open the file, or take standard error, in a descriptor of our own: others may close theirs.

        Raises:
            OSError: the file cannot be opened.
        """
        super().__init__()
        self._file = file
        self._encoding = "utf-8" if file is not None else getattr(sys.stderr, "encoding", None) or "utf-8"
        self._way = _FileWay(file) if file is not None else _way_to_stderr()
        self._backlog = bytearray()
        self._gathered: list[bytes] = []  # lines that wait for the one that follows them
        self._size = 0  # of these
        self._owner = os.getpid()
        self._draining = False
        self._lost = 0
        self._why = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, in its own time."""
        line = self._line(record)
        self._leave_to_parent()
        self._gathered.append(line)
        self._size += len(line)
        if not getattr(record, "followed", False) or self._size > _GATHERED:
            self._write_gathered()

    def flush(self) -> None:
        """Wait a moment for a slow reader, if there is something left for it."""
        with self._held():
            self._leave_to_parent()
            self._write_gathered()
        deadline = monotonic() + _FLUSH
        while self._backlog and (left := deadline - monotonic()) > 0:
            self._way.wait(left)
            with self._held():
                self._drain_some()

    def end(self) -> None:
        """Close what it writes to."""
        self.flush()
        self.close()
        with self._held():
            self._way.close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Do nothing: whatever fails has been told already."""

    # -- inside, with the handler's lock held -----------------------------------------------------------------------

    def _held(self) -> threading.RLock:
        assert self.lock is not None  # noqa: S101 - createLock has made it
        return self.lock

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - a wrong call of a plugin must not become an exception in another's
            # Its message and its arguments do not fit, or an argument cannot be shown.
            place = f"{record.pathname}, line {record.lineno}"
            text = self.format(_record(logging.ERROR, f"a log line cannot be shown: {type(error).__name__} ({place})"))
        return f"{text}\n".encode(self._encoding, "backslashreplace")

    def _write_gathered(self) -> None:
        lines, self._gathered, self._size = self._gathered, [], 0
        self._drain_some()
        if self._backlog:
            for line in lines:
                self._keep(line)
        elif lines:
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        """Write lines, behind one that tells what was lost."""
        note = self._note() if self._lost else b""
        data = note + b"".join(lines)
        try:
            sent = self._way.write(data)
        except OSError as error:
            end, taken = len(note), self._way.taken
            if note and end <= taken:
                self._lost = 0
            missing = 0
            for line in lines:
                end += len(line)
                missing += end > taken
            self._lose(missing, error)
            return
        self._lost = 0
        if sent < len(data):
            self._backlog += data[sent:]
            self._start_draining()

    def _keep(self, line: bytes) -> None:
        if len(self._backlog) + len(line) <= _BACKLOG and not self._lost:
            self._backlog += line
        else:
            self._lose(1, None)

    def _lose(self, lines: int, error: OSError | None) -> None:
        self._why = "its reader is too slow" if error is None else error.strerror or type(error).__name__
        first, self._lost = not self._lost, self._lost + lines
        if first and self._file is not None:
            text = f"goferd: log file {self._file}: {self._why}; lines are lost until it can be written to\n"
            try:
                way = _way_to_stderr()
            except OSError:
                return
            try:
                way.write(text.encode(errors="backslashreplace"))
            except OSError:
                pass  # nobody is left to be told
            finally:
                way.close()

    def _note(self) -> bytes:
        were = "line was" if self._lost == 1 else "lines were"
        text = self.format(_record(logging.WARNING, f"{self._lost} log {were} lost here: {self._why}"))
        return f"{text}\n".encode(self._encoding, "backslashreplace")

    def _leave_to_parent(self) -> None:
        if self._owner != os.getpid():  # forked: what is kept is written by the process that it was logged in
            self._owner, self._draining = os.getpid(), False
            self._backlog.clear()
            self._gathered, self._size = [], 0
            self._lost = 0

    def _start_draining(self) -> None:
        if self._draining:
            return
        try:
            threading.Thread(target=self._drain, name="gofer-log", daemon=True).start()
            self._draining = True
        except RuntimeError:
            pass  # the interpreter ends: flush() does it

    def _drain(self) -> None:
        while True:
            self._way.wait(1.0)
            with self._held():
                self._drain_some()
                if not self._backlog:
                    self._draining = False
                    return

    def _drain_some(self) -> None:
        """Write what the reader takes of what is kept; behind it, what was lost is told."""
        if not self._backlog:
            return
        try:
            del self._backlog[: self._way.write(bytes(self._backlog[: 1 << 16]))]
        except OSError as error:
            self._lose(self._backlog.count(b"\n"), error)
            self._backlog.clear()
            return
        if not self._backlog and self._lost:
            self._write([])


class _Way:
    """A pipe, a socket or a terminal of others, who may not be told for all of them that writing does not block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        #: How many bytes the last write has taken, if it failed, too.
        self.taken = 0

    def write(self, lines: bytes) -> int:
        """Write and return how much was taken, 0 where writing would block. Raises OSError."""
        self.taken = 0
        while self.taken < len(lines) and self.wait(0):
            try:
                self.taken += os.write(self._descriptor, lines[self.taken : self.taken + _ATOMIC])
            except BlockingIOError:
                break
        return self.taken

    def wait(self, seconds: float) -> bool:
        """Wait until something can be written, or something is wrong; tell whether it is so."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        return bool(poller.poll(seconds * 1000))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class _FileWay(_Way):
    """A file that is appended to. What it does not take whole it takes not at all: never a backlog."""

    def __init__(self, path: Path | None, descriptor: int = -1) -> None:
        super().__init__(descriptor)
        self._path = path
        self._torn = False
        if path is not None:
            self._open(path)

    def write(self, lines: bytes) -> int:
        self.taken, rest = 0, lines
        if self._path is not None:
            self._follow(self._path)
        if self._torn:
            rest = b"\n" + lines
        while rest:
            sent = os.write(self._descriptor, rest)
            rest = rest[sent:]
            self.taken = max(0, len(lines) - len(rest))
            self._torn = bool(rest) and not lines[: self.taken].endswith(b"\n")
        return len(lines)

    def _follow(self, path: Path) -> None:
        """Open the file again if another one, or none, stands at its path."""
        try:
            there = os.stat(path)
        except FileNotFoundError:
            there = None
        if there is not None:
            ours = os.fstat(self._descriptor)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        former = self._descriptor
        self._open(path)
        os.close(former)
        self._torn = False

    def _open(self, path: Path) -> None:
        # Without blocking, should it be a FIFO. Python's descriptors are not inherited.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        self._descriptor = os.open(path, flags, 0o666)


def _way_to_stderr() -> _Way:
    descriptor = os.dup(2)
    return _FileWay(None, descriptor) if stat.S_ISREG(os.fstat(descriptor).st_mode) else _Way(descriptor)


def _record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("gofer.agent.logs", level, __file__, 0, text, None, None)
