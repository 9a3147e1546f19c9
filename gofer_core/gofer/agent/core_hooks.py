"""What the agent itself does at each hook; and the hooks that requests go through.

Plugins' hooks come before the agent's own, and may do otherwise. A barrier stands before the hooks that decide about
calls. When the hooks of a required plugin go, it is closed, and no call is behind it: nobody gets past an authorizer.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.errors import NotAuthorized, PluginError
from gofer.hooks import hookimpl
from gofer.rmi.api import Target
from gofer.rmi.request import Received

__all__ = ["CoreHooks", "RequestHooks"]

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
    ended: Future[None] = Future()

    def done(_: Any, raised: BaseException | None) -> None:
        ended.set_exception(raised) if raised is not None else ended.set_result(None)

    stopped = f"the event loop of plugin {plugin.name!r} has been stopped"
    ended_early = PluginError(f"{target.name}() was ended: {stopped}")
    if plugin.loop.run(value, done, lambda: done(None, ended_early)) is None:
        raise PluginError(f"{target.name}() cannot run: {stopped}")
    ended.result()


class RequestHooks:
    """The hooks of an agent's requests. Any thread.

    Once ``guard`` was called, the calls that hooks decide about are counted; while the barrier is closed such a call
    waits for its hooks, and is refused when that takes too long.

    Args:
        hook: the hook caller of the agent's pluggy.PluginManager.
        timeout: seconds that a call waits.
    """

    def __init__(self, hook: Any, timeout: Callable[[], float]) -> None:
        self.gofer_accept = hook.gofer_accept
        self.gofer_call = self._decide = hook.gofer_call
        self.gofer_finished = hook.gofer_finished
        self.gofer_route = hook.gofer_route
        self._timeout = timeout
        self._changed = threading.Condition()
        self._closed = False
        self._passing: frozenset[str] = frozenset()
        self._inside = 0

    def guard(self) -> None:
        """Have calls pass the barrier from now on."""
        self.gofer_call = self._call

    def close(self, passing: Collection[str], timeout: float) -> bool:
        """Close the barrier, and wait until no call is inside; tell whether so.

        Args:
            passing: the names of plugins whose calls go on: their hooks stay until these have ended.
            timeout: seconds to wait.
        """
        with self._changed:
            self._closed, self._passing = True, frozenset(passing)
            return self._changed.wait_for(lambda: not self._inside, timeout)

    def open(self) -> None:
        """Open it again."""
        with self._changed:
            self._closed, self._passing = False, frozenset()
            self._changed.notify_all()

    def _call(self, plugin: Plugin, request: Received, invoke: Callable[[], Any]) -> Any:
        # What answers Admin must not wait.
        wait = 0.0 if request.for_admin else self._timeout()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._closed or plugin.name in self._passing, wait):
                raise NotAuthorized("not run: a plugin that is required for all calls does not run")
            self._inside += 1
        inside = True

        def leave() -> None:
            nonlocal inside
            with self._changed:
                if inside:
                    inside = False
                    self._inside -= 1
                    self._changed.notify_all()

        def decided() -> Any:
            leave()
            return invoke()

        try:
            return self._decide(plugin=plugin, request=request, invoke=decided)
        finally:
            leave()
