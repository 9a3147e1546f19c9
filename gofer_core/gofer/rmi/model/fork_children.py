"""The fork model, the other side: the helper process of a plugin, which forks one child for each call; and that child.

The helper is a single thread, and runs no call itself. One child waits, forked ahead, for the next call. It reads what
to call, calls it, sends what came of it, and ends.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn, cast

from gofer.decorators import Mark
from gofer.errors import ResultTooLarge
from gofer.messaging.document import Invocation, encode
from gofer.messaging.value import plain
from gofer.rmi.api import Target
from gofer.rmi.clock import Clock
from gofer.rmi.context import Context
from gofer.rmi.exceptions import encoded
from gofer.rmi.model import pipe
from gofer.rmi.model.direct import call
from gofer.rmi.progress import Progress
from gofer.tracing import slot

__all__ = ["GRACE", "end_with_parent", "serve", "threads"]

#: Seconds between SIGTERM and SIGKILL; and those that a process may take to end when its call has ended.
GRACE = 2.0

_REHEARSALS = 20  # after so many, Python runs its code in the fast way
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

Find = Callable[[str | None, str], Target]
Entered = Callable[[], AbstractContextManager[object]]


@dataclass(slots=True)
class _Child:
    """One forked call: its process, and the end of its connection that the helper has until the agent closes its own.

    ``told``: it was told to end; then nothing of its process group is left. ``deadline``: when it is killed.
    """

    pid: int
    connection: socket.socket
    told: bool = False
    deadline: float | None = None


def threads() -> list[str]:
    """Name the threads of this process besides the first; one of native code has no name of its own."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    try:
        count = len(os.listdir("/proc/self/task")) - 1
    except OSError:
        count = len(names)  # not Linux
    return names + ["of native code"] * (count - len(names))


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends (0: no longer). Linux only."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, number)


def serve(control: socket.socket, find: Find, entered: Entered) -> None:
    """Fork a child for each call, as :mod:`gofer.rmi.model.pipe` says, until the agent closes; then kill them all.

    A child whose connection the agent has closed may take GRACE to end.

    Args:
        find: finds a method by the name of its class (None: a function of the module) and its own.
        entered: returns what is entered around a call.
    """
    _Helper(control, find, entered).serve()


class _Helper:
    def __init__(self, control: socket.socket, find: Find, entered: Entered) -> None:
        self._control = control
        self._find = find
        self._entered = entered
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}  # by the number of the call
        self._waiting: tuple[int, socket.socket] | None = None  # forked ahead, so that a call does not wait for that
        self._poll = select.poll()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        for _ in range(_REHEARSALS):
            _rehearse()
        for told in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # A terminal or a service manager may send these to all processes: the agent decides what ends here.
            signal.signal(told, lambda number, frame: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        _flush()  # or each child would write it once more
        gc.collect()
        gc.freeze()  # or each child would copy the pages of what it never touches
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        with suppress(OSError):
            self._waiting = self._fork()
        while True:
            for descriptor, _ in self._poll.poll(self._timeout()):
                if descriptor == self._wake:
                    os.read(descriptor, 4096)
                elif descriptor != self._control.fileno():
                    self._let_end(descriptor)
                elif not self._obey():
                    self._end()
                    return
            if self._waiting is not None and os.waitpid(self._waiting[0], os.WNOHANG)[0]:  # somebody has killed it
                self._waiting[1].close()
                self._waiting = None
            now = time.monotonic()
            for number, child in list(self._children.items()):
                if not self._reap(number, child) and child.deadline is not None and child.deadline <= now:
                    _kill(child)

    def _timeout(self) -> float | None:
        times = [child.deadline for child in self._children.values() if child.deadline is not None]
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    def _obey(self) -> bool:
        """Do what the agent says; False: it has gone."""
        try:
            said, descriptors, _, _ = socket.recv_fds(self._control, 64, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return False
        if not said:
            return False
        kind, number = said[:1], int(said[1:])
        child = self._children.get(number)
        if kind == pipe.FORK:
            self._begin(number, socket.socket(fileno=descriptors[0]))
        elif child is None:
            pass  # it has ended meanwhile
        elif kind == pipe.KILL:
            _kill(child)
        elif child.deadline is None:
            child.told = True
            child.deadline = time.monotonic() + GRACE
            _signal_group(child.pid, signal.SIGTERM)
        return True

    def _begin(self, number: int, connection: socket.socket) -> None:
        """Have a child make a call: the one that waits, if there is one. The next one begins to wait."""
        try:
            pid = self._hand_over(connection)
        except OSError as failed:
            _tell(connection, pipe.FAILED, str(failed))
            return
        self._children[number] = _Child(pid, connection)
        self._poll.register(connection, 0)  # that the agent closes it is told all the same
        with suppress(OSError):  # the next call tells it, if it is still so
            self._waiting = self._fork()

    def _hand_over(self, connection: socket.socket) -> int:
        """Give a connection to a child; return its process id."""
        while True:
            ready, self._waiting = self._waiting, None
            pid, waiting = ready or self._fork()
            with waiting:
                try:
                    socket.send_fds(waiting, [pipe.CALL], [connection.fileno()])
                except ConnectionError:
                    os.waitpid(pid, 0)
                    if ready is None:
                        raise
                else:
                    return pid
            # Somebody has killed it while it waited.

    def _fork(self) -> tuple[int, socket.socket]:
        """Fork a child; return its process id, and the connection on which it waits for that of its call."""
        ours, theirs = pipe.pair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._become_child(theirs, ours)
        with suppress(OSError):  # it has done so itself
            os.setpgid(pid, pid)
        return pid, ours

    def _become_child(self, theirs: socket.socket, ours: socket.socket) -> NoReturn:
        try:
            os.setpgid(0, 0)
            end_with_parent(signal.SIGKILL)
            if os.getppid() != self._pid:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # What belongs to the helper and to other calls is none of the method's business.
            os.close(self._wake)
            os.close(self._woken)
            for other in (self._control, ours, *(child.connection for child in self._children.values())):
                other.close()
            self._children.clear()
            _rehearse()
            with theirs:
                _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1, socket.MSG_CMSG_CLOEXEC)
            if descriptors:
                _run(socket.socket(fileno=descriptors[0]), self._find, self._entered)
        finally:
            os._exit(1)

    def _let_end(self, descriptor: int) -> None:
        """Limit the time of a child whose call has ended: the agent has closed its end of the connection."""
        self._poll.unregister(descriptor)
        for child in self._children.values():
            if child.connection.fileno() == descriptor:
                child.connection.close()
                child.deadline = child.deadline or time.monotonic() + GRACE

    def _reap(self, number: int, child: _Child) -> bool:
        """Let go of a child that has ended; what it was told to end with ends now, and so does what it crashed on."""
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return False
        exited = ended.si_code == os.CLD_EXITED
        if child.told or not exited:
            _signal_group(child.pid, signal.SIGKILL)  # while its number is still its own
        os.waitpid(child.pid, 0)
        del self._children[number]
        if child.connection.fileno() >= 0:
            self._poll.unregister(child.connection)
            _tell(child.connection, pipe.EXIT, str(ended.si_status if exited else -ended.si_status))
        return True

    def _end(self) -> None:
        pids = [child.pid for child in self._children.values()]
        if self._waiting is not None:
            pids.append(self._waiting[0])
        for pid in pids:
            _signal_group(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def _kill(child: _Child) -> None:
    child.told = True
    child.deadline = None
    _signal_group(child.pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        os.kill(pid, number)  # some of the group has become another user's; the child itself is ours


def _tell(connection: socket.socket, kind: bytes, words: str) -> None:
    """Tell the agent how a call has ended, unless it has ended that itself."""
    with connection, suppress(OSError):
        pipe.send(connection, kind, words.encode("utf-8", "replace"))


# -- the child ---------------------------------------------------------------------------------------------------------


class _Terminated(SystemExit):
    """SIGTERM has come: the call takes longer than it may. What the method has to clean up, it can."""


class _Timers:
    """A clock for the progress of one call, without a thread until something is due."""

    def call_at(self, when: float, function: Callable[[], object]) -> threading.Timer:
        """Call the function when ``time.monotonic()`` has reached ``when``."""
        timer = threading.Timer(max(0.0, when - time.monotonic()), function)
        timer.daemon = True
        timer.start()
        return timer


def _run(connection: socket.socket, find: Find, entered: Entered) -> NoReturn:
    """Answer the call that comes over the connection, and end this process."""
    status = 1
    try:
        _answer(connection, find, entered)
        status = 0
    except _Terminated:
        _flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)  # so that the helper sees which signal it was
    except ConnectionError:
        pass  # the agent has let go of this call
    except BaseException:  # noqa: BLE001 - a mistake of ours: the agent logs what is printed here, and sees the status
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _rehearse() -> None:
    """Answer a call of nothing: then the code is fast, and the memory that it touches is this process's own."""
    nothing = Target("", "", "", None, lambda: None, Mark())
    asked = dict.fromkeys(("namespace", "method", "cntr", "args", "kws", "sn", "data", "identity"))
    with suppress(OSError), ExitStack() as stack:
        ours, theirs = map(stack.enter_context, pipe.pair())
        pipe.send(ours, pipe.CALL, json.dumps({**asked, "limit": 100}).encode())
        _answer(theirs, lambda namespace, method: nothing, nullcontext)


def _answer(connection: socket.socket, find: Find, entered: Entered) -> None:
    kind, body = pipe.receive(connection)
    if not kind:
        return  # the agent has given it up before it began
    asked = json.loads(body)
    sender = pipe.Sender(connection)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, pipe.LogHandler):
            handler.sender = sender

    def report() -> None:
        said = {"total": progress.total, "completed": progress.completed, "details": progress.details}
        sender.send(pipe.PROGRESS, encode(said))

    def terminate(number: int, frame: object) -> None:
        request.cancelled = True
        raise _Terminated(128 + number)

    progress = Progress(cast("Clock", _Timers()), report)
    # What a Context asks of a request.
    request = SimpleNamespace(
        sn=asked["sn"],
        data=asked["data"],
        identity=asked["identity"],
        cancelled=False,
        forked=True,
        get_progress=lambda: progress,
    )
    signal.signal(signal.SIGTERM, terminate)
    sender.send(pipe.BEGUN, str(os.getpid()).encode())
    token = Context(request).enter()
    try:
        with entered(), _traced(asked):
            body = _value(find(asked["namespace"], asked["method"]), asked)
        kind = pipe.VALUE
    except _Terminated:
        raise
    except BaseException as raised:  # noqa: BLE001 - whatever it is, its caller waits for it
        kind, body = pipe.RAISED, _exception(raised, asked["limit"])
    finally:
        Context.leave(token)
    progress.finish()
    _flush()  # before the result: with that, the agent lets go of this process
    sender.send(kind, body)
    if slot.tracer is not None:
        slot.tracer.flush()


def _traced(asked: dict[str, Any]) -> AbstractContextManager[object]:
    """Return what is entered around the method, if the agent traces its calls."""
    tracer, trace = slot.tracer, asked.get("trace")
    return nullcontext() if tracer is None or trace is None else tracer.in_child(*trace)


def _value(target: Target, asked: dict[str, Any]) -> bytes:
    """Call the method, and return its value as the ``result`` of a reply."""
    cntr = asked["cntr"]
    invocation = Invocation(
        classname=target.namespace,
        method=target.method,
        cntr=None if cntr is None else (cntr[0], cntr[1]),
        args=asked["args"],
        kws=asked["kws"],
    )
    value = call(target, invocation)
    if inspect.isawaitable(value):
        import asyncio

        value = asyncio.run(target.coroutine(value))
    body = encode({"retval": plain(value, "result")})
    if len(body) > asked["limit"]:
        raise ResultTooLarge(f"the result has {len(body)} bytes, and {asked['limit']} is the limit")
    return body


def _exception(raised: BaseException, limit: int) -> bytes:
    body = encoded(raised)
    if len(body) <= limit:
        return body
    text = f"the {type(raised).__qualname__} that it raised has {len(body)} bytes, and {limit} is the limit"
    return encoded(ResultTooLarge(text))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed or replaced by the method: nobody is left to tell
            stream.flush()
