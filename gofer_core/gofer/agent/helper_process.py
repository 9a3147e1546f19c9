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

__all__ = ["HELPER", "Method", "greeting", "import_objects", "import_problems", "methods"]

#: The module that this process runs.
HELPER = "gofer.agent.helper"

_LONGEST = 30.0  # seconds that an import may take


def greeting(
    root: Root,
    name: str | None,
    descriptors: Iterable[Descriptor],
    *,
    levels: Mapping[str, int] = MappingProxyType({}),
    **asked: Any,
) -> bytes:
    """Write what the process is told first: JSON.

    Args:
        name: the plugin whose calls it forks; None: it answers what is asked, and ends.
        descriptors: of all plugins; its code may ask for the others.
        levels: those of the log.
        asked: ``modules``: tell what can be called, if these are the modules of more plugins with rules, by name.
            ``checks``, each for ``seconds``: tell what is wrong with the plugins of these files and sections, where
            passwords cannot be checked because of ``unavailable``; or with these names of an entry point's ``group``.
    """
    told = {
        "root": str(root.path),
        "name": name,
        "descriptors": _written(descriptors),
        "levels": levels,
        "tracer": slot.name,
        "path": sys.path,
        **asked,
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
    found = _ask(_LONGEST, greeting(root, None, descriptors, modules=dict(modules)))
    return [Method(plugin, classname, method, tuple(homes)) for plugin, classname, method, homes in found]


def import_problems(
    root: Root,
    descriptors: Sequence[Descriptor],
    others: Sequence[Descriptor] = (),
    *,
    unavailable: str | None = None,
    seconds: float = _LONGEST,
) -> list[Problem]:
    """Import the code of each plugin as the agent would, all in processes of their own, and tell what is wrong with it.

    No ``@load`` function is run, and no hook of a plugin is called.

    Args:
        others: those of plugins that their code may ask for, besides these. Where one of them cannot be imported
            here, although it runs in the agent, this cannot tell anything.
        unavailable: why no password can be checked; then a plugin whose callers need an identity, or a password,
            must have an authenticator.
        seconds: how long each may take.
    """
    every, elsewhere, problems = [*descriptors, *others], {one.name for one in others}, []
    told = _check(root, _written(descriptors), seconds, descriptors=every, unavailable=unavailable)
    for descriptor, (answer, died) in zip(descriptors, told, strict=True):
        found, failed = answer or ([("error", str(descriptor.file), "main", "plugin", died)], [])
        if not elsewhere & set(failed):
            problems += [Problem(*one) for one in found]
    return problems


def import_objects(root: Root, group: str, names: Sequence[str], seconds: float) -> list[str | None]:
    """Import adapters or authenticators, all in processes of their own; return why each is broken; None: it is not.

    Args:
        group: of their entry points.
        seconds: how long each may take.
    """
    return [died or why for why, died in _check(root, names, seconds, group=group)]


def _check(
    root: Root, checks: Sequence[Any], seconds: float, *, descriptors: Iterable[Descriptor] = (), **asked: Any
) -> list[tuple[Any, str]]:
    """Return for each check its answer, or why its process died."""
    if not checks:
        return []
    told = greeting(root, None, descriptors, checks=checks, seconds=seconds, **asked)
    try:
        found: list[tuple[Any, str]] = _ask(_LONGEST + seconds * len(checks), told, forks=True)
    except ProcessDied as died:
        found = [(None, str(died))] * len(checks)
    return found


def _ask(seconds: float, told: bytes, *, forks: bool = False) -> Any:
    """Return the answer of a process. ``forks``: it ends what it has forked by itself, if it is not killed."""
    process = HelperProcess("all", HELPER)
    try:
        return process.start(told, seconds)
    finally:
        if not forks:
            process.kill()
        process.end()


def _written(descriptors: Iterable[Descriptor]) -> list[tuple[str, Any]]:
    return [(str(one.file), one.sections) for one in descriptors]
