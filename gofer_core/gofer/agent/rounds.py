"""Loading several plugins in three rounds: each one's code, then what they add to each other, then their queues.

So the order of their descriptors does not matter: one that looks for another has that imported first, and what extends
a plugin is in its API before a request comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gofer.agent.assembly import Refused, add_extension, ask_extensions, blamed, import_plugin
from gofer.agent.config import Descriptor, Problem
from gofer.agent.plugin import Plugin, State
from gofer.agent.trust import check_trust
from gofer.errors import PluginError

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["Rounds"]

log = logging.getLogger(__name__)


class Rounds:
    """What is loaded into a container. ``begin`` may be called by any thread, the others by the one that loads."""

    def __init__(self, container: PluginContainer) -> None:
        """Keep the container. Nothing is to be loaded."""
        self._container = container
        #: What is described, and whose loading has not begun.
        self.pending: dict[str, Descriptor] = {}
        self._anew = False

    def load(self, descriptors: Sequence[Descriptor], *, anew: bool = True) -> None:
        """Load several.

        Args:
            anew: their code may have changed while the agent runs.
        """
        self._anew = anew
        names = [descriptor.name for descriptor in descriptors]
        self.pending = {descriptor.name: descriptor for descriptor in descriptors}
        loaded = []
        for name in names:
            if self._container.stopping:
                break
            self.begin(name)
            plugin = self._container.plugins[name]
            if self._container.imports.settle(plugin):
                loaded.append(plugin)
            else:
                self._container.imported(name)
                log.warning("%s", _late(plugin, self._container.imports.patience))
        self.pending = {}
        self._finish(loaded)

    def _finish(self, loaded: list[Plugin]) -> None:
        """Do what is left to do for plugins whose code is there; take requests if all required ones run now."""
        extended: set[str] = set()
        for plugin in loaded:
            if plugin.descriptor.extends is not None and plugin.state is State.LOADING:
                self.guarded(plugin, self.check_extends)
        for plugin in loaded:
            self._extend(plugin, extended)
            target = plugin.descriptor.extends
            if target is not None and plugin.state is State.LOADING:
                self.guarded(plugin, lambda plugin: self._extend(self._extended_by(plugin), extended))
        for plugin in loaded:
            if plugin.state is State.LOADING:
                self.guarded(plugin, self._check_trust)
        for plugin in loaded:
            if plugin.state is State.LOADING and not self._container.stopping:
                self.guarded(plugin, self._run)
        for plugin in loaded:
            if plugin.state is State.RUNNING:
                self._restore(plugin)
        self._container.gate.review()
        for plugin in loaded:
            if plugin.is_running:
                log.info("plugin %s: loaded from %s, %s", plugin.name, plugin.source, self._container.where(plugin))

    def _restore(self, plugin: Plugin) -> None:
        """Give a plugin's API again to those that had it before it was unloaded, and to those that have theirs."""
        others = [one for one in self._container.plugins.values() if one.state is State.RUNNING]
        changed: list[Plugin] = []
        for other in others:
            if plugin.name in other.awaits:
                try:
                    other.restore(plugin)
                    changed.append(other)
                except PluginError as clash:
                    log.error("plugin %s: has nothing of plugin %s any more: %s", other.name, plugin.name, clash)
        for one in changed:
            for other in others:
                if one in other.added and other not in changed:
                    try:
                        other.refresh()
                        changed.append(other)
                    except PluginError as clash:
                        log.error("plugin %s: has nothing new of plugin %s: %s", other.name, one.name, clash)

    def begin(self, name: str) -> None:
        """Have one that is pending imported, unless another plugin has asked for it meanwhile."""

        def take() -> Plugin | None:
            descriptor = self.pending.pop(name, None)
            if descriptor is None:
                return None
            plugin = self._container.plugins[name] = Plugin(self._container, descriptor)
            return plugin if descriptor.enabled else None

        def work(plugin: Plugin) -> None:
            try:
                import_plugin(self._container.root, self._container.hooks, plugin, anew=self._anew)
            except Refused as error:
                refused.append(error)
            finally:
                self._container.imported(plugin.name)

        def then(plugin: Plugin, late: bool) -> None:
            if late:
                with self._container.changes:
                    self._finish_late(plugin, refused)
            elif refused:
                self._container.quarantine(refused[0])

        refused: list[Refused] = []
        self._container.imports.begin(take, work, then)

    def _finish_late(self, plugin: Plugin, refused: Sequence[Refused]) -> None:
        wanted = self._container.plugins.get(plugin.name) is plugin and plugin.state is State.LOADING
        if not wanted or self._container.stopping:  # unloaded, or another made of it, meanwhile
            self._container.end(plugin, State.STOPPED)
        elif refused:
            self._container.quarantine(refused[0])
        else:
            self._finish([plugin])
            return
        self._container.gate.review()

    def check_extends(self, plugin: Plugin) -> None:
        """Refuse a plugin that extends itself, directly or by way of others.

        Raises:
            Refused: it does; the text names all of them.
        """
        present = {one.name: one for one in self._container.present()}
        way, one = [plugin.name], plugin
        with blamed(plugin, "main", "extends"):
            while one.descriptor.extends in present and one.descriptor.extends not in way[1:]:
                one = present[one.descriptor.extends]
                way.append(one.name)
                if one.name == plugin.name:
                    raise PluginError(f"a cycle: {' -> '.join(way)}")

    def _check_trust(self, plugin: Plugin) -> None:
        beside = [one for one in self._container.present() if one.state in (State.LOADING, State.RUNNING)]
        problem = check_trust(plugin, beside)
        if problem is not None:
            raise Refused(plugin, problem)

    def _extended_by(self, plugin: Plugin) -> Plugin:
        with blamed(plugin, "main", "extends"):
            target = self._container.find(plugin.descriptor.extends or "")
            if target.state not in (State.LOADING, State.RUNNING):
                raise PluginError(f"plugin {target.name!r} is {target.state.value}")
            return target

    def _extend(self, plugin: Plugin, done: set[str]) -> None:
        """Add what hooks and other plugins' ``extends`` give a plugin, after those have got all of their own."""
        if plugin.name in done or plugin.state not in (State.LOADING, State.RUNNING):
            return
        if not self._container.imports.settled(plugin):
            return  # it is late, and will ask for them itself
        done.add(plugin.name)
        given: list[object] = []
        self.guarded(plugin, lambda plugin: given.extend(ask_extensions(self._container.hooks, plugin)))
        for more in given:
            if isinstance(more, Plugin):
                self._extend(more, done)
            self.guarded(plugin, lambda plugin, more=more: add_extension(plugin, more))  # type: ignore[misc]  # mypy cannot infer a lambda's default

    def _run(self, plugin: Plugin) -> None:
        plugin.workers.start()
        plugin.state = State.RUNNING
        with blamed(plugin, "messaging", "url"):
            if plugin.wants_queue if plugin.wants_queue is not None else plugin.url is not None:
                self._container.attach(plugin)
        with blamed(plugin, "main", "plugin", "its actions cannot be started"):
            plugin.actions.start()

    def guarded(self, plugin: Plugin, step: Callable[[Plugin], object]) -> None:
        """Do one step of a plugin's loading; quarantine whoever made it fail."""
        try:
            step(plugin)
        except Refused as refused:
            self._container.quarantine(refused)


def _late(plugin: Plugin, patience: float) -> Problem:
    text = f"importing and loading it has taken {patience:g} s so far; the others go on without it"
    return Problem("warning", str(plugin.descriptor.file), "main", "plugin", text)
