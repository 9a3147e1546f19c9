"""Trying to import what is installed, each in a process of its own: it may end, kill or hang that one alone.

Run as a program, this module is that process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gofer.root import Root

__all__ = ["Trial", "main", "run_trials"]


class Trial(NamedTuple):
    """What to try: an entry point's group and name, and for a plugin the descriptor that goes with it, if any."""

    group: str
    name: str
    descriptor: Path | None = None


def run_trials(root: Root, trials: Iterable[Trial], timeout: float) -> list[str | None]:
    """Try each, and return for each why it is broken, in one line; None: it is not.

    Nothing is switched on by it: plugins' ``@load`` functions and hooks are not called. ``timeout`` is in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="gofer-trial-") as directory, ThreadPoolExecutor(4) as threads:
        numbered = enumerate(trials)
        return list(threads.map(lambda one: _try(root, one[1], Path(directory, str(one[0])), timeout), numbered))


def _try(root: Root, trial: Trial, folder: Path, timeout: float) -> str | None:
    folder.mkdir(mode=0o700)
    said = folder / "said"
    command = [sys.executable, "-P", "-m", __name__, *map(str, (folder, *trial[:2], trial.descriptor or ""))]
    child = subprocess.Popen(  # noqa: S603 - this very module
        command,
        env={**os.environ, "GOFER_ROOT": str(root.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pidfd = os.pidfd_open(child.pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        late = not poller.poll(timeout * 1000)
    finally:
        os.close(pidfd)
        # The whole group, as what it has started must not outlive it. It is not waited for yet: the number is its own.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if late:
        return f"importing it takes longer than {timeout:g} s"
    if said.exists():
        reason = json.loads(said.read_text("utf-8"))
        return reason if isinstance(reason, str) else None
    if child.returncode < 0:
        return f"importing it kills the process ({signal.Signals(-child.returncode).name})"
    return f"importing it ends the process with status {child.returncode}"


def main(folder: str, group: str, name: str, descriptor: str) -> None:
    """Try one, and write the reason why it is broken, or null, into a file of the folder."""
    reason = _try_plugin(folder, name, descriptor) if group == "gofer.plugins" else _try_object(group, name)
    Path(folder, "said.new").write_text(json.dumps(reason), "utf-8")
    Path(folder, "said.new").rename(Path(folder, "said"))


def _try_object(group: str, name: str) -> str | None:
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


def _try_plugin(folder: str, name: str, descriptor: str) -> str | None:
    from gofer.agent.config import AgentConfig, Problem, read_descriptor
    from gofer.agent.container import PluginContainer
    from gofer.agent.failures import Refused, blamed
    from gofer.agent.plugin import Plugin
    from gofer.agent.plugin_code import check_hooks
    from gofer.agent.sources import import_source, locate

    file = Path(descriptor or Path(folder, "trial.conf"))
    if not descriptor:
        file.write_text(f"[main]\nplugin = {name}\n")
        file.chmod(0o600)
    root = Root.from_environ(os.environ)
    found, problems = read_descriptor(root, file)
    if found is None:
        return str(problems[0])
    source = locate(root, found)
    if isinstance(source, Problem):
        return source.text
    plugin = Plugin(PluginContainer(root, AgentConfig()), found)
    plugin.source = source
    try:
        with plugin.entered(), blamed(plugin, "main", "plugin"):
            module = import_source(source)
            check_hooks(module)
            plugin.expose(module)
    except Refused as refused:
        return refused.problem.text
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # whatever threads or exit handlers the import has left
