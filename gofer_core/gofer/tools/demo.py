"""``gofer demo``: a broker, an agent, a plugin and some calls, under a private root that is gone afterwards."""

from __future__ import annotations

import ast
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click

from gofer.entry_points import listed
from gofer.errors import GoferError, NotFound
from gofer.messaging.local import default_path
from gofer.messaging.local.server import serving
from gofer.root import Root
from gofer.testing.agents import AgentProcess
from gofer.tools.output import filled

__all__ = ["Step", "demo", "read_steps"]

_START = 30.0  # seconds until the agent must answer on a busy machine
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _NotAsMeant(GoferError):
    """The demo does not go on as it should."""


class _Interrupted(BaseException):
    """A signal asked this process to end. ``status`` is the exit status that means so."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class _Interrupts:
    """Raises ``_Interrupted`` in the main thread at the first of some signals, in an ``allowed`` block only.

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
            self._raise()  # one that struck where Python drops it
        finally:
            self._allowed = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        self._number = self._number or number
        self._raise()

    def _raise(self) -> None:
        if self._number and self._allowed:
            for number in _SIGNALS:  # or the next one kills the interpreter at its end, where handlers are gone
                signal.signal(number, signal.SIG_IGN)
            raise _Interrupted(self._number)


class _Goferd(AgentProcess):
    """In a group of its own: a Ctrl-C in the terminal is for this process, which then ends it in order."""

    _popen = staticmethod(partial(subprocess.Popen, process_group=0))


class Step(NamedTuple):
    """A sentence, the code that shows what it says, and the name of the error that it ends with, if it is to."""

    says: str
    code: str
    raises: str | None = None


def read_steps() -> list[Step]:
    """Read ``demo_steps.txt``: of each step the sentence, the error that it raises, and Python that is run as it is."""
    found = []
    for part in (files(__package__) / "demo_steps.txt").read_text("utf-8").strip().split("\n\n"):
        says, code = part.removeprefix("# ").split("\n", 1)
        raises = None
        if code.startswith("# raises: "):
            raises, code = code.removeprefix("# raises: ").split("\n", 1)
        found.append(Step(says, code, raises))
    return found


@click.command()
@click.option("--keep", is_flag=True, help="Keep running afterwards, for calls from a second terminal. Ctrl-C ends it.")
def demo(keep: bool) -> int:
    """Show an agent at work.

    Starts a broker and an agent with the plugin gofer-plugin-demo under a private temporary root. Makes some calls, and
    shows the Python code and the outcome of each. Then removes everything.

    \b
    Exit status:
      0    all calls ended as expected
      1    a call ended differently, or something did not start
      130  interrupted (SIGTERM: 143, SIGHUP: 129); with --keep, after the calls, 0
    """
    interrupts = _Interrupts()
    try:
        with tempfile.TemporaryDirectory(prefix="gofer-demo-") as folder, _started(Path(folder)) as goferd:
            with interrupts.allowed():
                _wait_for(goferd)
                _run_steps()
                _check(goferd)
            if keep:
                _stay(goferd, interrupts)
    except _Interrupted as interrupted:
        return interrupted.status
    if not keep:
        _say("\n" + filled("demo/next", gofer=_command()).rstrip())
    return 0


@contextmanager
def _started(folder: Path) -> Iterator[AgentProcess]:
    """Start a broker in a thread, and goferd. At the end the agent is stopped before the broker that it talks to."""
    sample = _sample_descriptor()
    os.environ["GOFER_ROOT"] = str(folder)  # for local:// in the code that is shown
    _say(f"Starting a broker, and `goferd` with the plugin demo, under {folder}.")
    root = Root(folder)
    root.ensure(root.run)
    # Not the working directory is where its Python looks for modules.
    with serving(default_path(os.environ)), _Goferd(folder, environ={"PYTHONSAFEPATH": "1"}) as goferd:
        goferd.descriptor("demo", sample.read_text("utf-8"))
        # A short timeout, so that an interrupted demo ends soon although a call runs.
        goferd.configure("[main]\nshutdown_timeout = 2\n")
        try:
            goferd.start()
        except RuntimeError as failed:
            raise _NotAsMeant(str(failed)) from failed
        yield goferd


def _sample_descriptor() -> Path:
    """Find the descriptor that comes with the plugin, without importing the plugin."""
    installed = next((one for one in listed("gofer.plugins") if one.name == "demo"), None)
    if installed is None:
        raise _NotAsMeant("the plugin demo is not installed; pip install gofer-plugin-demo")
    spec = importlib.util.find_spec(installed.value)
    if spec is None or spec.origin is None:
        raise _NotAsMeant(f"the plugin demo of {installed} has no module {installed.value}; install it again")
    return Path(spec.origin).with_name("demo.conf")


def _wait_for(goferd: AgentProcess) -> None:
    """Wait until the plugin answers."""
    from gofer.proxy import Agent

    deadline = time.monotonic() + _START
    while True:
        _check(goferd)
        try:
            with Agent("local://", "demo", wait=_START) as agent:
                agent.Admin().hello()
            return
        except NotFound:  # its queue is not there yet
            if time.monotonic() > deadline:
                raise _NotAsMeant(f"the plugin took longer than {_START:g} s to start; {_last_words(goferd)}") from None
        time.sleep(0.02)


def _check(goferd: AgentProcess) -> None:
    """Raise an error, with the last lines of its log, when the agent has ended by itself."""
    status = None if goferd.process is None else goferd.process.poll()
    if status is not None:
        raise _NotAsMeant(f"goferd has ended with status {status}; {_last_words(goferd)}")


def _last_words(goferd: AgentProcess) -> str:
    return f"the end of its log: {goferd.tail()[-500:]}"


def _run_steps() -> None:
    names: dict[str, Any] = {}
    failed = []
    try:
        for step in read_steps():
            _say(f"\n# {step.says}", style="dim")
            _say("\n".join(_as_typed(step.code)), style="bold")
            if not _run(step, names):
                failed.append(step.says)
    finally:
        if "agent" in names:
            names["agent"].close()
    if failed:
        raise _NotAsMeant(f"these calls did not end as expected: {' '.join(failed)}")


def _as_typed(code: str) -> list[str]:
    """Return code as the interactive interpreter shows it."""
    return [f"{'... ' if line.startswith((' ', 'except')) else '>>> '}{line}" for line in code.splitlines()]


def _run(step: Step, names: dict[str, Any]) -> bool:
    """Run a step as the interactive interpreter would, and print its outcome; tell whether it is the one it says."""
    *statements, last = ast.parse(step.code).body
    try:
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), "<demo>", "exec"), names)  # noqa: S102 - what demo_steps.txt shows
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<demo>", "eval"), names)  # noqa: S307 - as above
            _say(repr(value), style="green")
    except Exception as error:  # noqa: BLE001 - whatever a call raises is its outcome, and is shown
        _say(f"{type(error).__name__}: {error}", style="yellow" if type(error).__name__ == step.raises else "red")
        return type(error).__name__ == step.raises
    return step.raises is None


def _stay(goferd: AgentProcess, interrupts: _Interrupts) -> None:
    gofer, python = _command(anywhere=True), shlex.quote(sys.executable)
    root, log = shlex.quote(str(goferd.root)), shlex.quote(str(goferd.log))
    try:
        with interrupts.allowed():
            _say("\n" + filled("demo/kept", gofer=gofer, python=python, root=root, log=log))
        while True:
            with interrupts.allowed():
                _check(goferd)
                time.sleep(0.2)
    except _Interrupted:
        _say("Stopping.")


def _command(*, anywhere: bool = False) -> str:
    """Return what to type for this very ``gofer``: here, or in any directory."""
    here = Path(sys.executable).with_name("gofer")
    found = shutil.which("gofer")
    if found is not None and Path(found).resolve() == here.resolve():
        return "gofer"
    near = not anywhere and here.is_relative_to(Path.cwd())
    return shlex.quote(str(here.relative_to(Path.cwd()) if near else here))


def _say(text: str, style: str | None = None) -> None:
    if style is None or not sys.stdout.isatty():
        print(text, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(text, style=style), soft_wrap=True)
