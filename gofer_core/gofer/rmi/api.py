"""What a plugin exposes: namespaces (classes and modules) and their remote members."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

from gofer.decorators import DIRECT, FORK, Mark, mark_of, version_of
from gofer.errors import MemberNotFound, NamespaceNotFound, PluginError
from gofer.messaging.document import shown
from gofer.rmi.contract import Contract, constructor_of, contract_of
from gofer.suggest import available, did_you_mean

__all__ = ["API", "Target", "targets_of"]


@dataclass(frozen=True)
class Target:
    """One remote member, ready to be called.

    ``cls`` is None for a function of a module. ``member`` is what stands in the class (a function, staticmethod,
    classmethod) or the function. ``plugin`` names the plugin whose API it is in, ``namespace`` the class or module as
    callers write it, ``Dog@2`` for version 2 of a class.
    """

    plugin: str
    namespace: str
    method: str
    cls: type | None
    member: Any
    mark: Mark

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The plain function below ``member``. What stands in a module is called as it is: it may be a bound method."""
        function: Callable[..., Any]
        function = self.member if self.cls is None else getattr(self.member, "__func__", self.member)
        return function

    @cached_property
    def is_async(self) -> bool:
        """Whether it is ``async def``, also below a decorator's wrapper."""
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    @cached_property
    def model(self) -> str:
        """``DIRECT`` or ``FORK``."""
        return self.mark.model or DIRECT

    @cached_property
    def holds_no_thread(self) -> bool:
        """Whether it runs on the plugin's event loop: an ``async def`` that is not forked."""
        return self.is_async and self.model == DIRECT

    @cached_property
    def contract(self) -> Contract:
        """What its annotations say."""
        return contract_of(self.function, bound=self.cls is not None and not isinstance(self.member, staticmethod))

    @cached_property
    def constructor(self) -> Contract | None:
        """What the annotations of its class's constructor say; None: it is a function."""
        return None if self.cls is None else constructor_of(self.cls)

    @property
    def name(self) -> str:
        """``Class.method``, as logs and errors have it."""
        return f"{self.namespace}.{self.method}"

    def invoke(self) -> Any:
        """Call it without arguments, a method on a new instance; return its value (``async def``: a coroutine).

        Raises:
            TypeError: it returned something to be awaited, and is not ``async def``.
        """
        value = self.function() if self.cls is None else self.member.__get__(self.cls(), self.cls)()
        return self.coroutine(value) if inspect.isawaitable(value) else value

    def coroutine(self, value: Awaitable[Any]) -> Coroutine[Any, Any, Any]:
        """Return what it has returned, to be awaited, as a coroutine.

        Raises:
            TypeError: it is not ``async def``: nobody would await that.
        """
        if not self.is_async:
            close = getattr(value, "close", None)
            if callable(close):
                close()
            raise TypeError(f"{self.name}() returned a {type(value).__name__}: declare it `async def`")

        async def wait() -> Any:
            return await value

        return value if inspect.iscoroutine(value) else wait()


class API:
    """The namespaces of one plugin.

    Built and changed by the thread that loads; read by any thread. Only what carries the mark of ``@remote`` is in it,
    never a property nor a name that begins with ``_``. Methods are looked up in the class as Python does: inherited
    ones are exposed as decorated there, and an override without a decorator hides the inherited one. A class marked by
    ``@version`` is exposed as ``Dog@2``, and if it is the default as ``Dog``, too; not by its own name.

    ``loads``, ``unloads`` and ``actions`` are the functions of the module and its package that are so marked, and the
    methods so marked of the classes that are defined there, in the order of their definition. Those of a submodule that
    the module has no name for come last.
    """

    def __init__(self, plugin: str, names: Iterable[str] = ()) -> None:
        """Make an empty API. ``names`` are the namespaces under which functions of the module are called."""
        self.plugin = plugin
        self.names = tuple(dict.fromkeys(names)) or (plugin,)
        self.classes: Mapping[str, type] = {}
        self.functions: Mapping[str, Callable[..., Any]] = {}
        self.loads: tuple[Target, ...] = ()
        self.unloads: tuple[Target, ...] = ()
        self.actions: tuple[Target, ...] = ()
        self._targets: Mapping[str, Mapping[str, Target]] = {}

    @classmethod
    def of_module(cls, module: ModuleType, names: Iterable[str] = (), foreign: Iterable[str] = ()) -> API:
        """Collect what a module exposes: its classes and functions, also those it imported.

        Args:
            names: the first is the plugin's; the module's last component is always one more.
            foreign: modules of other plugins: what is theirs is used here (inherited from, delegated to), not exposed.

        Raises:
            PluginError: a class and the module share a name, and both have a member of the same name; or something is
                marked that makes no sense without ``@remote``, and is not ``@remote``.
        """
        last = module.__name__.rpartition(".")[2]
        given = [*names, last]
        api = cls(given[0], given)
        strange = tuple(foreign)
        api._take(api.plugin, [(name, value) for name, value in _members(module) if not _is_of(value, module, strange)])
        own = list(_own_marked(api.plugin, module, strange))
        for target in own:
            _check_marks(target)
        api.loads = tuple(target for target in own if target.mark.load)
        api.unloads = tuple(target for target in own if target.mark.unload)
        api.actions = tuple(target for target in own if target.mark.action is not None)
        return api

    def find(self, classname: str, method: str) -> Target:
        """Return a remote member.

        Raises:
            NamespaceNotFound: no such class or module, or not in that version.
            MemberNotFound: it has no such remote method or function.

        The text of both names what is missing, the nearest name, and the names that exist.
        """
        members = self._targets.get(classname)
        if members is None:
            raise NamespaceNotFound(self._no_namespace(classname))
        target = members.get(method)
        if target is None:
            hint = did_you_mean(method, members)
            raise MemberNotFound(
                method, f"{classname} has no remote method {shown(method)}{hint}. Available: {available(members)}"
            )
        return target

    def _no_namespace(self, classname: str) -> str:
        name, _, version = classname.partition("@")
        versions = self.versions(name)
        if versions:
            missing = f"has no version {shown(version)} of {name}" if version else f"has {name} in versions only"
            return f"plugin {self.plugin!r} {missing}. Available versions: {', '.join(versions)}"
        hint = did_you_mean(classname, self._targets)
        return (
            f"plugin {self.plugin!r} has no remote class or module {shown(classname)}{hint}. "
            f"Available: {available(self._targets)}"
        )

    def has(self, classname: str, method: str) -> bool:
        """Whether ``find`` would find it."""
        return self.look_up(classname, method) is not None

    def look_up(self, classname: str, method: str) -> Target | None:
        """Return what ``find`` would; None: it would find none."""
        members = self._targets.get(classname)
        return None if members is None else members.get(method)

    def versions(self, classname: str) -> list[str]:
        """Return the versions that there are of a class, as callers ask for them."""
        return sorted(name.partition("@")[2] for name in self.classes if name.startswith(f"{classname}@"))

    def __contains__(self, namespace: object) -> bool:
        return namespace in self._targets

    def __iter__(self) -> Iterator[Target]:
        """Iterate over all members; a function that has several namespaces comes once for each."""
        for members in self._targets.values():
            yield from members.values()

    def __len__(self) -> int:
        return sum(len(members) for members in self._targets.values())

    def get(self, name: str) -> Any:
        """Return the class or the function of this name, as the plugin's module has it; None when there is none."""
        found = self.classes.get(name)
        return self.functions.get(name) if found is None else found

    def add(self, other: object, plugin: str | None = None) -> None:
        """Take more into this API: another API, a module, a class, a function, or a list of these.

        Functions are then called under this plugin's names; those of another API under that plugin's names, too.

        Args:
            plugin: where it comes from, for errors; by default what can be told from ``other``.

        Raises:
            PluginError: nothing in it is remote, or a name is taken by something else: says which, and whose both are.
                Nothing is added then.
        """
        if isinstance(other, (list, tuple)):
            kept = (self.classes, self.functions, self._targets)
            try:
                for one in other:
                    self.add(one, plugin)
            except PluginError:
                self.classes, self.functions, self._targets = kept
                raise
            return
        aliases: Iterable[str] = ()
        if isinstance(other, API):
            source, aliases = plugin or other.plugin, other.names
            found = [*other.classes.items(), *other.functions.items()]
        elif isinstance(other, ModuleType):
            source, found = plugin or other.__name__, list(_members(other))
        elif callable(other):
            source = plugin or str(getattr(other, "__module__", "?"))
            found = [(name, other) for name in _names_of(getattr(other, "__name__", ""), other)]
        else:
            raise PluginError(f"plugin {self.plugin!r}: cannot take a {type(other).__name__} into its API")
        if not any(True for name, value in found for _ in targets_of(source, name, value)):
            shown = getattr(other, "__name__", None) or source
            raise PluginError(f"plugin {self.plugin!r}: {shown!r} has nothing that is marked @remote")
        self._take(source, found, aliases)

    def _take(self, source: str, found: Iterable[tuple[str, Any]], aliases: Iterable[str] = ()) -> None:
        """Add checked members by their names; all or nothing. ``source`` names the plugin that they come from."""
        classes, functions = dict(self.classes), dict(self.functions)
        table = {name: dict(members) for name, members in self._targets.items()}
        for name, value in found:
            targets = list(targets_of(self.plugin, name, value))
            if not targets:
                continue
            taken = classes.get(name, functions.get(name))
            if taken is not None and taken is not value:
                raise PluginError(
                    f"name clash: {name!r} of plugin {source!r} ({_home(value)}) and {name!r} of plugin "
                    f"{self.plugin!r} ({_home(taken)}) are not the same"
                )
            (classes if isinstance(value, type) else functions)[name] = value
            spaces = (name,) if isinstance(value, type) else dict.fromkeys((*self.names, *aliases))
            for space in spaces:
                for target in targets:
                    before = table.setdefault(space, {}).get(target.method)
                    if before is not None and before.function is not target.function:
                        raise PluginError(
                            f"name clash: {space}.{target.method} of plugin {source!r} and of plugin {self.plugin!r}"
                        )
                    table[space][target.method] = replace(target, namespace=space)
        self.classes, self.functions, self._targets = classes, functions, table


def _members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Iterate over the classes and functions of a module that may be exposed, by the names they are exposed by."""
    for key, value in vars(module).items():
        if not key.startswith("_") and (isinstance(value, type) or mark_of(value) is not None):
            for name in _names_of(key, value):
                yield name, value


def _names_of(name: str, value: Any) -> tuple[str, ...]:
    """Return the names by which something is exposed that the module has by this one."""
    version = version_of(value) if isinstance(value, type) else None
    if version is None:
        return (name,)
    return (version.namespace, version.of) if version.default else (version.namespace,)


def _home(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', '?')}"


def _is_of(value: Any, module: ModuleType, others: Iterable[str]) -> bool:
    """Tell whether a class or function was defined in one of the other modules (or packages), and not in this one."""
    home = f"{getattr(value, '__module__', '')}."
    return not home.startswith(f"{module.__name__}.") and any(home.startswith(f"{other}.") for other in others)


def targets_of(plugin: str, name: str, value: Any) -> Iterator[Target]:
    """Iterate over the remote members of a class, or over the one that a remote function is."""
    if not isinstance(value, type):
        mark = mark_of(value)
        if mark is not None and mark.remote and not name.startswith("_") and not isinstance(value, property):
            yield Target(plugin, name, name, None, value, mark)
        return
    seen: set[str] = set()
    for cls in value.__mro__:
        for method, member in vars(cls).items():
            if method in seen:
                continue
            seen.add(method)
            mark = None if method.startswith("_") or isinstance(member, (property, type)) else mark_of(member)
            if mark is not None and mark.remote:
                yield Target(plugin, name, method, value, member, mark)


def _own_marked(plugin: str, module: ModuleType, foreign: Iterable[str]) -> Iterator[Target]:
    """Iterate over all that is marked in any way, and that a module, or a module of its package, defines.

    That is what the module has by a name, and then what is left in those modules of its package that were imported.
    """
    package = f"{module.__name__}."
    others = [other for other in foreign if other.startswith(package)]
    below = [
        one
        for name, one in list(sys.modules.items())
        if name.startswith(package) and isinstance(one, ModuleType)
        if not any(f"{name}.".startswith(f"{other}.") for other in others)
    ]
    seen: set[int] = set()
    for where in (module, *below):
        for name, value in list(vars(where).items()):
            if id(value) not in seen and _is_in(value, package):
                seen.add(id(value))
                yield from _marked_members(plugin, value) if isinstance(value, type) else _marked(plugin, name, value)


def _is_in(value: Any, package: str) -> bool:
    try:
        return f"{getattr(value, '__module__', '')}.".startswith(package)
    except Exception:  # noqa: BLE001 - a proxy for what is not there now: no function, and no class
        return False


def _marked_members(plugin: str, cls: type, outer: str = "") -> Iterator[Target]:
    """Iterate over the marked methods of a class, and of the classes that are defined in it."""
    space = f"{outer}{cls.__name__}"
    for name, member in list(vars(cls).items()):
        if not isinstance(member, type):
            yield from _marked(plugin, name, member, space, cls)
        elif member.__qualname__ == f"{cls.__qualname__}.{name}":
            yield from _marked_members(plugin, member, f"{space}.")


def _marked(plugin: str, name: str, member: Any, space: str | None = None, cls: type | None = None) -> Iterator[Target]:
    mark = None if isinstance(member, property) else mark_of(member)
    if mark is not None:
        yield Target(plugin, space or plugin, name, cls, member, mark)


def _check_marks(target: Target) -> None:
    """Refuse what its author takes for remote, or for protected, and is not.

    Raises:
        PluginError: there is something like that.
    """
    mark = target.mark
    if mark.remote:
        return
    if mark.action is not None and mark.model == FORK:
        raise PluginError(f"@action on {target.name}: actions run in the agent's process; @fork is for calls")
    idle = [f"@{mark.model}"] if mark.model is not None and mark.action is None else []
    idle += ["@once"] if mark.once else []
    idle += ["@user, or @pam,"] if mark.logins else []
    idle += [f"@{name}" for name in ("read_only", "destructive", "idempotent") if getattr(mark, name)]
    if idle:
        raise PluginError(f"{idle[0]} on {target.name}: it is for remote methods, and this one has no @remote")
