"""Commands that change the package database: nothing kills them half way, not even the death of the agent."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from codecs import getincrementaldecoder
from collections.abc import Callable, Sequence
from time import monotonic

from gofer.agent.rmi import Context
from gofer.rmi.shell import LIMIT

from gofer_plugin_package.managers import QUIET

__all__ = ["run_transaction"]

_LOOK = 0.1  # seconds between two looks at its output, and whether the call was cancelled
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL, for one that reaches no safe point
_CHUNK = 1 << 16
_SYSTEMD = "/run/systemd/system"  # is there while systemd runs, as sd_booted(3) has it


def run_transaction(
    command: Sequence[str], tell: Callable[[str], None], *, stop_wait: float, stoppable: bool
) -> tuple[int, str, str]:
    """Run a command to its end, in a session of its own, and report its output as progress.

    When the call is cancelled, the command is asked to end at its next safe point. One that has not ended after
    ``stop_wait`` seconds is killed with its process group. When the agent dies, the command goes on:
    its output is in memory, so that no pipe breaks; under systemd it has a scope of its own, so that it does not end
    with the agent's service.

    Args:
        tell: reports text as progress.
        stop_wait: seconds.
        stoppable: whether the command has safe points, and goes to the next one when it gets SIGINT, as apt-get and dnf
            do. dpkg dies of it at once, and is let end.

    Returns:
        Its exit status (negative: the signal that has ended it), and the last MiB of its output and of its errors.

    Raises:
        OSError: it cannot be run.
    """
    out, err = _Output("stdout"), _Output("stderr")
    try:
        process = subprocess.Popen(  # noqa: S603 - words of this plugin, and names that were checked
            [*_scope(), *command],
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            stdout=out.file,
            stderr=err.file,
            start_new_session=True,
        )
        stop = _Stop(process, stop_wait, stoppable)
        while True:
            try:
                process.wait(_LOOK)
                break
            except subprocess.TimeoutExpired:
                tell(out.new() + err.new())
                if Context.current().cancelled():
                    stop.go_on()
        tell(out.new() + err.new())
        return process.returncode, out.text(), err.text()
    finally:
        out.close()
        err.close()


def _scope() -> list[str]:
    """Return the words before a command that has to outlive the agent's service."""
    run = shutil.which("systemd-run") if os.path.isdir(_SYSTEMD) and os.geteuid() == 0 else None
    return [] if run is None else [run, "--scope", "--quiet", "--"]


class _Stop:
    """Ends a command that was cancelled: first kindly, and in the end by force."""

    def __init__(self, process: subprocess.Popen[bytes], wait: float, stoppable: bool) -> None:
        self._process = process
        self._wait = wait
        self._stoppable = stoppable
        self._next: float | None = None
        self._signals = [signal.SIGTERM, signal.SIGKILL]

    def go_on(self) -> None:
        """Do what is due since the call was cancelled."""
        if self._next is None:
            self._next = monotonic() + self._wait
            if self._stoppable:
                self._process.send_signal(signal.SIGINT)  # not to the group: dpkg and the packages' scripts are in it
        elif self._signals and monotonic() >= self._next:
            self._next = monotonic() + _GRACE
            try:
                os.killpg(self._process.pid, self._signals.pop(0))
            except ProcessLookupError:
                pass  # it has just ended


class _Output:
    """What a command writes: a file in memory, which outlives this process while the command has it."""

    def __init__(self, name: str) -> None:
        self.file = os.memfd_create(f"gofer-{name}")
        # A script may open /dev/stdout anew: what both write is to follow, not to overwrite.
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)
        self._read = 0
        self._decode = getincrementaldecoder("utf-8")("replace").decode

    def new(self) -> str:
        """Return what was written since the last look: at most its last MiB."""
        size = os.fstat(self.file).st_size
        if size < self._read:
            self._read = 0  # a script that has opened /dev/stdout anew has emptied it
        self._read = max(self._read, size - LIMIT)
        text = ""
        while data := os.pread(self.file, _CHUNK, self._read):
            self._read += len(data)
            text += self._decode(data)
        return text

    def text(self) -> str:
        """Return the last MiB."""
        size = os.fstat(self.file).st_size
        left_out = max(0, size - LIMIT)
        text = os.pread(self.file, LIMIT, left_out).decode("utf-8", "replace")
        return f"[{left_out} bytes left out]\n{text}" if left_out else text

    def close(self) -> None:
        """Let go of it."""
        os.close(self.file)
