"""What SIGHUP does: by the descriptors as they are now, which plugins to load, reload and unload."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from gofer.agent.config import Descriptor, read_descriptor
from gofer.agent.plugin import Plugin
from gofer.agent.states import State
from gofer.root import Root

__all__ = ["Changes", "decide", "descriptors_of"]

log = logging.getLogger(__name__)


class Changes(NamedTuple):
    """What to do, in this order. A plugin that is to be loaded again and does not run is unloaded and loaded.

    ``access``: the descriptors of plugins that run on, and of whom only those have changed who may call.
    """

    access: list[Descriptor]
    unload: list[str]
    load: list[Descriptor]
    reload: list[str]


def descriptors_of(
    read: Iterable[Descriptor], plugins: Iterable[Plugin], root: Root, kept: Collection[str]
) -> dict[str, Descriptor]:
    """Return the descriptors that count, by name: those that were read, and those of plugins that stay as they are.

    Args:
        read: the descriptors in the root's directory.
        kept: the files of descriptors that cannot be read; their plugins stay as they are.
    """
    wanted = {descriptor.name: descriptor for descriptor in read}
    for plugin in plugins:
        if plugin.name not in wanted and (descriptor := _elsewhere(plugin, root, kept)) is not None:
            wanted[plugin.name] = descriptor
    return wanted


def decide(wanted: Mapping[str, Descriptor], plugins: Iterable[Plugin]) -> Changes:
    """Compare descriptors with the plugins that there are.

    A plugin whose descriptor has not changed stays as it is. A quarantined one is tried again.
    """
    load, access, reload, unload = dict(wanted), [], [], []
    for plugin in plugins:
        now = wanted.get(plugin.name)
        if now is not None and plugin.is_running and now.differs_in_access_alone(plugin.descriptor):
            del load[plugin.name]
            access.append(now)
        elif now == plugin.descriptor and plugin.state is not State.QUARANTINED:
            del load[plugin.name]
        elif now is not None and now.enabled and plugin.is_running:
            del load[plugin.name]
            reload.append(plugin.name)
        else:
            unload.append(plugin.name)
    return Changes(access, unload, list(load.values()), reload)


def _elsewhere(plugin: Plugin, root: Root, kept: Collection[str]) -> Descriptor | None:
    """Return the descriptor of a plugin that cannot be read now, or is elsewhere; None: it is gone."""
    file = plugin.descriptor.file
    if str(file) in kept:
        return plugin.descriptor
    if file.parent == root.descriptors or not file.exists():
        return None
    descriptor, problems = read_descriptor(root, file)
    for problem in problems:
        log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "%s", problem)
    return plugin.descriptor if descriptor is None else descriptor
