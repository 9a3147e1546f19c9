"""Where the plugins of an agent take their requests, and whether they take any.

A plugin has at most one endpoint, and others that it is leaving. The gate is closed while a required plugin does not
run: an authorizer is one, and without its hooks everybody could call everything. Then no plugin is attached to its
queue, so requests wait at the broker. Calls that run go on; the broker gets back what has not started.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from time import monotonic

from gofer.agent.config import Descriptor, asks_to_be_required
from gofer.agent.core_hooks import RequestHooks
from gofer.agent.endpoint import Endpoint
from gofer.agent.failures import Refused, blamed
from gofer.agent.plugin import Plugin
from gofer.agent.sharing import check_trust
from gofer.agent.states import State
from gofer.errors import PluginError
from gofer.messaging.url import broker_of

__all__ = ["Endpoints", "Gate"]

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for a broker that is to take back what was not started


class Endpoints:
    """The endpoints of one container, by their plugins' names. Any thread.

    Args:
        plugins: those of the agent, by name.
        hooks: what the requests go through.
        make: makes the endpoint of a plugin.
        timeout: returns the seconds that calls have to end.
    """

    def __init__(
        self,
        plugins: Mapping[str, Plugin],
        hooks: RequestHooks,
        make: Callable[[Plugin], Endpoint],
        timeout: Callable[[], float],
    ) -> None:
        self._plugins = plugins
        self._hooks = hooks
        self._make = make
        self._timeout = timeout
        self._lock = threading.Lock()  # held for a moment only
        self._at: dict[str, Endpoint] = {}
        self._leaving: set[Endpoint] = set()
        self.stopping = False
        #: Whether nothing is attached for the moment; and what will be when that is over.
        self.closed = False
        self._held: dict[str, None] = {}

    def has(self, name: str) -> bool:
        """Tell whether a plugin is attached, or will be when requests are taken again."""
        return name in self._at or name in self._held

    def of(self, name: str) -> Endpoint | None:
        """Return the endpoint of a plugin; None: it has none."""
        return self._at.get(name)

    def where(self, name: str) -> str:
        """Tell in words where a plugin takes its requests."""
        endpoint = self._at.get(name)
        if endpoint is None:
            return "its queue waits for required plugins" if name in self._held else "without a queue"
        return f"queue {endpoint.address} at {endpoint.link.connector.url}"

    def wait(self, seconds: float) -> None:
        """Wait until the broker of each has answered or cannot be reached, so many seconds at most."""
        deadline = monotonic() + seconds
        for endpoint in list(self._at.values()):
            endpoint.wait(deadline)

    # -- all at once: while a required plugin does not run ------------------------------------------------------------

    def close(self, passing: Collection[str] = ()) -> None:
        """Take no requests for any plugin: what runs goes on, what has not started is given back. Until ``open``.

        Returns when the hooks have decided about all calls that have started.

        Args:
            passing: the names of plugins whose calls end before their hooks go.
        """
        with self._lock:
            if self.closed or self.stopping:
                return
            self.closed = True
            suspended = list(self._at.values())
            self._held.update(dict.fromkeys(self._at))
            self._at.clear()
            self._leaving.update(suspended)
            for endpoint in suspended:
                endpoint.suspend()
        if not self._hooks.close(passing, _PATIENCE):
            log.warning("hooks have not decided about all calls in %g s; gofer no longer waits for them", _PATIENCE)
        for endpoint in suspended:
            self._retire(endpoint)

    def open(self, first: Collection[str], failed: Callable[[Refused], object]) -> list[Plugin]:
        """Attach what is held, and return it.

        Args:
            first: the names of those to begin with.
            failed: told of a plugin that cannot be attached.
        """
        attached = []
        with self._lock:
            self.closed = False
            names = sorted(self._held, key=lambda name: name not in first)
            self._held.clear()
            leaving = list(self._leaving)
        self._hooks.open()
        for endpoint in leaving:
            endpoint.given_back.wait(_PATIENCE)  # or it would be in nobody's hands
        for name in names:
            plugin = self._plugins.get(name)
            if plugin is None or not plugin.is_running:
                continue
            try:
                with blamed(plugin, "messaging", "url"):
                    self.attach(plugin)
            except Refused as refused:
                failed(refused)
            else:
                attached.append(plugin)
        return attached

    # -- one plugin ---------------------------------------------------------------------------------------------------

    def attach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.attach`` says."""
        with self._lock:
            if plugin.state is State.LOADING:
                plugin.wants_queue = True
                return
            if not plugin.is_running or self.stopping:
                raise PluginError(f"plugin {plugin.name!r} cannot be attached: it is {plugin.state.value}")
            if self.closed:
                self._held[plugin.name] = None
                return
            running = [one for one in self._plugins.values() if one.is_running]
            if (problem := check_trust(plugin, running)) is not None:  # its code may have set another authenticator
                raise Refused(plugin, problem)
            before = self._at.get(plugin.name)
            if before is not None and before.serves(plugin):
                before.follow(plugin)  # it may have another authenticator
                return
            self._refuse_shared(plugin)
            endpoint = self._at[plugin.name] = self._make(plugin)
            spared = [one for one in self._leaving if one.has_queue_of(endpoint)]
            if before is not None:
                self._leaving.add(before)
            endpoint.start()
        for one in spared:  # it would empty and delete the queue
            _in_background(one, one.spare)
        if before is not None:
            log.info("plugin %s: attached to %s; it was at %s", plugin.name, endpoint.address, before.address)
            self._retire(before)

    def detach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.detach`` says."""
        with self._lock:
            if plugin.state is State.LOADING:
                plugin.wants_queue = False
                return
            endpoint = self._take_out(plugin.name)
        if endpoint is None:
            return
        deadline = monotonic() + self._timeout()

        def leave(endpoint: Endpoint = endpoint) -> None:
            if endpoint.queue.managed != 2:
                endpoint.stop(deadline)
            elif not endpoint.leave(deadline, detached=True):
                endpoint.retire()
            self._forget(endpoint)

        _in_background(endpoint, leave)

    def leave(self, plugin: Plugin, deadline: float, *, for_good: bool) -> None:
        """Take a plugin that runs no more from its queue.

        Args:
            for_good: what was accepted is finished; else it is given back.
        """
        with self._lock:
            endpoint = self._take_out(plugin.name)
        if endpoint is None:
            return
        if not for_good:
            endpoint.stop(deadline)
        elif not endpoint.leave(deadline):
            self._retire(endpoint)
            return
        self._forget(endpoint)

    def hand_over(self, old: Plugin, new: Plugin) -> None:
        """Have the workers of a plugin that is loaded again run what waits for those of the old one, and what comes."""
        with self._lock:
            mine = [one for one in (*self._at.values(), *self._leaving) if one.name == old.name]
        for endpoint in mine:
            endpoint.hand_over(old, new)
        old.workers.hand_over(new.workers)  # what came another way, or comes late

    def follow(self, new: Plugin) -> None:
        """Serve a plugin that was loaded again, and runs: at its queue if that is the same, else at its new one.

        Raises:
            Refused, ConfigError, AdapterError: it cannot be attached.
        """
        with self._lock:
            leaving = [one for one in self._leaving if one.name == new.name]
            present = self._at.get(new.name)
        if new.wants_to_attach:
            self.attach(new)
        else:
            with self._lock:
                left = self._take_out(new.name)
            if left is not None:
                self._retire(left)
        for one in leaving if present is None else [*leaving, present]:
            if one is not self._at.get(new.name):
                one.follow(new)  # what it has accepted is the new one's, too

    def stop(self, deadline: float) -> list[threading.Thread]:
        """Stop all at the same time, each in a thread of its own; nothing is attached any more. May be repeated."""
        with self._lock:
            self.stopping = True
            endpoints = [*self._at.values(), *self._leaving]
            self._at.clear()
            self._leaving.clear()
        return [_in_background(one, lambda one=one: one.stop(deadline)) for one in endpoints]  # type: ignore[misc]  # mypy cannot infer a lambda's default

    def _take_out(self, name: str) -> Endpoint | None:
        """Have a plugin leave its queue, with the lock held; return its endpoint, if it has one."""
        self._held.pop(name, None)
        endpoint = self._at.pop(name, None)
        if endpoint is not None:
            self._leaving.add(endpoint)
        return endpoint

    def _refuse_shared(self, plugin: Plugin) -> None:
        """Refuse a queue that another plugin reads: each would get requests that are for the other."""
        for other in list(self._at.values()):
            if other.name == plugin.name or plugin.url is None or other.queue.name != plugin.uuid:
                continue
            if broker_of(plugin.url) == broker_of(other.link.connector.url):
                text = f"{plugin.uuid!r} is the queue of plugin {other.name!r} ({other.plugin.descriptor.file})"
                raise Refused.at(plugin, "model", "queue", f"{text}; allowed: one plugin of an agent for each queue")

    def _retire(self, endpoint: Endpoint) -> None:
        """Have an endpoint that is left end when all that it has accepted has."""

        def retire() -> None:
            endpoint.retire()
            self._forget(endpoint)

        _in_background(endpoint, retire)

    def _forget(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._leaving.discard(endpoint)


def _in_background(endpoint: Endpoint, work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name=f"gofer-{endpoint.name}-stop", daemon=True)
    thread.start()
    return thread


class Gate:
    """The gate of one container. All but ``reasons`` is for the thread that loads.

    Args:
        failed: told of a plugin that cannot be attached when the gate opens.
    """

    def __init__(
        self,
        plugins: Mapping[str, Plugin],
        endpoints: Endpoints,
        hooks: RequestHooks,
        failed: Callable[[Refused], object],
    ) -> None:
        self._plugins = plugins
        self._endpoints = endpoints
        self._hooks = hooks
        self._failed = failed
        self._required: dict[str, Path] = {}  # names of plugins, and their descriptors
        self._broken: tuple[Path, ...] = ()
        self._told: list[str] = []

    def expect(self, descriptors: Iterable[Descriptor], broken: Collection[str] = ()) -> None:
        """Require what all descriptors say that there are now.

        Args:
            broken: the files of descriptors that cannot be used. What they ask for is found out as far as it can be.
        """
        self._required = {}
        self._broken = tuple(path for path in map(Path, sorted(broken)) if asks_to_be_required(path))
        for descriptor in descriptors:
            self.expect_one(descriptor)

    def expect_one(self, descriptor: Descriptor) -> None:
        """Require, or no longer require, what one descriptor says."""
        self._required.pop(descriptor.name, None)
        self._broken = tuple(path for path in self._broken if path != descriptor.file)
        if descriptor.enabled and descriptor.required:
            self._required[descriptor.name] = descriptor.file
            self._hooks.guard()

    def reasons(self) -> list[str]:
        """Say in words why no requests are taken; empty: they are."""
        plugins = dict(self._plugins)
        found = []
        for name in self._required:
            plugin = plugins.get(name)
            if plugin is None:
                found.append(f"required plugin {name!r} is not loaded")
            elif not plugin.is_running:
                why = f" ({plugin.error})" if plugin.error else ""
                found.append(f"required plugin {name!r} is {plugin.state.value}{why}")
        running = [plugin.descriptor.file for plugin in plugins.values() if plugin.is_running]
        found += [f"{path} cannot be used, and has required = 1" for path in self._broken if path not in running]
        return found

    def pause(self, names: Iterable[str]) -> None:
        """Close the gate before plugins stop running, if one of them is required. ``review`` follows."""
        going = set(names)
        if going & self._required.keys():
            self._endpoints.close(going)

    def review(self, *, tell: bool = True) -> None:
        """Close the gate or open it, as the plugins are now.

        Args:
            tell: False: more is loaded at once, so that there is nothing to complain of yet.
        """
        while not self._endpoints.stopping:
            reasons = self.reasons()
            if reasons:
                self._endpoints.close()
                if tell and reasons != self._told:
                    self._told = reasons
                    log.error("no plugin takes requests: %s", "; ".join(reasons))
                return
            if not self._endpoints.closed:
                return
            attached = self._endpoints.open(self._required, self._failed)  # one that fails may be a required one
            if self._told and not self.reasons():
                self._told = []
                log.info("all required plugins run; requests are taken: %s", ", ".join(one.name for one in attached))
