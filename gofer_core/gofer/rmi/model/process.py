"""The helper process of a plugin as its agent sees it: started, greeted, told to fork, and ended."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from typing import IO, TYPE_CHECKING

from gofer.errors import DispatchError
from gofer.rmi.model.logged import hear

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["HelperProcess", "end_of"]

_START = 60.0  # seconds in which a helper must have imported its plugin
_END = 5.0  # seconds in which it must end
_RESTART = "If what is installed has changed since goferd was started, restart goferd"


class HelperProcess:
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
            end = end_of(self.end())
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
                said = hear(self._name, line.decode("utf-8", "replace").rstrip())
                self._said = said.encode() if said.strip() else self._said


def end_of(status: int) -> str:
    """Tell an exit status in words; negative: the number of a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"killed by signal {-status}"
