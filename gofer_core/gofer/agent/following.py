"""Following the descriptors: what is loaded, reloaded and unloaded when they have changed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from gofer.agent.config import Descriptor, read_descriptor
from gofer.agent.plugin import Plugin, State
from gofer.errors import PluginError

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["follow"]

log = logging.getLogger(__name__)


def follow(container: PluginContainer, descriptors: Iterable[Descriptor], kept: Collection[str]) -> None:
    """Do what :meth:`gofer.agent.container.PluginContainer.update` says, while its ``changes`` are held."""
    wanted = {descriptor.name: descriptor for descriptor in descriptors}
    changed = []
    for plugin in list(container.plugins.values()):
        _keep(container, plugin, wanted, kept)
        now = wanted.get(plugin.name)
        if now == plugin.descriptor and plugin.state is not State.QUARANTINED:
            del wanted[plugin.name]
        elif now is not None and now.enabled and plugin.state is State.RUNNING:
            changed.append(plugin.name)
        else:
            container.unload(plugin.name)
    container.rounds.load([descriptor for name, descriptor in wanted.items() if name not in changed])
    for name in changed:
        plugin = container.plugins[name]
        if plugin.descriptor == wanted[name] or plugin.state is not State.RUNNING:
            continue  # it was loaded again with another one already
        try:
            container.replace(plugin, wanted)
        except PluginError:
            log.debug("plugin %s runs on as it was", name)  # why, is an error in the log


def _keep(container: PluginContainer, plugin: Plugin, wanted: dict[str, Descriptor], kept: Collection[str]) -> None:
    """Want a plugin on whose descriptor cannot be read now, or is elsewhere."""
    file = plugin.descriptor.file
    if plugin.name in wanted:
        return
    if str(file) in kept:
        wanted[plugin.name] = plugin.descriptor
    elif file.parent != container.root.descriptors and file.exists():
        descriptor, problems = read_descriptor(container.root, file)
        for problem in problems:
            log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "%s", problem)
        wanted[plugin.name] = plugin.descriptor if descriptor is None else descriptor
