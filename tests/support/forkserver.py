"""Python processes that have imported gofer before they start: a start takes 10 ms of a processor instead of 300.

``Popen`` and ``run`` are those of ``subprocess``. A command of this Python is forked from a process that has imported
what the command is going to import, and the new process becomes this one's child. All that a start depends on is as it
would be: arguments, environment, directory, descriptors, signals, streams. Where that cannot be, the command is started
as ``subprocess`` does. Not for tests of the start itself, of what a process imports, and of its size.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["GOFER", "Popen", "pids", "run"]

#: The command as it is installed.
GOFER = str(Path(sys.executable).with_name("gofer"))

_BOTH = ("email.parser", "encodings.ascii", "gofer.messaging.local.adapter", "sqlite3", "stevedore.named")
_AGENT = (*_BOTH, "gofer.agent.main", "gofer.agent.helper", "gofer.messaging.local.server")
_CALLER = (*_BOTH, "gofer.tools.main", "gofer.tools.rmi", "gofer.tools.agent", "gofer.tools.fleet", "gofer.fleet.fleet")
_CALLER += ("gofer.agent.config", "gofer.proxy", "gofer.aio", "rich.console")
_AGENTS = ("gofer.agent", "gofer.messaging.local.server")  # commands that need those
_LONGEST = 100_000  # what a request has room for beside the environment
_PR_SET_CHILD_SUBREAPER = 36
_lock = threading.Lock()
_servers: dict[tuple[str, ...], _Server] = {}


def pids() -> set[int]:
    """Return the process ids of the fork servers that this process has."""
    return {server.process.pid for server in _servers.values()}


class Popen(subprocess.Popen[Any]):
    """``subprocess.Popen``, quick for commands of this Python."""

    # The one private method here: it starts the process, once the pipes are there. The same in Python 3.11 to 3.14.
    def _execute_child(self, args: Any, *how: Any) -> None:
        names = ["executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags"]
        names += ["shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals"]
        names += ["gid", "gids", "uid", "umask", "start_new_session", "process_group"]
        given = dict(zip(names, how, strict=True))
        environ = dict(os.environ if given["env"] is None else given["env"])
        unusual = ("executable", "preexec_fn", "shell", "gid", "gids", "uid")
        if any(given[name] for name in unusual) or given["process_group"] != -1 or not _alike(environ, args):
            super()._execute_child(args, *how)  # type: ignore[misc] # it is private
            return
        pipes = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        request = {
            "command": list(map(str, args)),
            "cwd": os.path.abspath(given["cwd"] or os.getcwd()),
            "environ": environ,
            "new_session": given["start_new_session"],
            "umask": given["umask"],
            "descriptors": [0, 1, 2, *given["pass_fds"]],
        }
        descriptors = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        self.pid = _server(args).fork(request, [*descriptors, *given["pass_fds"]])
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in ends))  # type: ignore[attr-defined] # it is private


def run(
    command: Sequence[str], *, input: Any = None, timeout: float = 60, check: bool = False, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end, with its output captured unless ``stdout`` and ``stderr`` say where it goes."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        streams["stdin"] = subprocess.PIPE
    how.pop("capture_output", None)
    with Popen(command, **{**streams, **how}) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Server:
    """One process that has imported some modules."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        program = str(Path(__file__).with_name("_forked.py"))
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, program, str(theirs.fileno()), *modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environ,
            )
        self.socket = ours  # when it is closed the server ends

    def fork(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        """Return the process id of a new child of this process."""
        with _lock:
            _adopt_orphans(True)
            try:
                socket.send_fds(self.socket, [json.dumps(request).encode()], descriptors)
                # The answer comes before the one in between has ended, which is the parent until then.
                child = int(self.socket.recv(100))
                _wait_until_ours(child)
            finally:
                _adopt_orphans(False)
        return child


def _server(command: Sequence[str]) -> _Server:
    agent = any(name in word for word in command for name in _AGENTS)
    modules = _AGENT if agent else _CALLER
    with _lock:
        if not _servers:
            atexit.register(_close)
        if modules not in _servers:
            _servers[modules] = _Server(modules)
        return _servers[modules]


def _close() -> None:
    for server in _servers.values():
        server.socket.close()
        server.process.wait()


def _alike(environ: Mapping[str, str], command: Sequence[str]) -> bool:
    """Tell whether the interpreter would start as the fork server did."""
    python = command[0] == sys.executable and next(word for word in command[1:] if word != "-P") in ("-c", "-m")
    text = all(isinstance(word, str) for word in command)
    if not (python or command[0] == GOFER) or not text or sum(map(len, command)) > _LONGEST:
        return False
    shaping = {
        name for name in {*environ, *os.environ} if name.startswith(("PYTHON", "LC_", "LANG")) and name != "PYTHONPATH"
    }
    return all(environ.get(name) == os.environ.get(name) for name in shaping)


def _adopt_orphans(yes: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _wait_until_ours(pid: int) -> None:
    """Wait until a process is this one's child. It was the child of one that has told its number, and ends."""
    while True:
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            os.sched_yield()
        else:
            return
