"""Packages by apt and dpkg."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gofer_plugin_package.changes import Change, Installed, change
from gofer_plugin_package.managers import Wanted, query

__all__ = ["Apt"]

# `Inst name [old] (new origin [arch])`, `Remv name [old]`; what is to be installed anew has no [old].
_STEP = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^]]+)\])?(?: \((\S+))?", re.MULTILINE)
_NEWER = re.compile(r"^([^/\s]+)/\S* (\S+) \S+ \[upgradable from: ([^]]+)\]", re.MULTILINE)
_LOCKED = re.compile(r"could not get lock|unable to (acquire|lock)|locked by another process", re.IGNORECASE)
_HOLDER = re.compile(r"held by process (\d+(?: \([^)\n]*\))?)|another process with pid (\d+)")
_HALF = "H"  # the state of a package that dpkg has not unpacked to its end
_CONFFILES = {"keep": ("confdef", "confold"), "replace": ("confnew",)}


@dataclass(frozen=True, slots=True)
class Apt:
    """See :class:`gofer_plugin_package.managers.Manager`.

    Args:
        conffiles: ``keep`` or ``replace``: what becomes of configuration files that were changed here.
    """

    conffiles: str
    name: str = "apt"

    def installed(self) -> Installed:
        """See Manager. A package that was not unpacked to its end is not installed, and not finished."""
        versions, unfinished = {}, []
        for name, version, status in _states():
            if status[1] != _HALF:
                versions[name] = frozenset((version,))
            if status[1] != "i" or status[2:].strip():
                unfinished.append(name)
        return Installed(versions, tuple(unfinished))

    def check(self, wanted: Sequence[Wanted], *, remove: bool) -> None:
        """Refuse what apt-get would take for a pattern, or for a name with a sign (`vim-` removes vim)."""
        for one in wanted:
            if remove and one.version is not None:
                raise ValueError(f"{one.name}={one.version}: apt removes a package whatever its version; leave it out")
            name = one.name.partition(":")[0]
            known = query("apt-cache", "-o", "APT::Cache::AllNames=true", "pkgnames", "--", name).split()
            if name not in known:
                raise LookupError(f"there is no package {one.name}; if it is new in its repository, call refresh()")

    def change(self, what: str, wanted: Sequence[Wanted], *, dry_run: bool) -> list[str]:
        """See Manager."""
        # In the process group of apt-get, with its output: a terminal of dpkg's own would be beyond both.
        command = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", *self._options("-o", "Dpkg::Options::=--force-")]
        if dry_run:
            command.append("--simulate")
        if any(one.version is not None for one in wanted):
            command.append("--allow-downgrades")  # an older version that was named is meant
        if what == "update":
            command += ["install", "--only-upgrade"] if wanted else ["upgrade", "--with-new-pkgs"]
        else:
            command.append(what)
        return [*command, "--", *(one.name if one.version is None else f"{one.name}={one.version}" for one in wanted)]

    def planned(self, ended: tuple[int, str, str], before: Installed) -> tuple[int, list[Change]]:
        """See Manager."""
        status, out, _ = ended
        steps = [change(found[2], found[3], found[4] if found[1] == "Inst" else None) for found in _STEP.finditer(out)]
        return status, [one for one in steps if one["from"] != one["to"]]

    def refresh(self) -> list[str]:
        """See Manager. One repository that cannot be read is a failure."""
        return ["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"]

    def upgradable(self) -> list[str]:
        """See Manager."""
        return ["apt", "list", "--upgradable"]

    def listed(self, ended: tuple[int, str, str], before: Installed) -> list[Change] | None:
        """See Manager."""
        status, out, _ = ended
        return [change(found[1], found[3], found[2]) for found in _NEWER.finditer(out)] if status == 0 else None

    def repair(self) -> list[list[str]]:
        """Return `dpkg --configure -a`, as apt-get asks for after a dpkg that was killed; it sets up what is unpacked.

        A package that was not unpacked to its end is installed again: apt-get does not do so by itself, and then cannot
        set up what depends on it.
        """
        # dpkg keeps its journal there while it works.
        journal = os.path.join(_admin_directory(), "updates")
        interrupted = os.path.isdir(journal) and any(name.isdigit() for name in os.listdir(journal))
        if not interrupted and not self.installed().unfinished:
            return []
        commands = [["dpkg", *self._options("--force-"), "--configure", "-a"]]
        half = [Wanted(name) for name, _, status in _states() if status[1] == _HALF]
        if half:
            command = self.change("install", half, dry_run=False)
            command.insert(command.index("--"), "--reinstall")
            commands.append(command)
        return commands

    def locked(self, status: int, stderr: str) -> str | None:
        """See Manager."""
        if status == 0 or not _LOCKED.search(stderr):
            return None
        holder = _HOLDER.search(stderr)
        return "another process" if holder is None else f"process {holder[1] or holder[2]}"

    def _options(self, *prefix: str) -> list[str]:
        """Return dpkg's options for configuration files; the last word of the prefix is a part of each."""
        *words, start = prefix
        return [word for name in _CONFFILES[self.conffiles] for word in (*words, start + name)]


def _states() -> list[list[str]]:
    """Return name, version and state of each package of which there is more than configuration files."""
    said = query("dpkg-query", "-W", "-f", "${binary:Package}\\t${Version}\\t${db:Status-Abbrev}\\n")
    return [row for row in (line.split("\t") for line in said.splitlines()) if row[2][1] not in "nc"]


def _admin_directory() -> str:
    """Return where dpkg keeps its database: in the environment's DPKG_ADMINDIR or DPKG_ROOT, as dpkg itself does."""
    return os.environ.get("DPKG_ADMINDIR") or os.environ.get("DPKG_ROOT", "") + "/var/lib/dpkg"
