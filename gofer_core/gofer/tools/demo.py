"""``gofer demo``: a broker, an agent, a plugin and some calls, under a private root that is gone afterwards."""

from __future__ import annotations

import ast
import importlib.util
import os
import shlex
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import click

from gofer.entry_points import listed
from gofer.errors import GoferError, NotFound
from gofer.tools.output import complain
from gofer.tools.process_group import Interrupted, Interrupts, ProcessError, ProcessGroup

__all__ = ["Step", "demo", "read_steps"]

_START = 30.0  # seconds that a process may take to start on a busy machine

_NEXT = """
Everything is removed again. What to type next:

  {gofer} demo --keep      the same, and it keeps running for your own calls
  {gofer} rmi --help       how to call from a shell
  {gofer} plugins          what is installed

README.md shows how to write a plugin."""

_KEPT = """
It keeps running until you press Ctrl-C. In a second terminal, type:

  export GOFER_ROOT={root}
  {gofer} rmi -a demo -t Demo.echo hello
  {gofer} rmi -a demo -t Demo.bark woof times=2 loud=true
  {gofer} rmi -a demo -t Demo.progress -p working 10
  {gofer} rmi -a demo -t Admin.help
  {python} -c 'from gofer.proxy import Agent; print(Agent("local://", "demo").demo.hello("you"))'
  tail -f {log}
"""


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
    interrupts = Interrupts()
    try:
        with ProcessGroup(interrupts) as processes:
            _start(processes)
            with interrupts.allowed():
                _run_steps()
                processes.check()
            if keep:
                _stay(processes, interrupts)
    except Interrupted as interrupted:
        return interrupted.status
    except GoferError as error:
        complain("gofer demo", error)
        return 1
    if not keep:
        _say(_NEXT.format(gofer=_command()))
    return 0


def _start(processes: ProcessGroup) -> None:
    sample = _sample_descriptor()
    root = processes.root
    os.environ["GOFER_ROOT"] = str(root.path)  # for local:// in the code that is shown
    _say(f"Starting `gofer broker`, and `goferd` with the plugin demo, under {root.path}.")
    descriptor = root.ensure(root.descriptors) / "demo.conf"
    shutil.copyfile(sample, descriptor)
    # A short timeout, so that an interrupted demo ends soon although a call runs.
    root.agent_conf.write_text("[main]\nshutdown_timeout = 2\n")
    for file in (descriptor, root.agent_conf):
        file.chmod(0o600)
    processes.start("broker", ["-m", "gofer.tools.main", "broker"], Path.read_bytes, _START)
    goferd = "import sys; from gofer.agent.main import main; sys.exit(main())"
    processes.start("goferd", ["-c", goferd, "--foreground"], _answers, _START)


def _sample_descriptor() -> Path:
    """Find the descriptor that comes with the plugin, without importing the plugin."""
    installed = next((one for one in listed("gofer.plugins") if one.name == "demo"), None)
    if installed is None:
        raise ProcessError("the plugin demo is not installed; pip install gofer-plugin-demo")
    spec = importlib.util.find_spec(installed.value)
    if spec is None or spec.origin is None:
        raise ProcessError(f"the plugin demo of {installed} has no module {installed.value}; install it again")
    return Path(spec.origin).with_name("demo.conf")


def _answers(_: Path) -> bool:
    from gofer.proxy import Agent

    try:
        with Agent("local://", "demo", wait=_START) as agent:
            agent.Admin().hello()
    except NotFound:
        return False  # its queue is not there yet
    return True


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
        raise ProcessError(f"these calls did not end as expected: {' '.join(failed)}")


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


def _stay(processes: ProcessGroup, interrupts: Interrupts) -> None:
    root, log = shlex.quote(str(processes.root.path)), shlex.quote(str(processes.log("goferd")))
    try:
        with interrupts.allowed():
            _say(_KEPT.format(gofer=_command(anywhere=True), python=shlex.quote(sys.executable), root=root, log=log))
            while True:
                processes.check()
                time.sleep(0.2)
    except Interrupted:
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
