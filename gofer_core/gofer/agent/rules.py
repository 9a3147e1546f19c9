"""The rules of ``[access]`` that hold in an agent: those of its descriptors. A broken one denies all calls."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from gofer.agent.config import Descriptor, ruled_plugin
from gofer.agent.sources import GROUP, Source, locate
from gofer.entry_points import find
from gofer.errors import PluginError
from gofer.rmi.server.access import Access, Rule
from gofer.root import Root

__all__ = ["Rules"]

log = logging.getLogger(__name__)


class _Held(Struct, frozen=True):
    """The rules of one descriptor. ``module``: its plugin's, None: not known. ``broken``: the rules cannot be read."""

    file: Path
    rules: tuple[Rule, ...]
    module: str | None
    broken: bool = False


class Rules:
    """Who may call what, by the descriptors. ``access`` may be read by any thread; the rest is for the one that loads.

    The rules of a plugin also hold while it does not run, because other plugins may have its methods. So rules stay
    until ``forget``. Nobody may call the methods of a plugin whose descriptor is broken and may have rules.
    """

    def __init__(self, root: Root, groups: Mapping[str, frozenset[str]]) -> None:
        """Begin without rules."""
        self._root = root
        self._held: dict[str, _Held] = {}
        #: What decides now. A change makes another one.
        self.access = Access(groups=groups)

    def take(self, descriptors: Iterable[Descriptor], groups: Mapping[str, frozenset[str]] | None = None) -> None:
        """Use the rules of descriptors instead of those that these files, or their plugins, had before.

        Args:
            groups: the groups as they are now; None: as before.
        """
        every = list(descriptors)
        names, files = {one.name for one in every}, {one.file for one in every}
        held = {name: one for name, one in self._held.items() if name not in names and one.file not in files}
        for one in every:
            if one.access is not None:
                source = locate(self._root, one)
                held[one.name] = _Held(one.file, one.access, source.module if isinstance(source, Source) else None)
        self._set(held, groups)

    def warn_of_groups(self, descriptors: Iterable[Descriptor]) -> None:
        """Log which groups in the rules of descriptors there are none of."""
        for one in descriptors:
            for rule, group in self.access.unknown_groups(one.name):
                if group:  # that an @ names none was told when the descriptor was read
                    log.warning("%s: there is no group %r, so it lets nobody in by that", rule, group)

    def close(self, broken: Iterable[str], usable: Collection[str]) -> None:
        """Deny all calls to the methods of plugins whose descriptors are broken; no longer to those of other plugins.

        Args:
            broken: files of descriptors.
            usable: names of plugins with another descriptor.
        """
        held = {name: one for name, one in self._held.items() if not one.broken}
        known = {one.file for one in held.values()}  # their former rules stay
        for file in map(Path, broken):
            if file in known or file.stem in held or file.stem in usable:
                continue
            if (module := _ruled_module(file)) is not None:
                held[file.stem] = _Held(file, (), module, broken=True)
        self._set(held)

    def warn_of_closed(self) -> None:
        """Log whose methods nobody may call, because of which descriptors."""
        for one in [one for one in self._held.values() if one.broken]:
            text = "%s cannot be used and may have [access] rules: nobody may call the methods of %s until it is mended"
            log.warning(text, one.file, one.module)

    def forget(self, files: Collection[Path]) -> None:
        """Keep only the rules that the descriptors in these files have."""
        self._set({name: one for name, one in self._held.items() if one.file in files})

    def broken(self, name: str) -> Path | None:
        """Return the broken descriptor that denies all calls to a plugin's methods; None: there is none."""
        found = self._held.get(name)
        return found.file if found is not None and found.broken else None

    def _set(self, held: dict[str, _Held], groups: Mapping[str, frozenset[str]] | None = None) -> None:
        self._held = held
        self.access = Access(
            {name: one.rules for name, one in held.items()},
            self.access.groups if groups is None else groups,
            {name: one.module for name, one in held.items() if one.module is not None},
        )


def _ruled_module(file: Path) -> str | None:
    """Return the module of the plugin of a broken descriptor that may have rules; None: it has none."""
    name = ruled_plugin(file)
    if name is None:
        return None
    try:
        entry = find(GROUP, name)
    except PluginError:
        entry = None  # several distributions have it: none is loaded by that name
    return name if entry is None else entry.value.partition(":")[0].strip()
