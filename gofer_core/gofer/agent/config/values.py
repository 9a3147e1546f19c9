"""The types of configured values: what is allowed, in words, and how it is read.

A value is text in an ini file and may be of JSON's own types in a JSON file; each type takes both.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gofer.agent.config.problem import kind, nearest, shown
from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.messaging.proxies import parse_proxy

__all__ = [
    "Choice",
    "Dotted",
    "Flag",
    "Level",
    "Line",
    "Name",
    "Names",
    "Proxy",
    "Seconds",
    "SecondsOrNever",
    "Size",
    "Type",
    "Whole",
    "Wrong",
]

T_co = TypeVar("T_co", covariant=True)


class Wrong(ValueError):
    """A value is not what its type allows. The text says what it is instead, on one line, and shows no secret."""


class Type(Protocol[T_co]):
    """A type of values. Implementations are frozen."""

    @property
    def allowed(self) -> str:
        """Say what is allowed, in words that fit behind ``allowed:``."""

    def read(self, raw: object) -> T_co:
        """Read a value that is not blank. Raises Wrong."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    allowed: str = "0, 1, yes, no, true, false, on, off"

    def read(self, raw: object) -> bool:
        """Read a word (any case), or JSON's true, false, 0 and 1."""
        word = str(raw).strip().lower() if isinstance(raw, str | int) else ""
        if word in ("1", "yes", "true", "on"):
            return True
        if word in ("0", "no", "false", "off"):
            return False
        raise Wrong(f"{shown(raw)} is neither yes nor no")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, raw: object) -> int:
        """Read digits, or a JSON number without a fraction."""
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", raw.strip()):
            number = int(raw)
        elif isinstance(raw, int) and not isinstance(raw, bool):
            number = raw
        else:
            raise Wrong(f"{shown(raw)} is not a whole number")
        if not self.low <= number <= self.high:
            raise Wrong(f"{shown(raw)} is out of range")
        return number


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration within bounds, in seconds."""

    low: float = 0.0
    high: float = math.inf
    above_zero: bool = False

    @property
    def allowed(self) -> str:
        """The ways to write it and the bounds, in words."""
        bounds = ""
        if self.above_zero:
            bounds = ", more than 0"
        elif self.low:
            bounds = f", {self.low:g} or more"
        if self.high != math.inf:
            bounds += f", at most {self.high:g}"
        return f"seconds, or a number with s, m, h or d behind it, like 30s or 5m{bounds}"

    def read(self, raw: object) -> float:
        """Read what ``parse_duration`` reads, within the bounds."""
        if isinstance(raw, bool) or not isinstance(raw, int | float | str):
            raise Wrong(f"{kind(raw)} is not a duration")
        try:
            seconds = parse_duration(raw)
        except ConfigError:
            raise Wrong(f"{shown(raw)} is not a duration") from None
        if not self.low <= seconds <= self.high or (self.above_zero and seconds == 0):
            raise Wrong(f"{shown(raw)} is out of range")
        return seconds


@dataclass(frozen=True, slots=True)
class SecondsOrNever:
    """A duration in seconds; 0 means never, as None does."""

    allowed: str = f"{Seconds().allowed}, or 0 for never"

    def read(self, raw: object) -> float | None:
        """Read a duration."""
        return Seconds().read(raw) or None


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes within bounds."""

    low: int
    high: int

    @property
    def allowed(self) -> str:
        """The ways to write it and the bounds, in words."""
        return (
            f"bytes, or a number with K, M or G (KiB, MiB, GiB) behind it, from {_size(self.low)} to {_size(self.high)}"
        )

    def read(self, raw: object) -> int:
        """Read a number of bytes: ``16777216``, ``16M``, ``16MiB``."""
        if isinstance(raw, str):
            found = re.fullmatch(r"([0-9]{1,18})\s*(?:([kmg])(?:ib)?)?", raw.strip(), re.IGNORECASE)
            if found is None:
                raise Wrong(f"{shown(raw)} is not a size")
            size = int(found[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[(found[2] or "").lower()]
        elif isinstance(raw, int) and not isinstance(raw, bool):
            size = raw
        else:
            raise Wrong(f"{shown(raw)} is not a size")
        if not self.low <= size <= self.high:
            raise Wrong(f"{shown(raw)} is out of range")
        return size


@dataclass(frozen=True, slots=True)
class Proxy:
    """The URL of an HTTP proxy, kept as text."""

    allowed: str = "http://[user:password@]host:port"

    def read(self, raw: object) -> str:
        """Read a URL. The message does not show it: it may hold a password."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not text")
        try:
            parse_proxy(raw.strip())
        except ConfigError:
            raise Wrong("is not the URL of an HTTP proxy") from None
        return raw.strip()


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text, with a word for what it is."""

    allowed: str

    def read(self, raw: object) -> str:
        """Read text without control characters. The message does not show it: it may be anything."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not text")
        text = raw.strip()
        if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
            raise Wrong("has line breaks or control characters in it (an indented line continues the one above)")
        return text


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is safe in file names, on command lines and in logs."""

    allowed: str = "letters, digits, '_', '-' and '.', not starting with '-' or '.', at most 100 of them"

    def read(self, raw: object) -> str:
        """Read a name."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not a name")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", raw.strip()):
            raise Wrong(f"{shown(raw)} is not a name")
        return raw.strip()


@dataclass(frozen=True, slots=True)
class Dotted:
    """Names with dots between."""

    allowed: str

    def read(self, raw: object) -> str:
        """Read a name, each part of which is one."""
        text = Name().read(raw)
        if not all(text.split(".")):
            raise Wrong(f"{shown(raw)} has a dot too many")
        return text


@dataclass(frozen=True, slots=True)
class Names:
    """A list: text with commas, or a JSON list of text."""

    allowed: str
    one: Type[str]
    star: bool = False

    def read(self, raw: object) -> tuple[str, ...]:
        """Read the list, each name once, in the order written."""
        if isinstance(raw, str):
            items: list[object] = [item for item in raw.split(",") if item.strip()]
        elif isinstance(raw, list):
            items = raw
        else:
            raise Wrong(f"{kind(raw)} is not a list")
        if not items:
            raise Wrong("names nothing")
        found: dict[str, None] = {}
        for item in items:
            if isinstance(item, str) and item.strip() == "*" and self.star:
                found["*"] = None
            elif isinstance(item, str) and item.strip() in ("", "*"):
                raise Wrong(f"{shown(item)} is not allowed in this list")
            else:
                found[self.one.read(item.strip() if isinstance(item, str) else item)] = None
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words, in any case; read as written in ``words``."""

    words: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The words."""
        return ", ".join(self.words)

    def read(self, raw: object) -> str:
        """Read one of the words."""
        word = raw.strip().lower() if isinstance(raw, str) else None
        for known in self.words:
            if word == known.lower():
                return known
        near = nearest(raw, self.words) if isinstance(raw, str) else None
        raise Wrong(f"invalid value {shown(raw)}" + (f" (did you mean {near}?)" if near else ""))


@dataclass(frozen=True, slots=True)
class Level:
    """A level of logging, read as the number that ``logging`` uses."""

    allowed: str = "CRITICAL, DEBUG, ERROR, FATAL, INFO, WARN, WARNING (in any case)"

    def read(self, raw: object) -> int:
        """Read the name of a level."""
        word = raw.strip().upper() if isinstance(raw, str) else ""
        if word not in ("CRITICAL", "DEBUG", "ERROR", "FATAL", "INFO", "WARN", "WARNING"):
            raise Wrong(f"{shown(raw)} is not a level")
        return logging.getLevelNamesMapping()[word]


def _size(size: int) -> str:
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"
