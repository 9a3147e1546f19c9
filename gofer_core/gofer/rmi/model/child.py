"""The process of one forked call: reads what to call, calls it, sends what came of it, and ends."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import sys
import threading
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
from gofer.rmi.model import frames
from gofer.rmi.model.direct import call
from gofer.rmi.progress import Progress
from gofer.rmi.request import Received

__all__ = ["run"]

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
        self.cancelled = threading.Event()
        self.progress: Any = None


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


def run(connection: socket.socket, find: Callable[[str | None, str], Target], entered: Callable[[], Any]) -> NoReturn:
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
            connection.sendall(frames.head(kind, len(body)))
            connection.sendall(body)

    request = _Call(asked)
    progress = Progress(
        cast("Clock", _LateClock()),
        lambda: send(
            frames.PROGRESS,
            encode({"total": progress.total, "completed": progress.completed, "details": progress.details}),
        ),
    )
    request.progress = progress

    def terminate(number: int, frame: FrameType | None) -> None:
        request.cancelled.set()
        raise _Terminated(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        body = _value(asked, cast("Received", request), find, entered())
        kind = frames.VALUE
    except SystemExit:
        raise
    except BaseException as raised:  # noqa: BLE001 - whatever it is, its caller waits for it
        raised.__traceback__ = _below(raised.__traceback__)
        kind, body = frames.RAISED, _exception(raised, asked["limit"])
    progress.finish()
    _flush()  # before the result: with that, the agent lets go of this process
    send(kind, body)
    return 0


def _read(connection: socket.socket) -> dict[str, Any] | None:
    reader = frames.Frames()
    while data := connection.recv(1 << 18):
        for _, body in reader.feed(data):
            return cast("dict[str, Any]", json.loads(body))
    return None


def _value(
    asked: dict[str, Any],
    request: Received,
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
