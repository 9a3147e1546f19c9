"""Where gofer's files are: the fixed directories, each under one root.

``GOFER_ROOT`` (or ``--root DIR``) is put before every one of them, so that everything runs as an ordinary user under a
private directory. The default is ``/``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gofer.errors import ConfigError
from gofer.ownership import OTHERS_WRITE, refusal

__all__ = ["Root", "sync"]


@dataclass(frozen=True, slots=True)
class Root:
    """The directory under which all of gofer's directories are. Frozen and hashable; only ``ensure`` touches the disk.

    ``path`` is made absolute when the object is made, so a later change of the working directory does not move it.
    """

    path: Path = field(default=Path("/"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(os.path.abspath(self.path)))

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], override: str | os.PathLike[str] | None = None) -> Root:
        """Take ``override`` (``--root``) if given, else ``GOFER_ROOT``, else ``/``. An empty text counts as not given.

        Raises:
            ConfigError: the text cannot be a path.
        """
        text = os.fspath(override) if override is not None else ""
        source = "--root"
        if not text:
            text, source = environ.get("GOFER_ROOT", ""), "GOFER_ROOT"
        if "\0" in text:
            raise ConfigError(f"{source}: {text[:200]!r} has a NUL character in it; allowed: the path of a directory")
        return cls(Path(text or "/"))

    @property
    def etc(self) -> Path:
        """``/etc/gofer``: configuration."""
        return self.path / "etc/gofer"

    @property
    def agent_conf(self) -> Path:
        """``/etc/gofer/agent.conf``: the agent's settings."""
        return self.etc / "agent.conf"

    @property
    def conf_d(self) -> Path:
        """``/etc/gofer/conf.d``: files merged over ``agent.conf``, in the order of their names."""
        return self.etc / "conf.d"

    @property
    def descriptors(self) -> Path:
        """``/etc/gofer/plugins``: one descriptor for each plugin."""
        return self.etc / "plugins"

    @property
    def lib(self) -> Path:
        """``/var/lib/gofer``: what the agent must not forget. Private (0700)."""
        return self.path / "var/lib/gofer"

    @property
    def log(self) -> Path:
        """``/var/log/gofer``: log files, when the agent writes any."""
        return self.path / "var/log/gofer"

    @property
    def run(self) -> Path:
        """``/run/gofer``: the lock and the sockets of what runs now. Private (0700)."""
        return self.path / "run/gofer"

    @property
    def plugin_dirs(self) -> tuple[Path, ...]:
        """The four directories in which plugins' code was put before it was installed with pip, in search order."""
        below = ("usr/share", "usr/lib", "usr/lib64", "opt")
        return tuple(self.path / part / "gofer/plugins" for part in below)

    def ensure(self, directory: str | os.PathLike[str], mode: int | None = None) -> Path:
        """Make sure that a directory exists and that this process may write to it. Idempotent.

        Missing parents are made too. What is made here has, whatever the umask, mode 0700 when it is ``lib``, ``run``
        or below them, else 0755; ``mode`` says otherwise for the directory itself. One that exists keeps its mode:
        ``lib``, ``run`` and what is below must belong to root or this process's user and be writable by its owner
        alone, any other must not be writable by everybody.

        Returns:
            The directory as a Path.

        Raises:
            ConfigError: it cannot be made, is no directory, or is not safe to use; the text names it and says why.
        """
        wanted = Path(directory)
        missing = []
        place = wanted
        while not os.path.lexists(place):
            missing.append(place)
            place = place.parent
        for place in reversed(missing):
            usual = 0o700 if self._is_private(place) else 0o755
            _make(place, mode if mode is not None and place == wanted else usual, wanted)
        _check(wanted, private=self._is_private(wanted))
        return wanted

    def _is_private(self, directory: Path) -> bool:
        return directory.is_relative_to(self.lib) or directory.is_relative_to(self.run)


def _make(directory: Path, mode: int, wanted: Path) -> None:
    where = "" if directory == wanted else f" (at {directory})"
    try:
        os.mkdir(directory, mode)
        os.chmod(directory, mode)  # mkdir's mode is cut by the umask
    except FileExistsError:
        pass  # another process was quicker; the check of the whole follows
    except OSError as error:
        raise ConfigError(
            f"directory {wanted}: cannot be created{where} by user {os.geteuid()}: {error.strerror}; "
            "create it for that user, or set GOFER_ROOT to a directory of theirs"
        ) from error


def _check(directory: Path, *, private: bool) -> None:
    try:
        found = os.stat(directory)
    except OSError as error:
        raise ConfigError(f"directory {directory}: cannot be used: {error.strerror}") from error
    user = os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"directory {directory}: is not a directory")
    if reason := refusal(directory, found, OTHERS_WRITE if private else 0o002, owned=private):
        raise ConfigError(f"directory {directory}: {reason}")
    # access() also knows of read-only file systems, which the mode does not show.
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise ConfigError(
            f"directory {directory}: not writable by user {user}; allowed: one that this user may write to"
        )


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk.

    Raises:
        OSError: it cannot be read, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
