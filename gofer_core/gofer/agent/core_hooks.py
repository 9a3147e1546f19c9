"""What the agent itself does at each hook: plugins' hooks come before it, and may do otherwise."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.errors import PluginError
from gofer.hooks import hookimpl
from gofer.rmi.api import Target
from gofer.rmi.request import Received

__all__ = ["CoreHooks"]

log = logging.getLogger(__name__)


class CoreHooks:
    """The hooks of the core, registered first, so that they are called last.

    Args:
        look_up: finds a plugin of this agent by name; one whose descriptor is still to come is loaded first.
        extending: returns those whose descriptors say that they extend a plugin, and whose code is there.
        forwards: iterates over the running plugins that one forwards to and that accept that.
    """

    def __init__(
        self,
        look_up: Callable[[str], Plugin | None],
        extending: Callable[[Plugin], list[Plugin]],
        forwards: Callable[[Plugin], Iterable[Plugin]],
    ) -> None:
        self._look_up = look_up
        self._extending = extending
        self._forwards = forwards

    @hookimpl(trylast=True)
    def gofer_load(self, plugin: Plugin) -> None:
        """Run the plugin's own ``@load`` functions, in the order of their definition."""
        for target in plugin.api.loads:
            _run(plugin, target)

    @hookimpl(tryfirst=True)
    def gofer_unload(self, plugin: Plugin) -> None:
        """Run the plugin's own ``@unload`` functions, the last one first; all of them, whatever one raises."""
        for target in reversed(plugin.api.unloads):
            try:
                _run(plugin, target)
            except BaseException:  # a plugin's code, which may even try to end the process
                log.exception("plugin %s: its @unload %s failed", plugin.name, target.method)

    @hookimpl(trylast=True)
    def gofer_extend(self, plugin: Plugin) -> list[Plugin]:
        """Give a plugin the API of those whose descriptors say ``extends``."""
        return self._extending(plugin)

    @hookimpl(trylast=True)
    def gofer_find(self, name: str) -> Plugin | None:
        """Look among the plugins of this agent."""
        return self._look_up(name)

    @hookimpl(trylast=True)
    def gofer_route(self, plugin: Plugin, request: Received) -> Plugin | None:
        """Have what a plugin does not have answered by the first that it forwards to, that accepts that, and has it."""
        classname, method = request.classname, request.method
        if plugin.api.has(classname, method) or not plugin.descriptor.forward:
            return None
        return next((one for one in self._forwards(plugin) if one.api.has(classname, method)), None)

    @hookimpl(trylast=True)
    def gofer_call(self, invoke: Callable[[], Any]) -> Any:
        """Run the method."""
        return invoke()


def _run(plugin: Plugin, target: Target) -> None:
    """Run a function marked ``@load`` or ``@unload`` to its end; ``async def`` on the plugin's event loop."""
    value = target.invoke()
    if not inspect.iscoroutine(value):
        return
    ended = threading.Event()
    failed: list[BaseException] = []

    def done(_: Any, raised: BaseException | None) -> None:
        failed.extend([] if raised is None else [raised])
        ended.set()

    def dropped() -> None:
        text = f"{target.name}() was ended: the event loop of plugin {plugin.name!r} has been stopped"
        done(None, PluginError(text))

    if plugin.loop.run(value, done, dropped) is None:
        raise PluginError(f"{target.name}() cannot run: the event loop of plugin {plugin.name!r} has been stopped")
    ended.wait()
    if failed:
        raise failed[0]
