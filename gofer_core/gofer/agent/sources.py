"""Where a plugin's code is, and importing it.

A plugin is named by its descriptor's base name or by ``[main] plugin``. That name is looked for, in this order, among
the installed ``gofer.plugins`` entry points; on the Python path, but only when ``plugin`` was given; and as
``<name>.py`` in the four plugin directories, the way of gofer 2. Looking imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from pathlib import Path
from types import MappingProxyType, ModuleType

from msgspec import Struct

from gofer.agent import modules
from gofer.agent.config import Descriptor, Problem, find_plugin_dirs
from gofer.agent.failures import Broken, one_line
from gofer.entry_points import find, listed, load
from gofer.errors import PluginError
from gofer.ownership import distrust
from gofer.root import Root
from gofer.suggest import available, did_you_mean

__all__ = ["GROUP", "Source", "import_source", "locate", "unused_files"]

log = logging.getLogger(__name__)

GROUP = "gofer.plugins"

#: The plugins of this project, and the distributions that have them.
_OURS = MappingProxyType({name: f"gofer-plugin-{name}" for name in ("audit", "demo", "package", "system", "virt")})


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
        return modules.family(self.module, self.distribution)

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
    from_file = known is not None and modules.is_ours(known, getattr(known, "__file__", None))
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


def import_source(source: Source, aside: modules.Aside | None = None) -> ModuleType:
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
    except modules.NotAgain as old:
        modules.drop(source.tops, before)
        raise Broken(str(old), one_line(old)[1]) from old
    except BaseException as raised:
        modules.drop(source.tops, before)
        raise Broken(*one_line(raised)) from raised
    modules.mark(source.tops, before, str(source))
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
        return name if modules.is_ours(known) else f"{name}_plugin"
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
        if modules.is_ours(known, str(source)):
            return known
        raise ImportError(f"a module {source.module} of another plugin is loaded already ({known.__file__})")
    loader = modules.FromSource(source.module, str(source.file))
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
