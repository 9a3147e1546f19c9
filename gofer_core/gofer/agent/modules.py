"""The modules of plugins in ``sys.modules``: marked when they are imported, and imported anew beside those in use.

What belongs to a plugin is its module, with all below it, and whatever else its distribution has put into the same
packages. A package that was there before any plugin was imported (Python's own, gofer's) is never touched.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import CodeType, ModuleType

from gofer.errors import PluginError

__all__ = ["Aside", "FromSource", "NotAgain", "drop", "family", "forget", "is_ours", "mark"]

_OURS = "__gofer_source__"
_FILE = "__gofer_file__"


def family(module: str, distribution: str | None) -> frozenset[str]:
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


def mark(tops: Collection[str], before: Collection[str], source: str) -> None:
    """Mark what was imported for a plugin's sake: modules of its family that were not there before."""
    for name, module in list(sys.modules.items()):
        if name in before or name.partition(".")[0] not in tops or not isinstance(module, ModuleType):
            continue
        vars(module)[_OURS] = source
        if _is_extension(module):
            vars(module).setdefault(_FILE, _stamp(module.__file__))


def drop(tops: Collection[str], before: Collection[str]) -> None:
    """Drop what an import that failed has left behind: modules of a plugin's family that were not there before."""
    _remove({name: sys.modules[name] for name in set(sys.modules) - set(before) if name.partition(".")[0] in tops})


def is_ours(module: ModuleType | None, source: str | None = None) -> bool:
    """Tell whether a module was imported for a plugin's sake (for that of ``source``)."""
    found = None if module is None else vars(module).get(_OURS)
    return found is not None and source in (None, found)


def forget(tops: Iterable[str], module: str, others: Iterable[str] = ()) -> dict[str, ModuleType]:
    """Have the next import of a plugin's code read it again; return what is forgotten by that.

    Args:
        others: the modules of other plugins; these, what is below them and the packages that they are in stay.
    """
    kept = tuple(others)
    gone: dict[str, ModuleType] = {}
    roots = [top for top in tops if is_ours(sys.modules.get(top))]
    if is_ours(sys.modules.get(module)):
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


class NotAgain(PluginError):
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
            tops: what is imported, beside what was set aside: see :func:`family`.

        Raises:
            NotAgain: within, an extension module is imported whose file has changed.
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
                raise NotAgain(f"the extension module {fullname} cannot be imported again: {why}")
            spec.loader = _Same(old)
        elif spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = FromSource(fullname, spec.loader.path)
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


class FromSource(importlib.machinery.SourceFileLoader):
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
