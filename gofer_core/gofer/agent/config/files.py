"""Read one configuration file into plain sections, trusting nothing about it.

An ini file gives text; a JSON file gives what JSON has.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from gofer.agent.config.problem import Problem, shown
from gofer.ownership import distrust
from gofer.sections import Unreadable, decode, parse_ini, parse_json

__all__ = ["MAX_FILE", "distrusted", "list_files", "list_misplaced", "list_unread", "read_bytes", "read_text"]

MAX_FILE = 1 << 20
"""The largest configuration file that is read, in bytes."""

_LEFTOVER = re.compile(r"^\.|^__pycache__$|~$|\.(bak|orig|old|save|swp|disabled|rpm(new|save|orig)|dpkg-\w+|ucf-\w+)$")
_SUFFIX = re.compile(r"\.(cfg|cnf|ini|config|CONF|Conf|toml|txt|ya?ml)$")


def list_files(directory: Path) -> tuple[list[Path], list[Problem]]:
    """Return the ``*.conf`` and ``*.json`` of a directory in the order of their names; hidden ones are left out.

    A directory that does not exist is empty. One that cannot be read is a Problem.
    """
    try:
        found = sorted(os.listdir(directory))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [Problem("error", str(directory), None, None, f"directory cannot be read: {error.strerror}")]
    return [directory / name for name in found if name.endswith((".conf", ".json")) and name[0] != "."], []


def list_unread(directory: Path, named: Iterable[Path] = ()) -> list[Problem]:
    """Warn of what lies in a directory of configuration as if it were read, and is not.

    Hidden files are none of these, nor what editors and package managers leave behind, nor compiled code.

    Args:
        named: what configuration refers to, such as a key file.
    """
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []  # list_files tells why
    known = {os.path.realpath(path) for path in named}
    found = []
    for name in names:
        path = directory / name
        if name.endswith((".conf", ".json")) or _LEFTOVER.search(name) or os.path.realpath(path) in known:
            continue
        renamed = _SUFFIX.sub(".conf", name)
        hint = "" if renamed == name else f"; if it has lines of [section] and key = value, rename it to {renamed}"
        text = f"is not read; allowed: names that end in .conf or .json{hint}"
        found.append(Problem("warning", str(path), None, None, text))
    return found


def list_misplaced(directory: Path, belongs: Path) -> list[Problem]:
    """Warn of descriptors that lie beside the directory that they belong into."""
    found = []
    for path in list_files(directory)[0]:
        try:
            text = read_text(path)
            content = parse_json(text) if path.suffix == ".json" else parse_ini(text)
        except Unreadable:
            continue
        if "enabled" in content.sections.get("main", {}):
            text = f"is not read, and looks like a plugin's descriptor; to have it read, move it to {belongs}"
            found.append(Problem("warning", str(path), None, None, text))
    return found


def read_text(path: Path, *, trusted: bool = False) -> str:
    """Return the text of a regular file of UTF-8 with ``\\n`` line ends.

    Raises:
        Unreadable: as ``read_bytes``, or it is too large, or no such text.
    """
    data = read_bytes(path, trusted=trusted)
    if len(data) > MAX_FILE:
        raise Unreadable(f"is too large; allowed: at most {MAX_FILE} bytes")
    return decode(data)


def read_bytes(path: Path, *, trusted: bool = False) -> bytes:
    """Return the first bytes of a regular file, at most one more than ``MAX_FILE``. Never hangs on what is no file.

    Args:
        trusted: refuse one that somebody else than root or this process's user could have written.

    Raises:
        Unreadable: it cannot be opened, is no regular file, or is not trusted.
    """
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise Unreadable(_why_not_opened(path, error)) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable(f"is {_file_kind(found.st_mode)}; allowed: a regular file, or a link to one")
        reason = distrust(path, found) if trusted else None
        if reason is not None:
            raise Unreadable(reason)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def distrusted(directory: Path) -> list[Problem]:
    """Say why nothing in a directory may be used: one Problem, or none. It is there, if only as a dangling link."""
    try:
        reason = distrust(directory)
        if reason is None and not os.path.isdir(directory):
            reason = "is not a directory"
    except OSError as error:
        reason = f"directory cannot be read: {error.strerror}"
    return [] if reason is None else [Problem("error", str(directory), None, None, reason)]


def _why_not_opened(path: Path, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a symbolic link that leads back to itself"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return f"is a symbolic link to {shown(os.path.realpath(path))}, which does not exist"
    if error.errno == errno.ENXIO:
        return "is a socket or a device; allowed: a regular file, or a link to one"
    return f"cannot be read: {error.strerror}"


def _file_kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device"}
    return kinds.get(stat.S_IFMT(mode), "a special file")
