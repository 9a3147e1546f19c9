"""Import what is installed, each in a process of its own, to see whether it is broken: it may end, kill or hang that.

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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from gofer.root import Root

__all__ = ["Check", "check_imports", "main"]


class Check(NamedTuple):
    """What to import: an entry point's group and name, and for a plugin the descriptor that goes with it, if any."""

    group: str
    name: str
    descriptor: Path | None = None


def check_imports(root: Root, checks: Sequence[Check], timeout: float) -> list[str | None]:
    """Import each, and return for each why it is broken, in one line; None: it is not.

    Nothing is switched on by it: plugins' ``@load`` functions and hooks are not called. ``timeout`` is in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="gofer-check-") as folder, ThreadPoolExecutor(4) as threads:
        folders = [Path(folder, str(number)) for number in range(len(checks))]
        return list(threads.map(lambda check, own: _check(root, check, own, timeout), checks, folders))


def _check(root: Root, check: Check, folder: Path, timeout: float) -> str | None:
    folder.mkdir(mode=0o700)
    child = subprocess.Popen(  # noqa: S603 - this very module
        [sys.executable, "-P", "-m", __name__, str(folder), check.group, check.name, str(check.descriptor or "")],
        env={**os.environ, "GOFER_ROOT": str(root.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pidfd = os.pidfd_open(child.pid)
    try:
        ended = select.select([pidfd], [], [], timeout)[0]
    finally:
        os.close(pidfd)
        # The whole group, as what it has started must not outlive it. It is not waited for yet: the number is its own.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    result = folder / "result"
    if not ended:
        return f"importing it takes longer than {timeout:g} s"
    if result.exists():
        reason: str | None = json.loads(result.read_text("utf-8"))
        return reason
    if child.returncode < 0:
        return f"importing it kills the process ({signal.Signals(-child.returncode).name})"
    return f"importing it ends the process with status {child.returncode}"


def main(folder: str, group: str, name: str, descriptor: str) -> None:
    """Import one, and write the reason why it is broken, or null, into a file of the folder."""
    reason = _import_plugin(folder, name, descriptor) if group == "gofer.plugins" else _import_object(group, name)
    new = Path(folder, "result.new")
    new.write_text(json.dumps(reason), "utf-8")
    new.rename(Path(folder, "result"))


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


def _import_plugin(folder: str, name: str, descriptor: str) -> str | None:
    from gofer.agent.config import AgentConfig, Problem, read_descriptor
    from gofer.agent.container import PluginContainer
    from gofer.agent.failures import Refused, blamed
    from gofer.agent.plugin import Plugin
    from gofer.agent.plugin_code import check_hooks
    from gofer.agent.sources import import_source, locate

    file = Path(descriptor or Path(folder, "checked.conf"))
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
