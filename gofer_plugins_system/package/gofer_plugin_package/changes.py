"""What differs between two looks at the package database, and what leads back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Change", "Installed", "change", "difference", "rollback"]

#: ``{"name": text, "from": version or None, "to": version or None}``: None is "not installed".
Change = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Installed:
    """What the package database says: the versions of each package, and the packages that are not set up completely."""

    versions: Mapping[str, frozenset[str]]
    unfinished: tuple[str, ...] = field(default=())


def change(name: str, before: str | None, after: str | None) -> Change:
    """Make a change."""
    return {"name": name, "from": before, "to": after}


def difference(before: Installed, after: Installed) -> list[Change]:
    """Return what has changed between two looks, by name. A package may have several versions, as kernels have."""
    changes = []
    for name in sorted({*before.versions, *after.versions}):
        old, new = before.versions.get(name, frozenset()), after.versions.get(name, frozenset())
        gone, come = sorted(old - new), sorted(new - old)
        if len(gone) == len(come) == 1:
            changes.append(change(name, gone[0], come[0]))
        else:
            changes += [change(name, version, None) for version in gone]
            changes += [change(name, None, version) for version in come]
    return changes


def rollback(changes: Iterable[Change], now: Installed) -> dict[str, list[str]]:
    """Return what to hand to ``remove`` and ``install`` to go back: ``{"remove": [name], "install": [name=version]}``.

    What came is removed by its name; beside other versions of the same package, as of kernels, by its version, too.
    """
    remove, install = [], []
    for one in changes:
        name, before, after = one["name"], one["from"], one["to"]
        if before is not None:
            install.append(f"{name}={before}")
        elif len(now.versions.get(str(name), ())) > 1:
            remove.append(f"{name}={after}")
        else:
            remove.append(str(name))
    return {"remove": remove, "install": install}
