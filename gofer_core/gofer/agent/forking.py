"""What the process that forks a plugin's calls is told by its agent."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gofer.agent.config import AgentConfig, Descriptor
from gofer.root import Root

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin
    from gofer.agent.sources import Source

__all__ = ["HELPER", "Greeting", "greeting", "read"]

#: The module that this process runs.
HELPER = "gofer.agent.helper"


@dataclass(frozen=True, slots=True)
class Greeting:
    """The plugin to import, by name; and all that its code may ask for while that is done."""

    name: str
    source: Source
    path: tuple[str, ...]
    root: Root
    config: AgentConfig
    descriptors: tuple[Descriptor, ...]


def greeting(plugin: Plugin) -> bytes:
    """Write the greeting for a loaded plugin."""
    import copyreg  # here, and in what follows: an agent whose plugins do not fork does without
    import io
    import pickle

    container = plugin.container
    assert plugin.source is not None  # noqa: S101 - its methods could not be found otherwise
    descriptors = tuple(one.descriptor for one in list(container.plugins.values()))
    told = Greeting(plugin.name, plugin.source, tuple(sys.path), container.root, container.config, descriptors)
    written = io.BytesIO()
    pickler = pickle.Pickler(written)
    # The settings hold read-only views of dicts, which pickle does not know.
    pickler.dispatch_table = {**copyreg.dispatch_table, MappingProxyType: _view}
    pickler.dump(told)
    return written.getvalue()


def read(words: bytes) -> Greeting:
    """Read it: from the agent that started this process, over a pair of sockets that only the two have."""
    import pickle

    told = pickle.loads(words)  # noqa: S301 - see above
    if not isinstance(told, Greeting):
        raise TypeError(f"not a greeting: {type(told).__name__}")
    return told


def _view(mapping: MappingProxyType[Any, Any]) -> tuple[Any, tuple[dict[Any, Any]]]:
    return _viewed, (dict(mapping),)


def _viewed(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)
