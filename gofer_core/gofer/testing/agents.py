"""A real goferd as a child process, under a root of its own: for tests that kill, stop and restart one.

It ends when the test's own process ends without ending it: killed, or by ``os._exit``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, Self

__all__ = ["AgentProcess", "Guard"]

_GOFERD = "import sys; from gofer.agent.main import main; sys.exit(main())"
_READY = 60.0
_END = 60.0
# It gets the line when there is something to end, and the end of its input when nobody is left who would end it.
_GUARD = 'read -r target && { read -r _; kill -s KILL -- "$target"; } 2>/dev/null'


class AgentProcess:
    """``goferd`` under a private root. A context manager: it is stopped, or else killed, at the end.

    Should this process be killed instead, goferd is, too.

    Args:
        root: the directory before ``/etc/gofer`` and all others; made if missing.
        path: directories that its Python looks for modules in, first.
        environ: more environment, over this process's own.
        wrapper: a command that becomes it, as ``setpriv`` with its options does.
    """

    _popen: ClassVar[Any] = subprocess.Popen  # gofer's own tests have a quicker one

    def __init__(
        self,
        root: Path,
        *,
        path: tuple[Path, ...] = (),
        environ: Mapping[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.root = root
        self._wrapper = wrapper
        self.log = root / "goferd.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._environ = {**os.environ, **(environ or {}), "GOFER_ROOT": str(root)}
        if path:
            known = self._environ.get("PYTHONPATH", "")
            self._environ["PYTHONPATH"] = os.pathsep.join([*map(str, path), *filter(None, [known])])
        for folder in ("etc/gofer/plugins", "etc/gofer/conf.d", "usr/share/gofer/plugins", "var/lib/gofer"):
            (root / folder).mkdir(parents=True, exist_ok=True, mode=0o755)

    def plugin(self, name: str, code: str, descriptor: str) -> None:
        """Write a plugin: its module into a plugin directory, and its descriptor."""
        module = self.root / "usr/share/gofer/plugins" / f"{name}.py"
        self._write(module, code)
        self.descriptor(name, descriptor)

    def descriptor(self, name: str, text: str) -> Path:
        """Write a plugin's descriptor, ``name.conf``, and return its path."""
        return self._write(self.root / "etc/gofer/plugins" / f"{name}.conf", text)

    def configure(self, text: str) -> None:
        """Write ``agent.conf``."""
        self._write(self.root / "etc/gofer/agent.conf", text)

    def start(self) -> Self:
        """Start it, and wait until it says that it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time; the text holds the end of its log.
        """
        with self.log.open("ab") as log, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            # An abstract address: the root's path may be too long for a socket's.
            address = f"\0gofer-test-{os.getpid()}-{id(self)}"
            ready.bind(address)
            self._release_guard()  # of one that has ended by itself
            self._guard = Guard()
            self.process = self._popen(
                [*self._wrapper, sys.executable, "-c", _GOFERD, "-f"],
                env={**self._environ, "NOTIFY_SOCKET": "@" + address[1:]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            self._guard.watch(self.process.pid)
            if self._is_ready(ready, self.process):
                return self
        raise RuntimeError(f"goferd is not ready (exit status {self.process.poll()}):\n{self.tail()}")

    def _is_ready(self, notices: socket.socket, process: subprocess.Popen[bytes]) -> bool:
        """Wait until it tells its service manager that it is ready; return whether it has in time."""
        notices.settimeout(0.1)
        deadline = monotonic() + _READY
        while monotonic() < deadline and process.poll() is None:
            try:
                if notices.recv(4096).startswith(b"READY=1"):
                    return True
            except TimeoutError:
                continue
        return False

    @property
    def pid(self) -> int:
        """The process id of the running one."""
        if self.process is None:
            raise RuntimeError("goferd was not started")
        return self.process.pid

    def kill(self) -> None:
        """Kill it at once, as a crash would (``SIGKILL``), and wait until it has gone."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """Stop it softly (``SIGTERM``), and return its exit status; killed if it does not end."""
        return self._signal(signal.SIGTERM)

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> int:
        process = self.process
        if process is None:
            return 0
        self._release_guard()
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.process = None
        return process.returncode

    def _release_guard(self) -> None:
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def _write(self, path: Path, text: str) -> Path:
        path.write_text(textwrap.dedent(text))
        path.chmod(0o644)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Guard:
    """A small child process that kills another one, or its group, should this process end before ``release``.

    It hears of that by a pipe, which this process and those that it has *forked* hold.
    """

    def __init__(self) -> None:
        """Start it; to be done before what it guards is started."""
        self._process = subprocess.Popen(  # noqa: S603 - the script above
            ["/bin/sh", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what is typed at a terminal, or kills this process's group, is not meant for it
        )

    def watch(self, pid: int, *, group: bool = False) -> None:
        """Say which process, or with ``group`` which process group, is to be killed. Once."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        try:
            self._process.stdin.write(f"{'-' if group else ''}{pid}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # somebody has killed it; then there is no guard

    def release(self) -> None:
        """End it: nothing is killed any more. To be called before the process that it guards is waited for."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # what was not written any more
