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
from collections.abc import Collection, Iterable, Sequence
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
            vars(module)[_FILE] = _stamp(module)


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
    """An extension module cannot be imported a second time; the text names it."""


class Aside:
    """Modules of plugins that are set aside, so that their code can be imported anew; and put back if that fails.

    Used by one thread, which imports; others go on running the code of what is set aside.
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
        """Return what is to be entered around the new imports: they read the code itself, and blame an extension.

        Args:
            tops: what is imported, beside what was set aside: see :func:`family`.

        Raises:
            NotAgain: within, importing an extension module has failed; the text names it.
        """
        return _Anew(
            tops.union(*(tops for tops, _, _ in self._roots)),
            {name for name, module in self._old.items() if _is_extension(module)},
        )

    def check(self) -> None:
        """Make sure that what was imported is new.

        Raises:
            NotAgain: an extension module is what it was.
        """
        for name, old in self._old.items():
            new = sys.modules.get(name)
            if new is None or not _is_extension(old) or not _is_extension(new):
                continue
            was = vars(old).get(_FILE)
            if was is not None and was != _stamp(new):
                # The dynamic linker knows it by its path, and gives the one that it has loaded.
                raise NotAgain(_refused(name, "its file has changed, and a process loads it once"))
            if new is old or _shares(old, new):
                raise NotAgain(_refused(name, "it can be initialized once in a process"))


class _Anew(importlib.abc.MetaPathFinder):
    """Finds the modules of a family, to be compiled from their source: what is cached may be of the same second."""

    def __init__(self, tops: Collection[str], extensions: Collection[str]) -> None:
        self._tops = tops
        self._extensions = extensions
        self._asked: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module as Python's own finder does; None: it is another's."""
        if fullname.partition(".")[0] not in self._tops:
            return None
        if fullname in self._extensions:
            self._asked.append(fullname)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = FromSource(fullname, spec.loader.path)
        return spec

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: object) -> None:
        sys.meta_path.remove(self)
        failed = [name for name in self._asked if name not in sys.modules]
        if raised is not None and failed:
            raise NotAgain(_refused(failed[-1], " ".join(str(raised).split()))) from raised


class FromSource(importlib.machinery.SourceFileLoader):
    """Compiles the source, whatever is cached."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile a module's source."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _refused(name: str, why: str) -> str:
    return f"the extension module {name} cannot be imported again: {why}; restart goferd for the new code"


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


def _stamp(module: ModuleType) -> tuple[int, int, int] | None:
    spec = module.__spec__
    try:
        found = os.stat(spec.origin or "") if spec is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def _shares(old: ModuleType, new: ModuleType) -> bool:
    """Tell whether two modules have the same functions or classes of their own: one is a copy of the other."""
    names = (old.__name__, old.__name__.rpartition(".")[2])
    for name, value in vars(old).items():
        own = getattr(value, "__module__", None) in names and (callable(value) or isinstance(value, type))
        if own and vars(new).get(name) is value:
            return True
    return False
