"""Processes under a private root that leave nothing behind: what ``gofer demo`` runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gofer.errors import GoferError
from gofer.root import Root

__all__ = ["Interrupted", "Interrupts", "ProcessError", "ProcessGroup"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_END = 10.0  # seconds that a process may take to end before it is killed


class ProcessError(GoferError):
    """A process did not start, or has ended too early."""


class Interrupted(BaseException):
    """A signal asked this process to end. ``status`` is the exit status that means so."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interrupts:
    """Raises ``Interrupted`` in the main thread at the first SIGINT, SIGTERM or SIGHUP, in an ``allowed`` block only.

    Outside of these a signal waits for the next one: no process is lost between its start and the note of it, and
    nothing interrupts the cleaning up.
    """

    def __init__(self) -> None:
        """Take over the signals, until this process ends."""
        self._number = 0
        self._allowed = False
        for number in _SIGNALS:
            signal.signal(number, self._receive)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal interrupt the block."""
        self._allowed = True
        try:
            self._raise()
            yield
        finally:
            self._allowed = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._number = self._number or number
        self._raise()

    def _raise(self) -> None:
        if self._number and self._allowed:
            for number in _SIGNALS:  # or the next one kills the interpreter at its end, where handlers are gone
                signal.signal(number, signal.SIG_IGN)
            raise Interrupted(self._number)


class ProcessGroup:
    """Child processes under a private temporary root. All of it is gone at the end of ``with``. For the main thread.

    ``root`` is where things are; children find it in GOFER_ROOT.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        self._interrupts = interrupts
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ProcessGroup:
        self._directory = tempfile.TemporaryDirectory(prefix="gofer-demo-")
        self.root = Root(Path(self._directory.name))
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children.values()):  # the agent before the broker that it talks to
            child.terminate()
            try:
                child.wait(_END)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._directory.cleanup()

    def log(self, name: str) -> Path:
        """Return the file that takes what a child writes."""
        return self.root.log / f"{name}.log"

    def start(self, name: str, command: Sequence[str], ready: Callable[[Path], object], seconds: float) -> None:
        """Start a child, this Python with a command line, and wait until ``ready`` says so of its log.

        Raises:
            ProcessError: it is not ready in time, or a child ends meanwhile.
        """
        self.root.ensure(self.root.log)
        with self.log(name).open("ab") as log:
            # In a group of its own: a Ctrl-C in the terminal is for this process, which then ends it in order.
            self._children[name] = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, "-P", *command],
                env={**os.environ, "GOFER_ROOT": str(self.root.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        deadline = time.monotonic() + seconds
        with self._interrupts.allowed():
            while not ready(self.log(name)):
                self.check()
                if time.monotonic() > deadline:
                    raise ProcessError(f"{name} took longer than {seconds:g} s to start; {self._last_words(name)}")
                time.sleep(0.02)

    def check(self) -> None:
        """Raise ProcessError, with the last lines of its log, when a child has ended by itself."""
        for name, child in self._children.items():
            status = child.poll()
            if status is not None:
                raise ProcessError(f"{name} has ended with status {status}; {self._last_words(name)}")

    def _last_words(self, name: str) -> str:
        written = self.log(name).read_text("utf-8", "replace").strip()
        return f"the end of its log: {written[-500:]}" if written else "its log is empty"
