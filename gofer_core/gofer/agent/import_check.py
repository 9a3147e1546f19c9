"""Importing each plugin, and making its authenticator, in a process of its own, to tell what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gofer.agent.config import Descriptor, Problem
from gofer.agent.forking import HELPER, greeting
from gofer.errors import ProcessDied
from gofer.rmi.model.fork import HelperProcess
from gofer.root import Root

__all__ = ["Method", "import_problems", "methods"]

_LONGEST = 30.0  # seconds that an import may take
_AT_A_TIME = 4


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
            found, failed = [(str(descriptor.file), "main", "plugin", str(died))], []
        return [] if elsewhere & set(failed) else [Problem("error", *one) for one in found]

    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        return [problem for found in threads.map(problems, descriptors) for problem in found]
