"""The fork model: each call in a process of its own, forked by a helper process of its plugin.

The helper is one single-threaded process for each plugin that has such methods; it has imported the plugin's code, and
does nothing but fork. It is started with the first call, and again when it has died. Two pairs of sockets go to it with
each call: over one the agent and the child exchange the call, its progress and its result; over the other the helper
tells the child's number and how it ended, and is told to end it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any

import msgspec

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, Interrupted, ProcessDied
from gofer.messaging.document import Result
from gofer.rmi.api import Target
from gofer.rmi.exceptions import from_result
from gofer.rmi.model import pipe
from gofer.rmi.request import Received

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["Forks"]

log = logging.getLogger(__name__)

_FORK = 30.0  # seconds in which the helper must have forked
_CHUNK = 1 << 18
_SLACK = 1 << 16  # bytes beside a value of the largest size
_value = msgspec.json.Decoder()
_result = msgspec.json.Decoder(Result)
_START = 60.0  # seconds in which a helper must have imported its plugin
_END = 5.0  # seconds in which it must end
_RESTART = "If what is installed has changed since goferd was started, restart goferd"


class Forks:
    """Runs methods of one plugin in child processes. Any thread; each call holds the thread that makes it.

    Args:
        name: the plugin's.
        module: what the helper runs, with ``python -m``, and the number of its connection as the only argument.
        greeting: returns the first message to a helper, which says what it is to import.
    """

    def __init__(self, name: str, module: str, greeting: Callable[[], bytes]) -> None:
        self._name = name
        self._module = module
        self._greeting = greeting
        self._starting = threading.Lock()  # held while a helper starts
        self._helper: _HelperProcess | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The process id of the helper; None when there is none."""
        helper = self._helper
        return None if helper is None else helper.pid

    def call(self, target: Target, request: Received, limit: int) -> Any:
        """Run a method in a child process, and return its value.

        Args:
            limit: the most bytes of its result.

        Raises:
            ProcessDied: the child ended without a result, by a signal or by itself; or its helper did.
            Cancelled: somebody has cancelled the request; the child and its process group were killed.
            DispatchError: there is no helper, or it cannot fork.
            Interrupted: the plugin was stopped meanwhile.
            Exception: what the method raised.
        """
        for attempt in range(2):
            helper = self._started()
            call = _ForkedCall(target, request, limit)
            with call:
                if call.run(helper):
                    return call.result()
            # It has died before it forked: nothing was run.
            self._lost(helper)
            if call.begun and self._stopped:
                raise Interrupted(f"{target.name}(): its plugin was stopped while it ran, and its process killed")
            if call.begun or attempt:
                break
        raise ProcessDied(
            f"{target.name}(): the helper process of plugin {self._name!r} has died, and the call with it"
        )

    def stop(self) -> None:
        """Kill what runs, and end the helper; nothing can be called any more. May be repeated."""
        self._stopped = True
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _started(self) -> _HelperProcess:
        with self._starting:
            helper = self._helper
            if helper is not None and helper.alive:
                return helper
            if self._stopped:
                raise DispatchError(f"plugin {self._name!r} has been stopped")
            helper = self._helper = _HelperProcess(self._name, self._module)
            if self._stopped:  # by another thread, just now
                helper.end()
            try:
                helper.greet(self._greeting())
            except BaseException:
                self._helper = None
                helper.end()
                raise
            return helper

    def _lost(self, helper: _HelperProcess) -> None:
        with self._starting:
            if self._helper is helper:
                self._helper = None
        status = helper.end()
        if not self._stopped:
            log.warning("plugin %s: the process that forks its calls has died: %s", self._name, _end_of(status))


class _ForkedCall:
    """One call: both connections of it, and what came over them. Its methods are for the thread that makes the call."""

    def __init__(self, target: Target, request: Received, limit: int) -> None:
        self._target = target
        self._request = request
        self._messages = pipe.Messages(limit + _SLACK)
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

    def __enter__(self) -> _ForkedCall:
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
        self._say(pipe.KILL)

    def _terminate(self) -> None:
        self._late = True
        self._say(pipe.TERMINATE)

    def _say(self, word: bytes) -> None:
        """Have the child ended. Any thread."""
        with self._lock:
            if self._open:
                try:
                    self._status.send(word)
                except OSError:
                    log.debug("%r: its helper has gone, and its process with it", self._request)

    def run(self, helper: _HelperProcess) -> bool:
        """Make the call; False: the helper has died."""
        if self._request.cancelled:  # before there was something to kill
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
        return pipe.head(pipe.CALL, len(body)) + body

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
            for kind, body in self._messages.feed(data):
                if kind == pipe.PROGRESS:
                    self._request.get_progress().relay(**_value.decode(body))
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
            if kind == pipe.VALUE:
                return _value.decode(body)["retval"]
            raised = from_result(_result.decode(body))
            self._request.crossed = raised, body  # as the child has told it: with its own class, and its own trace
            raise raised
        if self._failed is not None:
            raise DispatchError(f"{name} cannot be run in a process of its own: {self._failed}")
        if self._late:
            raise ExecutionTimeout(f"{name} took longer than it may; its process was ended")
        if self._request.cancelled:
            raise Cancelled(f"{name} was cancelled while it ran; its process was killed")
        raise ProcessDied(f"{name}: its process ended without a result: {_end_of(self._exit or 0)}")


class _HelperProcess:
    """One helper process, as the agent sees it."""

    def __init__(self, name: str, module: str) -> None:
        """Start it.

        Raises:
            DispatchError: it cannot be started, and why.
        """
        import subprocess  # only agents with forked methods need it
        import sys

        self._name = name
        self._said = b""  # the last line that it has printed
        self._control, theirs = socket.socketpair()
        with theirs:
            try:
                self._process: Popen[bytes] = subprocess.Popen(  # noqa: S603 - this Python, with our own words
                    [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as failed:
                self._control.close()
                text = f"plugin {name!r} cannot fork: its helper process cannot be started: {failed}. {_RESTART}"
                raise DispatchError(text) from failed
        self._ending = threading.Lock()
        self._output = threading.Thread(
            target=self._log, args=(self._process.stdout,), name=f"gofer-{name}-output", daemon=True
        )
        self._output.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process.poll() is None

    def greet(self, words: bytes) -> None:
        """Tell it what to import, and wait until it has.

        Raises:
            DispatchError: it cannot, and why.
        """
        answer = b""
        try:
            self._control.settimeout(_START)
            self._control.sendall(len(words).to_bytes(8, "big") + words)
            deadline = time.monotonic() + _START
            while not answer.endswith(b"\n"):
                self._control.settimeout(max(0.001, deadline - time.monotonic()))
                part = self._control.recv(4096)
                if not part:
                    break
                answer += part
            self._control.settimeout(None)
        except TimeoutError:
            raise DispatchError(
                f"plugin {self._name!r} cannot fork: importing it takes more than {_START:g} s"
            ) from None
        except OSError:
            pass  # it has died; that is told below
        if not answer.endswith(b"\n"):
            end = _end_of(self.end())
            # A traceback ends in the exception. Nothing but the start of it has printed anything.
            last = self._said.decode("utf-8", "replace").strip()
            why = f"{end}: {last[:300]!r}. {_RESTART}" if last else f"{end}. {_RESTART}"
            raise DispatchError(f"plugin {self._name!r} cannot fork: its helper process has died: {why}")
        told = json.loads(answer)
        if told is not None:
            raise DispatchError(f"plugin {self._name!r} cannot fork: {told}")

    def fork(self, connection: socket.socket, status: socket.socket) -> bool:
        """Have it fork a child that has these; tell whether it could be told."""
        try:
            socket.send_fds(self._control, [b"f"], [connection.fileno(), status.fileno()])
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill it: it does not answer."""
        self._process.kill()

    def end(self) -> int:
        """End it, and all that it has forked; return its exit status. May be repeated."""
        import subprocess

        try:
            self._control.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads there
        except OSError:
            pass  # it has gone first
        with self._ending:
            try:
                self._process.wait(_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._control.close()
        self._output.join(1.0)  # unless what a method has left behind still holds it
        return self._process.returncode

    def _log(self, output: IO[bytes]) -> None:
        """Put what it and its children print into the agent's log."""
        with output:
            while line := output.readline(4096):
                said = pipe.log_line(self._name, line.decode("utf-8", "replace").rstrip())
                self._said = said.encode() if said.strip() else self._said


def _end_of(status: int) -> str:
    """Tell an exit status in words; negative: the number of a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"killed by signal {-status}"
