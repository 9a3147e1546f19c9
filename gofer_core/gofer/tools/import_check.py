"""Import what is installed, each in a process of its own, to see whether it is broken: it may end, kill or hang that.

Run as a program, this module forks those processes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple, NoReturn

from gofer.rmi.model.fork_children import end_with_parent
from gofer.root import Root

__all__ = ["Check", "check_imports", "main"]

_AT_A_TIME = 4


class Check(NamedTuple):
    """What to import: an entry point's group and name, and for a plugin the descriptor that goes with it, if any."""

    group: str
    name: str
    descriptor: Path | None = None


def check_imports(root: Root, checks: Sequence[Check], timeout: float) -> list[str | None]:
    """Import each, and return for each why it is broken, in one line; None: it is not.

    Nothing is switched on by it: plugins' ``@load`` functions and hooks are not called. ``timeout`` is in seconds.
    """
    # What all of them need is imported once, by one process that each is forked from.
    with tempfile.TemporaryDirectory(prefix="gofer-check-") as folder:
        for number in range(len(checks)):
            Path(folder, str(number)).mkdir(mode=0o700)
        told = [[check.group, check.name, str(check.descriptor or "")] for check in checks]
        subprocess.run(  # noqa: S603 - this very module
            [sys.executable, "-P", "-m", __name__, folder, str(timeout), json.dumps(told)],
            env={**os.environ, "GOFER_ROOT": str(root.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return [json.loads(Path(folder, str(number), "reason").read_text("utf-8")) for number in range(len(checks))]


def main(folder: str, timeout: str, checks: str) -> None:
    """Fork a process for each check, some at a time, and write why it is broken, or null, into a file of its folder."""
    from gofer.agent import container, plugin_code, sources  # noqa: F401 - once, for all
    from gofer.messaging import adapter  # noqa: F401 - as above

    waiting = list(enumerate(json.loads(checks)))
    running: dict[int, tuple[int, Path, float]] = {}  # by the descriptor that tells its end
    try:
        while waiting or running:
            while waiting and len(running) < _AT_A_TIME:
                number, (group, name, descriptor) = waiting.pop(0)
                own = Path(folder, str(number))
                child = os.fork()
                if not child:
                    _become_checked(own, group, name, descriptor)
                running[os.pidfd_open(child)] = child, own, monotonic() + float(timeout)
            first = min(deadline for _, _, deadline in running.values())
            ended = select.select(list(running), [], [], max(0.0, first - monotonic()))[0]
            for pidfd, (child, own, deadline) in list(running.items()):
                if pidfd in ended or monotonic() >= deadline:
                    del running[pidfd]
                    os.close(pidfd)
                    late = f"importing it takes longer than {float(timeout):g} s"
                    status = _end(child)
                    (own / "reason").write_text(json.dumps(_reason(own, status) if pidfd in ended else late), "utf-8")
    finally:
        for child, _, _ in running.values():
            _end(child)


def _end(child: int) -> int:
    """Kill a process and all that it has started, which must not outlive it. Return its status."""
    # Until it is waited for, the number is its own.
    with suppress(ProcessLookupError):  # it has no group of its own yet
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _reason(own: Path, status: int) -> str | None:
    if (own / "result").exists():
        reason: str | None = json.loads((own / "result").read_text("utf-8"))
        return reason
    if status < 0:
        return f"importing it kills the process ({signal.Signals(-status).name})"
    return f"importing it ends the process with status {status}"


def _become_checked(own: Path, group: str, name: str, descriptor: str) -> NoReturn:
    """Import one, and write the reason why it is broken, or null, into a file of its folder."""
    status = 1
    try:
        end_with_parent(signal.SIGKILL)
        os.setsid()
        os.dup2(1, 2)
        reason = _import_plugin(own, name, descriptor) if group == "gofer.plugins" else _import_object(group, name)
        new = own / "result.new"
        new.write_text(json.dumps(reason), "utf-8")
        new.rename(own / "result")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        os._exit(status & 0xFF)  # whatever threads or exit handlers the import has left


def _import_object(group: str, name: str) -> str | None:
    from gofer.entry_points import load
    from gofer.errors import PluginError
    from gofer.messaging.adapter import Adapter

    try:
        found = load(group, name)
    except PluginError as error:
        return str(error)
    if group == "gofer.adapters":
        fits = isinstance(found, type) and issubclass(found, Adapter)
        return None if fits else f"{found!r} is not a subclass of gofer.messaging.adapter.Adapter"
    missing = [method for method in ("sign", "validate") if not callable(getattr(found, method, None))]
    return f"{found!r} has no method {' and no method '.join(missing)}" if missing else None


def _import_plugin(folder: Path, name: str, descriptor: str) -> str | None:
    from gofer.agent.config import AgentConfig, read_descriptor
    from gofer.agent.container import PluginContainer
    from gofer.agent.failures import Refused, blamed
    from gofer.agent.plugin import Plugin
    from gofer.agent.plugin_code import check_hooks, locate_plugin
    from gofer.agent.sources import import_source

    file = Path(descriptor or folder / "checked.conf")
    if not descriptor:
        file.write_text(f"[main]\nplugin = {name}\n")
        file.chmod(0o600)
    root = Root.from_environ(os.environ)
    found, problems = read_descriptor(root, file)
    if found is None:
        return str(problems[0])
    plugin = Plugin(PluginContainer(root, AgentConfig()), found)
    try:
        source = locate_plugin(root, plugin)
        with plugin.entered(), blamed(plugin, "main", "plugin"):
            module = import_source(source)
            check_hooks(module)
            plugin.expose(module)
    except Refused as refused:
        return refused.problem.text
    return None


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
