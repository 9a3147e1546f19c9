"""The program of the fork server: it imports modules once, and forks a process for each command it is told.

A forked process does what Python does with that command, and so it does not return to this file's loop. At its end, it
does not take apart what the server had imported: that would copy all pages, and take longer than most commands.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import types
from contextlib import suppress
from typing import Any, TextIO

_MOST = 1 << 20  # bytes of one request
_DESCRIPTORS = 20  # of one request, at most
_GOFER = "import sys; from gofer.tools.main import main; sys.exit(main())"  # what pip writes into bin/gofer


def next_command(server: socket.socket) -> dict[str, Any]:
    """Fork once for each request. Return the request, in the forked process. Nobody asks any more: end this one."""
    while True:
        words, descriptors, _, _ = socket.recv_fds(server, _MOST, _DESCRIPTORS)
        if not words:
            os._exit(0)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        # The one in between ends at once, so whoever asked becomes the parent: it is their nearest subreaper.
        between, grandchild = os.getpid(), os.fork()
        if grandchild:
            server.send(str(grandchild).encode())
            os._exit(0)
        while os.getppid() == between:  # a command that wants to end with its parent must see the one that stays
            os.sched_yield()
        server.close()
        request: dict[str, Any] = json.loads(words)
        _renumber(descriptors, request["descriptors"])
        return request


def _renumber(descriptors: list[int], numbers: list[int]) -> None:
    """Give descriptors the numbers that they have where they came from."""
    above = max(numbers) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, above) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def become(request: dict[str, Any]) -> None:
    """Take over what a new process would have from its parent."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["new_session"]:
        os.setsid()
    if request["umask"] >= 0:
        os.umask(request["umask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.orig_argv[:] = request["command"]
    sys.stdin = _stream(0, sys.__stdin__)
    sys.stdout = _stream(1, sys.__stdout__)
    sys.stderr = _stream(2, sys.__stderr__)


def execute(command: list[str]) -> None:
    """Do what the interpreter does with ``-c CODE`` and ``-m MODULE``, or with ``bin/gofer``."""
    command = [word for number, word in enumerate(command) if (number, word) != (1, "-P")]
    if command[1:2] == ["-m"]:
        sys.argv[:] = command[2:]
        sys.modules.pop(command[2], None)
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
        return
    code, sys.argv[:] = (command[2], ["-c", *command[3:]]) if command[1:2] == ["-c"] else (_GOFER, command)
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)


class Ending:
    """The end of a forked process, after all that Python calls at the end of a process: threads, exit functions."""

    def __init__(self) -> None:
        self.status: int | None = None  # None: as Python ends it

    def end(self) -> None:
        """End this process if what it has written can be flushed; else Python reports that."""
        if self.status is not None:
            with suppress(OSError, ValueError):
                for stream in (sys.stdout, sys.stderr):
                    if stream is not None:
                        stream.flush()
                os._exit(self.status & 0xFF)


def _stream(number: int, like: TextIO | None) -> Any:
    """Open a standard stream as the interpreter does."""
    assert like is not None
    mode = "r" if number == 0 else "w"
    buffering = 1 if number == 2 or os.isatty(number) else -1
    return open(number, mode, buffering, encoding=like.encoding, errors=like.errors, closefd=False)


if __name__ == "__main__":
    ending = Ending()
    atexit.register(ending.end)  # before all imports: the first one to be registered is the last one to be called
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks
    sys.path[0] = ""
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.freeze()  # or the garbage collection of each process would copy all pages
    request = next_command(socket.socket(fileno=int(sys.argv[1])))
    become(request)
    try:
        execute(request["command"])
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            ending.status = ended.code or 0
        raise
    ending.status = 0
