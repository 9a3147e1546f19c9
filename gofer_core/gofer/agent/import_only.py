"""A container whose plugins are imported, and nothing more: no ``@load``, no queue, no worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gofer.agent.config import AgentConfig, Descriptor
from gofer.agent.container import PluginContainer
from gofer.agent.loader import Loader
from gofer.agent.modules import Aside
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import import_code
from gofer.root import Root

__all__ = ["ImportOnly"]


class ImportOnly(PluginContainer):
    """Imports plugins, and those that the code of one asks for with ``Plugin.find`` meanwhile. One thread."""

    def __init__(
        self,
        root: Root,
        config: AgentConfig,
        descriptors: Iterable[Descriptor],
        locate: Callable[[Plugin], object],
    ) -> None:
        """Keep the settings. Nothing is imported yet.

        Args:
            locate: finds the code of a plugin, and puts it into ``plugin.source``.
        """
        super().__init__(root, config, loader=_Imports)
        self.loader: _Imports
        self.loader.locate = locate
        self.loader.pending = {one.name: Plugin(self, one) for one in descriptors}

    def make(self, name: str) -> Plugin:
        """Make the plugin of a descriptor, before its code is imported."""
        return self.loader.made(name)

    def fill(self, plugin: Plugin) -> None:
        """Import the code of a plugin that was made.

        Raises:
            Refused: it cannot be found, or has failed.
        """
        self.loader.fill(plugin)


class _Imports(Loader):
    """Imports plugins in the thread that asks for them."""

    locate: Callable[[Plugin], object]

    def begin(self, name: str) -> None:
        """Import one that the code of another asks for."""
        if name in self.pending:
            self.guarded(self.made(name), self.fill)

    def made(self, name: str) -> Plugin:
        """Take one of those that there are."""
        plugin = self.plugins[name] = self.pending.pop(name)
        return plugin

    def fill(self, plugin: Plugin) -> None:
        """Import its code."""
        if plugin.source is None:
            self.locate(plugin)
        # What was compiled may be older than what is there.
        import_code(self.hooks, plugin, Aside())
