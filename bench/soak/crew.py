"""The processes of the callers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

__all__ = ["Crew"]

_ROLES = ("threads", "coroutines", "posts", "replies", "mortal", "frozen")


class Crew:
    """One process for each role. A context manager: none is left at its end."""

    def __init__(self, url: str, home: Path, seed: int) -> None:
        self._arguments = (url, str(home), str(seed))
        self._until = 0.0
        self._errors = home / "callers.log"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failures: list[str] = []

    def start(self, until: float) -> None:
        """Start all: first the one who listens, for the agent cannot reply to a queue that is not there."""
        self._until = until
        listener = self._spawn("listener")
        assert listener.stdout is not None
        if listener.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the listener has not started: {self.errors()}")
        for role in _ROLES:
            self._spawn(role)

    def pid(self, role: str) -> int:
        """Return the process id of a role."""
        return self._processes[role].pid

    def replace(self, role: str, pause: float) -> None:
        """Kill the process of a role, and start another one after a pause."""
        process = self._processes[role]
        process.kill()
        process.wait()
        _close(process)
        time.sleep(pause)
        if role == "listener" or time.time() < self._until:
            self._spawn(role)

    def finish(self, deadline: float) -> None:
        """Wait for all but the listener; who has not ended by then (``time.time()``) is killed, and told."""
        for role in _ROLES:
            process = self._processes[role]
            try:
                status = process.wait(max(0.1, deadline - time.time()))
            except subprocess.TimeoutExpired:
                self.failures.append(f"{role}: did not end")
                process.kill()
                process.wait()
            else:
                if status not in (0, -9 if role == "mortal" else 0):
                    self.failures.append(f"{role}: exit status {status}")

    def dismiss(self) -> None:
        """Have the listener end."""
        listener = self._processes["listener"]
        assert listener.stdin is not None
        listener.stdin.close()
        try:
            status = listener.wait(30)
        except subprocess.TimeoutExpired:
            self.failures.append("listener: did not end")
        else:
            if status:
                self.failures.append(f"listener: exit status {status}")

    def errors(self) -> str:
        """Return the end of what the callers wrote to standard error."""
        return self._errors.read_text(errors="replace")[-4000:]

    def _spawn(self, role: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self._errors.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "soak.callers", role, *self._arguments, str(self._until)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE if role == "listener" else subprocess.DEVNULL,
                stdout=subprocess.PIPE if role == "listener" else errors,
                stderr=errors,
            )
        self._processes[role] = process
        return process

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
