"""Which plugin is meant: by its name, or by the path of its descriptor."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gofer.agent.config import Descriptor, read_descriptor
from gofer.errors import ConfigError, PluginError
from gofer.root import Root
from gofer.suggest import available, did_you_mean

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin

__all__ = ["chosen", "usable"]

log = logging.getLogger(__name__)


def chosen(root: Root, plugins: Iterable[Plugin], which: str | Path) -> Plugin:
    """Return the plugin of a name, or that of a descriptor's path. A relative path is under the root's descriptors.

    Raises:
        PluginError: there is none; the text names those that there are.
    """
    known = {plugin.name: plugin for plugin in plugins}
    found = known.get(which) if isinstance(which, str) else None
    if found is not None:
        return found
    if isinstance(which, Path) or "/" in which or which.endswith((".conf", ".json")):
        path = os.path.realpath(root.descriptors / which)
        for plugin in known.values():
            if os.path.realpath(plugin.descriptor.file) == path:
                return plugin
        files = ", ".join(sorted(str(plugin.descriptor.file) for plugin in known.values())) or "none"
        raise PluginError(f"no plugin is loaded from {path}; descriptors in use: {files}")
    raise PluginError(f"there is no plugin {which!r}{did_you_mean(which, known)}; there are: {available(known)}")


def usable(root: Root, path: str | Path) -> Descriptor:
    """Read the descriptor of a plugin that is to be loaded, and log what is odd. A relative path is under the root's.

    Raises:
        ConfigError: it cannot be used; one line for each reason.
        PluginError: it does not switch its plugin on.
    """
    path = root.descriptors / path
    try:
        descriptor, problems = read_descriptor(root, path)
    except OSError as missing:
        raise ConfigError(f"{path}: cannot be read: {missing.strerror}") from None
    if descriptor is None:
        raise ConfigError("\n".join(str(one) for one in problems if one.severity == "error"))
    for one in problems:
        log.warning("%s", one)
    if not descriptor.enabled:
        raise PluginError(f"{path}: [main] enabled: is 0, so plugin {descriptor.name!r} is not loaded")
    return descriptor
