"""Read one configuration file into plain sections, trusting nothing about it.

An ini file gives text; a JSON file gives what JSON has. All that can be wrong with a file as such is one Problem.
"""

from __future__ import annotations

import configparser
import errno
import json
import os
import pwd
import re
import stat
from collections import Counter
from pathlib import Path
from typing import NoReturn

from gofer.agent.config.problem import Problem, plain, shown
from gofer.errors import ConfigError

__all__ = ["MAX_FILE", "Sections", "Unreadable", "distrust", "list_files", "read_sections", "read_text"]

MAX_FILE = 1 << 20
"""The largest configuration file that is read, in bytes."""

Sections = dict[str, dict[str, object]]
"""A file's sections; each maps its keys, in the case they were written, to their values."""


class Unreadable(ConfigError):
    """A file cannot be used; the text says why, without the file's name."""

    def __init__(self, text: str, section: str | None = None, key: str | None = None) -> None:
        super().__init__(text)
        self.section = section
        self.key = key


def list_files(directory: Path) -> tuple[list[Path], Problem | None]:
    """Return the ``*.conf`` and ``*.json`` of a directory in the order of their names; hidden ones are left out.

    A directory that does not exist is empty. One that cannot be read is a Problem.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], Problem("error", str(directory), None, None, f"directory cannot be read: {error.strerror}")
    fit = sorted(name for name in names if name.endswith((".conf", ".json")) and not name.startswith("."))
    return [directory / name for name in fit], None


def read_sections(path: Path, *, trusted: bool = False) -> tuple[Sections | None, Problem | None]:
    """Read a file by its suffix: ``.json`` is JSON, all else ini. Returns the sections, or what is wrong.

    ``trusted``: refuse one that somebody else than root or this process's user could have written.
    """
    try:
        text = read_text(path, trusted=trusted)
        return (_parse_json(text) if path.suffix == ".json" else _parse_ini(text)), None
    except Unreadable as error:
        return None, Problem("error", str(path), error.section, error.key, str(error))


def read_text(path: Path, *, trusted: bool = False) -> str:
    """Return the text of a regular file of UTF-8 with ``\\n`` line ends. Never hangs on what is no file.

    Raises:
        Unreadable: it cannot be opened, is no such file, is too large, is no such text, or is not trusted.
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
        if trusted:
            reason = _distrust_status(found, os.geteuid()) or _distrust_way(path, os.geteuid())
            if reason is not None:
                raise Unreadable(reason)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    return _decode(data)


def distrust(path: Path, user: int | None = None) -> str | None:
    """Return why code or configuration at ``path`` is refused, or None: nobody else could have put it there.

    What it leads to must belong to root or to ``user`` (default: this process's), and only its owner may write to it.
    If it is a symbolic link, the link must belong to one of them too, and nobody else must be able to replace its
    target: the directory of that is as safe, or has the sticky bit.

    Raises:
        OSError: there is nothing at ``path``.
    """
    user = os.geteuid() if user is None else user
    return _distrust_status(os.stat(path), user) or _distrust_way(path, user)


def _distrust_way(path: Path, user: int) -> str | None:
    link = os.lstat(path)
    if not stat.S_ISLNK(link.st_mode):
        return None
    if link.st_uid not in (0, user):
        return f"refused: the link belongs to {_owner(link.st_uid)}; allowed: owned by root or {_owner(user)}"
    directory = Path(os.path.realpath(path)).parent
    found = os.stat(directory)
    if found.st_mode & stat.S_ISVTX and found.st_uid in (0, user):
        return None  # nobody but its owner can replace a file there
    reason = _distrust_status(found, user)
    return None if reason is None else f"{reason} (the directory of the link's target, {plain(str(directory), 200)})"


def _distrust_status(found: os.stat_result, user: int) -> str | None:
    if found.st_uid in (0, user) and not found.st_mode & 0o022:
        return None
    return (
        f"refused: owned by {_owner(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}; "
        f"allowed: owned by root or {_owner(user)}, and not writable by group or others"
    )


def _owner(user: int) -> str:
    try:
        return f"{pwd.getpwuid(user).pw_name} (uid {user})"
    except KeyError:
        return f"uid {user}"


def _why_not_opened(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads back to itself"
        return f"is a symbolic link to {shown(os.path.realpath(path))}, which does not exist"
    if error.errno == errno.ENXIO:
        return "is a socket or a device; allowed: a regular file, or a link to one"
    return f"cannot be read: {error.strerror}"


def _file_kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISCHR, "a device")):
        if test(mode):
            return name
    return "a special file"


def _decode(data: bytes) -> str:
    if len(data) > MAX_FILE:
        raise Unreadable(f"is too large; allowed: at most {MAX_FILE} bytes")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("is UTF-16 text; allowed: UTF-8 without a byte order mark")
    if data.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("starts with a byte order mark; allowed: UTF-8 without one")
    if b"\0" in data:
        raise Unreadable(f"has a NUL byte at offset {data.index(0)}; allowed: UTF-8 text")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"has byte 0x{data[error.start]:02x} at offset {error.start}; allowed: UTF-8 text") from None
    text = text.replace("\r\n", "\n")
    control = re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise Unreadable(f"has control character {control[0]!r} in line {line}; allowed: UTF-8 text")
    return text


def _parse_ini(text: str) -> Sections:
    for number, line in enumerate(text.split("\n"), 1):
        # The parser would drop what follows a header without a word.
        if line.startswith("[") and not re.fullmatch(r"\[[^\[\]]+\]\s*([#;].*)?", line):
            raise Unreadable(f"line {number} is not a section header; allowed: [name] alone on its line")
    # '%' stands in passwords and '#' in URLs: no interpolation, no comments behind values. No section is special.
    parser = configparser.RawConfigParser(strict=True, interpolation=None, default_section="\0")
    parser.SECTCRE = re.compile(r"\[(?P<header>[^\[\]]+)\]")  # the parser's own takes "a] # [b" for a name
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the keys' case
    try:
        parser.read_string(text)
    except configparser.DuplicateSectionError as error:
        raise Unreadable(f"the section is there twice, again in line {error.lineno}", error.section) from None
    except configparser.DuplicateOptionError as error:
        text = f"the key is there twice, again in line {error.lineno}"
        raise Unreadable(text, error.section, error.option) from None
    except configparser.MissingSectionHeaderError as error:
        raise Unreadable(f"line {error.lineno} stands before any section; allowed: [name] first") from None
    except configparser.ParsingError as error:  # never with the line's text: it may be part of a password
        number = error.errors[0][0] if error.errors else 0
        raise Unreadable(f"line {number} is neither [section] nor key=value nor a comment") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _parse_json(text: str) -> Sections:
    if not text.strip():
        raise Unreadable("is empty; allowed: a JSON object of objects")
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("is nested too deeply; allowed: a JSON object of objects") from None
    except ValueError:  # an integer of thousands of digits
        raise Unreadable("has a number that is too long; allowed: a JSON object of objects") from None
    if not isinstance(document, dict):
        raise Unreadable("is not a JSON object; allowed: an object of sections, each an object of keys")
    for section, keys in document.items():
        if not isinstance(keys, dict):
            raise Unreadable("the section is not a JSON object; allowed: an object of keys", section)
    return document


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Unreadable(f"{shown(twice)} is there twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise Unreadable(f"has {text}, which is not JSON")
