"""Read the text of an ini file, or of a JSON file, into sections: whatever is not used is remarked, with its line.

Files of gofer 2.12 are read as it read them: it used what it understood, and passed over the rest without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from gofer.agent.config.problem import kind, nearest, shown
from gofer.errors import ConfigError

__all__ = ["Content", "Protected", "Sections", "Unreadable", "parse_ini", "parse_json"]

Sections = dict[str, dict[str, object]]
"""A file's sections; each maps its keys, in the case they were written, to their values."""

Protected = Mapping[str, frozenset[str]]
"""By section, the keys that keep somebody out. A slip that takes one of them out of effect is an error."""

_HEADER = re.compile(r"\[([^\[\]]+)\]\s*([#;].*)?")
_KEY = re.compile(r"[\w.-]+\s*[=:]")
_WORD = re.compile(r"[\w.-]+")


class Unreadable(ConfigError):
    """A file cannot be used; the text says why, without the file's name."""

    def __init__(self, text: str, section: str | None = None, key: str | None = None) -> None:
        super().__init__(text)
        self.section = section
        self.key = key


@dataclass(slots=True)
class Content:
    """What a file holds.

    ``remarks``: what is odd, each with its section and key, where it has them. ``incomplete``: the sections of which
    something is not used.
    """

    sections: Sections = field(default_factory=dict)
    remarks: list[tuple[str | None, str | None, str]] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)


def parse_ini(text: str, protected: Protected, standard: frozenset[str]) -> Content:
    """Read an ini file.

    Comments are lines of their own. A line that is indented more than the key above it continues the value of that;
    in a standard section one that looks like a key is a key, as it was for gofer 2.12.

    Args:
        protected: see ``Protected``.
        standard: the sections that gofer itself reads.

    Raises:
        Unreadable: a line is no section header though it begins as one, or what is not used would keep somebody out.
    """
    if text.lstrip().startswith("{"):
        raise Unreadable("holds JSON; allowed: lines of [section] and key = value, or a name that ends in .json")
    return _IniParser(protected, standard).parse(text)


class _IniParser:
    def __init__(self, protected: Protected, standard: frozenset[str]) -> None:
        self._protected = protected
        self._standard = standard
        self._content = Content()
        self._section: str | None = None
        self._values: dict[str, list[str]] = {}  # of the section: the lines of each value
        self._headers: dict[str, int] = {}
        self._lines: dict[str, int] = {}  # of the section's keys
        self._above: list[str] | None = None  # the value that an indented line continues
        self._indent = 0

    def parse(self, text: str) -> Content:
        for number, line in enumerate(text.split("\n"), 1):
            words = line.strip()
            if not words:
                if self._above is not None:
                    self._above.append("")  # kept where more of the value follows
            elif not words.startswith(("#", ";")):
                self._read(number, line, words)
        self._close()
        return self._content

    def _read(self, number: int, line: str, words: str) -> None:
        indent = len(line) - len(line.lstrip())
        if line.startswith("["):
            found = _HEADER.fullmatch(words)
            if found is None or not found[1].strip():
                raise Unreadable(f"line {number} is not a section header; allowed: [name] alone on its line")
            self._open(number, found[1].strip())
            return
        is_key = self._section in self._standard and _KEY.match(words) is not None
        if self._above is not None and indent > self._indent and not is_key:
            self._above.append(words)
            return
        split = re.split("[=:]", words, maxsplit=1)
        name = split[0].strip()
        if self._section is None:
            self._stray(number, words, "stands before any section")
        elif len(split) == 1 or not name:
            self._above = None
            self._stray(number, words, "has no key, or no '=' behind it")
        else:
            self._put(number, name, split[1].strip())
            self._indent = indent

    def _open(self, number: int, name: str) -> None:
        self._close()
        if name in self._headers:
            where = f"the section is there twice, in lines {self._headers[name]} and {number}"
            self._content.remarks.append((name, None, f"{where}; the last one is used as a whole"))
        self._headers[name] = number
        self._section, self._values, self._lines = name, {}, {}

    def _close(self) -> None:
        """Take what a section holds; of one that was there before, the last one stands."""
        name = self._section
        self._above = None
        if name is None:
            return
        before = self._content.sections.get(name)
        now: dict[str, object] = {key: "\n".join(lines).rstrip() for key, lines in self._values.items()}
        self._content.sections[name] = now
        if before is not None:
            _check_lost(self._content, self._protected, name, before, now)

    def _put(self, number: int, name: str, value: str) -> None:
        if name in self._values:
            text = f"the key is there twice, in lines {self._lines[name]} and {number}; the last one is used"
            self._content.remarks.append((self._section, name, text))
        self._values[name] = self._above = [value]
        self._lines[name] = number

    def _stray(self, number: int, words: str, why: str) -> None:
        """Pass over a line, unless it was perhaps to keep somebody out. It may hold a secret, so it is not shown."""
        found = _WORD.match(words)
        known = self._protected.get(self._section or "", frozenset())
        if self._section is None:
            known = frozenset(key for keys in self._protected.values() for key in keys)
        meant = None if found is None else nearest(found[0], known, cutoff=0.8)
        if meant is not None:
            allowed = f"{meant} = value, below a [section]" if self._section is None else f"{meant} = value"
            raise Unreadable(f"line {number} {why}, and it may be {meant}; allowed: {allowed}", self._section)
        if words.startswith("@import"):
            why = "is @import, which gofer 2 ignored, too: write the keys of that file here, or put it into conf.d"
        self._content.remarks.append((self._section, None, f"line {number} {why}; it is ignored"))
        if self._section is not None:
            self._content.incomplete.add(self._section)


def parse_json(text: str, protected: Protected) -> Content:
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
        document = json.loads(text, object_pairs_hook=once, parse_constant=_no_constant)
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
            raise Unreadable(f"the section is {kind(keys)}; allowed: a JSON object of keys", section)
    content = Content(document)
    for name, before, now in twice:
        content.remarks.append((None, None, f"{shown(name)} is there twice in one object; the last one is used"))
        if isinstance(before, dict) and isinstance(now, dict):
            _check_lost(content, protected, name, before, now)
    return content


def _check_lost(
    content: Content, protected: Protected, section: str, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    """Tell which keys are lost with the first of two sections of one name."""
    lost = [key for key in before if key not in now]
    if not lost:
        return
    content.incomplete.add(section)
    guards = [key for key in lost if key in protected.get(section, ())]
    if guards:
        text = f"the section is there twice, and the last one, which counts, has no {guards[0]}"
        raise Unreadable(f"{text}; allowed: each section once", section)
    content.remarks.append((section, None, f"not used, because the section is there twice: {', '.join(_names(lost))}"))


def _names(keys: list[str]) -> Iterator[str]:
    for key in keys[:20]:
        yield key if key.isprintable() and len(key) <= 100 else shown(key, 100)


def _no_constant(text: str) -> NoReturn:
    raise Unreadable(f"has {text}, which is not JSON")
