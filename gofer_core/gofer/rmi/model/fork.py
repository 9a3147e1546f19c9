"""The fork model, the agent's side: each call runs in a process of its own, forked by a helper process of its plugin.

The helper is one single-threaded process for each plugin that has such methods; it has imported the plugin's code, and
does nothing but fork. It is started with the first call, and again when it has died.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import msgspec

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, Interrupted, ProcessDied
from gofer.messaging.document import Result
from gofer.rmi.api import Target
from gofer.rmi.exceptions import from_result
from gofer.rmi.model import pipe
from gofer.rmi.request import Received
from gofer.tracing import slot

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["Forks", "HelperProcess", "died"]

log = logging.getLogger(__name__)

_IMPORT = 60.0  # seconds in which a helper must have imported its plugin
_FORK = 30.0  # seconds in which it must have forked
_END = 5.0  # seconds in which it must end
_RESTART = "If what is installed has changed since goferd was started, restart goferd"
_value = msgspec.json.Decoder()
_result = msgspec.json.Decoder(Result)


class Forks:
    """Runs methods of one plugin in child processes. Any thread; each call holds the thread that makes it.

    Args:
        name: the plugin's.
        module: what the helper runs, with ``python -m``, and the descriptor of its connection as the only argument.
        greeting: returns the first message to a helper, which says what it is to import.
    """

    def __init__(self, name: str, module: str, greeting: Callable[[], bytes]) -> None:
        self._name = name
        self._module = module
        self._greeting = greeting
        self._starting = threading.Lock()  # held while a helper starts
        self._helper: HelperProcess | None = None
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
        name = f"{target.name}()"
        call = _invocation(target, request, limit)
        for last in (False, True):
            helper = self._started()
            kind, body, begun = helper.call(request, call)
            if not kind:
                self._lost(helper)
            elif begun or last or kind != pipe.EXIT:
                return _outcome(name, request, kind, body)
            if begun:  # else nothing was run, and another child or helper may be tried
                break
        if begun and self._stopped:
            raise Interrupted(f"{name}: its plugin was stopped while it ran, and its process killed")
        raise ProcessDied(f"{name}: the helper process of plugin {self._name!r} has died, and the call with it")

    def stop(self) -> None:
        """Kill what runs, and end the helper; nothing can be called any more. May be repeated."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _started(self) -> HelperProcess:
        with self._starting:
            known = self._helper
            if known is not None and known.alive:
                known.go_on()
                return known
            if self._stopped:
                raise DispatchError(f"plugin {self._name!r} has been stopped")
            greeting = self._greeting()
            try:
                helper = self._helper = HelperProcess(self._name, self._module)
                if self._stopped:  # by another thread, just now
                    helper.end()
                why = helper.start(greeting, _IMPORT)
            except ProcessDied as died:
                why = f"{died}. {_RESTART}"
            if why is not None:
                self._end()
                raise DispatchError(f"plugin {self._name!r} cannot fork: {why}")
            return helper

    def _lost(self, helper: HelperProcess) -> None:
        with self._starting:
            if self._helper is helper:
                self._helper = None
        status = helper.end()
        if not self._stopped:
            log.warning("plugin %s: the process that forks its calls has died: %s", self._name, _end_of(status))


def _invocation(target: Target, request: Received, limit: int) -> bytes:
    asked = request.document.request
    call = {
        "namespace": None if target.cls is None else target.namespace,
        "method": target.method,
        "cntr": asked.cntr,
        "args": asked.args,
        "kws": asked.keywords,
        "sn": request.sn,
        "data": request.data,
        "identity": request.identity,
        "limit": limit,
        "trace": None if slot.tracer is None else (target.name, dict(slot.tracer.carrier())),
    }
    return json.dumps(call).encode()


def _outcome(name: str, request: Received, kind: bytes, body: bytes) -> Any:
    """Return the value that ended a call, or raise what did."""
    if kind == pipe.VALUE:
        return _value.decode(body)["retval"]
    if kind == pipe.RAISED:
        raised = from_result(_result.decode(body))
        request.crossed = raised, body  # as the child has told it: with its own class, and its own trace
        raise raised
    if kind == pipe.FAILED:
        raise DispatchError(f"{name} cannot be run in a process of its own: {body.decode()}")
    if request.late is not None:
        raise ExecutionTimeout(request.late)
    if request.called_off:
        raise Cancelled(f"{name} was cancelled while it ran; its process was killed")
    raise ProcessDied(f"{name}: its process ended without a result: {_end_of(int(body))}")


class HelperProcess:
    """One helper process, as the agent sees it. Any thread."""

    def __init__(self, name: str, module: str) -> None:
        """Start it, for the plugin of this name.

        Raises:
            ProcessDied: it cannot be started, and why.
        """
        import subprocess  # only agents with forked methods need it

        self._name = name
        self._said = ""  # the last line that it has printed
        self._numbers = itertools.count()
        self._control, theirs = pipe.pair()
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
                raise ProcessDied(f"its process cannot be started: {failed}") from failed
        self._ending = threading.Lock()
        self._output = threading.Thread(
            target=self._log, args=(self._process.stdout,), name=f"gofer-{name}-output", daemon=True
        )
        self._output.start()

    def __del__(self) -> None:
        """Close the connection: not before, as calls look at its descriptor."""
        with suppress(AttributeError):  # it could not be made
            self._control.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._process.poll() is None

    def go_on(self) -> None:
        """Let it go on, if somebody has stopped it (SIGSTOP): it would fork nothing, and its calls would wait."""
        with self._ending, suppress(ChildProcessError, ProcessLookupError):
            stopped = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
            if self._process.returncode is None and os.waitid(os.P_PID, self.pid, stopped) is not None:
                log.warning("plugin %s: the process that forks its calls was stopped; it goes on now", self._name)
                os.kill(self.pid, signal.SIGCONT)

    def start(self, greeting: bytes, timeout: float) -> Any:
        """Tell it what to import, and return its answer. It is ended by the caller if that fails.

        Raises:
            ProcessDied: the import has ended or killed the process, or took too long.
        """
        deadline = time.monotonic() + timeout
        try:
            self._control.settimeout(timeout)
            pipe.send(self._control, pipe.IMPORT, greeting)
            kind, answer = pipe.receive(
                self._control, lambda: self._control.settimeout(max(0.001, deadline - time.monotonic()))
            )
            self._control.settimeout(None)
        except TimeoutError:
            self.kill()
            raise ProcessDied(f"importing it takes longer than {timeout:g} s") from None
        except OSError:
            kind = b""  # it has died
        if not kind:
            self.kill()
            raise ProcessDied(died(self.end(), self._said))
        return json.loads(answer)

    def call(self, request: Received, call: bytes) -> tuple[bytes, bytes, bool]:
        """Run a call in a process that it forks.

        Returns:
            The message that ended the call, its kind and its body; empty: the helper has died. And whether the method
            may have run.
        """
        number = b"%d" % next(self._numbers)
        ours, theirs = pipe.pair()
        with ours:
            with theirs:
                self._tell(pipe.FORK, number, theirs)
            request.on_cancel = partial(self._tell, pipe.KILL, number)
            request.on_expire = partial(self._tell, pipe.TERMINATE, number)
            try:
                if request.cancelled:  # the child hears nothing, and ends
                    raise Cancelled("cancelled before it was started")
                return self._talk(ours, request, call)
            finally:
                request.on_cancel = request.on_expire = None

    def _talk(self, connection: socket.socket, request: Received, call: bytes) -> tuple[bytes, bytes, bool]:
        pid = 0
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(self._control, 0)  # that it hangs up is told all the same

        def wait() -> None:
            while not (ready := dict(poll.poll(None if pid else _FORK * 1000))):
                self.kill()
            if connection.fileno() not in ready:
                # The helper has died, and its child dies with it. From here on the child can send nothing, so what it
                # may have sent by now is all.
                poll.unregister(self._control)
                connection.shutdown(socket.SHUT_RD)

        connection.settimeout(_FORK)
        try:
            pipe.send(connection, pipe.CALL, call)
        except TimeoutError:
            self.kill()
        except OSError:
            pass  # nobody is there to read it; why, is told below
        while True:
            kind, body = pipe.receive(connection, wait)
            if kind == pipe.BEGUN:
                pid = int(body)
            elif kind == pipe.PROGRESS:
                request.get_progress().relay(**_value.decode(body))
            else:
                break
        if not kind and pid:
            with suppress(ProcessLookupError, PermissionError):  # nothing is left of what the child has started
                os.killpg(pid, signal.SIGKILL)
        return kind, body, bool(pid)

    def _tell(self, kind: bytes, number: bytes, connection: socket.socket | None = None) -> None:
        """Tell the helper what to do about a call."""
        descriptors = [] if connection is None else [connection.fileno()]
        try:
            socket.send_fds(self._control, [kind, number], descriptors)
        except OSError:
            log.debug("plugin %s: its helper has gone, and its calls with it", self._name)

    def kill(self) -> None:
        """Kill it, and what its import has started. ``end`` follows."""
        with self._ending, suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """End it, and all that it has forked; return its exit status. May be repeated."""
        import subprocess

        with suppress(OSError):  # it has gone first
            self._control.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads there
        with self._ending:
            try:
                self._process.wait(_END)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.join(1.0)  # unless what a method has left behind still holds it
        return self._process.returncode

    def _log(self, output: IO[bytes]) -> None:
        """Put what it and its children print into the agent's log."""
        with output:
            while line := output.readline(4096):
                text = line.decode("utf-8", "replace").rstrip()
                log.info("plugin %s: %s", self._name, text)
                self._said = text.strip() or self._said


def died(status: int, said: str) -> str:
    """Say how an import has ended its process. ``said``: its last line; that of a traceback is the exception."""
    how = f"kills the process ({_signal(-status)})" if status < 0 else f"ends the process with status {status}"
    return f"importing it {how}{f': {said[:300]!r}' if said else ''}"


def _end_of(status: int) -> str:
    """Tell an exit status in words; negative: the number of a signal."""
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status} ({_signal(-status)})"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
