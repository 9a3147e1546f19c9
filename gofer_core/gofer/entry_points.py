"""Find what is installed under an entry point group, and load one of it by name.

Listing imports nothing; loading imports the one that was asked for. Neither writes anything, nor remembers: what is
installed while the process runs is found by the next call. A listing costs a few milliseconds.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

from gofer.errors import PluginError

__all__ = ["Installed", "listed", "load"]


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
    return sorted(found for found, _ in _scan(group))


def load(group: str, name: str) -> object:
    """Import what is installed under a group by a name, and return it.

    Raises:
        PluginError: nothing has that name, two distributions claim it, or importing it fails. The text names the
            distributions; of a failed import, what it raised is the cause.
    """
    scanned = _scan(group)
    found = [(installed, point) for installed, point in scanned if installed.name == name]
    if not found:
        names = ", ".join(sorted({installed.name for installed, _ in scanned})) or "nothing"
        raise PluginError(f"nothing named {name!r} is installed in {group}; installed: {names}")
    if len({installed.distribution for installed, _ in found}) > 1:
        who = " and ".join(sorted(str(installed) for installed, _ in found))
        raise PluginError(f"{name!r} in {group} is claimed by {who}; uninstall all but one")
    installed, point = found[0]
    try:
        return _import(group, name, point)
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error}"
        raise PluginError(f"{name!r} of {installed} ({installed.value}) cannot be imported: {what}") from error


def _import(group: str, name: str, point: importlib.metadata.EntryPoint) -> object:
    """Load one entry point by stevedore."""
    from stevedore import DriverManager

    class Manager(DriverManager):  # type: ignore[type-arg]  # generic in the newest releases only
        """A driver manager that is told what there is.

        Left to itself it would read that from a cache, under a home directory which a daemon may not have, and for the
        whole life of the process.
        """

        def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
            return [point]

    return Manager(group, name).driver


def _scan(group: str) -> list[tuple[Installed, importlib.metadata.EntryPoint]]:
    """Read the metadata of everything installed."""
    found: dict[Installed, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=group):
        metadata = None if point.dist is None else point.dist.metadata
        distribution = "an unknown distribution" if metadata is None else metadata["Name"]
        version = "" if metadata is None else metadata["Version"]
        found[Installed(point.name, distribution, version, point.value)] = point
    return list(found.items())
