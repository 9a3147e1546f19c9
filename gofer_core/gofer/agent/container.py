"""The container of plugins: what is loaded, which connections that takes, and what plugins know of each other."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import pluggy

from gofer import hooks as specifications
from gofer.agent.config import AgentConfig, Descriptor, Problem, not_trusted, read_agent, read_descriptor
from gofer.agent.core_hooks import CoreHooks, RequestHooks
from gofer.agent.endpoint import Endpoint
from gofer.agent.endpoints import Endpoints, Gate
from gofer.agent.failures import Refused
from gofer.agent.links import Links
from gofer.agent.loader import Loader
from gofer.agent.membership import Membership
from gofer.agent.plugin import Plugin, current
from gofer.agent.reload import Reload, dependents
from gofer.agent.request_services import RequestServices
from gofer.agent.rules import Rules
from gofer.agent.sharing import accepting, homes, may_reach, owners
from gofer.agent.sighup import decide, descriptors_of
from gofer.agent.states import State
from gofer.errors import ConfigError, PluginError
from gofer.messaging.pool import Pool
from gofer.messaging.pool import pool as process_pool
from gofer.rmi.api import Target
from gofer.rmi.clock import Clock
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.hooks import call_each
from gofer.root import Root
from gofer.suggest import available, did_you_mean

__all__ = ["PluginContainer"]

log = logging.getLogger(__name__)

#: Seconds, when the agent stops, for hooks to be told of the requests that have ended.
_TOLD = 5.0


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
        loader: type[Loader] = Loader,
    ) -> None:
        """Keep the settings. Nothing runs yet.

        Args:
            imported: called with a plugin's name when its code has been imported, or has failed to be.
            loader: what loads them.
        """
        self.root = root
        self.config = config
        self.plugins: dict[str, Plugin] = {}
        #: Who may call what. What is loaded or changed is in it first.
        self.rules = Rules(root, config.groups)
        self.clock = Clock()
        self.links = Links(pool, self.clock, config.messaging.probe_interval)
        self.hooks = pluggy.PluginManager("gofer")
        self.hooks.add_hookspecs(specifications)
        self.services = RequestServices(root, config.pam.service, self.clock, self._running, self._channel_of)
        self.requests = self.services.requests
        self.logins = self.services.logins
        self.store = self.services.store
        #: Held while plugins are loaded and unloaded.
        self.changes = threading.RLock()
        request_hooks = RequestHooks(self.hooks.hook, self._timeout)
        make = partial(
            Endpoint,
            config=self.config,
            links=self.links,
            services=self.services,
            hook=request_hooks,
            plugins=self.plugins,
            access=partial(getattr, self.rules, "access"),
        )
        self.endpoints = endpoints = Endpoints(self.plugins, request_hooks, make, self._timeout)
        #: What ``Plugin.attach``, ``Plugin.detach`` and ``Plugin.attached`` do.
        self.attach, self.detach, self.is_attached = endpoints.attach, endpoints.detach, endpoints.has

        def failed(refused: Refused) -> None:
            self.loader.quarantine(refused)

        self.gate = Gate(self.plugins, self.endpoints, request_hooks, failed)
        self.loader = loader(
            root,
            self.plugins,
            hooks=self.hooks,
            hook_calls=self.services.hook_calls,
            endpoints=self.endpoints,
            changes=self.changes,
            imported=imported,
            review=self.gate.review,
        )
        self.hooks.register(CoreHooks(self.loader.look_up, self.loader.extending, self.forwards))
        self.membership = Membership(
            config,
            self.plugins,
            endpoints=self.endpoints,
            links=self.links,
            clock=self.clock,
            facts=self.hooks.hook.gofer_facts,
        )
        self._reloading: Mapping[str, threading.Event] = {}

    # -- loading --------------------------------------------------------------------------------------------------

    def start(self, descriptors: Iterable[Descriptor], broken: Collection[str] = ()) -> None:
        """Load every plugin that is enabled, and attach those that have a broker. Never fails for a plugin's sake.

        Args:
            broken: the files of descriptors that cannot be used.
        """
        with self.changes:
            self.clock.start()
            every = list(descriptors)
            self.rules.take(every)
            self.rules.warn_of_groups(every)
            self.rules.close(broken, {one.name for one in every})
            self.rules.warn_of_closed()
            self.gate.expect(every, broken)
            self.gate.review(tell=False)
            self.loader.load([Plugin(self, one) for one in every], anew=False)
            if not self._running():
                log.warning("no plugin runs; descriptors are read from %s", self.root.descriptors)
            self.membership.start()

    def load(self, what: Descriptor | str | Path) -> Plugin:
        """Load one plugin.

        Args:
            what: its descriptor, or the path of that; a relative one is under the root's descriptors.

        Raises:
            ConfigError: the descriptor cannot be used; one line for each reason.
            PluginError: one of that name is loaded already, it is not enabled, or it failed (and is quarantined).
        """
        with self._change():
            descriptor = what if isinstance(what, Descriptor) else self._usable(what)
            known = self.plugins.get(descriptor.name)
            if known is not None and known.is_alive:
                raise PluginError(f"plugin {descriptor.name!r} is loaded already, from {known.descriptor.file}")
            self._read_access([descriptor])
            self.gate.expect_one(descriptor)
            self.gate.review(tell=False)
            self.loader.load([Plugin(self, descriptor)])
            plugin = self.plugins[descriptor.name]
            if plugin.error is not None:
                raise PluginError(plugin.error)
            return plugin

    def reload(self, which: str | Path) -> Plugin:
        """Load a plugin again: its descriptor and its code as they are now; and those that took something from it.

        What is accepted meanwhile waits for the new code; what runs ends in the old (within the shutdown timeout: after
        that the new code is used beside it). Who may call counts at once, whatever becomes of the code.

        Args:
            which: its name, or the path of its descriptor.

        Raises:
            ConfigError: the descriptor cannot be used; nothing has changed.
            PluginError: there is no such plugin, or it is not enabled, or its new code failed: the old one runs on.
        """
        with self._change():
            known = self._resolve(which)
            descriptor = self._usable(known.descriptor.file)
            if descriptor.name != known.name:
                text = f"its name is {descriptor.name!r} now; unload plugin {known.name!r}, and load it"
                raise ConfigError(str(Problem("error", str(descriptor.file), "main", "name", text)))
            if known.state is State.LOADING:
                raise PluginError(f"plugin {known.name!r} is being loaded")
            if not known.is_running:
                self.unload(known.name)
                return self.load(descriptor)
            self._read_access([descriptor])
            return self._replace(known, {known.name: descriptor})

    def _replace(self, known: Plugin, descriptors: Mapping[str, Descriptor]) -> Plugin:
        """Load a running plugin again, and its dependents; ``changes`` is held.

        Args:
            descriptors: by their plugins' names, those that may have changed.

        Raises:
            PluginError: that failed, and the old code goes on.
        """
        olds = dependents(self.plugins.values(), known)
        news = [Plugin(self, descriptors.get(old.name, old.descriptor)) for old in olds]
        reloaded = threading.Event()
        try:
            reload = Reload(self.loader, olds, news, self._timeout())
            reload.check()
            self._reloading = dict.fromkeys([new.name for new in news], reloaded)
            self.gate.pause(self._reloading)
            reload.run()
        except Refused as refused:
            log.error("%s; it is not reloaded", refused.problem)
            for old in {known, self.plugins[refused.plugin.name]}:
                if old.is_running:
                    old.error, old.trace = str(refused.problem), refused.trace
            raise PluginError(str(refused.problem)) from refused
        finally:
            self._reloading = {}
            reloaded.set()
            for new in news:
                if self.plugins[new.name].descriptor == new.descriptor:
                    self.gate.expect_one(new.descriptor)
            self.gate.review()
        for new in news:
            log.info("plugin %s: reloaded from %s, %s", new.name, new.source, self.endpoints.where(new.name))
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

    def _resolve(self, which: str | Path) -> Plugin:
        """Return the plugin of a name, or of a descriptor's path; a relative path is under the root's descriptors.

        Raises:
            PluginError: there is none; the text names those that there are.
        """
        found = self.plugins.get(which) if isinstance(which, str) else None
        if found is not None:
            return found
        if isinstance(which, Path) or "/" in which or which.endswith((".conf", ".json")):
            path = os.path.realpath(self.root.descriptors / which)
            for plugin in self.plugins.values():
                if os.path.realpath(plugin.descriptor.file) == path:
                    return plugin
            files = ", ".join(sorted(str(plugin.descriptor.file) for plugin in self.plugins.values())) or "none"
            raise PluginError(f"no plugin is loaded from {path}; descriptors in use: {files}")
        raise PluginError(self.unknown(which))

    def _usable(self, path: str | Path) -> Descriptor:
        """Read the descriptor of a plugin that is to be loaded, and log what is odd.

        Raises:
            ConfigError: it cannot be used; one line for each reason.
            PluginError: it does not switch its plugin on.
        """
        path = self.root.descriptors / path
        try:
            descriptor, problems = read_descriptor(self.root, path)
        except OSError as missing:
            raise ConfigError(f"{path}: cannot be read: {missing.strerror}") from None
        if descriptor is None:
            raise ConfigError("\n".join(str(one) for one in problems if one.severity == "error"))
        for one in problems:
            log.warning("%s", one)
        if not descriptor.enabled:
            raise PluginError(f"{path}: [main] enabled: is 0, so plugin {descriptor.name!r} is not loaded")
        return descriptor

    # -- finding --------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> list[str]:
        """The names of plugins that are described, and whose loading has not begun."""
        return list(self.loader.imports.pending)

    def seek(self, name: str) -> Plugin | None:
        """Return a plugin by its name or its module's; load it first if it is still to come. None: there is none."""
        given, raised = call_each(self.hooks.hook.gofer_find.get_hookimpls(), {"name": name}, first=True)
        found: Plugin | None = given[0] if given else None
        if raised and found is None:
            raise raised[0].error
        for one in raised:
            log.error("hook %s failed for %r; another one has found that", one.implementation, name, exc_info=one.error)
        return found

    def unknown(self, name: str) -> str:
        """Say that there is no plugin of a name, and which there are."""
        known = {*self.plugins, *self.pending}
        return f"there is no plugin {name!r}{did_you_mean(name, known)}; there are: {available(known)}"

    def forwards(self, plugin: Plugin) -> Iterator[Plugin]:
        """Iterate over the running plugins that one forwards to and that accept that, in the order of its list.

        Waits for one that is being loaded again, unless it is so together with this one.
        """
        for other in accepting(plugin, self.plugins):
            reloading = self._reloading.get(other.name)
            if reloading is not None and self._reloading.get(plugin.name) is None:
                reloading.wait(self._timeout())
            now = self.plugins.get(other.name)
            if now is not None and now.is_running and may_reach(plugin, now):
                yield now

    def check_added(self, plugin: Plugin, more: object) -> None:
        """Refuse what a running plugin adds to its API, if its callers would get past an authenticator by that.

        Raises:
            PluginError: they would.
        """
        for owner in owners(more, list(self.plugins.values())):
            if plugin.authenticator is None and not may_reach(plugin, owner):
                raise PluginError(not_trusted(plugin.descriptor, owner.descriptor, "is given the methods of"))

    # -- unloading ------------------------------------------------------------------------------------------------

    def unload(self, which: str | Path) -> None:
        """Unload one plugin: its running calls end first (within the shutdown timeout), what waits goes back.

        Args:
            which: its name, or the path of its descriptor.

        Raises:
            PluginError: there is no such plugin.
        """
        with self._change():
            plugin = self._resolve(which)
            self.gate.pause([plugin.name])
            self.loader.end(plugin, State.STOPPED, timeout=self._timeout())
            del self.plugins[plugin.name]
            self.loader.build_apis()
            users = sorted(one.name for one in self.plugins.values() if plugin.name in one.needs)
            rest = f"; these continue with what they took from it: {', '.join(users)}" if users else ""
            log.info("plugin %s: unloaded%s", plugin.name, rest)
            self.gate.review()

    def update(self, descriptors: Iterable[Descriptor], kept: Collection[str] = ()) -> None:
        """Follow the descriptors as they are now: load, reload and unload what :func:`decide` says.

        Who may call counts at once; where nothing else has changed, that is all.

        Args:
            kept: the files of descriptors that cannot be read; what they described goes on as it is.
        """
        with self._change():
            wanted = descriptors_of(descriptors, self.plugins.values(), self.root, kept)
            used = [plugin.descriptor for plugin in self.plugins.values()]  # one that cannot be read may be older
            self._read_access([one for one in wanted.values() if not any(one is old for old in used)])
            self.rules.close(kept, wanted)
            self.rules.warn_of_closed()
            self.gate.expect(wanted.values(), kept)
            self.gate.review(tell=False)
            changes = decide(wanted, self.plugins.values())
            for descriptor in changes.access:
                self.plugins[descriptor.name].follow(descriptor)
                log.info("plugin %s: who may call it has changed", descriptor.name)
            for name in changes.unload:
                self.unload(name)
            self.loader.load([Plugin(self, one) for one in changes.load])
            for name in changes.reload:
                plugin = self.plugins[name]
                if plugin.descriptor == wanted[name] or not plugin.is_running:
                    continue  # it was loaded again with another one already
                try:
                    self._replace(plugin, wanted)
                except PluginError:
                    log.debug("plugin %s runs on as it was", name)  # why, is an error in the log
            self.rules.forget({*(one.file for one in wanted.values()), *map(Path, kept)})
            self.gate.review()

    def _read_access(self, descriptors: Sequence[Descriptor]) -> None:
        """Have the rules of descriptors count, and the groups as they are now; if these cannot be read, as before."""
        config, problems = read_agent(self.root)
        errors = [one for one in problems if one.severity == "error" and one.section in (None, "groups")]
        for one in errors:
            log.error("%s; the groups stay as they were", one)
        self.rules.take(descriptors, None if errors else config.groups)
        self.rules.warn_of_groups(descriptors)

    def may_call(self, identity: str | None, plugin: Plugin, target: Target) -> bool:
        """Tell whether the rules allow that a caller calls a method at its plugin's own queue."""
        access = self.rules.access
        names = [plugin.name, *homes(target, self.plugins, access.modules)]
        return access.refusing(names, identity, target.namespace, target.method) is None

    def stop(self, timeout: float) -> None:
        """Stop everything: take no new requests, and let running calls end within ``timeout`` seconds.

        The rest is left to the broker. Returns when all that is done; a plugin's own code may hold it up.
        """
        deadline = monotonic() + timeout
        self.loader.stop()
        self.membership.stop()
        for plugin in list(self.plugins.values()):
            plugin.actions.stop()
        ending = self.endpoints.stop(deadline)
        # Whoever loads or unloads at the moment goes first, unless a plugin's code holds it up for too long.
        held = self.changes.acquire(timeout=max(0.0, deadline - monotonic()))
        try:
            for thread in ending + self.endpoints.stop(deadline):
                thread.join()
            for plugin in list(self.plugins.values()):
                if not plugin.actions.wait(max(0.0, deadline - monotonic())):
                    log.warning("plugin %s: an action has not ended in time", plugin.name)
            self.services.hook_calls.flush(min(_TOLD, max(0.0, deadline - monotonic())))
            for plugin in list(self.plugins.values()):
                self.loader.end(plugin, State.STOPPED)
            for plugin in list(self.loader.parting):
                plugin.forks.stop()
            self.services.stop()
        finally:
            if held:
                self.changes.release()

    # -- queues ---------------------------------------------------------------------------------------------------

    def open_requests(self, plugin: Plugin) -> int:
        """Tell what ``Plugin.pending`` does."""
        channel = self._channel_of(plugin.name)
        return 0 if channel is None else channel.open

    def _running(self) -> list[Plugin]:
        return [plugin for plugin in list(self.plugins.values()) if plugin.is_running]

    def _channel_of(self, name: str) -> Channel | None:
        endpoint = self.endpoints.of(name)
        return None if endpoint is None else endpoint.consumer.channel

    def _timeout(self) -> float:
        return self.config.main.shutdown_timeout
