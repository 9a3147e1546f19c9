"""Whether the agent takes requests: not while a plugin does not run that its descriptor calls required.

An authorizer is such a plugin: without its hooks everybody could call everything. While the gate is closed no plugin is
attached to its queue, so requests wait at the broker; calls that run go on, and what has not started is given back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from gofer.agent.config import Descriptor, asks_to_be_required
from gofer.agent.core_hooks import RequestHooks
from gofer.agent.endpoints import Endpoints
from gofer.agent.failures import Refused
from gofer.agent.plugin import Plugin

__all__ = ["Gate"]

log = logging.getLogger(__name__)


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
