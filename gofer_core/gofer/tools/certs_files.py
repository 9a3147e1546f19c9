"""Write the files of ``gofer certs``: all of them or none, and only where no other user can write."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from gofer.errors import ConfigError
from gofer.messaging.keyfiles import check_rights

__all__ = ["Exists", "check_directories", "write_files"]


class Exists(ConfigError):
    """A file exists, and nobody has asked to replace it."""


def check_directories(folder: Path, below: Iterable[str]) -> None:
    """Refuse a directory in which others could put their own authority, or read what is written.

    Raises:
        ConfigError: ``folder`` or one of those ``below`` belongs to somebody else, or other users may write there, or
            to a directory above it.
    """
    for place in (folder, *(folder / name for name in below)):
        if os.path.lexists(place):
            status = os.stat(place)
            if not stat.S_ISDIR(status.st_mode):
                raise ConfigError(f"{place} is not a directory")
            check_rights(place, status)
    for place in folder.parents:
        mode = os.stat(place).st_mode if place.exists() else 0
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"{place} is above {folder}, and every user may write there. Fix: chmod o-w {place}")


def write_files(folder: Path, files: Mapping[Path, bytes], *, replace: bool) -> None:
    """Write files below a directory, which is made. A ``.pem`` file may be read by all users, others by their owner.

    Raises:
        Exists: a file exists, and ``replace`` is false.
        ConfigError: a file cannot be written. Then none is.
    """
    try:
        with ExitStack() as at_exit:
            for directory in {file.parent for file in files}:
                _make_directory(directory)
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            at_exit.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody else of us makes a file between the look and the rename
            for file in files:
                if os.path.lexists(file) and not replace:
                    raise Exists(f"{file} exists and is not overwritten. Allowed: --replace, or gofer certs renew")
                if file.is_dir():
                    raise ConfigError(f"{file} is a directory")
            new = {file: _write_temporary(at_exit, file, content) for file, content in files.items()}
            for file, temporary in new.items():
                temporary.replace(file)
    except OSError as error:
        raise ConfigError(f"{error.filename or folder} cannot be written: {error.strerror}") from None


def _write_temporary(at_exit: ExitStack, file: Path, content: bytes) -> Path:
    """Write a file beside another, and have it removed at exit if it is still there."""
    descriptor, name = tempfile.mkstemp(".new", f".{file.name}.", file.parent)
    at_exit.callback(Path(name).unlink, missing_ok=True)
    with open(descriptor, "wb") as out:
        os.fchmod(descriptor, 0o644 if file.suffix == ".pem" else 0o600)
        out.write(content)
        out.flush()
        os.fsync(descriptor)
    return Path(name)


def _make_directory(directory: Path) -> None:
    """Make a directory, and those above it, that others may not write to, whatever the umask."""
    missing = [place for place in (directory, *directory.parents) if not place.exists()]
    for place in reversed(missing):  # not parents=True, which makes those above with other rights
        place.mkdir(mode=0o755, exist_ok=True)
