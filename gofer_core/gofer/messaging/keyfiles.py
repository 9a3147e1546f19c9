"""Files that hold keys and certificates: refused when others could read or change them, read again when they change."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from gofer.errors import ConfigError
from gofer.messaging.certificates import read_file
from gofer.ownership import OTHERS_WRITE, SECRET, refusal

__all__ = ["Watched", "check_rights", "files_in", "read_public", "read_secret"]

T = TypeVar("T")

_LOOK = 1.0  # seconds between two looks at files


def read_secret(path: Path) -> bytes:
    """Read a file that holds a secret.

    Raises:
        ConfigError: it cannot be read; belongs to neither root nor this process's user; or others than its owner (and
            its group, for reading) have any right to it.
    """
    return _read(path, SECRET)


def read_public(path: Path) -> bytes:
    """Read a file of public keys or settings, which decides whom to trust.

    Raises:
        ConfigError: it cannot be read; belongs to neither root nor this process's user; or others may write to it.
    """
    return _read(path, OTHERS_WRITE)


def files_in(place: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of a directory that end so, in the order of their names; or a file itself.

    Raises:
        ConfigError: there is none, or others may write to the directory.
    """
    if not place.is_dir():
        return [place]
    check_rights(place, os.stat(place))
    found = sorted(one for one in place.iterdir() if one.suffix in set(suffixes) and not one.name.startswith("."))
    if not found:
        raise ConfigError(f"{place}: has no file that ends in {' or '.join(suffixes)}")
    return found


class Watched(Generic[T]):
    """A value that is read from files, and read again when one of them has changed. Any thread.

    The files are checked once a second at most. If reading again fails, ``get`` raises until it works: unreadable keys
    sign and validate nothing.

    Args:
        make: reads the value.
        places: the files and directories that it is read from.
    """

    def __init__(self, make: Callable[[], T], *places: Path) -> None:
        self._make = make
        self._places = places
        self._lock = threading.Lock()
        self._seen = self._look()
        self._made = make()
        self._looked = time.monotonic()

    def get(self) -> T:
        """Return the current value.

        Raises:
            ConfigError: as ``make`` does.
        """
        if time.monotonic() - self._looked < _LOOK:
            return self._made
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._made = self._make()
                self._seen = seen  # only now: after a failure the next call tries again
            self._looked = time.monotonic()
            return self._made

    def _look(self) -> list[object]:
        found: list[object] = []
        for place in self._places:
            try:
                below = sorted(place.iterdir()) if place.is_dir() else []
                for one in (place, *below):
                    status = os.stat(one)
                    found.append((one, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
            except OSError as error:
                found.append((place, error.errno))
        return found


def check_rights(path: Path, status: os.stat_result, forbidden: int = OTHERS_WRITE) -> None:
    """Refuse a file or directory that other users control.

    Args:
        forbidden: the bits that its mode must not have.

    Raises:
        ConfigError: it belongs to neither root nor this process's user, or its mode has such a bit.
    """
    if reason := refusal(path, status, forbidden):
        raise ConfigError(f"{path}: {reason}")


def _read(path: Path, forbidden: int) -> bytes:
    try:
        data, status = read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    check_rights(path, status, forbidden)
    return data
