"""``gofer demo``: a broker, an agent, a plugin and some calls, under a private root that is gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from gofer.entry_points import listed
from gofer.errors import GoferError, NotFound
from gofer.tools.output import complain
from gofer.tools.scenes import SCENES, Scene, play
from gofer.tools.stage import Interrupts, Stage, StageError, Told

__all__ = ["demo"]

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
    with Interrupts() as interrupts:
        try:
            with Stage(interrupts) as stage:
                _start(stage)
                _show_all(stage)
                if keep:
                    _stay(stage)
        except Told as told:
            return told.status
        except GoferError as error:
            complain("gofer demo", error)
            return 1
    if not keep:
        _say(_NEXT.format(gofer=_command()))
    return 0


def _start(stage: Stage) -> None:
    sample = _sample_descriptor()
    root = stage.root
    os.environ["GOFER_ROOT"] = str(root.path)  # for the children, and for local:// in the code that is shown
    _say(f"Starting `gofer broker`, and `goferd` with the plugin demo, under {root.path}.")
    descriptor = root.ensure(root.descriptors) / "demo.conf"
    shutil.copyfile(sample, descriptor)
    descriptor.chmod(0o600)
    # Who is interrupted does not wait long for calls that run; and a caller that left is not waited for at all.
    root.agent_conf.write_text("[main]\nshutdown_timeout = 2\n")
    root.agent_conf.chmod(0o600)
    broker = stage.start("broker", ["-P", "-m", "gofer.tools.main", "broker"])
    stage.until(broker.read_bytes, _START, "the start of the broker")
    stage.start(
        "goferd", ["-P", "-c", "import sys; from gofer.agent.main import main; sys.exit(main())", "--foreground"]
    )
    stage.until(_answers, _START, "the start of goferd")


def _sample_descriptor() -> Path:
    """Find the descriptor that comes with the plugin, without importing the plugin."""
    installed = next((one for one in listed("gofer.plugins") if one.name == "demo"), None)
    if installed is None:
        raise StageError("the plugin demo is not installed; pip install gofer-plugin-demo")
    spec = importlib.util.find_spec(installed.value)
    if spec is None or spec.origin is None:
        raise StageError(f"the plugin demo of {installed} has no module {installed.value}; install it again")
    return Path(spec.origin).with_name("demo.conf")


def _answers() -> bool:
    from gofer.proxy import Agent

    try:
        with Agent("local://", "demo", wait=_START) as agent:
            agent.Admin().hello()
    except NotFound:
        return False  # its queue is not there yet
    return True


def _show_all(stage: Stage) -> None:
    names: dict[str, Any] = {}
    failed = []
    try:
        for scene in SCENES:
            _say(f"\n# {scene.says}", style="dim")
            _say_code(scene.code)
            if not _show(scene, names):
                failed.append(scene.says)
    finally:
        for agent in [value for name, value in names.items() if name == "agent"]:
            agent.close()
    stage.check()
    if failed:
        raise StageError(f"these calls did not end as expected: {' '.join(failed)}")


def _show(scene: Scene, names: dict[str, Any]) -> bool:
    """Run a scene and print its outcome; tell whether it is the one that is meant."""
    try:
        value = play(scene.code, names)
    except Exception as error:  # noqa: BLE001 - whatever a call raises is its outcome, and is shown
        _say(f"{type(error).__name__}: {error}", style="yellow" if type(error).__name__ == scene.raises else "red")
        return type(error).__name__ == scene.raises
    if value is not None:
        _say(repr(value), style="green")
    return scene.raises is None


def _stay(stage: Stage) -> None:
    root, log = shlex.quote(str(stage.root.path)), shlex.quote(str(stage.log("goferd")))
    try:
        _say(_KEPT.format(gofer=_command(anywhere=True), python=shlex.quote(sys.executable), root=root, log=log))
        stage.watch()
    except Told:
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


def _say_code(code: str) -> None:
    """Print code as the interactive interpreter shows it."""
    first, *more = code.splitlines()
    inside = (f"{'... ' if line.startswith((' ', 'except')) else '>>> '}{line}" for line in more)
    _say("\n".join([f">>> {first}", *inside]), style="bold")
