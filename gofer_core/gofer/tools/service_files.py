"""The files of the service: a systemd unit, and what the agent of a whole machine needs beside it.

They are written and removed here. A record tells which of them are as they were written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from gofer.errors import ConfigError
from gofer.root import Root
from gofer.tools.output import filled

__all__ = ["Record", "Service", "State", "install", "stage", "uninstall"]

_UNIT = "goferd.service"
_RECORD = "service.json"
Done = Iterator[tuple[str, Path]]
"""What was done, step by step: a word, and the path that it was done to."""


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
        # systemd makes them, and gives them to the user of a drop-in with User=.
        made = filled("service/directories").rstrip()
        directories = made if self.whole else "# The root is private: goferd makes its directories itself."
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


class State(StrEnum):
    """What is at a file's path now, beside what should be there."""

    MISSING = "missing"
    INSTALLED = "installed"
    OUTDATED = "outdated"  # as an earlier installation wrote it
    CHANGED = "changed"  # by somebody else


@dataclass(slots=True)
class Record:
    """What installations have written under a root: ``service.json`` in its ``/var/lib/gofer``.

    ``files``: for each path the digests of what was written there; two while one is being replaced. ``directories``:
    those that were made.
    """

    path: Path
    files: dict[str, list[str]] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, root: Root) -> Record:
        """Read the record of a root; an empty one where nothing was installed.

        Raises:
            ConfigError: it is damaged.
            OSError: it cannot be read.
        """
        path = root.lib / _RECORD
        try:
            found = json.loads(path.read_bytes())
            files = {str(name): list(map(str, digests)) for name, digests in found["files"].items()}
            return cls(path, files, list(map(str, found["directories"])))
        except FileNotFoundError:
            return cls(path)
        except (ValueError, KeyError, TypeError, AttributeError):
            fix = "Move it away. Then what is installed counts as changed by hand, unless it is what would be written"
            raise ConfigError(f"{path} is damaged. {fix}") from None

    def save(self) -> None:
        """Write it."""
        text = json.dumps({"files": self.files, "directories": self.directories}, indent=1)
        _write(self.path, f"{text}\n", 0o600)

    def untouched(self, path: Path) -> bool | None:
        """Tell whether a file is as it was written; None: it is not there any more."""
        found = _found(path)
        return None if found is None else found in self.files.get(str(path), ())

    def state(self, path: Path, text: str) -> State:
        """Tell what is at the path of a file that should have this text."""
        found = _found(path)
        if found is None:
            return State.MISSING
        if found == _digest(text.encode()):
            return State.INSTALLED
        return State.OUTDATED if self.untouched(path) else State.CHANGED


def install(service: Service, *, replace: bool) -> Done:
    """Write the files and directories of a service.

    A file that was changed by hand is kept, unless ``replace`` is true.

    Raises:
        ConfigError: another command is at work, or the record is damaged.
        OSError: something cannot be written. What was written until then is in the record.
    """
    files, directories = service.files(), service.directories()
    missing = _missing([*directories, *(path.parent for path in files)])
    _make(service.root.lib, 0o700)
    with _locked(service.root.lib):
        record = Record.read(service.root)
        states = {path: record.state(path, text) for path, text in files.items()}
        kept = {path for path, state in states.items() if state is State.CHANGED and not replace}
        for path in files.keys() - kept:
            known = [*record.files.get(str(path), ()), _digest(files[path].encode())]
            record.files[str(path)] = list(dict.fromkeys(known))
        record.directories = sorted({*record.directories, *missing})
        record.save()  # before the files: what a crash leaves behind is known
        for path, mode in directories.items():
            if _make(path, mode):
                yield "made", path
        for path, state in states.items():
            if path in kept:
                yield "kept", path
            elif state is State.INSTALLED:
                yield "unchanged", path
            else:
                _make(path.parent)
                _write(path, files[path])
                yield {State.MISSING: "written", State.OUTDATED: "updated"}.get(state, "replaced"), path
        for path in files.keys() - kept:
            record.files[str(path)] = [_digest(files[path].encode())]
        record.save()


def stage(service: Service) -> None:
    """Write the files and directories of a package, below ``destdir``. There is no record: the package is one."""
    for path, mode in service.directories().items():
        _make(path, mode)
    for path, text in service.files().items():
        _make(path.parent)
        _write(path, text)


def uninstall(root: Root, *, purge: bool, pretend: bool = False) -> Done:
    """Remove what installations have written under a root, and is as it was written.

    Args:
        purge: remove configuration, ledger and logs, too.
        pretend: only tell what would be done.

    Raises:
        ConfigError: another command is at work, or the record is damaged.
        OSError: something cannot be removed.
    """
    places = [place for place in (root.etc, root.lib, root.log, root.run) if os.path.lexists(place)]
    with _locked(root.lib):
        record = Record.read(root)
        for path in map(Path, record.files):
            untouched = record.untouched(path)
            if untouched and not pretend:
                path.unlink()
            yield {True: "removed", False: "kept", None: "was gone"}[untouched], path
        if not pretend:
            record.path.unlink(missing_ok=True)
            for place in places if purge else ():
                place.unlink() if place.is_symlink() else shutil.rmtree(place)
            _remove_empty(record.directories)
    for place in places:
        yield ("removed" if purge or not (pretend or os.path.lexists(place)) else "kept"), place


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other commands out while this one writes."""
    if not directory.exists():
        yield
        return
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"another gofer service command is at work in {directory}; try again") from None
    finally:
        os.close(held)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file as a whole or not at all."""
    descriptor, name = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as out:
            os.fchmod(descriptor, mode)
            out.write(text)
            out.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _make(directory: Path, mode: int = 0o755) -> bool:
    """Make a directory and those above it, whatever the umask; tell whether it was missing."""
    missing = _missing([directory])
    for place in map(Path, sorted(missing)):
        place.mkdir()
        place.chmod(mode if place == directory else 0o755)
    return bool(missing)


def _missing(directories: Iterable[Path]) -> set[str]:
    """Return which of these directories, and of those above them, are not there."""
    return {str(place) for one in directories for place in (one, *one.parents) if not place.exists()}


def _remove_empty(directories: Iterable[str]) -> None:
    for name in sorted(directories, reverse=True):  # what is inside comes first
        try:
            os.rmdir(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            if not os.listdir(name):  # else something is in it that is not ours
                raise error from None


def _found(path: Path) -> str | None:
    """Return the digest of what is at a path; None: nothing. A link is somebody's own work, and is no text of ours."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path} is a directory; allowed: a file, or nothing")
    return _digest(path.read_bytes()) if stat.S_ISREG(status.st_mode) else "no file"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
