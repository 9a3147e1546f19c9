"""The loader: takes plugins from their descriptors to where they run, and back.

Several are loaded in three rounds: each one's code, then what they add to each other, then their queues. So the order
of their descriptors does not matter: one that looks for another has that imported first, and what extends a plugin is
in its API before a request comes.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import pluggy
from msgspec import Struct

from gofer.agent.config import Problem
from gofer.agent.endpoints import Endpoints
from gofer.agent.failures import Refused, blamed
from gofer.agent.imports import PATIENCE, Imports
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import ask_extensions, exchange_hooks, find_plugin, import_code, run_load, run_unload
from gofer.agent.sharing import build_apis, check_trust
from gofer.agent.sources import Aside, forget
from gofer.agent.states import State
from gofer.errors import PluginError
from gofer.rmi.server.hooks import HookCalls
from gofer.root import Root

__all__ = ["Batch", "Loader"]

log = logging.getLogger(__name__)

_TOLD = 1.0  # seconds at least for hooks to be told which requests have ended, before a plugin is unloaded


class Batch(Struct):
    """Plugins that are loaded together.

    ``aside``: the modules of their old code; None: there is none. ``reload``: they take the places of plugins that run,
    so they are only imported, which may take ``patience`` seconds; the first that fails is raised. Else each that fails
    is quarantined.
    """

    plugins: Sequence[Plugin]
    aside: Aside | None = None
    reload: bool = False
    patience: float = PATIENCE
    refused: list[Refused] = []


class Loader:
    """Loads and ends the plugins of one container. ``begin`` may be called by any thread, the rest by one at a time.

    Args:
        plugins: those of the agent, by name.
        changes: held while plugins are loaded and unloaded.
        imported: called with a plugin's name when its code has been imported, or has failed to be.
        review: called when plugins have been loaded or have failed, before that is told.
    """

    def __init__(
        self,
        root: Root,
        plugins: dict[str, Plugin],
        *,
        hooks: pluggy.PluginManager,
        hook_calls: HookCalls,
        endpoints: Endpoints,
        changes: threading.RLock,
        imported: Callable[[str], object],
        review: Callable[[], object],
    ) -> None:
        self.root = root
        self.plugins = plugins
        self.hooks = hooks
        self.imports = Imports(plugins)
        #: Plugins of which newer ones are loaded, or that are unloaded, and whose last calls have not ended.
        self.parting: set[Plugin] = set()
        self.endpoints = endpoints
        self.hook_calls = hook_calls
        self._changes = changes
        self._imported = imported
        self._review = review
        self._batch = Batch(())
        self._modules: set[str] = set()  # of all plugins so far

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(self, plugins: Sequence[Plugin], *, anew: bool = True) -> None:
        """Load several. One that fails is quarantined.

        Args:
            anew: their code may have changed while the agent runs.
        """
        self._finish(self.import_all(Batch(plugins, Aside() if anew else None, patience=self.imports.patience)))

    def import_all(self, batch: Batch) -> list[Plugin]:
        """Import plugins, and run what they have marked ``@load``; return those that are not late.

        Raises:
            Refused: the batch is a reload, and one has failed or is late.
        """
        self._batch = batch
        self.imports.pending = {plugin.name: plugin for plugin in batch.plugins}
        loaded = []
        for plugin in batch.plugins:
            if self.stopping:
                break
            self.begin(plugin.name)
            if self.imports.settle(plugin, batch.patience, anyway=batch.reload):
                loaded.append(plugin)
            else:
                self._imported(plugin.name)
                self._tell_late(plugin)
            if batch.reload and batch.refused:
                raise batch.refused[0]
        self.imports.pending = {}
        return loaded

    def begin(self, name: str) -> None:
        """Have one that is pending imported, unless another plugin has asked for it meanwhile."""
        self.imports.begin(name, partial(self._import, self._batch))

    def _import(self, batch: Batch, plugin: Plugin) -> None:
        refused = None
        try:
            self.run_code(plugin, batch)
        except Refused as error:
            refused = error
        self._imported(plugin.name)
        if self.imports.done(plugin):
            with self._changes:
                self._finish_late(plugin, refused)
        elif refused is not None:
            batch.refused.append(refused)
            if not batch.reload:
                self.quarantine(refused)

    def stop(self) -> None:
        """Load nothing more, and wait for no import."""
        self.imports.stop()

    @property
    def stopping(self) -> bool:
        """Whether nothing more is loaded."""
        return self.imports.stopping

    def run_code(self, plugin: Plugin, batch: Batch) -> None:
        """Import a plugin's code, and, unless it is loaded again, run what it has marked ``@load``.

        Raises:
            Refused: any of that fails.
        """
        if plugin.source is None:
            find_plugin(self.root, plugin)
        for odd in import_code(self.hooks, plugin, batch.aside):
            log.warning("%s", odd)
        if not batch.reload:
            exchange_hooks(self.hooks, plugin.module)
            run_load(self.hooks, plugin)
            plugin.loaded = True

    def look_up(self, name: str) -> Plugin | None:
        """Return a plugin by its name or its module's; one that is pending is imported first. None: there is none."""
        for plugin in list(self.imports.pending.values()):
            if name in (plugin.name, plugin.descriptor.plugin):
                self.begin(plugin.name)
        present = list(self.plugins.values())
        found = next((one for one in present if one.name == name), None)
        found = found or next((one for one in present if one.has_name(name)), None)
        if found is not None:
            self.imports.wait(found)
        return found

    def _tell_late(self, plugin: Plugin) -> None:
        seconds = f"{self._batch.patience:g} s"
        if self._batch.reload:
            text = f"importing it has taken {seconds}; given up"
            self._batch.refused.append(Refused.at(plugin, "main", "plugin", text))
            return
        text = f"importing and loading it has taken {seconds} so far; the other plugins continue without it"
        log.warning("%s", Problem("warning", str(plugin.descriptor.file), "main", "plugin", text))

    def _finish_late(self, plugin: Plugin, refused: Refused | None) -> None:
        wanted = self.plugins.get(plugin.name) is plugin and plugin.state is State.LOADING
        if not wanted or self.stopping:  # unloaded, or another made of it, meanwhile
            if plugin.loaded:
                run_unload(self.hooks, plugin, self.imports.patience)
            self.end(plugin, State.STOPPED)
        elif refused is not None:
            self.quarantine(refused)
        else:
            self._batch = Batch([plugin])
            self._finish([plugin])
            return
        self._review()

    def _finish(self, loaded: Sequence[Plugin]) -> None:
        """Do what is left to do for plugins whose code is there; take requests if all required ones run now."""
        self.share([plugin for plugin in loaded if plugin.state is State.LOADING])
        for plugin in loaded:
            if plugin.state is State.LOADING and not self.stopping:
                self.guarded(plugin, self._run)
        self._review()
        for plugin in loaded:
            if plugin.is_running:
                log.info("plugin %s: loaded from %s, %s", plugin.name, plugin.source, self.endpoints.where(plugin.name))
        self.end_batch()

    def end_batch(self) -> None:
        """Load none of the last plugins any more: what fails now is not because of them."""
        self._batch, self.imports.pending = Batch(()), {}

    def _run(self, plugin: Plugin) -> None:
        plugin.workers.start()
        plugin.become(State.RUNNING)
        with blamed(plugin, "messaging", "url"):
            if plugin.wants_to_attach:
                self.endpoints.attach(plugin)
        with blamed(plugin, "main", "plugin", "its actions cannot be started"):
            plugin.actions.start()

    def guarded(self, plugin: Plugin, step: Callable[[Plugin], object]) -> None:
        """Do one step of a plugin's loading; quarantine whichever made it fail.

        Raises:
            Refused: the batch is a reload.
        """
        try:
            step(plugin)
        except Refused as refused:
            if self._batch.reload:
                raise
            self.quarantine(refused)

    # -- what plugins add to each other -------------------------------------------------------------------------------

    def share(self, loaded: Sequence[Plugin], more: Iterable[str] = ()) -> None:
        """Have plugins that are being loaded in the APIs of those that they extend, and others in theirs.

        Args:
            more: the names of other plugins whose extensions may have changed.

        Raises:
            Refused: the batch is a reload, and one does not fit.
        """
        for plugin in loaded:
            if plugin.descriptor.extends is not None:
                self.guarded(plugin, self._check_extends)
        extended = [plugin.descriptor.extends for plugin in loaded if plugin.state is State.LOADING]
        targets = [self.plugins.get(name) for name in dict.fromkeys([*more, *filter(None, extended)])]
        for target in [*loaded, *(one for one in targets if one is not None and one not in loaded)]:
            if target.module is not None and target.is_alive and self.imports.is_settled(target):
                self.guarded(target, self._ask)
        self.build_apis()
        for plugin in loaded:
            if plugin.state is State.LOADING:
                self.guarded(plugin, self._check_shared)

    def extending(self, plugin: Plugin) -> list[Plugin]:
        """Return those whose descriptors say that they extend a plugin, and whose code is there."""
        return [
            one
            for one in list(self.plugins.values())
            if one.descriptor.extends == plugin.name
            and one.is_alive
            and self.imports.is_settled(one)  # else it gives what it has when it comes
        ]

    def build_apis(self) -> None:
        """Build the APIs of all plugins anew. Of those that are being loaded, the ones that do not fit fail.

        Raises:
            Refused: the batch is a reload, and one does not fit.
        """
        while True:
            failed: list[Refused] = []

            def clash(plugin: Plugin, more: Any, wrong: PluginError, failed: list[Refused] = failed) -> None:
                other = isinstance(more, Plugin)
                if other and more.descriptor.extends == plugin.name and more in self._batch.plugins:
                    failed.append(Refused.at(more, "main", "extends", str(wrong)))
                elif plugin in self._batch.plugins:
                    failed.append(Refused.at(plugin, "main", "plugin", str(wrong)))
                elif other and self.plugins.get(more.name) in self._batch.plugins:
                    log.error("plugin %s: has nothing of plugin %s any more: %s", plugin.name, more.name, wrong)

            self._modules.update(modules_of(list(self.plugins.values())))
            apis = build_apis(self.plugins, clash, self._modules)
            if not failed:
                break
            if self._batch.reload:
                raise failed[0]
            for refused in failed:
                if refused.plugin.is_alive:
                    self._quarantine(refused)
        for name, api in apis.items():
            self.plugins[name].api = api

    def _check_extends(self, plugin: Plugin) -> None:
        """Refuse a plugin that extends itself, directly or by way of others, or what does not run."""
        way, one = [plugin.name], plugin
        with blamed(plugin, "main", "extends"):
            while (following := self.plugins.get(one.descriptor.extends or "")) and following.name not in way[1:]:
                one = following
                way.append(one.name)
                if one is plugin:
                    raise PluginError(f"a cycle: {' -> '.join(way)}")
            name = plugin.descriptor.extends or ""
            target = plugin.container.seek(name)
            if target is None:
                raise PluginError(plugin.container.unknown(name))
            if not target.is_alive:
                raise PluginError(f"plugin {target.name!r} is {target.state.value}")

    def _ask(self, plugin: Plugin) -> None:
        plugin.given = ask_extensions(self.hooks, plugin)

    def _check_shared(self, plugin: Plugin) -> None:
        if plugin.descriptor.extends is not None and not len(plugin.api):
            text = f"plugin {plugin.name!r} has nothing that is marked @remote"
            raise Refused.at(plugin, "main", "extends", text)
        problem = check_trust(plugin, [one for one in self.plugins.values() if one.is_alive])
        if problem is not None:
            raise Refused(plugin, problem)

    # -- ending -------------------------------------------------------------------------------------------------------

    def quarantine(self, refused: Refused) -> None:
        """Take a plugin that failed out of everything, and say why."""
        self._quarantine(refused)
        self.build_apis()

    def _quarantine(self, refused: Refused) -> None:
        plugin: Plugin = refused.plugin
        log.error("%s", refused.problem)
        if refused.trace is not None:
            log.debug("plugin %s: quarantined:\n%s", plugin.name, refused.trace)
        self.end(plugin, State.QUARANTINED, str(refused.problem), refused.trace)

    def end(
        self,
        plugin: Plugin,
        state: State,
        error: str | None = None,
        trace: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Take a plugin out of everything but the APIs of others: ``build_apis`` follows. May be repeated.

        Args:
            timeout: seconds for what it has accepted to end; None: that is given back.
        """
        deadline = monotonic() + (timeout or 0.0)
        ran = plugin.is_running
        plugin.actions.stop()
        if plugin.state is not State.DISABLED:
            plugin.become(state)
        self.endpoints.leave(plugin, deadline, for_good=timeout is not None)
        if ran:
            plugin.workers.stop(max(0.0, deadline - monotonic()))
            if timeout is not None:
                plugin.loop.wait(max(0.0, deadline - monotonic()))
            plugin.forks.stop()
            self.hook_calls.flush(max(_TOLD, deadline - monotonic()))  # its own hooks may be among those
            if plugin.loaded:
                run_unload(self.hooks, plugin, max(self.imports.patience, deadline - monotonic()))
            if timeout is None:
                plugin.loop.stop(0.0)  # not before: an @unload may be a coroutine
        module = None if plugin.source is None else sys.modules.get(plugin.source.module)
        plugin.dismiss(error, trace)
        if timeout is not None:
            self.part(plugin)
        others = [one for one in list(self.plugins.values()) if one is not plugin]
        for other in others:
            other.given = [one for one in other.given if one is not plugin]
        if module is not None and plugin.source is not None and not any(one.module is module for one in others):
            if self.hooks.is_registered(module):
                self.hooks.unregister(module)
            forget(plugin.source.tops, plugin.source.module, modules_of(others))

    def part(self, old: Plugin) -> None:
        """Let go of a plugin when its last call has ended: now, or in a thread that waits for that."""

        def let_go() -> None:
            old.loop.stop(0.0)
            old.forks.stop()
            old.dismiss(old.error, old.trace)

        def wait() -> None:
            while old.workers.stop(60.0)[1]:
                pass
            while not old.loop.wait(60.0):
                pass
            let_go()
            self.parting.discard(old)

        if not old.workers.running() and not old.loop.running:
            let_go()
            return
        self.parting.add(old)
        threading.Thread(target=wait, name=f"gofer-{old.name}-old", daemon=True).start()


def modules_of(plugins: Iterable[Plugin]) -> list[str]:
    """Name the modules of plugins."""
    return [plugin.source.module for plugin in plugins if plugin.source is not None]
