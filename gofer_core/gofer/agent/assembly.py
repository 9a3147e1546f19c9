"""The steps by which a described plugin becomes one that can run. Each succeeds, or says on one line why not."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from types import ModuleType
from typing import Any

import pluggy

from gofer import hooks as specifications
from gofer.agent.bounded import within
from gofer.agent.config import Descriptor, Problem
from gofer.agent.core_hooks import CoreHooks
from gofer.agent.loading import Broken, import_source, locate, one_line, unused_files
from gofer.agent.modules import Aside
from gofer.agent.plugin import Plugin
from gofer.errors import GoferError, PluginError
from gofer.messaging.authenticators import make_authenticator
from gofer.rmi.server.hooks import Only, Raised, call_each, named
from gofer.root import Root

__all__ = [
    "Refused",
    "add_extension",
    "ask_extensions",
    "blamed",
    "check_hooks",
    "find_plugin",
    "import_code",
    "import_plugin",
    "run_load",
    "run_unload",
    "take_up",
]

log = logging.getLogger(__name__)

_HOOKS = frozenset(name for name in specifications.__all__ if name.startswith("gofer_"))
_EXTEND = 5.0  # seconds for all hooks that extend one plugin
_LAST = 1.0  # seconds that each hook has at least when a plugin is unloaded, whatever those before it have taken


class Refused(PluginError):
    """A plugin cannot run. ``problem`` is the line that says why; ``trace`` the traceback, if its code raised."""

    def __init__(self, plugin: Plugin, problem: Problem, trace: str | None = None) -> None:
        super().__init__(str(problem))
        self.plugin = plugin
        self.problem = problem
        self.trace = trace


@contextmanager
def blamed(plugin: Plugin, section: str, key: str, what: str = "") -> Iterator[None]:
    """Turn whatever is raised within into a Refused for this plugin, at this place of its descriptor.

    Everything, an end of the process included: what is done within is done by a plugin's code.
    """
    try:
        yield
    except Refused:
        raise
    except BaseException as raised:
        if isinstance(raised, Broken):
            words, trace = str(raised), raised.trace
        else:
            words, trace = one_line(raised)
            if isinstance(raised, GoferError):
                words = str(raised)  # it names what it is about; the class and the place would only be in the way
        if plugin.missed is not None and "'NoneType'" in words:  # what Plugin.find has given where there is none
            words += f" ({plugin.missed})"
        text = f"{what}: {words}" if what else words
        raise Refused(plugin, Problem("error", str(plugin.descriptor.file), section, key, text), trace) from raised


def import_plugin(root: Root, hooks: pluggy.PluginManager, plugin: Plugin, *, anew: bool = False) -> None:
    """Import a plugin's module, build its API, take up its hooks, and run what is to run when it is loaded.

    Args:
        anew: read the code itself, not what is compiled already: that may be of the same second.

    Raises:
        Refused: any of that fails.
    """
    find_plugin(root, plugin)
    import_code(hooks, plugin, Aside() if anew else None)
    run_load(hooks, plugin)


def find_plugin(root: Root, plugin: Plugin) -> None:
    """Find a plugin's code, and make its authenticator. Imports nothing of its own.

    Raises:
        Refused: there is none.
    """
    descriptor = plugin.descriptor
    with blamed(plugin, "main", "plugin"):
        source = locate(root, descriptor)
    if isinstance(source, Problem):
        raise Refused(plugin, source)
    plugin.source = source
    if (unused := unused_files(root, descriptor, source)) is not None:
        log.warning("%s", unused)
    with blamed(plugin, "messaging", "authenticator"):
        plugin.authenticator = _authenticator(descriptor)


def run_load(hooks: pluggy.PluginManager, plugin: Plugin) -> None:
    """Run what is to run when a plugin is loaded.

    Raises:
        Refused: some of it has failed.
    """
    with plugin.entered(), blamed(plugin, "main", "plugin", "its @load or a gofer_load hook failed"):
        _, raised = call_each(hooks.hook.gofer_load, {"plugin": plugin}, last=CoreHooks)
        _raise_first(raised, plugin)


def run_unload(hooks: pluggy.PluginManager, plugin: Plugin, seconds: float) -> None:
    """Run what is to run when a plugin is unloaded. Of what fails, or takes longer, there is a line in the log.

    What raises or hangs keeps nothing else from being run.
    """
    deadline = monotonic() + seconds
    for number, one in enumerate(reversed(hooks.hook.gofer_unload.get_hookimpls())):

        def unload(one: Any = one) -> None:
            with plugin.entered():
                _, raised = call_each(Only(one), {"plugin": plugin})
            if raised:
                raise raised[0].error

        own = isinstance(one.plugin, CoreHooks)
        what = f"plugin {plugin.name}: " + ("its @unload" if own else f"hook {named(one)}")
        left = seconds if number == 0 else max(_LAST, deadline - monotonic())
        try:
            if not within(left, unload, f"gofer-{plugin.name}-unload"):
                log.error("%s has taken %.3g s; nothing waits for it any more", what, left)
        except BaseException:  # a plugin's code, which may even try to end the process; it is unloaded all the same
            log.exception("%s failed", what)


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


def import_code(
    hooks: pluggy.PluginManager, plugin: Plugin, aside: Aside | None = None, *, hooked: bool = True
) -> None:
    """Import a plugin's module, build its API, and take up its hooks.

    Args:
        aside: see :func:`gofer.agent.loading.import_source`.
        hooked: False: the hooks are left as they are; its old code goes on running.

    Raises:
        Refused: any of that fails.
    """
    source = plugin.source
    assert source is not None  # noqa: S101 - it was found
    with plugin.entered():
        with blamed(plugin, "main", "plugin", f"module {source.module} cannot be imported"):
            module = import_source(source, aside)
        with blamed(plugin, "main", "plugin", f"module {source.module}"):
            check_hooks(module)
            others = [one.__name__ for one in hooks.get_plugins() if inspect.ismodule(one)]
            plugin.expose(module, [name for name in others if name != module.__name__])
            if hooked:
                take_up(hooks, module)


def take_up(hooks: pluggy.PluginManager, module: ModuleType) -> None:
    """Have the hooks of a module called; once, also when two plugins share it."""
    if not hooks.is_registered(module):
        # By a name of its own: while a module is exchanged, the old one's are called until the new one's are.
        hooks.register(module, f"{module.__name__} {id(module):x}")


def check_hooks(module: ModuleType) -> None:
    """Refuse a module whose hooks would never be called.

    Raises:
        PluginError: a hook of a name that there is none of, with arguments it does not have, or without ``@hookimpl``.
    """
    for name, value in vars(module).items():
        if not inspect.isfunction(value):
            continue
        marked: Any = getattr(value, "gofer_impl", None)
        if marked is None:
            if name in _HOOKS and value.__module__ == module.__name__:
                raise PluginError(f"{name} is not marked @hookimpl (from gofer.hooks), so it would never be called")
            continue
        hook = marked.get("specname") or name
        if hook not in _HOOKS:
            if marked.get("optionalhook"):
                continue
            near = difflib.get_close_matches(hook, _HOOKS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PluginError(f"there is no hook {hook}{hint} (hooks: {', '.join(sorted(_HOOKS))})")
        known = inspect.signature(getattr(specifications, hook)).parameters
        unknown = [one for one in inspect.signature(value).parameters if one not in known]
        if unknown:
            raise PluginError(f"hook {hook} has no argument {unknown[0]}; it has: {', '.join(known)}")


def ask_extensions(hooks: pluggy.PluginManager, plugin: Plugin) -> list[Any]:
    """Ask all hooks what they add to a plugin's API.

    Raises:
        Refused: one of them raised, or they have taken longer than they may.
    """
    given: list[Any] = []

    def ask() -> None:
        with plugin.entered():
            found, raised = call_each(hooks.hook.gofer_extend, {"plugin": plugin})
        _raise_first(raised, plugin)
        given.extend(found)

    with blamed(plugin, "main", "plugin", "a gofer_extend hook failed"):
        if not within(_EXTEND, ask, f"gofer-{plugin.name}-extend"):
            raise PluginError(f"no answer in {_EXTEND:g} s")
    return [one for more in given for one in (more if isinstance(more, (list, tuple)) else [more])]


def add_extension(plugin: Plugin, more: Any) -> None:
    """Add one extension to a plugin's API.

    Raises:
        Refused: it does not fit; that is the fault of the plugin whose descriptor asks for it, if one does, else of the
            one that is extended.
    """
    asked = isinstance(more, Plugin) and more.descriptor.extends == plugin.name
    with blamed(more if asked else plugin, "main", "extends" if asked else "plugin"):
        plugin += more
