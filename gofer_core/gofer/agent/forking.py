"""What a process that imports plugins is told by the agent that starts it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from gofer.agent.config import Descriptor
from gofer.root import Root
from gofer.tracing import slot

__all__ = ["HELPER", "greeting"]

#: The module that this process runs.
HELPER = "gofer.agent.helper"


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
