"""What the agent says to processes that import plugins: to fork the calls of one, or to tell what is wrong with them.

The other side is :mod:`gofer.agent.helper`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from gofer.agent.config import Descriptor, Problem
from gofer.errors import ProcessDied
from gofer.rmi.model.fork import HelperProcess
from gofer.root import Root
from gofer.tracing import slot

__all__ = ["HELPER", "Method", "greeting", "import_problems", "methods"]

#: The module that this process runs.
HELPER = "gofer.agent.helper"

_LONGEST = 30.0  # seconds that an import may take
_AT_A_TIME = 4


def greeting(
    root: Root,
    name: str | None,
    descriptors: Iterable[Descriptor],
    *,
    levels: Mapping[str, int] = MappingProxyType({}),
    check: bool = False,
    unavailable: str | None = None,
    modules: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Write what the process is told first: JSON.

    Args:
        name: the plugin to import; None: all, to tell what can be called.
        descriptors: of all plugins; its code may ask for the others.
        levels: those of the log.
        check: tell what is wrong with the plugin, and end; else fork its calls.
        unavailable: with ``check``, why no password can be checked, which is wrong with plugins that need that.
        modules: those of more plugins with rules, by name, which do not run.
    """
    told = {
        "root": str(root.path),
        "name": name,
        "descriptors": [(str(one.file), one.sections) for one in descriptors],
        "levels": levels,
        "check": check,
        "unavailable": unavailable,
        "modules": dict(modules),
        "tracer": slot.name,
        "path": sys.path,
    }
    return json.dumps(told, default=lambda settings: {key: settings[key] for key in settings}).encode()


class Method(NamedTuple):
    """What can be called at a plugin's queue. ``homes``: the plugins whose code it is; their rules count, too."""

    plugin: str
    classname: str
    method: str
    homes: tuple[str, ...]


def methods(root: Root, descriptors: Sequence[Descriptor], modules: Mapping[str, str]) -> list[Method]:
    """Import the code of all plugins, in one process, and tell what can be called where; Admin, too.

    What ``@load`` functions and hooks of plugins add is not in it: none of them is run.

    Args:
        modules: those of all plugins with rules, by name: these hold for what is theirs, whether they run or not.

    Raises:
        ProcessDied: some code ended that process, or takes too long.
    """
    if not descriptors:
        return []
    found = _asked("all", greeting(root, None, descriptors, check=True, modules=modules))
    return [Method(plugin, classname, method, tuple(homes)) for plugin, classname, method, homes in found]


def _asked(name: str, told: bytes) -> Any:
    process = HelperProcess(name, HELPER)
    try:
        return process.start(told, _LONGEST)
    finally:
        process.kill()
        process.end()


def import_problems(
    root: Root, descriptors: Sequence[Descriptor], others: Sequence[Descriptor] = (), *, unavailable: str | None = None
) -> list[Problem]:
    """Import the code of each plugin as the agent would, all in processes of their own, and tell what fails.

    No ``@load`` function is run, and no hook of a plugin is called.

    Args:
        others: those of plugins that their code may ask for, besides these. Where one of them cannot be imported
            here, although it runs in the agent, this cannot tell anything.
        unavailable: why no password can be checked; then a plugin whose callers need an identity, or a password,
            must have an authenticator.
    """
    if not descriptors:
        return []
    from concurrent.futures import ThreadPoolExecutor  # here: who has no plugins to import needs none of this

    elsewhere = {one.name for one in others}

    def problems(descriptor: Descriptor) -> list[Problem]:
        try:
            told = greeting(root, descriptor.name, [*descriptors, *others], check=True, unavailable=unavailable)
            found, failed = _asked(descriptor.name, told)
        except ProcessDied as died:
            found, failed = [("error", str(descriptor.file), "main", "plugin", str(died))], []
        return [] if elsewhere & set(failed) else [Problem(*one) for one in found]

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return [problem for found in threads.map(problems, descriptors) for problem in found]
