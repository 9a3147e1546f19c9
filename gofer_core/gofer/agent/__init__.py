"""goferd: the agent on a machine, its plugins, and what it tells of itself.

``PluginContainer`` is at home in :mod:`gofer.agent.container`; here is its documented name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["PluginContainer"]


def __getattr__(name: str) -> object:
    # Only when asked: whoever wants the configuration alone should not load everything that runs plugins.
    if name == "PluginContainer":
        from gofer.agent.container import PluginContainer

        return PluginContainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
