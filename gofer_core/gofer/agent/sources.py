"""Where a plugin's code is, importing it, and its modules in ``sys.modules``.

A plugin is named by its descriptor's base name or by ``[main] plugin``. That name is looked for, in this order, among
the installed ``gofer.plugins`` entry points; on the Python path, but only when ``plugin`` was given; and as
``<name>.py`` in the four plugin directories, the way of gofer 2. Looking imports nothing.

What belongs to a plugin is its module, with all below it, and whatever else its distribution has put into the same
packages; it is marked when it is imported, and imported anew beside what is in use. A package that was there before any
plugin was imported (Python's own, gofer's) is never touched.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType

from msgspec import Struct

from gofer.agent.config import Descriptor, Problem, find_plugin_dirs
from gofer.agent.failures import Broken, one_line
from gofer.entry_points import find, listed, load
from gofer.errors import PluginError
from gofer.ownership import distrust
from gofer.root import Root
from gofer.suggest import available, did_you_mean

__all__ = ["GROUP", "Aside", "Source", "forget", "import_source", "locate", "unused_files"]

log = logging.getLogger(__name__)

GROUP = "gofer.plugins"

#: The plugins of this project, and the distributions that have them.
_OURS = MappingProxyType({name: f"gofer-plugin-{name}" for name in ("audit", "demo", "package", "system", "virt")})

#: What is noted in a module that was imported for a plugin's sake: what for; and the file of an extension module.
_MARK, _FILE = "__gofer_source__", "__gofer_file__"


def _family(module: str, distribution: str | None) -> frozenset[str]:
    """Return the top-level names under which a plugin's code is: its module's, and its distribution's others."""
    found = {module.partition(".")[0]}
    if distribution is not None:
        try:
            files = importlib.metadata.files(distribution) or ()
        except importlib.metadata.PackageNotFoundError:  # uninstalled meanwhile, and its modules are still here
            files = ()
        for file in files:
            name = file.parts[0].partition(".")[0]
            if name.isidentifier() and (len(file.parts) > 1 or file.suffix in (".py", ".so")):
                found.add(name)
    return frozenset(found - {"gofer"})


def _mark(tops: Collection[str], before: Collection[str], source: str) -> None:
    """Mark what was imported for a plugin's sake: modules of its family that were not there before."""
    for name, module in list(sys.modules.items()):
        if name in before or name.partition(".")[0] not in tops or not isinstance(module, ModuleType):
            continue
        vars(module)[_MARK] = source
        if _is_extension(module):
            vars(module).setdefault(_FILE, _stamp(module.__file__))


def _drop(tops: Collection[str], before: Collection[str]) -> None:
    """Drop what an import that failed has left behind: modules of a plugin's family that were not there before."""
    _remove({name: sys.modules[name] for name in set(sys.modules) - set(before) if name.partition(".")[0] in tops})


def _is_ours(module: ModuleType | None, source: str | None = None) -> bool:
    """Tell whether a module was imported for a plugin's sake (for that of ``source``)."""
    found = None if module is None else vars(module).get(_MARK)
    return found is not None and source in (None, found)


def forget(tops: Iterable[str], module: str, others: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Have the next import of a plugin's code read it again; return what is forgotten by that.

    Args:
        others: the modules of other plugins; these, what is below them and the packages that they are in stay.
    """
    kept = tuple(others)
    gone: dict[str, ModuleType] = {}
    roots = [top for top in tops if _is_ours(sys.modules.get(top))]
    if _is_ours(sys.modules.get(module)):
        roots.append(module)
    for name, found in list(sys.modules.items()):
        if not isinstance(found, ModuleType) or not any(name == one or name.startswith(f"{one}.") for one in roots):
            continue
        if any(name == one or name.startswith(f"{one}.") or one.startswith(f"{name}.") for one in kept):
            continue
        gone[name] = found
    _remove(gone)
    importlib.invalidate_caches()
    return gone


class _NotAgain(PluginError):
    """The file of an extension module has changed, and a process loads it once; the text names the module."""


class Aside:
    """Modules of plugins that are set aside, so that their code can be imported anew; and put back if that fails.

    Used by one thread, which imports; others go on running the code of what is set aside. Extension modules are the
    same for the old and the new code.
    """

    def __init__(self) -> None:
        self._old: dict[str, ModuleType] = {}
        self._roots: list[tuple[frozenset[str], str, tuple[str, ...]]] = []

    def take(self, tops: frozenset[str], module: str, others: Sequence[str]) -> None:
        """Set the modules of one plugin aside. The arguments are those of :func:`forget`."""
        self._roots.append((tops, module, tuple(others)))
        self._old.update(forget(tops, module, others))

    def restore(self) -> None:
        """Put everything back as it was."""
        for tops, module, others in self._roots:
            forget(tops, module, others)
        sys.modules.update(self._old)
        for name, found in self._old.items():
            parent, _, child = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], child, found)

    def anew(self, tops: frozenset[str]) -> _Anew:
        """Return what is to be entered around the new imports: they read the code itself.

        Args:
            tops: what is imported, beside what was set aside: see :func:`_family`.

        Raises:
            _NotAgain: within, an extension module is imported whose file has changed.
        """
        extensions = {name: module for name, module in self._old.items() if _is_extension(module)}
        return _Anew(tops.union(*(tops for tops, _, _ in self._roots)), extensions)


class _Anew(importlib.abc.MetaPathFinder):
    """Finds the modules of a family, to be compiled from their source: what is cached may be of the same second."""

    def __init__(self, tops: Collection[str], extensions: Mapping[str, ModuleType]) -> None:
        self._tops = tops
        self._extensions = extensions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module as Python's own finder does; None: it is another's."""
        if fullname.partition(".")[0] not in self._tops:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        old = self._extensions.get(fullname)
        if spec is not None and old is not None:
            if vars(old).get(_FILE) != _stamp(spec.origin):
                why = "its file has changed, and a process loads it once; restart goferd for the new code"
                raise _NotAgain(f"the extension module {fullname} cannot be imported again: {why}")
            spec.loader = _Same(old)
        elif spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = _FromSource(fullname, spec.loader.path)
        return spec

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *raised: object) -> None:
        sys.meta_path.remove(self)


class _Same(importlib.abc.Loader):
    """Gives a module that there is already."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return it."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""
        module.__spec__ = self._spec


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the source, whatever is cached."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile a module's source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _remove(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        above = sys.modules.get(parent)
        # `from package import child` would find it there without looking for its code.
        if above is not None and vars(above).get(child) is module:
            delattr(above, child)


def _is_extension(module: ModuleType) -> bool:
    spec = module.__spec__
    return spec is not None and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader)


def _stamp(file: str | None) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file or "")
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Source(Struct, frozen=True):
    """Where a plugin's code is: a module on the Python path, or a file in a plugin directory.

    ``distribution``, ``version`` and ``entry`` (the entry point's name) are None unless it is installed under one.
    """

    module: str
    file: Path | None = None
    distribution: str | None = None
    version: str | None = None
    entry: str | None = None

    @property
    def tops(self) -> frozenset[str]:
        """The top-level names under which its code is."""
        return _family(self.module, self.distribution)

    def __str__(self) -> str:
        if self.distribution is not None:
            return f"{self.module} of {self.distribution} {self.version}"
        return str(self.file or self.module)


def locate(root: Root, descriptor: Descriptor) -> Source | Problem:
    """Find a plugin's code without importing any. A Problem says why there is none, and what to install."""
    name = descriptor.plugin or descriptor.entry
    try:
        found = find(GROUP, name)
    except PluginError as claimed:
        return _problem(descriptor, str(claimed))
    if found is not None:
        module, colon, attribute = found.value.partition(":")
        if colon:
            what = f"the entry point {name!r} of {found.distribution}"
            return _problem(descriptor, f"{what} names {attribute!r} in {module}; allowed: a module")
        return Source(module.strip(), None, found.distribution, found.version, name)
    known = sys.modules.get(name)
    from_file = known is not None and _is_ours(known, getattr(known, "__file__", None))
    if descriptor.plugin is not None and not from_file and _is_module(descriptor.plugin):
        return Source(descriptor.plugin)
    return _in_directories(root, descriptor, name)


def unused_files(root: Root, descriptor: Descriptor, source: Source) -> Problem | None:
    """Warn of files in the plugin directories that look as if they were the plugin, and are not; None: there are none.

    One who has installed a distribution beside an old file of the same name must be told which one answers.
    """
    name = descriptor.plugin or descriptor.entry
    unused = [file for one in root.plugin_dirs if (file := one / f"{name}.py") != source.file and file.is_file()]
    if "." in name or not unused:
        return None
    files = ", ".join(map(str, unused))
    instead = ""
    if source.file is None:
        instead = f", or, to use it, uninstall {source.distribution or f'module {source.module}'}"
    text = f"plugin {descriptor.name!r} is {source}; {files} is not used: remove it{instead}"
    return Problem("warning", str(descriptor.file), "main", "plugin", text)


def import_source(source: Source, aside: Aside | None = None) -> ModuleType:
    """Import a plugin's module, or return it if another plugin has imported it already.

    Args:
        aside: where its old code is, if it was imported before, or empty: the code is read, not what is compiled
            already.

    Raises:
        Broken: whatever its code raised, an end of the process included.
    """
    before = set(sys.modules)
    try:
        if aside is None:
            module = _import(source)
        else:
            with aside.anew(source.tops):
                module = _import(source)
    except _NotAgain as old:
        _drop(source.tops, before)
        raise Broken(str(old), one_line(old)[1]) from old
    except BaseException as raised:
        _drop(source.tops, before)
        raise Broken(*one_line(raised)) from raised
    _mark(source.tops, before, str(source))
    return module


def _is_module(name: str) -> bool:
    """Tell whether a module is on the Python path, without importing its packages as ``find_spec`` does."""
    path: list[str] | None = None
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or name == "__main__":
        return False
    for depth in range(1, len(parts) + 1):
        dotted = ".".join(parts[:depth])
        if depth == 1:
            found = importlib.util.find_spec(dotted)  # of a top-level name: imports nothing
        else:
            found = importlib.machinery.PathFinder.find_spec(dotted, path)
        if found is None:
            return dotted in sys.modules and depth == len(parts)
        path = list(found.submodule_search_locations) if found.submodule_search_locations is not None else []
    return True


def _in_directories(root: Root, descriptor: Descriptor, name: str) -> Source | Problem:
    directories, problems = find_plugin_dirs(root)
    if "." not in name:
        for directory in directories:
            file = directory / f"{name}.py"
            if not file.is_file():
                continue
            reason = distrust(file)
            if reason is not None:
                return Problem("error", str(file), None, None, f"is needed by {descriptor.file}, but {reason}")
            return Source(_module_name(name), file)
    if problems:
        return problems[0]
    known = {one.name for one in listed(GROUP)}
    installed = f"installed: {available(known)}"
    if name in _OURS:
        # Only of a name that is ours: anybody may publish a distribution under a name that somebody has mistyped.
        return _problem(descriptor, f"plugin {name!r} is not installed; {installed}. pip install {_OURS[name]}")
    hint = did_you_mean(name, known)
    if descriptor.plugin is not None:
        if name.endswith(".py"):
            hint = f" (a module is named without .py: {name.removesuffix('.py')})"
        text = f"{name!r} is neither an installed plugin nor a module on the Python path{hint}; {installed}"
        return _problem(descriptor, f"{text}. Correct the name, install the plugin, or set enabled = 0")
    text = f"no installed plugin is called {name!r}{hint}; {installed}"
    return _problem(descriptor, f"{text}. Rename this file, set [main] plugin = NAME, or set enabled = 0")


def _module_name(stem: str) -> str:
    """Choose the name that a file is imported under: its own, unless that would hide another module."""
    name = stem if stem.isidentifier() else "".join(c if c.isalnum() else "_" for c in stem)
    known = sys.modules.get(name)
    if known is not None:
        return name if _is_ours(known) else f"{name}_plugin"
    return f"{name}_plugin" if importlib.util.find_spec(name) is not None else name


def _import(source: Source) -> ModuleType:
    if source.file is not None:
        return _import_file(source)
    if source.entry is None:
        return importlib.import_module(source.module)
    try:
        module: ModuleType = load(GROUP, source.entry)
    except PluginError as failed:
        raise (failed.__cause__ or failed) from None  # its own exception says more to its author
    return module


def _import_file(source: Source) -> ModuleType:
    known = sys.modules.get(source.module)
    if known is not None:
        if _is_ours(known, str(source)):
            return known
        raise ImportError(f"a module {source.module} of another plugin is loaded already ({known.__file__})")
    loader = _FromSource(source.module, str(source.file))
    spec = importlib.util.spec_from_file_location(source.module, source.file, loader=loader)
    if spec is None or spec.loader is None:  # only for a suffix that Python does not know
        raise ImportError(f"{source.file} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[source.module] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[source.module]
        raise
    log.info(
        "%s: found in a plugin directory, as gofer 2 had it (module %s); make it a distribution with an entry point",
        source.file,
        source.module,
    )
    return module


def _problem(descriptor: Descriptor, text: str) -> Problem:
    return Problem("error", str(descriptor.file), "main", "plugin", text)
