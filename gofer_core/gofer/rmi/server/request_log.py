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

__all__ = ["RequestLog"]

requests = logging.getLogger("gofer.rmi.requests")

_PAUSE = 0.02  # seconds in which lines gather: a thread that is woken for each costs more than the line
_IDLE = 2.0  # seconds without a line after which the thread ends
_MOST = 20_000  # lines that wait; more are written by whoever comes


class _Line(NamedTuple):
    at: float
    request: Received
    plugin: str
    outcome: str
    seconds: float
    why: str
    trace: str | None


class RequestLog:
    """Writes one line a request. Any thread; only ``flush`` waits."""

    def __init__(self) -> None:
        self._lines: deque[_Line] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._writing = False
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
        line = _Line(time.time(), request, request.channel.service.name, outcome, seconds, why, trace)
        if len(self._lines) >= _MOST:
            _write(line)
            return
        self._lines.append(line)
        if self._thread is None:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="gofer-log", daemon=True)
                    self._thread.start()

    def flush(self, timeout: float) -> bool:
        """Wait until all lines so far are written, at most ``timeout`` seconds; tell whether they are."""
        deadline = time.monotonic() + timeout
        while (self._lines or self._writing) and time.monotonic() < deadline:
            time.sleep(_PAUSE / 4)
        return not (self._lines or self._writing)

    def stop(self) -> None:
        """Write what is left and end the thread; a line that comes later is written all the same."""
        self._stopping.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            self._writing = True
            while self._lines:
                _write(self._lines.popleft())
                idle_since = time.monotonic()
            self._writing = False
            if self._stopping.is_set() or time.monotonic() - idle_since > _IDLE:
                with self._changed:
                    if not self._lines:
                        self._thread = None
                        return
            self._stopping.wait(_PAUSE)


def _write(line: _Line) -> None:
    request = line.request
    level = logging.WARNING if line.outcome == "exception" and request.replyto is None else logging.INFO
    caller = shown(request.identity or request.document.replyto or "nobody")
    why = f": {line.why}" if line.why else ""
    words = (request.sn, caller, line.plugin, request.target, line.outcome, line.seconds * 1000, why)
    record = requests.makeRecord(requests.name, level, __file__, 0, "%s %s %s %s %s %.1f ms%s", words, None)
    record.created, record.msecs = line.at, line.at % 1 * 1000
    record.exc_text = line.trace
    try:
        requests.handle(record)
    except Exception:
        logging.getLogger(__name__).exception("the line of a request cannot be written")
