"""One forked call as its agent sees it: what goes to its process, what comes from there, and how it ended."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import msgspec

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, ProcessDied
from gofer.messaging.document import Result
from gofer.rmi.api import Target
from gofer.rmi.exceptions import from_result
from gofer.rmi.model import frames
from gofer.rmi.model.process import HelperProcess, end_of
from gofer.rmi.request import Received

__all__ = ["ForkedCall"]

log = logging.getLogger(__name__)

_FORK = 30.0  # seconds in which the helper must have forked
_CHUNK = 1 << 18
_SLACK = 1 << 16  # bytes beside a value of the largest size

_value = msgspec.json.Decoder()
_result = msgspec.json.Decoder(Result)


class ForkedCall:
    """One call: both connections of it, and what came over them. Its methods are for the thread that makes the call."""

    def __init__(self, target: Target, request: Received, limit: int) -> None:
        self._target = target
        self._request = request
        self._frames = frames.Frames(limit + _SLACK)
        self._ends = ExitStack()
        self._lock = threading.Lock()
        self._open = True
        self._limit = limit
        self._words = b""
        self._unsent = memoryview(b"")
        self._exit: int | None = None
        self._failed: str | None = None
        self._ended: tuple[bytes, bytes] | None = None
        self._late = False
        self._pid = 0
        #: Whether the helper has forked: from then on the method may have run.
        self.begun = False

    def __enter__(self) -> ForkedCall:
        request = self._request
        try:
            self._data, self._their_data = self._pair()
            self._status, self._their_status = self._pair()
        except OSError:  # no more descriptors
            self._ends.close()
            raise
        request.on_cancel = self._kill
        request.on_expire = self._terminate
        return self

    def __exit__(self, *raised: object) -> None:
        self._request.on_cancel = self._request.on_expire = None
        with self._lock:
            self._open = False
            self._ends.close()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair()
        self._ends.enter_context(one)
        self._ends.enter_context(other)
        return one, other

    def _kill(self) -> None:
        self._say(frames.KILL)

    def _terminate(self) -> None:
        self._late = True
        self._say(frames.TERMINATE)

    def _say(self, word: bytes) -> None:
        """Have the child ended. Any thread."""
        with self._lock:
            if self._open:
                try:
                    self._status.send(word)
                except OSError:
                    log.debug("%r: its helper has gone, and its process with it", self._request)

    def run(self, helper: HelperProcess) -> bool:
        """Make the call; False: the helper has died."""
        if self._request.cancelled.is_set():  # before there was something to kill
            raise Cancelled("cancelled before it was started")
        words = self._invocation()
        if not helper.fork(self._their_data, self._their_status):
            return False
        self._their_data.close()
        self._their_status.close()
        self._data.setblocking(False)
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        deadline = time.monotonic() + _FORK
        while self._ended is None and self._exit is None and self._failed is None:
            wait = None if self.begun else max(0.0, deadline - time.monotonic()) * 1000
            ready = dict(poll.poll(wait))
            if not ready and not self.begun:
                helper.kill()
                return False
            if self._status.fileno() in ready:
                begun = self.begun
                if not self._hear():
                    self._bury()
                    return False
                if self.begun and not begun:
                    # Not before: without it nothing runs, and another helper may be tried.
                    self._unsent = memoryview(words)
                    poll.register(self._data, select.POLLIN | select.POLLOUT)
            event = ready.get(self._data.fileno(), 0)
            if event & select.POLLOUT and not self._send():
                poll.modify(self._data, select.POLLIN)
            if event & (select.POLLIN | select.POLLHUP | select.POLLERR) and not self._read():
                poll.unregister(self._data)
        while self._ended is None and self._failed is None and self._read():
            pass  # what it has sent before it ended
        return True

    def _bury(self) -> None:
        """Kill what is left of a call whose helper has died: the child dies with that, what it has started may not."""
        if self._pid:
            try:
                os.killpg(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass  # nothing is left

    def _invocation(self) -> bytes:
        asked = self._request.document.request
        target = self._target
        body = json.dumps(
            {
                "space": None if target.cls is None else target.namespace,
                "method": target.method,
                "cntr": asked.cntr,
                "args": asked.args,
                "kws": asked.keywords,
                "sn": self._request.sn,
                "data": self._request.data,
                "identity": self._request.identity,
                "limit": self._limit,
            }
        ).encode()
        return frames.head(frames.CALL, len(body)) + body

    def _hear(self) -> bool:
        """Take what the helper says; False: it has gone."""
        try:
            heard = self._status.recv(4096)
        except ConnectionError:
            heard = b""
        self._words += heard
        *lines, self._words = self._words.split(b"\n")
        for line in lines:
            what, _, text = line.decode("utf-8", "replace").partition(" ")
            if what == "pid":
                self.begun = True
                self._pid = int(text)
            elif what == "exit":
                self._exit = int(text)
            else:
                self._failed = text
        return bool(heard)

    def _send(self) -> bool:
        """Send what the child can take; False: that was all."""
        try:
            sent = self._data.send(self._unsent[:_CHUNK])
        except BlockingIOError:
            return True
        except OSError:
            return False  # it has ended already; how, the helper tells
        self._unsent = self._unsent[sent:]
        return bool(self._unsent)

    def _read(self) -> bool:
        """Take what the child sends; False: nothing comes any more, or nothing now."""
        try:
            data = self._data.recv(_CHUNK)
        except BlockingIOError:
            return self._exit is None
        except OSError:
            return False
        if not data:
            return False
        try:
            for kind, body in self._frames.feed(data):
                if kind == frames.PROGRESS:
                    self._request.progress.relay(**_value.decode(body))
                else:
                    self._ended = kind, body
        except (ValueError, TypeError, msgspec.MsgspecError) as wrong:
            self._kill()
            self._failed = f"its process has sent what cannot be read: {wrong}"
        return True

    def result(self) -> Any:
        """Return the value that the child has sent, or raise what it has raised or why there is none."""
        name = f"{self._target.name}()"
        if self._ended is not None:
            kind, body = self._ended
            if kind == frames.VALUE:
                return _value.decode(body)["retval"]
            raised = from_result(_result.decode(body))
            self._request.crossed = raised, body  # as the child has told it: with its own class, and its own trace
            raise raised
        if self._failed is not None:
            raise DispatchError(f"{name} cannot be run in a process of its own: {self._failed}")
        if self._late:
            raise ExecutionTimeout(f"{name} took longer than it may; its process was ended")
        if self._request.cancelled.is_set():
            raise Cancelled(f"{name} was cancelled while it ran; its process was killed")
        raise ProcessDied(f"{name}: its process ended without a result: {end_of(self._exit or 0)}")
