"""What a package manager has to do for the plugin, and what all of them share."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from gofer_plugin_package.changes import Change, Installed

__all__ = ["QUIET", "Manager", "Wanted", "parse_names", "query"]

# No hyphen first: it would be an option. No slash, star or parenthesis: it would be a file, a pattern or a capability.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}(:[a-z0-9-]{1,32})?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:~^_-]{0,254}")
_QUERY = 60.0  # seconds; what is asked here is on this machine, and quick

#: The environment of all commands: nobody is there to answer questions, and the output is read by this plugin.
QUIET: Mapping[str, str] = {
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "APT_LISTCHANGES_FRONTEND": "none",
}


class Wanted(NamedTuple):
    """A package that a caller has named, and its version; None: any."""

    name: str
    version: str | None = None


class Manager(Protocol):
    """A package manager. Its methods return commands, or read what these have written; only some ask the machine."""

    @property
    def name(self) -> str:
        """Its name in results."""

    def installed(self) -> Installed:
        """Ask the package database what is installed."""

    def check(self, wanted: Sequence[Wanted], *, remove: bool) -> None:
        """Refuse names that the manager would take for something else.

        Raises:
            LookupError: there is no such package.
            ValueError: a version is named where the manager would ignore it.
        """

    def change(self, what: str, wanted: Sequence[Wanted], *, dry_run: bool) -> list[str]:
        """Return the command that does what: ``install``, ``update`` (of all, where none is named) or ``remove``."""

    def planned(self, ended: tuple[int, str, str], before: Installed) -> tuple[int, list[Change]]:
        """Read what a dry run has written: the status, 0 if it could be planned, and what would change."""

    def refresh(self) -> list[str]:
        """Return the command that asks the repositories what there is."""

    def upgradable(self) -> list[str]:
        """Return the command that lists what could be updated."""

    def listed(self, ended: tuple[int, str, str], before: Installed) -> list[Change] | None:
        """Read that list; None: the command has failed."""

    def repair(self) -> list[list[str]]:
        """Return the commands that end what an earlier one has left half done; none, where there is nothing to end."""

    def locked(self, status: int, stderr: str) -> str | None:
        """Tell who has locked the database, if that is why a command has ended, having done nothing."""


def parse_names(names: object) -> list[Wanted]:
    """Read the packages that a caller has named: a text or a list of texts, each ``name`` or ``name=version``.

    Raises:
        TypeError: neither a text nor a list of texts.
        ValueError: no name, or one that is none.
    """
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise TypeError(f"names is a text or a list of texts, not {names!r:.100}")
    if not given:
        raise ValueError("names is empty; name one package at least")
    return [_parse(one) for one in dict.fromkeys(given)]


def _parse(text: str) -> Wanted:
    name, equals, version = text.partition("=")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r:.100} is not the name of a package; allowed: name, name:architecture, name=version")
    if equals and not _VERSION.fullmatch(version):
        raise ValueError(f"{text!r:.100}: {version!r:.100} is not a version")
    return Wanted(name, version if equals else None)


def query(*command: str) -> str:
    """Ask something of this machine's package database, and return the answer.

    Raises:
        OSError: it cannot be asked; the text holds what was said.
    """
    done = subprocess.run(  # noqa: S603 - words of this plugin, and names that were checked
        command,
        check=False,
        env={**os.environ, **QUIET},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_QUERY,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise OSError(f"{command[0]} has ended with status {done.returncode}: {said[-1000:]}")
    return done.stdout.decode(errors="replace")
