"""Loading plugins again while they run: all of them, with those that depend on them, or none.

The new code is imported and checked in a process of its own first. Then the plugins pause: what is accepted waits for
the new code, what runs ends in the old. The new code is imported, the old unloaded, and the new loaded: never are both
loaded, in the sense of ``@load``. If the new code fails all the same, the old modules are put back, and their ``@load``
runs again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial
from time import monotonic

from gofer.agent.actions import Actions
from gofer.agent.failures import Refused, blamed, within
from gofer.agent.helper_process import import_problems
from gofer.agent.loader import Batch, Loader, modules_of
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import exchange_hooks, find_plugin, run_load, run_unload
from gofer.agent.sources import Aside
from gofer.agent.states import State
from gofer.rmi.server.workers import Workers

__all__ = ["Reload", "dependents"]

log = logging.getLogger(__name__)


def dependents(plugins: Collection[Plugin], first: Plugin) -> list[Plugin]:
    """Return the running plugins that are loaded again with one, that one included, those needed before who needs them.

    They are those that took something from it when they were loaded, and those that share its module; and theirs.
    """
    running = [plugin for plugin in plugins if plugin.is_running]
    found = [first]
    for one in found:
        module = None if one.source is None else one.source.module
        for other in running:
            shares = other.source is not None and other.source.module == module
            if other not in found and (one.name in other.needs or shares):
                found.append(other)
    names = {plugin.name for plugin in found}
    ordered: dict[str, Plugin] = {}

    def add(plugin: Plugin, on_the_way: frozenset[str]) -> None:
        for other in found:
            if other.name in plugin.needs & names - on_the_way:
                add(other, on_the_way | {other.name})
        ordered.setdefault(plugin.name, plugin)

    for plugin in found:
        add(plugin, frozenset({plugin.name}))
    return list(ordered.values())


class Reload:
    """One or several plugins that are loaded again. Used once, by the thread that loads.

    Args:
        olds: running plugins, those needed before who needs them (see :func:`dependents`).
        news: what takes their places.
        timeout: seconds for what runs in the old ones; it goes on after that beside the new ones.
    """

    def __init__(self, loader: Loader, olds: Sequence[Plugin], news: Sequence[Plugin], timeout: float) -> None:
        self._loader = loader
        self._hooks = loader.hooks
        self._timeout = timeout
        self._most = max(loader.imports.patience, timeout)  # for imports, and for a @load or @unload
        self._aside = Aside()
        self._pairs = list(zip(olds, news, strict=True))
        self._news = list(news)
        self._extended = {one.descriptor.extends for one in (*olds, *news)} - {None}
        self._before = {one: list(one.given) for one in loader.plugins.values()}
        for old, new in self._pairs:
            new.counters = old.counters

    def check(self) -> None:
        """Find the new code, make its authenticators, and import it in processes of its own, while the old runs.

        Raises:
            Refused: one of the new ones cannot be loaded.
        """
        for new in self._news:
            find_plugin(self._loader.root, new)
        described = {new.name: new.descriptor for new in self._news}
        others = [one.descriptor for one in self._loader.plugins.values() if one.name not in described]
        found = import_problems(self._loader.root, list(described.values()), others)
        for problem in [one for one in found if one.severity == "error"]:
            failed = next((new for new in self._news if str(new.descriptor.file) == problem.file), self._news[0])
            raise Refused(failed, problem)

    def run(self) -> None:
        """Load them.

        Raises:
            Refused: one of the new ones cannot be loaded; the old ones run on. If one of these could not be loaded
                again either, it is quarantined.
        """
        self._pause()
        try:
            self._drain(monotonic() + self._timeout)
            self._set_aside()
            self._loader.import_all(Batch(self._news, self._aside, reload=True, patience=self._most))
            for old, _ in reversed(self._pairs):
                self._unload(old)
            for old, new in self._pairs:
                exchange_hooks(self._hooks, new.module, old.module)
            for new in self._news:
                self._load(new)
            self._loader.share(self._news, filter(None, self._extended))
            if not self._loader.stopping:  # else all is ended already
                self._commit()
        except BaseException:
            if not self._loader.stopping:
                self._go_back()
            raise
        finally:
            self._loader.end_batch()

    def _pause(self) -> None:
        """Have what is not yet started wait for the new ones."""
        for old, new in self._pairs:
            old.become(State.RELOADING)
            old.actions.stop()
            self._loader.endpoints.hand_over(old, new)

    def _drain(self, deadline: float) -> None:
        for old, _ in self._pairs:
            running = len(old.workers.running()) + old.loop.running
            if running:
                log.info("plugin %s: its new code waits until %d calls of the old code have ended", old.name, running)
        for old, _ in self._pairs:
            old.workers.stop(max(0.0, deadline - monotonic()))
            old.loop.wait(max(0.0, deadline - monotonic()))

    def _unload(self, plugin: Plugin) -> None:
        self._loader.hook_calls.flush(1.0)  # its own hooks may be told of what has ended
        plugin.loaded = False
        run_unload(self._hooks, plugin, self._most)

    def _set_aside(self) -> None:
        reloaded = [one for pair in self._pairs for one in pair]
        others = modules_of(one for one in self._loader.plugins.values() if one not in reloaded and one.module)
        for one in reloaded:  # the new one's may be others
            if one.source is not None:
                self._aside.take(one.source.tops, one.source.module, others)

    def _commit(self) -> None:
        for _, new in self._pairs:
            new.become(State.RUNNING)
        for _, new in self._pairs:
            with blamed(new, "messaging", "url"):
                self._loader.endpoints.follow(new)
        for old, new in self._pairs:
            old.become(State.STOPPED)
            new.workers.start()
            new.actions.start(old.actions)
            if old.workers.running() or old.loop.running:
                left = len(old.workers.running()) + old.loop.running
                log.warning("plugin %s: reloaded; %d calls continue in the old code", old.name, left)
            self._loader.part(old)

    def _go_back(self) -> None:
        """Have the old ones run again: a new one could not be loaded."""
        loader = self._loader
        loader.plugins.update({old.name: old for old, _ in self._pairs})
        for _, new in reversed(self._pairs):
            if new.loaded:
                self._unload(new)
        self._aside.restore()
        for old, new in self._pairs:
            exchange_hooks(self._hooks, old.module, new.module)
        for plugin, given in self._before.items():
            plugin.given = given
        loader.end_batch()
        loader.build_apis()
        for old, new in self._pairs:
            new.become(State.STOPPED)
            try:
                if not old.loaded:
                    self._load(old)
            except Refused as again:
                loader.quarantine(again)
                new.workers.stop(0.0)
                continue
            old.workers = Workers(old.name, old.descriptor.threads)
            loader.endpoints.hand_over(new, old)
            old.become(State.RUNNING)
            loader.endpoints.follow(old)
            old.workers.start()
            stopped, old.actions = old.actions, Actions(old, old.container.clock)
            old.actions.start(stopped)
            new.workers.stop(0.0)

    def _load(self, plugin: Plugin) -> None:
        def load() -> None:
            run_load(self._hooks, plugin)
            plugin.loaded = True

        if not within(self._most, load, f"gofer-{plugin.name}-load", late=partial(self._unload, plugin)):
            text = f"its @load or a gofer_load hook has taken {self._most:g} s; given up"
            raise Refused.at(plugin, "main", "plugin", text)
