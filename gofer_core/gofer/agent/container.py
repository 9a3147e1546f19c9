"""The container of plugins: what is loaded, which connections that takes, and what plugins know of each other."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pluggy

from gofer import hooks as specifications
from gofer.agent.assembly import Refused, run_unload
from gofer.agent.attachment import Attachment
from gofer.agent.attachments import Attachments
from gofer.agent.choosing import chosen, usable
from gofer.agent.config import AgentConfig, Descriptor, Problem
from gofer.agent.core_hooks import CoreHooks
from gofer.agent.following import follow
from gofer.agent.gate import Gate
from gofer.agent.imports import Imports
from gofer.agent.links import Links
from gofer.agent.modules import forget
from gofer.agent.plugin import Plugin, State, current
from gofer.agent.reloading import Reload, company, see_off
from gofer.agent.rounds import Rounds
from gofer.agent.trust import may_reach
from gofer.errors import ConfigError, PluginError
from gofer.messaging.pool import Pool
from gofer.messaging.pool import pool as process_pool
from gofer.rmi.clock import Clock
from gofer.rmi.server.administration import Administration
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.hooks import HookCalls, call_each
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.nonces import Nonces
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.tombstones import Tombstones
from gofer.rmi.store import Database
from gofer.root import Root
from gofer.suggest import did_you_mean

__all__ = ["PluginContainer"]

log = logging.getLogger(__name__)

_TOLD = 1.0  # seconds at least for hooks to be told which requests have ended, before a plugin is unloaded


class PluginContainer:
    """All plugins of one agent.

    ``start``, ``load``, ``unload`` and ``stop`` do one thing at a time; everything else may be called by any thread. A
    plugin that fails is quarantined, which is one line in the log, and the others go on.
    """

    def __init__(
        self,
        root: Root,
        config: AgentConfig,
        pool: Pool = process_pool,
        *,
        imported: Callable[[str], object] = lambda name: None,
    ) -> None:
        """Keep the settings. Nothing runs yet.

        Args:
            imported: called with a plugin's name when its code has been imported, or has failed to be.
        """
        self.root = root
        self.config = config
        self.clock = Clock()
        self.links = Links(pool, self.clock, config.messaging.probe_interval)
        self.plugins: dict[str, Plugin] = {}
        self.hooks = pluggy.PluginManager("gofer")
        self.hooks.add_hookspecs(specifications)
        self.hooks.register(CoreHooks(self))
        self.registry = Registry()
        self.logins = Logins(config.pam.service)
        self.hook_calls = HookCalls()
        self.store = Database(root.lib / "ledger", lambda: root.ensure(root.lib / "ledger"))
        self.nonces = Nonces(self.store)
        self.persistence = Persistence(self.registry, self.store, self.nonces)
        self.tombstones = Tombstones(self.store)
        self.lifecycle = Lifecycle(
            self.registry, self.persistence, self.tombstones, self.clock, logins=self.logins, hooks=self.hook_calls
        )
        self.requests = Administration(
            registry=self.registry,
            store=self.store,
            persistence=self.persistence,
            lifecycle=self.lifecycle,
            tombstones=self.tombstones,
            clock=self.clock,
            plugins=self._running,
            find=self._channel_of,
        )
        #: Held while plugins are loaded and unloaded.
        self.changes = threading.RLock()
        self.rounds = Rounds(self)
        self.imports = Imports()
        self.imported = imported
        self.attachments = Attachments(self)
        self.gate = Gate(self)
        #: Plugins of which newer ones are loaded, and whose last calls have not ended.
        self.parting: set[Plugin] = set()
        self._stopping = threading.Event()

    # -- loading --------------------------------------------------------------------------------------------------

    def start(self, descriptors: Iterable[Descriptor], broken: Collection[str] = ()) -> None:
        """Load every plugin that is enabled, and attach those that have a broker. Never fails for a plugin's sake.

        Args:
            broken: the files of descriptors that cannot be used.
        """
        with self.changes:
            self.clock.start()
            every = list(descriptors)
            self.gate.expect(every, broken)
            self.gate.review(tell=False)
            self.rounds.load(every, anew=False)
            if not any(plugin.state is State.RUNNING for plugin in self.plugins.values()):
                log.warning("no plugin runs; descriptors are read from %s", self.root.descriptors)

    def load(self, what: Descriptor | str | Path) -> Plugin:
        """Load one plugin.

        Args:
            what: its descriptor, or the path of that; a relative one is under the root's descriptors.

        Raises:
            ConfigError: the descriptor cannot be used; one line for each reason.
            PluginError: one of that name is loaded already, it is not enabled, or it failed (and is quarantined).
        """
        with self._change():
            descriptor = what if isinstance(what, Descriptor) else usable(self.root, what)
            known = self.plugins.get(descriptor.name)
            if known is not None and known.state in (State.LOADING, State.RUNNING):
                raise PluginError(f"plugin {descriptor.name!r} is loaded already, from {known.descriptor.file}")
            self.gate.expect_one(descriptor)
            self.gate.review(tell=False)
            self.rounds.load([descriptor])
            plugin = self.plugins[descriptor.name]
            if plugin.error is not None:
                raise PluginError(plugin.error)
            return plugin

    def reload(self, which: str | Path) -> Plugin:
        """Load a plugin again: its descriptor and its code as they are now; and those that took something from it.

        What is accepted meanwhile waits for the new code; what runs ends in the old (within the shutdown timeout: after
        that the new code is used beside it).

        Args:
            which: its name, or the path of its descriptor.

        Raises:
            ConfigError: the descriptor cannot be used; nothing has changed.
            PluginError: there is no such plugin, or it is not enabled, or its new code failed: the old one runs on.
        """
        with self._change():
            known = chosen(self.root, self.plugins.values(), which)
            descriptor = usable(self.root, known.descriptor.file)
            if descriptor.name != known.name:
                text = f"its name is {descriptor.name!r} now; unload plugin {known.name!r}, and load it"
                raise ConfigError(str(Problem("error", str(descriptor.file), "main", "name", text)))
            if known.state is State.LOADING:
                raise PluginError(f"plugin {known.name!r} is being loaded")
            if known.state is not State.RUNNING:
                self.unload(known.name)
                return self.load(descriptor)
            return self.replace(known, {known.name: descriptor})

    def replace(self, known: Plugin, descriptors: Mapping[str, Descriptor]) -> Plugin:
        """Load a running plugin again, and those that go with it; ``changes`` is held.

        Args:
            descriptors: by their plugins' names, those that may have changed.

        Raises:
            PluginError: that failed, and the old code goes on.
        """
        olds = company(self.plugins.values(), known)
        now = {old.name: descriptors.get(old.name, old.descriptor) for old in olds}
        try:
            news = Reload(self, olds, now).run(self.config.main.shutdown_timeout)
        except Refused as refused:
            log.error("%s; it is not loaded again", refused.problem)
            for old in {known, self.plugins[refused.plugin.name]}:
                if old.state is State.RUNNING:
                    old.error, old.trace = str(refused.problem), refused.trace
            raise PluginError(str(refused.problem)) from refused
        finally:
            for name, descriptor in now.items():
                if self.plugins[name].descriptor == descriptor:
                    self.gate.expect_one(descriptor)
            self.gate.review()
        for new in news:
            log.info("plugin %s: loaded again from %s, %s", new.name, new.source, self.where(new))
        gc.collect()  # the old modules: they refer to themselves
        return self.plugins[known.name]

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Let one change be made at a time; those that consist of others make them within."""
        here = current()
        if here is not None and here.state is State.LOADING:
            raise PluginError(f"plugin {here.name!r} is being loaded: nothing can be loaded or unloaded by it now")
        with self.changes:
            yield

    @property
    def stopping(self) -> bool:
        """Whether the agent is being stopped: nothing is loaded any more."""
        return self._stopping.is_set()

    @property
    def pending(self) -> list[str]:
        """The names of plugins that are described, and whose loading has not begun."""
        return list(self.rounds.pending)

    def find(self, name: str) -> Plugin:
        """Return a plugin by its name or its module's; one whose descriptor is still to come is loaded first.

        Raises:
            PluginError: there is none.
        """
        found = self.seek(name)
        if found is None:
            raise PluginError(self.unknown(name))
        return found

    def seek(self, name: str) -> Plugin | None:
        """Do what ``find`` does; None: there is none."""
        given, raised = call_each(self.hooks.hook.gofer_find, {"name": name}, first=True)
        found: Plugin | None = given[0] if given else None
        if raised and found is None:
            raise raised[0].error
        for one in raised:
            log.error("hook %s failed for %r; another one has found that", one.implementation, name, exc_info=one.error)
        return found

    def unknown(self, name: str) -> str:
        """Say that there is no plugin of a name, and which there are."""
        known = ", ".join(sorted({*self.plugins, *self.rounds.pending})) or "none"
        return f"there is no plugin {name!r}{did_you_mean(name, self.plugins)}; there are: {known}"

    def look_up(self, name: str) -> Plugin | None:
        """Do what ``find`` does where no plugin's hook says otherwise; None: there is none."""
        for descriptor in list(self.rounds.pending.values()):
            if name in (descriptor.name, descriptor.plugin):
                self.rounds.begin(descriptor.name)
        present = self.present()
        plugin = next((one for one in present if one.name == name), None)
        if plugin is None:
            plugin = next((one for one in present if one.has_name(name)), None)
        if plugin is not None:
            self.imports.wait(plugin)
        return plugin

    def present(self) -> list[Plugin]:
        """Return all plugins as the code that runs here knows them: loaded again with it, they are new to it."""
        here = current()
        company = {} if here is None else here.company
        return [company.get(plugin.name, plugin) for plugin in list(self.plugins.values())]

    def quarantine(self, refused: Refused) -> None:
        """Take a plugin that failed out of everything, and say why."""
        plugin = refused.plugin
        log.error("%s", refused.problem)
        if refused.trace is not None:
            log.debug("plugin %s: quarantined:\n%s", plugin.name, refused.trace)
        self.end(plugin, State.QUARANTINED, str(refused.problem), refused.trace)

    # -- unloading ------------------------------------------------------------------------------------------------

    def unload(self, which: str | Path) -> None:
        """Unload one plugin: its running calls end first (within the shutdown timeout), what waits goes back.

        Args:
            which: its name, or the path of its descriptor.

        Raises:
            PluginError: there is no such plugin.
        """
        with self._change():
            plugin = chosen(self.root, self.plugins.values(), which)
            self.gate.pause([plugin.name])
            self.end(plugin, State.STOPPED, timeout=self.config.main.shutdown_timeout)
            del self.plugins[plugin.name]
            users = sorted(one.name for one in self.plugins.values() if plugin.name in one.needs)
            rest = f"; with what they took from it go on: {', '.join(users)}" if users else ""
            log.info("plugin %s: unloaded%s", plugin.name, rest)
            self.gate.review()

    def update(self, descriptors: Iterable[Descriptor], kept: Collection[str] = ()) -> None:
        """Follow the descriptors as they are now: unload what is gone, load what is new, do both for what has changed.

        What is quarantined is tried again.

        Args:
            kept: the files of descriptors that cannot be read; what they described goes on as it is.
        """
        with self._change():
            every = list(descriptors)
            names = {one.name for one in every}
            stay = [one.descriptor for one in self.plugins.values() if one.name not in names and self._stays(one, kept)]
            self.gate.expect([*every, *stay], kept)
            self.gate.review(tell=False)
            follow(self, every, kept)
            self.gate.review()

    def _stays(self, plugin: Plugin, kept: Collection[str]) -> bool:
        """Tell whether a plugin goes on whose descriptor is not among those that can be used."""
        file = plugin.descriptor.file
        return str(file) in kept or (file.parent != self.root.descriptors and file.exists())

    def stop(self, timeout: float) -> None:
        """Stop everything: take no new requests, and let running calls end within ``timeout`` seconds.

        The rest is left to the broker. Returns when all that is done; a plugin's own code may hold it up.
        """
        deadline = monotonic() + timeout
        self._stopping.set()
        self.imports.stop()
        for plugin in list(self.plugins.values()):
            plugin.actions.stop()
        ending = self.attachments.stop(deadline)
        # Whoever loads or unloads at the moment goes first, unless a plugin's code holds it up for too long.
        held = self.changes.acquire(timeout=max(0.0, deadline - monotonic()))
        try:
            for thread in ending + self.attachments.stop(deadline):
                thread.join()
            for plugin in list(self.plugins.values()):
                if not plugin.actions.wait(max(0.0, deadline - monotonic())):
                    log.warning("plugin %s: an action has not ended in time", plugin.name)
            for plugin in list(self.plugins.values()):
                self.end(plugin, State.STOPPED)
            for plugin in list(self.parting):
                plugin.forks.stop()
            self.clock.stop()
            self.store.stop()
            self.hook_calls.stop()
            self.requests.stop()
            self.lifecycle.stop()
        finally:
            if held:
                self.changes.release()

    def end(
        self,
        plugin: Plugin,
        state: State,
        error: str | None = None,
        trace: str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Take a plugin out of everything.

        Args:
            timeout: seconds for what it has accepted to end; None: that is given back.
        """
        deadline = monotonic() + (timeout or 0.0)
        plugin.actions.stop()
        was = self.attachments.leave(plugin, state, deadline, for_good=timeout is not None)
        if was is State.RUNNING:
            plugin.workers.stop(max(0.0, deadline - monotonic()))
            if timeout is not None:
                plugin.loop.wait(max(0.0, deadline - monotonic()))
            plugin.forks.stop()
            self.hook_calls.flush(max(_TOLD, deadline - monotonic()))  # its own hooks may be among those
            run_unload(self.hooks, plugin, max(self.imports.patience, deadline - monotonic()))
            if timeout is None:
                plugin.loop.stop(0.0)  # not before: an @unload may be a coroutine
        module = None if plugin.source is None else sys.modules.get(plugin.source.module)
        plugin.dismiss(error, trace)
        if timeout is not None:
            see_off(plugin, self.parting)
        others = [one for one in list(self.plugins.values()) if one is not plugin]
        affected = [plugin]
        for one in affected:
            affected += [other for other in others if other not in affected and one in other.added]
        for _ in affected:  # each may be in the API of each
            for other in affected[1:]:
                other.withdraw(plugin)
        if module is not None and not any(one.module is module for one in others):
            if self.hooks.is_registered(module):
                self.hooks.unregister(module)
            if plugin.source is not None:
                forget(plugin.source.tops, plugin.source.module, self._modules(others))

    def _modules(self, plugins: Iterable[Plugin]) -> list[str]:
        return [plugin.source.module for plugin in plugins if plugin.source is not None]

    # -- queues ---------------------------------------------------------------------------------------------------

    def attach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.attach`` says."""
        self.attachments.attach(plugin)

    def detach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.detach`` says."""
        self.attachments.detach(plugin)

    def is_attached(self, plugin: Plugin) -> bool:
        """Tell what ``Plugin.attached`` does."""
        return self.attachments.has(plugin.name)

    def attachment(self, plugin: Plugin) -> Attachment | None:
        """Return where a plugin takes its requests; None: nowhere."""
        return self.attachments.of(plugin.name)

    def forwards(self, plugin: Plugin) -> Iterator[Plugin]:
        """Iterate over the running plugins that one forwards to and that accept that, in the order of its list.

        Waits for one that is being loaded again.
        """
        for other in self.accepting(plugin):
            now: Plugin | None = other
            if other.company and plugin.name not in other.company:  # it is being loaded again
                other.reloaded.wait(self.config.main.shutdown_timeout)
                now = self.plugins.get(other.name)
            if now is not None and now.state is State.RUNNING and may_reach(plugin, now):
                yield now

    def accepting(self, plugin: Plugin) -> Iterator[Plugin]:
        """Iterate over the plugins that one forwards to and that accept that, in the order of its list."""
        for name in plugin.descriptor.forward:
            for other in list(self.plugins.values()) if name == "*" else filter(None, [self.plugins.get(name)]):
                if other is not plugin and plugin.descriptor.forwards_to(other.descriptor):
                    yield other

    def _running(self) -> list[Plugin]:
        return [plugin for plugin in list(self.plugins.values()) if plugin.state is State.RUNNING]

    def _channel_of(self, name: str) -> Channel | None:
        attachment = self.attachments.of(name)
        return None if attachment is None else attachment.consumer.channel

    def where(self, plugin: Plugin) -> str:
        """Tell in words where a plugin takes its requests."""
        attachment = self.attachments.of(plugin.name)
        if attachment is None:
            waits = self.attachments.has(plugin.name)
            return "its queue waits for required plugins" if waits else "without a queue"
        return f"queue {attachment.address} at {attachment.link.connector.url}"
