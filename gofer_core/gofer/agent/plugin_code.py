"""A plugin's code: found, imported and checked; its hooks registered; what is marked ``@load`` and ``@unload`` run.

Each step succeeds, or says on one line why not.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Sequence
from time import monotonic
from types import ModuleType
from typing import Any

import pluggy

from gofer import hooks as specifications
from gofer.agent.config import Descriptor, Problem
from gofer.agent.core_hooks import CoreHooks
from gofer.agent.failures import Refused, blamed, within
from gofer.agent.plugin import Plugin
from gofer.agent.sources import Aside, Source, import_source, locate, unused_files
from gofer.errors import PluginError
from gofer.messaging.authenticators import make_authenticator
from gofer.rmi.server.hooks import Raised, call_each, named
from gofer.root import Root
from gofer.suggest import nearest

__all__ = [
    "ask_extensions", "authenticate", "check_hooks", "exchange_hooks", "find_plugin", "import_code", "locate_plugin",
    "run_load", "run_unload",
]  # fmt: skip

log = logging.getLogger(__name__)

_EXTEND = 5.0  # seconds for all hooks that extend one plugin
_LAST = 1.0  # seconds that each hook has at least when a plugin is unloaded, whatever those before it have taken


def find_plugin(root: Root, plugin: Plugin) -> None:
    """Find a plugin's code, and make its authenticator. Imports nothing of its own.

    Raises:
        Refused: there is none.
    """
    source = locate_plugin(root, plugin)
    if (unused := unused_files(root, plugin.descriptor, source)) is not None:
        log.warning("%s", unused)
    authenticate(plugin)


def locate_plugin(root: Root, plugin: Plugin) -> Source:
    """Find a plugin's code alone.

    Raises:
        Refused: there is none.
    """
    with blamed(plugin, "main", "plugin"):
        source = locate(root, plugin.descriptor)
    if isinstance(source, Problem):
        raise Refused(plugin, source)
    plugin.source = source
    return source


def authenticate(plugin: Plugin) -> None:
    """Make a plugin's authenticator alone.

    Raises:
        Refused: it cannot be made.
    """
    with blamed(plugin, "messaging", "authenticator"):
        plugin.authenticator = _authenticator(plugin.descriptor)


def import_code(hooks: pluggy.PluginManager, plugin: Plugin, aside: Aside | None = None) -> list[Problem]:
    """Import a plugin's module, check its hooks, and build its API. Returns warnings.

    Args:
        aside: see :func:`gofer.agent.sources.import_source`.

    Raises:
        Refused: any of that fails.
    """
    source = plugin.source
    assert source is not None  # noqa: S101 - it was found
    with plugin.entered():
        with blamed(plugin, "main", "plugin", f"module {source.module} cannot be imported"):
            module = import_source(source, aside)
        with blamed(plugin, "main", "plugin", f"module {source.module}"):
            uncalled = check_hooks(module)
            others = [one.__name__ for one in hooks.get_plugins() if inspect.ismodule(one)]
            plugin.expose(module, [name for name in others if name != module.__name__])
    return [Problem("warning", str(plugin.descriptor.file), "main", "plugin", text) for text in uncalled]


def exchange_hooks(hooks: pluggy.PluginManager, come: ModuleType | None, go: ModuleType | None = None) -> None:
    """Have the hooks of one module called, and those of another no more.

    First the new ones: a hook that refuses what is not allowed must not be missing, not for a moment.
    """
    if come is not None and not hooks.is_registered(come):  # two plugins may share it
        # By a name of its own, as the old module has the same.
        hooks.register(come, f"{come.__name__} {id(come):x}")
    if go is not None and go is not come and hooks.is_registered(go):
        hooks.unregister(go)


def check_hooks(module: ModuleType) -> list[str]:
    """Have pluggy check the hooks of a module, which registers none of them with the agent.

    Returns:
        For each hook of a submodule that is not in the module itself, and so is not called, what to do.

    Raises:
        PluginError: a hook of an unknown name or with unknown arguments; one without ``@hookimpl``, which would never
            be called; or one that is ``async def``, which nobody would await.
    """
    manager = pluggy.PluginManager("gofer")
    manager.add_hookspecs(specifications)
    known = [name for name in specifications.__all__ if name.startswith("gofer_")]
    for name, value in vars(module).items():
        ours = inspect.isfunction(value) and value.__module__ == module.__name__
        if name in known and ours and manager.parse_hookimpl_opts(module, name) is None:
            raise PluginError(f"{name} is not marked @hookimpl (from gofer.hooks), so it would never be called")
        # gofer_call returns what an `async def` method returns: something to be awaited.
        if name in known and name != "gofer_call" and inspect.iscoroutinefunction(value):
            raise PluginError(f"{name} is `async def`, so nothing in it would run; write `def {name}`")
    uncalled = []
    for name, one in list(sys.modules.items()):
        for hook in known if name.startswith(f"{module.__name__}.") and isinstance(one, ModuleType) else ():
            value = vars(one).get(hook)
            if getattr(value, "__module__", None) == name and value is not vars(module).get(hook):
                uncalled.append(f"hook {name}.{hook} is not called: import it into {module.__name__}")
    try:
        manager.register(module)
        manager.check_pending()
    except pluggy.PluginValidationError as wrong:
        unknown = [name for name in vars(manager.hook) if name not in known and not name.startswith("_")]
        near = nearest(unknown[0], known) if unknown else None
        hint = f"; did you mean {near}?" if near else ""
        text = " ".join(str(wrong).split())
        raise PluginError(f"{text}{hint} (hooks: {', '.join(known)})") from wrong
    return uncalled


def run_load(hooks: pluggy.PluginManager, plugin: Plugin) -> None:
    """Run what is to run when a plugin is loaded.

    Raises:
        Refused: some of it has failed.
    """
    with plugin.entered(), blamed(plugin, "main", "plugin", "its @load or a gofer_load hook failed"):
        _, raised = call_each(hooks.hook.gofer_load.get_hookimpls(), {"plugin": plugin}, last=CoreHooks)
        _raise_first(raised, plugin)


def run_unload(hooks: pluggy.PluginManager, plugin: Plugin, seconds: float) -> None:
    """Run what is to run when a plugin is unloaded. Of what fails, or takes longer, there is a line in the log.

    What raises or hangs keeps nothing else from being run.
    """
    deadline = monotonic() + seconds
    for number, one in enumerate(reversed(hooks.hook.gofer_unload.get_hookimpls())):

        def unload(one: Any = one) -> None:
            with plugin.entered():
                _, raised = call_each([one], {"plugin": plugin})
            if raised:
                raise raised[0].error

        own = isinstance(one.plugin, CoreHooks)
        what = f"plugin {plugin.name}: " + ("its @unload" if own else f"hook {named(one)}")
        left = seconds if number == 0 else max(_LAST, deadline - monotonic())
        try:
            if not within(left, unload, f"gofer-{plugin.name}-unload"):
                log.error("%s has taken %.3g s; gofer no longer waits for it", what, left)
        except BaseException:  # a plugin's code, which may even try to end the process; it is unloaded all the same
            log.exception("%s failed", what)


def ask_extensions(hooks: pluggy.PluginManager, plugin: Plugin) -> list[Any]:
    """Ask all hooks what they add to a plugin's API.

    Raises:
        Refused: one of them raised, or they have taken longer than they may.
    """
    given: list[Any] = []

    def ask() -> None:
        with plugin.entered():
            found, raised = call_each(hooks.hook.gofer_extend.get_hookimpls(), {"plugin": plugin})
        _raise_first(raised, plugin)
        given.extend(found)

    with blamed(plugin, "main", "plugin", "a gofer_extend hook failed"):
        if not within(_EXTEND, ask, f"gofer-{plugin.name}-extend"):
            raise PluginError(f"no answer in {_EXTEND:g} s")
    return [one for more in given for one in (more if isinstance(more, (list, tuple)) else [more])]


def _raise_first(raised: Sequence[Raised], plugin: Plugin) -> None:
    """Raise the first of what hooks have raised about a plugin; the others are logged."""
    for one in raised[1:]:
        log.error("plugin %s: hook %s failed, too", plugin.name, one.implementation, exc_info=one.error)
    if raised:
        raise raised[0].error


def _authenticator(descriptor: Descriptor) -> Any:
    """Make the authenticator that a descriptor names, of the section named like it; None: it names none."""
    name = descriptor.authenticator
    if name is None:
        return None
    settings = {}
    if name in descriptor.sections:
        section = descriptor.sections[name]
        settings = {key: section[key] for key in section}
    return make_authenticator(name, settings, descriptor.file.absolute().parent)
