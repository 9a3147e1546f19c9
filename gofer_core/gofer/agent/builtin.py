"""``Admin``: what every plugin's queue answers, even when all workers are busy."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, cast

from gofer.agent.config import Machine
from gofer.agent.plugin import Container, Plugin
from gofer.agent.sharing import accepting
from gofer.decorators import Action, remote
from gofer.errors import NotAuthorized
from gofer.rmi import description
from gofer.rmi.api import API, Target
from gofer.rmi.context import Context
from gofer.rmi.server.early_cancels import Owner

__all__ = ["admin_api", "help_text", "started"]


def admin_api(plugin: Plugin) -> API:
    """Make the API that holds ``Admin`` for the queue of one plugin."""

    here = _who(plugin)

    class Admin:
        """The agent itself. Answered by one thread for each plugin: nothing in here may wait.

        Where descriptors have rules in [access], help and describe tell only what the caller may call.
        """

        def __init__(self) -> None:
            allowed = plugin.descriptor.admin
            if allowed is not None and Context.current().identity not in allowed:
                raise NotAuthorized("Admin is for the identities that [main] admin names")

        @remote
        def hello(self, who: bool = False) -> str | dict[str, Any]:
            """Say that the agent is there; with ``who=True`` also which one: host, machine, root, pid, start, version.

            Two agents that read one queue answer in turn, and are told apart by that.
            """
            text = "Hello, I am gofer agent"
            return {"hello": text, **here} if who else text

        @remote
        def echo(self, text: object) -> object:
            """Return what was passed."""
            return text

        @remote
        def help(self) -> str:
            """Tell all plugins' classes, methods and functions as text."""
            return help_text(plugin.container, Context.current().identity)

        @remote
        def describe(self) -> dict[str, Any]:
            """Tell all plugins' APIs as JSON: signatures, JSON Schemas, docs, marks, versions.

            ``asked`` names the plugin of this queue, ``forwards`` of each the plugins that answer what it cannot.
            """
            identity = Context.current().identity
            plugins = [_describe(one, identity) for one in _running(plugin.container)]
            return {"asked": plugin.name, "plugins": plugins}

        @remote
        def cancel(self, sn: str | None = None, criteria: dict[str, Any] | None = None) -> list[str]:
            """Cancel requests of this plugin: one by its serial number, or those whose data meet criteria.

            Returns the serial numbers of those that were waiting or running. A number that has not arrived yet is
            remembered for a day, and its request cancelled when it comes. Where requests are signed, and [main] admin
            names nobody, only those of the caller's own identity are cancelled.
            """
            requests, context = plugin.container.requests, Context.current()
            everybodys = plugin.authenticator is None or plugin.descriptor.admin is not None
            owner = None if everybodys else Owner(context.identity)
            found = None if sn is None else requests.by_number(plugin, sn, owner=owner)
            if criteria is not None:
                found = requests.by_criteria(plugin, criteria, besides=context.sn, owner=owner, after=found)
            return cast("list[str]", found or [])  # which is what it is when it is sent

    api = API("Admin")
    api.add(Admin)
    return api


def help_text(container: Container, identity: str | None = None) -> str:
    """Write what a caller may call, plugin by plugin, laid out as gofer 2.12 does."""
    plugins = _running(container)
    lines = ["Plugins:"]
    for plugin in plugins:
        allowed = [target for target in plugin.api if container.may_call(identity, plugin, target)]
        lines += ["", f"  <plugin> {plugin.name}", "    Classes:"]
        for name in sorted({target.namespace for target in allowed if target.cls is not None}):
            methods = (target for target in allowed if target.namespace == name and target.cls is not None)
            lines += [f"      <class> {name}", "        Methods:"]
            lines += sorted(f"          {target.method}{_parameters(target.function)}" for target in methods)
        functions = {target.method: target.function for target in allowed if target.cls is None}
        lines += ["    Functions:", *(f"      {name}{_parameters(functions[name])}" for name in sorted(functions))]
    lines += ["", "Actions:"]
    lines += [
        f"  {_action(plugin, one)}"
        for plugin in plugins
        for one in plugin.api.actions
        if container.may_call(identity, plugin, one)
    ]
    return "\n".join(lines)


def started() -> str:
    """Return when this process was started, in ISO 8601."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _who(plugin: Plugin) -> dict[str, Any]:
    here = Machine.this()
    return {
        "host": here.host,
        "machine": here.key,
        "root": str(plugin.container.root.path),
        "pid": os.getpid(),
        "started": started(),
        "version": version("gofer-core"),
        "plugin": plugin.name,
        "queue": plugin.queue,
    }


def _describe(plugin: Plugin, identity: str | None) -> dict[str, Any]:
    source = plugin.source
    return {
        **description.of_api(plugin.api, lambda target: plugin.container.may_call(identity, plugin, target)),
        "forwards": [one.name for one in accepting(plugin, plugin.container.plugins) if one.is_running],
        "distribution": None if source is None else source.distribution,
        "version": None if source is None else source.version,
    }


def _running(container: Container) -> list[Plugin]:
    plugins = list(container.plugins.values())
    return sorted((plugin for plugin in plugins if plugin.is_running), key=lambda plugin: plugin.name)


def _action(plugin: Plugin, target: Target) -> str:
    mark = target.mark.action or Action()
    name = target.name if target.cls is None else f"{plugin.name}.{target.name}"
    when = "once" if mark.interval is None else str(timedelta(seconds=mark.interval))
    return f"{name}() {when if mark.cron is None else mark.cron}"


def _parameters(function: Callable[..., Any]) -> str:
    """Write a function's parameters with their defaults, without types."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"  # what is written in C tells none
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    try:
        return str(inspect.Signature(bare))
    except Exception:  # noqa: BLE001 - the repr of a default value may do anything
        return "(...)"
