"""The log's line of each request, written by a thread of its own: nobody who answers a request waits for the log."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import NamedTuple

from gofer.limit import Limit
from gofer.messaging.document import shown
from gofer.rmi.exceptions import trace_of
from gofer.rmi.request import Received
from gofer.rmi.server.serial import SerialThread

__all__ = ["RequestLog"]

requests = logging.getLogger("gofer.rmi.requests")

_PAUSE = 0.02  # seconds in which lines gather: a thread that is woken for each costs more than the line
_MOST = 20_000  # lines that wait; more are written by whoever comes
# What is the same in all records. Made by logging, each would take 12 calls of functions more, of the 41 of a line.
_RECORD = vars(requests.makeRecord(requests.name, 0, __file__, 0, "%s %s %s %s %s %.1f ms%s", (), None))


class _Line(NamedTuple):
    at: float
    level: int
    request: Received
    plugin: str
    outcome: str
    seconds: float
    why: str
    trace: str | None


class RequestLog:
    """Writes one line a request. Any thread; only ``flush`` and ``stop`` wait."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque()
        self._thread = SerialThread("gofer-log")
        self._gathering = False
        self._stopping = threading.Event()
        self._traces = Limit(10, 50)  # tracebacks in the log that no reply tells, a second

    def write(
        self, request: Received, outcome: str, seconds: float, why: str = "", result: bytes | None = None
    ) -> None:
        """Have a request's line written: why it failed, and the traceback where no reply tells it, or for DEBUG."""
        failed = outcome == "exception"
        level = logging.WARNING if failed and request.replyto is None else logging.INFO
        if not requests.isEnabledFor(level):
            return
        trace = None
        unseen = failed and (requests.isEnabledFor(logging.DEBUG) or (level > logging.INFO and self._traces.allows()))
        if unseen and result is not None:
            trace = trace_of(result)
        line = _Line(time.time(), level, request, request.channel.service.name, outcome, seconds, why, trace)
        if len(self._lines) >= _MOST:
            _write(line)
            return
        self._lines.append(line)
        if not self._gathering:
            self._gathering = True
            self._thread.put(self._write_all)

    def flush(self, timeout: float) -> bool:
        """Wait until all lines so far are written, at most ``timeout`` seconds; tell whether they are."""
        return self._thread.flush(timeout)

    def stop(self) -> None:
        """Write what is left and end the thread; a line that comes later is written all the same."""
        self._stopping.set()
        if not self._thread.is_current:
            self._thread.flush(1.0)
        self._thread.stop()

    def _write_all(self) -> None:
        self._stopping.wait(_PAUSE)
        self._gathering = False  # first: a line that comes now is written by this, or by the next
        while self._lines:
            line = self._lines.popleft()
            _write(line, followed=bool(self._lines))


def _write(line: _Line, *, followed: bool = False) -> None:
    """Write a line. ``followed``: the next one comes at once; goferd's handler writes both together."""
    request = line.request
    caller = shown(request.identity or request.document.replyto or "nobody")
    why = f": {line.why}" if line.why else ""
    words = (request.sn, caller, line.plugin, request.target, line.outcome, line.seconds * 1000, why)
    record = logging.LogRecord.__new__(logging.LogRecord)
    level = logging.getLevelName(line.level)
    told = {"args": words, "levelno": line.level, "levelname": level, "exc_text": line.trace, "followed": followed}
    record.__dict__.update(_RECORD, **told, created=line.at, msecs=line.at % 1 * 1000)
    try:
        requests.handle(record)
    except Exception:
        logging.getLogger(__name__).exception("the line of a request cannot be written")
