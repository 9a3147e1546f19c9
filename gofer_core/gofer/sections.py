"""Read the text of an ini file, or of a JSON file, into sections. Whatever is not used is remarked, with its line.

Every configuration file of gofer is read by this: the agent's, its plugins', the caller's, and those that
``gofer.config`` reads for plugins. gofer 2.12 used the lines that it understood and passed over the others; so does
this, but it tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from msgspec import Struct

from gofer.errors import ConfigError
from gofer.suggest import nearest

__all__ = ["Content", "Guards", "Sections", "Unreadable", "decode", "has_comment", "parse_ini", "parse_json"]

Sections = dict[str, dict[str, object]]
"""A file's sections; each maps its keys, in the case they were written, to their values."""

Guards = Mapping[str, frozenset[str]]
"""By section, the keys that keep somebody out. A slip that takes one of them out of effect is an error."""

_HEADER = re.compile(r"\[([^\[\]]*[^\[\]\s][^\[\]]*)\]\s*([#;].*)?")
_KEY = re.compile(r"[\w.@*?-]+\s*[=:]")
_COMMENT = re.compile(r"\s[#;]")
_WORD = re.compile(r"[\w.-]+")


class Unreadable(ConfigError):
    """A file cannot be used; the text says why, without the file's name."""

    def __init__(self, text: str, section: str | None = None) -> None:
        super().__init__(text)
        self.section = section


class Content(Struct):
    """What a file holds.

    ``remarks``: what is odd, each with its section and key, where it has them. ``incomplete``: the sections of which
    something is not used. ``ignored``: the numbers of the lines that are neither header, key, nor comment. ``lines``:
    in which line each key of an ini file is, by its section and name.
    """

    sections: Sections = {}
    remarks: list[tuple[str | None, str | None, str]] = []
    incomplete: set[str] = set()
    ignored: list[int] = []
    lines: dict[tuple[str, str], int] = {}


def decode(data: bytes) -> str:
    """Return the text of a file, with ``\\n`` line ends.

    Raises:
        Unreadable: it is no text of UTF-8.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable(
            "is UTF-16 text; allowed: UTF-8 without a byte order mark (iconv -f UTF-16 -t UTF-8 converts it)"
        )
    if data.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("starts with a byte order mark; allowed: UTF-8 without one")
    if b"\0" in data:
        raise Unreadable(f"has a NUL byte at offset {data.index(0)}; allowed: UTF-8 text")
    try:
        text = data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Unreadable(f"has byte 0x{data[error.start]:02x} at offset {error.start}; allowed: UTF-8 text") from None
    control = re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise Unreadable(f"has control character {control[0]!r} in line {line}; allowed: UTF-8 text")
    return text


def parse_ini(text: str, guards: Guards | None = None, standard: frozenset[str] = frozenset()) -> Content:
    """Read an ini file.

    Comments are lines of their own. A line that is indented more than the key above it continues the value of that;
    in a standard section one that looks like a key is a key, as it was for gofer 2.12. Of two sections with one name
    the last counts, as a whole.

    Args:
        guards: see ``Guards``.
        standard: the sections that gofer itself reads.

    Raises:
        Unreadable: a line is no section header though it begins as one, or what is not used would keep somebody out.
    """
    if text.lstrip().startswith("{"):
        raise Unreadable("holds JSON; allowed: lines of [section] and key = value, or a name that ends in .json")
    guards = guards or {}
    content = Content()
    parts: list[tuple[str, dict[str, list[str]]]] = []  # each section as often as it is there, with its values' lines
    headers: dict[str, int] = {}
    section: str | None = None
    values: dict[str, list[str]] = {}
    numbers: dict[str, int] = {}  # of the lines of the section's keys
    above: list[str] | None = None  # the value that an indented line continues
    indent = 0
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip()
        deeper = len(line) - len(line.lstrip())
        if not words or words[0] in "#;":
            if not words and above is not None:
                above.append("")  # kept where more of the value follows
        elif line[0] == "[":
            found = _HEADER.fullmatch(words)
            if found is None:
                raise Unreadable(f"line {number} is not a section header; allowed: [name] alone on its line")
            section = found[1].strip()
            if section in headers:
                where = f"the section is there twice, in lines {headers[section]} and {number}"
                content.remarks.append((section, None, f"{where}; the last one is used as a whole"))
            headers[section] = number
            values, numbers, above = {}, {}, None
            parts.append((section, values))
        elif above is not None and deeper > indent and not (section in standard and _KEY.match(words)):
            above.append(words)
        elif section is None or not (named := re.fullmatch(r"([^=:]*[^=:\s])\s*[=:](.*)", words)):
            above = None
            _pass_over(content, guards, section, number, words)
        else:
            name = named[1]
            if name in values:
                twice = f"the key is there twice, in lines {numbers[name]} and {number}; the last one is used"
                content.remarks.append((section, name, twice))
            values[name] = above = [named[2].strip()]
            numbers[name] = content.lines[section, name] = number
            indent = deeper
    for name, values in parts:
        before, now = content.sections.get(name, {}), {key: "\n".join(lines).rstrip() for key, lines in values.items()}
        content.sections[name] = {**now}
        _check_lost(content, guards, name, before, now)
    return content


def has_comment(value: str) -> bool:
    """Tell whether a value of an ini file ends in what looks like a comment; it is part of the value."""
    return _COMMENT.search(value) is not None


def parse_json(text: str, guards: Guards | None = None) -> Content:
    """Read a JSON file. Of a name that is there twice in one object, the last one stands.

    Raises:
        Unreadable: it is no object of objects, or what is not used would keep somebody out.
    """
    if not text.strip():
        raise Unreadable("is empty; allowed: a JSON object of objects")
    twice: list[tuple[str, object, object]] = []

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                twice.append((name, found[name], value))
            found[name] = value
        return found

    try:
        document = json.loads(text, object_pairs_hook=once, parse_constant=_refuse_constant)
    except Unreadable:
        raise
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except RecursionError:
        raise Unreadable("is nested too deeply; allowed: a JSON object of objects") from None
    except ValueError:  # an integer of thousands of digits
        raise Unreadable("has a number that is too long; allowed: a JSON object of objects") from None
    if not isinstance(document, dict):
        raise Unreadable("is not a JSON object; allowed: an object of sections, each an object of keys")
    for section, keys in document.items():
        if not isinstance(keys, dict):
            raise Unreadable("the section is no JSON object; allowed: a JSON object of keys", section)
    content = Content(document)
    for name, before, now in twice:
        content.remarks.append((None, None, f"{repr(name)[:200]} is there twice in one object; the last one is used"))
        if isinstance(before, dict) and isinstance(now, dict):
            _check_lost(content, guards or {}, name, before, now)
    return content


def _pass_over(content: Content, guards: Guards, section: str | None, number: int, words: str) -> None:
    """Remark a line that is not used, unless it was perhaps to keep somebody out. It may hold a secret: not shown."""
    why = "stands before any section" if section is None else "has no key, or no '=' after it"
    known = guards.get(section, ()) if section is not None else {key for keys in guards.values() for key in keys}
    found = _WORD.match(words)
    meant = None if found is None else nearest(found[0], known, cutoff=0.8)
    if meant is not None:
        allowed = f"{meant} = value{', below a [section]' if section is None else ''}"
        raise Unreadable(f"line {number} {why}, and it may be {meant}; allowed: {allowed}", section)
    if words.startswith("@import"):
        why = "is @import, which gofer 2 ignored, too: write the keys of that file here, or put it into conf.d"
    content.ignored.append(number)
    content.remarks.append((section, None, f"line {number} {why}; it is ignored"))
    if section is not None:
        content.incomplete.add(section)


def _check_lost(
    content: Content, guards: Guards, section: str, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    """Tell which keys are lost with the first of two sections of one name."""
    lost = [key for key in before if key not in now]
    if not lost:
        return
    content.incomplete.add(section)
    for key in guards.get(section, ()):
        if key in lost:
            text = f"the section is there twice, and the last one, which counts, has no {key}"
            raise Unreadable(f"{text}; allowed: each section once", section)
    names = ", ".join(key if key.isprintable() else repr(key) for key in (key[:100] for key in lost[:20]))
    content.remarks.append((section, None, f"not used, because the section is there twice: {names}"))


def _refuse_constant(text: str) -> NoReturn:
    raise Unreadable(f"has {text}, which is not JSON")
