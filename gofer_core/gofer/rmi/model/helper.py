"""The helper process of a plugin: a single thread that forks one child for each call; and that child.

The helper runs no call itself. The child reads what to call, calls it, sends what came of it, and ends.
"""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, NoReturn, cast

from gofer.errors import ResultTooLarge
from gofer.messaging.document import Invocation, encode
from gofer.messaging.value import plain
from gofer.rmi.api import Target
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.context import Context
from gofer.rmi.exceptions import to_result
from gofer.rmi.model import pipe
from gofer.rmi.model.direct import call
from gofer.rmi.model.pipe import KILL
from gofer.rmi.progress import Progress

__all__ = ["GRACE", "end_with_parent", "serve", "threads"]

#: Seconds between SIGTERM and SIGKILL; and those that a process may take to end when its call has ended.
GRACE = 2.0

_PR_SET_PDEATHSIG = 1


class _Child:
    """One forked call: its process, and the connection on which the agent hears of that."""

    __slots__ = ("deadline", "pid", "status", "told")

    def __init__(self, pid: int, status: socket.socket) -> None:
        self.pid = pid
        self.status: socket.socket | None = status
        self.told = False  # to end: then nothing of its group is left
        self.deadline: float | None = None


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
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def serve(control: socket.socket, find: Callable[[str | None, str], Target], entered: Callable[[], Any]) -> None:
    """Fork a child for each byte that comes with two descriptors, until the other end closes; then kill them all.

    The first descriptor is the child's, for messages. On the second one this process tells ``pid N``, ``exit N``
    (negative: ended by that signal) or ``failed WHY``, and takes KILL and TERMINATE. Closed there, it lets the child
    end within GRACE.

    Args:
        find: finds a method by the name of its class (None: a function of the module) and its own.
        entered: returns what is entered around a call.
    """
    _Helper(control, find, entered).serve()


class _Helper:
    def __init__(
        self, control: socket.socket, find: Callable[[str | None, str], Target], entered: Callable[[], Any]
    ) -> None:
        self._control = control
        self._find = find
        self._entered = entered
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}
        self._poll = select.poll()
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        wake, woken = self._pipe
        for told in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # A terminal or a service manager may send these to all processes: the agent decides what ends here.
            signal.signal(told, lambda number, frame: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # or each child would copy the pages of what it never touches
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        while True:
            for number, _ in self._poll.poll(self._timeout()):
                if number == wake:
                    os.read(wake, 4096)
                elif number != self._control.fileno():
                    self._hear(number)
                elif not self._take():
                    self._end()
                    return
            now = time.monotonic()
            for one in list(self._children.values()):
                if not self._reap(one) and one.deadline is not None and one.deadline <= now:
                    self._kill(one)

    def _timeout(self) -> float | None:
        times = [one.deadline for one in self._children.values() if one.deadline is not None]
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    def _take(self) -> bool:
        """Fork for what comes from the agent; False: it has gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        except ConnectionError:
            return False
        if not data:
            return False
        connection, status = (socket.socket(fileno=number) for number in descriptors)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or the child would write it once more
        try:
            pid = os.fork()
        except OSError as failed:
            _tell(status, f"failed {failed}")
            status.close()
            connection.close()
            return True
        if pid == 0:
            self._become_child(connection, status)
        connection.close()
        self._children[pid] = _Child(pid, status)
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so itself, and ended
        self._poll.register(status, select.POLLIN)
        _tell(status, f"pid {pid}")
        return True

    def _become_child(self, connection: socket.socket, status: socket.socket) -> None:
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
            for mine in self._pipe:
                os.close(mine)
            for other in (self._control, status, *(one.status for one in self._children.values())):
                if other is not None:
                    other.close()
            self._children.clear()
            _run_child(connection, self._find, self._entered)
        finally:
            os._exit(1)

    def _hear(self, number: int) -> None:
        one = next((one for one in self._children.values() if one.status and one.status.fileno() == number), None)
        if one is None or one.status is None:
            return
        try:
            words = one.status.recv(16)
        except ConnectionError:
            words = b""
        if not words:
            self._poll.unregister(number)
            one.status.close()
            one.status = None
            one.deadline = one.deadline or time.monotonic() + GRACE
        elif KILL in words:
            self._kill(one)
        elif one.deadline is None:
            one.told = True
            _signal_group(one.pid, signal.SIGTERM)
            one.deadline = time.monotonic() + GRACE

    def _kill(self, one: _Child) -> None:
        one.told = True
        one.deadline = None
        _signal_group(one.pid, signal.SIGKILL)

    def _reap(self, one: _Child) -> bool:
        """Let go of a child that has ended; what it was told to end with ends now, and so does what it crashed on."""
        ended = os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return False
        if one.told or ended.si_code != os.CLD_EXITED:
            _signal_group(one.pid, signal.SIGKILL)  # while its number is still its own
        os.waitpid(one.pid, 0)
        del self._children[one.pid]
        if one.status is not None:
            number = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
            self._poll.unregister(one.status)
            _tell(one.status, f"exit {number}")
            one.status.close()
        return True

    def _end(self) -> None:
        for one in self._children.values():
            _signal_group(one.pid, signal.SIGKILL)
        for one in self._children.values():
            os.waitpid(one.pid, 0)


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        os.kill(pid, number)  # some of the group has become another user's; the child itself is ours


def _tell(status: socket.socket, words: str) -> None:
    try:
        status.sendall(words.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass  # the agent no longer listens: its call has ended


# -- the child ---------------------------------------------------------------------------------------------

#: Where methods are called from: what is below is the plugin's own.
_CALLING = frozenset(
    {__name__, "gofer.rmi.model.direct", "asyncio.runners", "asyncio.base_events", "asyncio.futures", "asyncio.tasks"}
)


class _Terminated(SystemExit):
    """SIGTERM has come: the call takes longer than it may. What the method has to clean up, it can."""


class _Call:
    """What :class:`Context` asks of a request."""

    forked = True

    def __init__(self, asked: dict[str, Any]) -> None:
        self.sn: str | None = asked["sn"]
        self.data: Any = asked["data"]
        self.identity: str | None = asked["identity"]
        self.cancelled = False
        self.progress: Any = None

    def get_progress(self) -> Any:
        """Return what the method reports its progress by."""
        return self.progress


class _LateClock:
    """A clock whose thread is started when it is needed: most calls report no progress."""

    def __init__(self) -> None:
        self._clock: Clock | None = None

    def call_at(self, when: float, function: Callable[[], object]) -> Timer:
        """Do as a clock does."""
        if self._clock is None:
            self._clock = Clock("gofer-progress")
            self._clock.start()
        return self._clock.call_at(when, function)


def _run_child(
    connection: socket.socket, find: Callable[[str | None, str], Target], entered: Callable[[], Any]
) -> NoReturn:
    """Answer the call that comes over the connection, and end this process. For a child just forked.

    Args:
        find: finds a method by the name of its class (None: a function of the module) and its own.
        entered: returns what is entered around the call.
    """
    status = 1
    try:
        status = _answer(connection, find, entered)
    except _Terminated:
        _end_by(signal.SIGTERM)
    except SystemExit as ended:
        status = _status_of(ended)
    except BrokenPipeError:
        pass  # the agent has let go of this call
    except BaseException:  # noqa: BLE001 - a mistake of ours: the agent logs what is printed here, and sees the status
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _answer(connection: socket.socket, find: Callable[[str | None, str], Target], entered: Callable[[], Any]) -> int:
    asked = _read(connection)
    if asked is None:
        return 0  # the agent has given it up before it began
    lock = threading.Lock()

    def send(kind: bytes, body: bytes) -> None:
        with lock:
            connection.sendall(pipe.head(kind, len(body)))
            connection.sendall(body)

    request = _Call(asked)
    progress = Progress(
        cast("Clock", _LateClock()),
        lambda: send(
            pipe.PROGRESS,
            encode({"total": progress.total, "completed": progress.completed, "details": progress.details}),
        ),
    )
    request.progress = progress

    def terminate(number: int, frame: FrameType | None) -> None:
        request.cancelled = True
        raise _Terminated(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        body = _value(asked, request, find, entered())
        kind = pipe.VALUE
    except SystemExit:
        raise
    except BaseException as raised:  # noqa: BLE001 - whatever it is, its caller waits for it
        raised.__traceback__ = _below(raised.__traceback__)
        kind, body = pipe.RAISED, _exception(raised, asked["limit"])
    progress.finish()
    _flush()  # before the result: with that, the agent lets go of this process
    send(kind, body)
    return 0


def _read(connection: socket.socket) -> dict[str, Any] | None:
    reader = pipe.Messages()
    while data := connection.recv(1 << 18):
        for _, body in reader.feed(data):
            return cast("dict[str, Any]", json.loads(body))
    return None


def _value(
    asked: dict[str, Any],
    request: _Call,
    find: Callable[[str | None, str], Target],
    entered: AbstractContextManager[object],
) -> bytes:
    token = Context(request).enter()
    try:
        with entered:
            target = find(asked["space"], asked["method"])
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
                value = _awaited(target, value)
    finally:
        Context.leave(token)
    body = encode({"retval": plain(value, "result")})
    if len(body) > asked["limit"]:
        raise ResultTooLarge(f"the result has {len(body)} bytes, and {asked['limit']} is the limit")
    return body


def _awaited(target: Target, value: Awaitable[Any]) -> Any:
    if not target.is_async:
        close = getattr(value, "close", None)
        if callable(close):
            close()
        raise TypeError(f"{target.name}() returned a {type(value).__name__}: declare the method `async def`")
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def _exception(raised: BaseException, limit: int) -> bytes:
    try:
        body = encode(to_result(raised))
    except Exception as worse:  # noqa: BLE001 - an integer of 5,000 digits among its arguments, for one
        body = encode(to_result(TypeError(f"a {type(raised).__qualname__} that cannot be sent: {worse}")))
    if len(body) <= limit:
        return body
    text = f"the {type(raised).__qualname__} that it raised has {len(body)} bytes, and {limit} is the limit"
    return encode(to_result(ResultTooLarge(text)))


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below our own frames; all of it when that is nothing."""
    at = trace
    while at is not None and at.tb_frame.f_globals.get("__name__") in _CALLING:
        at = at.tb_next
    return at or trace


def _status_of(ended: SystemExit) -> int:
    """Return the exit status that Python makes of a SystemExit."""
    if ended.code is None or isinstance(ended.code, int):
        return (ended.code or 0) & 0xFF
    print(ended.code, file=sys.stderr)
    return 1


def _end_by(number: int) -> None:
    """End this process by a signal, so that its parent sees which."""
    _flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed or replaced by the method: there is nobody left to tell
