"""Packages by dnf, or by yum, which takes the same words; and rpm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gofer_plugin_package.changes import Change, Installed, change
from gofer_plugin_package.managers import Wanted, query

__all__ = ["Dnf"]

_LOCKED = 200  # the exit status with exit_on_lock
_UPDATES = 100  # of check-update, where there are some
_VERBS = {"install": "install", "update": "upgrade", "remove": "remove"}
_HOLDER = re.compile(r"(?:locked by|with PID) (\d+)(?: is: (\S+))?", re.IGNORECASE)
_ARCHITECTURES = "noarch|x86_64|i[3-6]86|aarch64|armv[5-8]\\w+|ppc64(?:le)?|s390x?|riscv64|loongarch64"
# A row of a table: name, architecture, version, repository, size; a long name has a line of its own.
_ROW = re.compile(rf"^ (\S+)\s+({_ARCHITECTURES}|src)\s+(\S+)\s+(\S+)\s+[\d.]+ *[kMGT]? *$", re.MULTILINE)
_HEADING = re.compile(r"^(\w[\w ]+):$", re.MULTILINE)
_NEWER = re.compile(rf"^(\S+)\.({_ARCHITECTURES})\s+(\S+)\s+(\S+)[ \t]*$", re.MULTILINE)
_FORMAT = "%{NAME}\\t%{EPOCH}\\t%{VERSION}-%{RELEASE}\\t%{ARCH}\\n"


@dataclass(frozen=True, slots=True)
class Dnf:
    """See :class:`gofer_plugin_package.managers.Manager`.

    A package's name has its architecture behind a dot where the machine has it in several: ``glibc.i686``.

    Args:
        name: the command, ``dnf`` or ``yum``.
    """

    name: str

    def installed(self) -> Installed:
        """See Manager."""
        return read_installed(query("rpm", "-qa", "--qf", _FORMAT))

    def check(self, wanted: Sequence[Wanted], *, remove: bool) -> None:
        """Refuse nothing more: dnf itself names the packages that there are not."""

    def change(self, what: str, wanted: Sequence[Wanted], *, dry_run: bool) -> list[str]:
        """See Manager. What a removed package has needed stays, as with apt."""
        answer = "--assumeno" if dry_run else "--assumeyes"
        options = ["--setopt=exit_on_lock=True", "--setopt=clean_requirements_on_remove=False"]
        return [self.name, answer, *options, _VERBS[what], *map(_spec, wanted)]

    def planned(self, ended: tuple[int, str, str], before: Installed) -> tuple[int, list[Change]]:
        """See Manager. dnf ends with 1 when it is answered no."""
        status, out, _ = ended
        table, summary, _ = out.partition("Transaction Summary")
        if not summary:
            return status, []
        changes: dict[tuple[str, str], Change] = {}
        headings = [(found.start(), found[1]) for found in _HEADING.finditer(table)]
        for row in _ROW.finditer(table):
            heading = next((text for start, text in reversed(headings) if start < row.start()), "")
            name = _known_name(row[1], row[2], before)
            if heading.startswith(("Remov", "Eras")):
                planned = change(name, row[3], None)
            elif heading.startswith("Install"):  # beside others of its name, perhaps, as kernels are
                planned = change(name, None, row[3])
            else:
                planned = change(name, max(before.versions.get(name, ()), default=None), row[3])
            changes.setdefault((row[1], row[2]), planned)
        return 0, [one for one in changes.values() if one["from"] != one["to"]]

    def refresh(self) -> list[str]:
        """See Manager."""
        expire = ["--refresh"] if self.name == "dnf" else []  # yum has no such option, and looks by itself
        return [self.name, "--assumeyes", "--setopt=exit_on_lock=True", *expire, "makecache"]

    def upgradable(self) -> list[str]:
        """See Manager."""
        return [self.name, "--quiet", "--setopt=exit_on_lock=True", "check-update"]

    def listed(self, ended: tuple[int, str, str], before: Installed) -> list[Change] | None:
        """See Manager."""
        status, out, _ = ended
        if status not in (0, _UPDATES):
            return None
        updates = out.partition("Obsoleting Packages")[0]
        named = [(_known_name(found[1], found[2], before), found[3]) for found in _NEWER.finditer(updates)]
        return [change(name, max(before.versions.get(name, ()), default=None), version) for name, version in named]

    def repair(self) -> list[list[str]]:
        """Return none: rpm's database recovers by itself, and nothing completes a transaction that was killed."""
        return []

    def locked(self, status: int, stderr: str) -> str | None:
        """See Manager."""
        if status != _LOCKED:
            return None
        holders = [found[1] + (f" ({found[2]})" if found[2] else "") for found in _HOLDER.finditer(stderr)]
        return f"process {holders[-1]}" if holders else "another process"


def read_installed(said: str) -> Installed:
    """Read what rpm says is installed."""
    rows = [line.split("\t") for line in said.splitlines()]
    architectures: dict[str, set[str]] = {}
    for name, _, _, architecture in rows:
        architectures.setdefault(name, set()).add(architecture)
    versions: dict[str, set[str]] = {}
    for name, epoch, version, architecture in rows:
        full = name if len(architectures[name]) == 1 else f"{name}.{architecture}"
        versions.setdefault(full, set()).add(version if epoch in ("0", "(none)") else f"{epoch}:{version}")
    return Installed({name: frozenset(some) for name, some in versions.items()})


def _known_name(name: str, architecture: str, before: Installed) -> str:
    """Return a package's name as the database has it."""
    full = f"{name}.{architecture}"
    return full if full in before.versions else name


def _spec(wanted: Wanted) -> str:
    """Return a package as dnf reads it: the version stands before the architecture."""
    if wanted.version is None:
        return wanted.name
    parts = re.fullmatch(rf"(.+)\.({_ARCHITECTURES})", wanted.name)
    return f"{wanted.name}-{wanted.version}" if parts is None else f"{parts[1]}-{wanted.version}.{parts[2]}"
