"""What plugins share: methods of one in the API of another, and whose callers may reach these.

A plugin with an authenticator is not to be reached by callers whom that has not seen. Requests reach a plugin's methods
through the queue of another plugin when that forwards them, or has the methods in its API. The authenticator of that
queue is the one that is asked. So both plugins must have the same authenticator, or the descriptor of the one with the
methods must allow it by name. Code that adds another plugin's methods to a queue needs less: that queue must have some
authenticator. Code that calls another plugin's classes, or inherits from them, is not looked at.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gofer.agent.config import Problem, not_trusted
from gofer.agent.plugin import Plugin
from gofer.errors import PluginError
from gofer.rmi.api import API, Target

__all__ = ["accepting", "build_apis", "check_trust", "homes", "may_reach", "owners"]

log = logging.getLogger(__name__)

_BY_OTHERS = "reaches, by way of others, the methods of"

#: Told of a plugin, what does not fit into its API, and why.
Clash = Callable[[Plugin, Any, PluginError], object]


def build_apis(plugins: Mapping[str, Plugin], clash: Clash, modules: Iterable[str]) -> dict[str, API]:
    """Build the APIs of all plugins whose code is there: their own, and what code, hooks and descriptors add to each.

    What is added is found by its plugin's name: it goes when that is unloaded, and comes back with it.

    Args:
        modules: those of all plugins that the agent has seen. What a plugin imports from another one's is not exposed,
            whichever of them came first: its callers would get past the authenticator of the other one.
    """
    built: dict[str, API] = {}

    def build(plugin: Plugin) -> API:
        if plugin.name in built:  # perhaps not finished: two that extend each other
            return built[plugin.name]
        api = built[plugin.name] = plugin.own_api(modules)
        for more in [*plugin.added, *plugin.given]:
            source: Any = more
            if isinstance(more, Plugin):
                now = plugins.get(more.name)
                source = None if now is None or now.module is None else build(now)
                if source is None or not len(source):
                    continue
            try:
                api.add(source)
            except PluginError as wrong:
                clash(plugin, more, wrong)
        return api

    for plugin in plugins.values():
        if plugin.module is not None:
            build(plugin)
    return built


def accepting(plugin: Plugin, plugins: Mapping[str, Plugin]) -> Iterator[Plugin]:
    """Iterate over the plugins that one forwards to and that accept that, in the order of its list."""
    for name in plugin.descriptor.forward:
        for other in list(plugins.values()) if name == "*" else filter(None, [plugins.get(name)]):
            if other is not plugin and plugin.descriptor.forwards_to(other.descriptor):
                yield other


def may_reach(asked: Plugin, owner: Plugin) -> bool:
    """Tell whether the callers of one plugin's queue may reach another plugin's methods."""
    if owner.authenticator is None or owner.authenticator is asked.authenticator:
        return True
    if asked.name in (owner.name, *owner.descriptor.trust):
        return True
    made_alike = type(owner.authenticator) is type(asked.authenticator)
    return made_alike and owner.descriptor.same_authenticator(asked.descriptor)


def check_trust(plugin: Plugin, present: Iterable[Plugin]) -> Problem | None:
    """Say why a plugin must not be loaded: callers would reach methods that they may not reach. None: it may be.

    Args:
        present: the plugins beside it. Of those that are being loaded, too, each is checked by itself: of two that do
            not fit, the one is refused whose descriptor or code brings them together.
    """
    present = list(present)
    everybody = {one.name: one for one in (*present, plugin)}
    for other in present:
        way = None if other.name == plugin.name else next(_ways(plugin, other, everybody), None)
        if way is None:
            continue
        key, asked, owner, how = way
        text = not_trusted(asked.descriptor, owner.descriptor, how)
        if key != "plugin" or asked.authenticator is None:
            return Problem("error", str(plugin.descriptor.file), "main", key, text)
        log.warning("%s", Problem("warning", str(plugin.descriptor.file), "main", key, text))
    return None


def _ways(plugin: Plugin, other: Plugin, everybody: Mapping[str, Plugin]) -> Iterator[tuple[str, Plugin, Plugin, str]]:
    """Iterate over the ways by which callers of the one plugin reach methods of the other that they may not reach.

    Yields:
        The key in the descriptor of ``plugin`` that leads there; whose callers, whose methods, and how in words.
    """
    extends = plugin.descriptor.extends
    if not may_reach(other, plugin):
        if other.descriptor.forwards_to(plugin.descriptor):
            yield "accept", other, plugin, "forwards to"
        if _has(other, plugin) and (extends == other.name or other.is_running):
            yield "extends" if extends == other.name else "plugin", other, plugin, "has the methods of"
        if _reaches(other, plugin, everybody):
            yield "extends" if extends else "plugin", other, plugin, _BY_OTHERS
    if not may_reach(plugin, other):
        if other.is_running and plugin.descriptor.forwards_to(other.descriptor):
            yield "forward", plugin, other, "forwards to"
        if _has(plugin, other) and (other.descriptor.extends != plugin.name or other.is_running):
            yield "plugin", plugin, other, "has the methods of"
        if other.is_running and _reaches(plugin, other, everybody):
            yield "forward", plugin, other, _BY_OTHERS


def owners(more: Any, plugins: Iterable[Plugin]) -> Iterator[Plugin]:
    """Iterate over the plugins whose methods something has that is added to an API: a plugin, a class, a module."""
    module = more.__name__ if inspect.ismodule(more) else getattr(more, "__module__", None)
    for plugin in plugins:
        if isinstance(more, type(plugin)):
            if more.name == plugin.name:
                yield plugin
        elif isinstance(module, str) and plugin.has_name(module):
            yield plugin


def homes(target: Target, plugins: Mapping[str, Plugin], others: Mapping[str, str] | None = None) -> list[str]:
    """Name the plugins that a method is of: those whose modules have its class, or the function itself.

    Args:
        others: the modules of more plugins, by name: such as do not run, or are unloaded.
    """
    modules = {getattr(one, "__module__", None) for one in (target.cls, target.function)}
    named = [one for one in modules if isinstance(one, str)]
    found = [
        name for name, plugin in list(plugins.items()) if name == target.plugin or any(map(plugin.has_name, named))
    ]
    more = (others or {}).items()
    return found + [
        name
        for name, module in more
        if name not in found and any(one == module or one.startswith(f"{module}.") for one in named)
    ]


def _reaches(asked: Plugin, owner: Plugin, everybody: Mapping[str, Plugin]) -> bool:
    """Tell whether one's callers reach another's methods in the API of a third, or of a fourth that got them there."""
    holders = [owner]
    for holder in holders:
        for one in everybody.values():
            if one in holders or not (holder.descriptor.extends == one.name or _has(one, holder)):
                continue
            if (one is asked and holder.descriptor.extends) or asked.descriptor.forwards_to(one.descriptor):
                return True
            holders.append(one)
    return False


def _has(plugin: Plugin, other: Plugin) -> bool:
    """Tell whether one plugin has another one's methods in its API."""
    return any(True for more in [*plugin.added, *plugin.given] for _ in owners(more, [other]))
