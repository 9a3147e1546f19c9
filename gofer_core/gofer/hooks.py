"""Hook specifications: all that plugins can do to each other and to the agent.

A plugin's module implements a hook by a function of that name marked ``@hookimpl``; a misspelt one is a start-up error.
What a hook needs is handed to it; take only the arguments you use. All implementations of a hook are called, one after
another, whatever one of them raises. ``plugin`` is a :class:`gofer.agent.plugin.Plugin`,
``request`` a :class:`gofer.rmi.request.Received`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin
    from gofer.rmi.request import Received

__all__ = [
    "gofer_accept",
    "gofer_call",
    "gofer_extend",
    "gofer_facts",
    "gofer_find",
    "gofer_finished",
    "gofer_load",
    "gofer_route",
    "gofer_unload",
    "hookimpl",
    "hookspec",
]

hookspec = pluggy.HookspecMarker("gofer")
hookimpl = pluggy.HookimplMarker("gofer")


@hookspec
def gofer_load(plugin: Plugin) -> None:
    """Take part in a plugin's loading, before it is attached to its queue.

    Called by the thread that loads; the plugin's own ``@load`` functions come after all hooks. Raising quarantines that
    plugin; at a reload, its old code continues.
    """


@hookspec
def gofer_unload(plugin: Plugin) -> None:
    """Take part in a plugin's unloading, when its last call has ended.

    Called by a thread of its own, for a limited time; the plugin's own ``@unload`` functions come before all hooks.
    Raising is logged; the plugin is unloaded nevertheless, and the other hooks are called.
    """


@hookspec
def gofer_extend(plugin: Plugin) -> Any:
    """Give a plugin more API: return a module, a class, a function, another plugin, or a list of these; or None.

    Called by the thread that loads, after gofer_load. Raising, or a name that clashes, quarantines that plugin.
    """


@hookspec(firstresult=True)
def gofer_find(name: str) -> Plugin | None:
    """Find a plugin by name, for delegation: what ``Plugin.find`` asks. The first that is not None counts.

    Called by any thread. Raising reaches the caller of ``find``, unless another implementation finds the plugin;
    then it is logged.
    """


@hookspec
def gofer_accept(plugin: Plugin, request: Received) -> None:
    """Refuse a request before it is accepted, by raising: its caller gets Rejected, code ``hook.refused``.

    Called by one thread for each plugin that is called, for every request. One that takes longer than one second
    refuses that request, too; the agent names it in its log, and continues with the next request.
    """


@hookspec(firstresult=True)
def gofer_route(plugin: Plugin, request: Received) -> Plugin | None:
    """Name the plugin that answers a request. The first that is not None counts; None: the plugin itself.

    Called by a worker of the plugin; for ``async def`` by the one thread that begins these. Raising is that call's
    exception.
    """


@hookspec(firstresult=True)
def gofer_call(plugin: Plugin, request: Received, invoke: Any) -> Any:
    """Make the call: ``invoke()`` runs the method and returns its value. Wrap it to audit, time, trace or authorize.

    ``request.api`` names the target: its plugin, class, method and marks. A wrapper
    (``@hookimpl(wrapper=True)``) must ``yield`` once; raising before that is that call's exception, and the method is
    not run. Called by the worker that runs the method; for ``async def`` by the one thread that begins these, and the
    value is an awaitable.
    """


@hookspec
def gofer_finished(plugin: Plugin, request: Received, outcome: str, seconds: float) -> None:
    """Learn that a request has ended: ``value``, ``exception``, ``rejected``, ``cancelled`` or ``interrupted``.

    Called by a thread of each implementation's own, once a request, soon after its result was sent: one request after
    another, and nobody waits for it. Raising is logged.
    """


@hookspec
def gofer_facts() -> dict[str, Any] | None:
    """Say something of this machine: plain data under names of your own, which callers may choose machines by.

    Called by a thread of its own when the agent has joined a fleet, and again every ``[fleet] interval``. Raising is
    logged, and what it said before stands.
    """
