"""Import what is installed, each in a forked process, to see whether it is broken: it may end, kill or hang that.

What they need is imported here, once for all of them.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import NamedTuple, NoReturn

from gofer.agent.config import AgentConfig, Descriptor, read_descriptor, redescribe
from gofer.agent.container import PluginContainer
from gofer.agent.failures import Refused, blamed
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import check_hooks, locate_plugin
from gofer.agent.sources import import_source
from gofer.entry_points import load
from gofer.errors import PluginError
from gofer.messaging.adapter import Adapter
from gofer.rmi.model.fork_children import end_with_parent
from gofer.root import Root

__all__ = ["Check", "check_imports"]

_AT_A_TIME = 4
_MOST = 8000  # characters of a reason: in JSON they fit into a pipe that nobody reads yet


class Check(NamedTuple):
    """What to import: an entry point's group and name, and for a plugin the descriptor that goes with it, if any."""

    group: str
    name: str
    descriptor: Path | None = None


class _Running(NamedTuple):
    """A process that imports something. ``said``: the end of a pipe on which it says why that is broken."""

    pid: int
    said: int
    number: int
    deadline: float


def check_imports(root: Root, checks: Sequence[Check], timeout: float) -> list[str | None]:
    """Import each, and return for each why it is broken, in one line; None: it is not.

    Nothing is switched on by it: plugins' ``@load`` functions and hooks are not called. This process forks: it has no
    other threads. ``timeout`` is in seconds.
    """
    reasons: list[str | None] = [None] * len(checks)
    waiting = list(enumerate(checks))
    running: dict[int, _Running] = {}  # by the descriptor that tells its end
    try:
        while waiting or running:
            while waiting and len(running) < _AT_A_TIME:
                number, check = waiting.pop(0)
                ours, theirs = os.pipe()
                pid = os.fork()
                if not pid:
                    _become_checked(theirs, root, check)
                os.close(theirs)
                running[os.pidfd_open(pid)] = _Running(pid, ours, number, monotonic() + timeout)
            first = min(one.deadline for one in running.values())
            ended = select.select(list(running), [], [], max(0.0, first - monotonic()))[0]
            for pidfd, one in list(running.items()):
                if pidfd in ended or monotonic() >= one.deadline:
                    del running[pidfd]
                    os.close(pidfd)
                    reason = _end(one)
                    late = f"importing it takes longer than {timeout:g} s"
                    reasons[one.number] = reason if pidfd in ended else late
    finally:
        for one in running.values():
            _end(one)
    return reasons


def _end(one: _Running) -> str | None:
    """Kill a process and all that it has started, which must not outlive it. Return why what it imported is broken."""
    # Until it is waited for, the number is its own.
    with suppress(ProcessLookupError):  # it has no group of its own yet
        os.killpg(one.pid, signal.SIGKILL)
    os.kill(one.pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])
    os.set_blocking(one.said, False)  # what it has started may hold the other end
    with open(one.said, "rb", buffering=0) as pipe:
        said = (pipe.read(1 << 16) or b"").partition(b"\n")[0]
    if said:
        reason: str | None = json.loads(said)
        return reason
    if status < 0:
        return f"importing it kills the process ({signal.Signals(-status).name})"
    return f"importing it ends the process with status {status}"


def _become_checked(pipe: int, root: Root, check: Check) -> NoReturn:
    """Import one, and write the reason why it is broken, or null, into a pipe."""
    status = 1
    try:
        end_with_parent(signal.SIGKILL)
        os.setsid()
        os.environ["GOFER_ROOT"] = str(root.path)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        is_plugin = check.group == "gofer.plugins"
        reason = _import_plugin(root, check) if is_plugin else _import_object(check.group, check.name)
        os.write(pipe, json.dumps(reason and reason[:_MOST]).encode() + b"\n")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        os._exit(status & 0xFF)  # whatever threads or exit handlers the import has left


def _import_object(group: str, name: str) -> str | None:
    try:
        found = load(group, name)
    except PluginError as error:
        return str(error)
    if group == "gofer.adapters":
        fits = isinstance(found, type) and issubclass(found, Adapter)
        return None if fits else f"{found!r} is not a subclass of gofer.messaging.adapter.Adapter"
    missing = [method for method in ("sign", "validate") if not callable(getattr(found, method, None))]
    return f"{found!r} has no method {' and no method '.join(missing)}" if missing else None


def _import_plugin(root: Root, check: Check) -> str | None:
    found: Descriptor | None
    if check.descriptor is None:
        found, problems = redescribe(Path("checked.conf"), {"main": {"plugin": check.name}})
    else:
        found, problems = read_descriptor(root, check.descriptor)
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
