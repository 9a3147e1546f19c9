"""Processes that play for a while under a private root, and leave nothing behind: what ``gofer demo`` stands on."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from gofer.errors import GoferError
from gofer.root import Root

__all__ = ["Interrupts", "Stage", "StageError", "Told"]

_ENDING = 10.0  # seconds that a process may take to end before it is killed


class StageError(GoferError):
    """A process did not start, or has ended too early."""


class Told(BaseException):
    """A signal told this process to end; its exit status is ``status``."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP as ``Told``, raised in the main thread; but not inside ``shielded``, only after it.

    The first one counts. Those that follow it are ignored, so that nothing interrupts the cleaning up.
    """

    def __init__(self) -> None:
        self._shields = 0
        self._told: Told | None = None
        self._raised = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._come)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self._told else handler)  # type: ignore[arg-type]  # what signal() itself has returned

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Put off a signal to the end of the block: between making something and noting that it must be removed."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self._raise()

    def _come(self, number: int, frame: FrameType | None) -> None:
        self._told = self._told or Told(number)
        self._raise()

    def _raise(self) -> None:
        if self._told is not None and not self._raised and not self._shields:
            self._raised = True
            raise self._told


class Stage:
    """A private temporary root, and child processes under it, both gone at the end of ``with``.

    ``root`` is where things are; children find it in GOFER_ROOT. Used by the main thread.
    """

    def __init__(self, interrupts: Interrupts) -> None:
        """Remember who puts signals off. Nothing is made yet."""
        self._interrupts = interrupts
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._directory: str | None = None

    def __enter__(self) -> Stage:
        with self._interrupts.shielded():
            self._directory = tempfile.mkdtemp(prefix="gofer-demo-")
        self.root = Root(Path(self._directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._interrupts.shielded():
            for name, _ in reversed(self._children):  # the agent before the broker that it talks to
                self.end(name)
            if self._directory is not None:
                shutil.rmtree(self._directory)

    def log(self, name: str) -> Path:
        """Return the file that takes what a child writes."""
        return self.root.log / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> Path:
        """Start a child: this Python with a command line. What it writes goes into its log, which is returned."""
        self.root.ensure(self.root.log)
        with self.log(name).open("ab") as log, self._interrupts.shielded():
            # In a group of its own: a Ctrl-C in the terminal is for this process, which then ends it in order.
            child = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, *command],
                env={**os.environ, "GOFER_ROOT": str(self.root.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
            self._children.append((name, child))
        return self.log(name)

    def check(self) -> None:
        """Raise StageError, with the last lines of its log, when a child has ended by itself."""
        for name, child in self._children:
            status = child.poll()
            if status is not None:
                raise StageError(f"{name} has ended with status {status}; {self._last_words(name)}")

    def watch(self) -> None:
        """Wait until a child ends by itself, and raise StageError then; a signal ends the wait sooner."""
        poller = select.poll()
        descriptors = [os.pidfd_open(child.pid) for _, child in self._children]
        try:
            for descriptor in descriptors:
                poller.register(descriptor, select.POLLIN)
            poller.poll()
            self.check()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def end(self, name: str) -> None:
        """Ask a child to end, and kill it when it takes too long."""
        for entry in [entry for entry in self._children if entry[0] == name]:
            child = entry[1]
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_ENDING)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            self._children.remove(entry)

    def until(self, ready: Callable[[], object], seconds: float, what: str) -> None:
        """Look again and again until ``ready()`` is true.

        Raises:
            StageError: it is not within so many seconds, or a child ends meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                said = "; ".join(self._last_words(name) for name, _ in self._children)
                raise StageError(f"{what} took longer than {seconds:g} s; {said}")
            time.sleep(0.02)

    def _last_words(self, name: str) -> str:
        said = self.log(name).read_text("utf-8", "replace").strip()
        return f"{name} said: {said[-500:]}" if said else f"{name} said nothing"
