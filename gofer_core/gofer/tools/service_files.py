"""The files of the service: a systemd unit, and what the agent of a whole machine needs beside it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gofer.root import Root
from gofer.tools.output import filled

__all__ = ["Service"]

_UNIT = "goferd.service"
#: systemd makes them, and gives them to the user of a drop-in with User=.
_DIRECTORIES = """\
StateDirectory=gofer
StateDirectoryMode=0700
LogsDirectory=gofer
LogsDirectoryMode=0750
RuntimeDirectory=gofer
RuntimeDirectoryMode=0700
# The socket of `gofer broker` is there, too.
RuntimeDirectoryPreserve=yes"""


@dataclass(frozen=True, slots=True)
class Service:
    """A goferd as a service: which command it is, under which root, and for whom.

    Args:
        command: the path of goferd.
        home: the user's own systemd directory for units; None: the system's.
        destdir: for packages: put before all paths. Then units and the like go where packages put them.
    """

    root: Root
    command: Path
    home: Path | None = None
    destdir: Path | None = None

    @property
    def unit(self) -> Path:
        """The path of the unit."""
        return (self.home or self._settings() / "systemd/system") / _UNIT

    @property
    def whole(self) -> bool:
        """Tell whether it is the agent of the whole machine, whose users and PAM it uses."""
        return self.home is None and self.root.path == Path("/")

    def directories(self) -> dict[Path, int]:
        """Return the directories that the agent's administrator needs, with their modes."""
        at = self.root if self.destdir is None else Root(self.destdir)
        return {at.etc: 0o755, at.conf_d: 0o755, at.descriptors: 0o755, at.lib: 0o700, at.log: 0o750}

    def files(self) -> dict[Path, str]:
        """Return the files and their texts, the unit first."""
        kind = "user.service" if self.home is not None else _UNIT
        directories = _DIRECTORIES if self.whole else "# The root is private: goferd makes its directories itself."
        found = {self.unit: filled(f"service/{kind}", command=self._command_line(), directories=directories)}
        if self.whole:
            found[self._settings() / "sysusers.d/gofer.conf"] = filled("service/sysusers")
            found[self._settings() / "tmpfiles.d/gofer.conf"] = filled("service/tmpfiles")
            found[(self.destdir or self.root.path) / "etc/pam.d/gofer"] = filled("service/pam", **_pam_stack())
        return found

    def _settings(self) -> Path:
        return self.root.path / "etc" if self.destdir is None else self.destdir / "usr/lib"

    def _command_line(self) -> str:
        command = self.command
        if self.destdir is not None and command.is_relative_to(self.destdir):
            command = Path("/") / command.relative_to(self.destdir)
        words = [str(command)]
        if self.root.path != Path("/"):
            words += ["--root", str(self.root.path)]
        return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """Return a word of a command as a unit writes it."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w/.+@:%$=-]+", word, re.ASCII):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _pam_stack() -> dict[str, str]:
    """Name what checks passwords on this kind of system."""
    for auth, account in (("common-auth", "common-account"), ("system-auth", "system-auth")):
        if os.path.exists(f"/etc/pam.d/{auth}"):
            return {"auth": f"include   {auth}", "account": f"include   {account}"}
    return {"auth": "required  pam_unix.so", "account": "required  pam_unix.so"}
