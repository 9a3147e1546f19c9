"""Find what is installed under an entry point group, and load it by name: adapters, authenticators and plugins.

Stevedore loads it, from the metadata of the moment: what is installed while the process runs is found by the next call.
Listing imports nothing; loading imports what was asked for. Neither writes anything. Reading the metadata takes some
milliseconds, so what was read is used until a directory of the Python path changes (for seconds after a change it is
read again each second).
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

from gofer.errors import PluginError

__all__ = ["Installed", "find", "listed", "load", "scan"]

#: Nanoseconds after a change of the Python path in which an installation may still be writing; and how often the
#: metadata is read anew then.
_SETTLED, _AGAIN = 10 * 10**9, 10**9


@dataclass(frozen=True, slots=True, order=True)
class Installed:
    """An entry point: its name, the distribution that claims it, and as value ``module`` or ``module:object``."""

    name: str
    distribution: str
    version: str
    value: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def listed(group: str) -> list[Installed]:
    """Return all that is installed under a group, in the order of names, then of distributions. Imports none of it."""
    return sorted(scan(group))


def find(group: str, name: str) -> Installed | None:
    """Return what is installed under a group by a name; None: nothing. Imports nothing.

    Raises:
        PluginError: two distributions claim the name; the text names both.
    """
    return _find(group, name, scan(group))


def load(group: str, name: str, among: Mapping[Installed, importlib.metadata.EntryPoint] | None = None) -> Any:
    """Import what is installed under a group by a name, and return it.

    Args:
        among: what ``scan`` has returned a moment ago; None: scan now.

    Raises:
        PluginError: nothing has that name, two distributions claim it, or importing it fails. The text names the
            distributions; of a failed import, what it raised is the cause.
    """
    from stevedore import NamedExtensionManager  # here: a caller whose adapter is known by its class does without

    class Manager(NamedExtensionManager):  # type: ignore[type-arg]  # generic in the newest releases only
        """Stevedore reads a cache of its own, under a home directory that a daemon may not have; this one does not."""

        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            return list(scanned.values())

    def failed(_: object, __: object, error: BaseException) -> NoReturn:
        what = f"{type(error).__name__}: {error}"
        raise PluginError(f"{name!r} of {found} ({found.value}) cannot be imported: {what}") from error

    def refuse(_: str, __: str, claiming: Sequence[Any]) -> Any:
        _find(group, name, scanned)
        return claiming[0]

    scanned = scan(group) if among is None else among
    installed = _find(group, name, scanned)
    if installed is None:
        names = ", ".join(sorted({one.name for one in scanned})) or "nothing"
        raise PluginError(f"nothing named {name!r} is installed in {group}; installed: {names}")
    found = installed
    try:
        manager = Manager(
            group,
            [name],
            on_load_failure_callback=failed,
            conflict_resolver=refuse,
            on_missing_entrypoints_callback=lambda names: None,
        )
        return manager[name].plugin
    except (SystemExit, KeyboardInterrupt, AssertionError) as error:  # stevedore does not hand these to the callback
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # somebody has pressed Ctrl-C
        failed(None, None, error)


def scan(group: str) -> Mapping[Installed, importlib.metadata.EntryPoint]:
    """Read the metadata of everything installed; a distribution that stands in it twice counts once."""
    path, now = tuple(map(_changed, sys.path)), time.time_ns()
    settled = all(now - changed > _SETTLED for _, changed in path)
    found = _read(path, 0 if settled else now // _AGAIN)
    if not found:  # not even ours: there was no file descriptor left to read them with. Python has noted that, too
        _read.cache_clear()
        importlib.metadata.MetadataPathFinder().invalidate_caches()  # of an instance: a class method since Python 3.12
    return found.get(group, {})


def _changed(entry: str) -> tuple[str, int]:
    """Return an entry of the Python path, and when something in it was last added or removed (ns since 1970)."""
    try:
        return entry, os.stat(entry or ".").st_mtime_ns
    except OSError:  # it is not there
        return entry, 0


@lru_cache(maxsize=2)
def _read(_: tuple[tuple[str, int], ...], __: int) -> Mapping[str, Mapping[Installed, importlib.metadata.EntryPoint]]:
    """Read all groups of ours at once: most of the time goes into the files of all others."""
    found: dict[str, dict[Installed, importlib.metadata.EntryPoint]] = {}
    known: dict[importlib.metadata.Distribution, tuple[str, str]] = {}  # it parses a file each time it is asked
    points = importlib.metadata.entry_points()
    for point in (one for group in points.groups if group.startswith("gofer.") for one in points.select(group=group)):
        distribution, version = "an unknown distribution", ""
        if point.dist is not None:
            if point.dist not in known:
                metadata = point.dist.metadata
                known[point.dist] = metadata["Name"], metadata["Version"]
            distribution, version = known[point.dist]
        installed = Installed(point.name, distribution, version, point.value)
        found.setdefault(point.group, {})[installed] = point
    return MappingProxyType({group: MappingProxyType(points) for group, points in found.items()})


def _find(group: str, name: str, scanned: Iterable[Installed]) -> Installed | None:
    found = [one for one in scanned if one.name == name]
    if len({one.distribution for one in found}) > 1:
        who = " and ".join(sorted(map(str, found)))
        raise PluginError(f"{name!r} in {group} is claimed by {who}; uninstall all but one")
    return found[0] if found else None
