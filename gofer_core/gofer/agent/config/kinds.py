"""The kinds of configured values: what is allowed, in words, and how it is read.

A value is text in an ini file and may be of JSON's own types in a JSON file; each kind takes both.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from gofer.agent.config.problem import shown
from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.proxies import parse_proxy
from gofer.messaging.url import URL
from gofer.suggest import nearest

__all__ = [
    "ADDRESS", "BROKER", "EXCHANGE", "FLAG", "GROUPS", "LEVEL", "NAME", "OWN_HOST", "PROXY", "Kind", "Wrong", "choice",
    "dotted", "line", "names", "odd_identity", "seconds", "size", "whole",
]  # fmt: skip

N = TypeVar("N", int, float)

_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30}
_WORDS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}


class Wrong(ValueError):
    """A value is not what its kind allows. The text says what it is instead, on one line, and shows no secret."""


class Kind(Struct, frozen=True):
    """A kind of values.

    Attributes:
        allowed: what is allowed, in words that fit behind ``allowed:``.
        read: returns the value of what was written, which is not blank. Raises Wrong.
        many: it is a list; then commas alone are blank.
    """

    allowed: str
    read: Callable[[Any], Any]
    many: bool = False


def whole(low: int, high: int) -> Kind:
    """A whole number within bounds: digits, or a JSON number without a fraction."""

    def read(raw: object) -> int:
        if isinstance(raw, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", raw.strip()):
            number = int(raw)
        elif type(raw) is int:
            number = raw
        else:
            raise Wrong(f"{shown(raw)} is not a whole number")
        return _within(raw, number, low, high)

    return Kind(f"a whole number from {low} to {high}", read)


def seconds(*, above_zero: bool = False, high: float = math.inf, never: bool = False) -> Kind:
    """A duration, as ``parse_duration`` reads it, in seconds. ``never``: 0 is read as None."""

    def read(raw: Any) -> float | None:
        try:
            found = parse_duration(raw)
        except TypeError:
            raise Wrong(f"{_json_kind(raw)} is not a duration") from None
        except ConfigError:
            raise Wrong(f"{shown(raw)} is not a duration") from None
        _within(raw, found, math.ulp(0) if above_zero else 0, high)
        return found or (None if never else 0.0)

    bounds = ", more than 0" * above_zero + (f", at most {high:g}" if high != math.inf else "")
    units = "seconds, or a number followed by s, m, h or d, like 30s or 5m"
    return Kind(f"{units}{bounds}{', or 0 for never' * never}", read)


def size(low: int, high: int) -> Kind:
    """A number of bytes within bounds: ``16777216``, ``16M``, ``16MiB``."""

    def read(raw: object) -> int:
        if type(raw) is int:
            return _within(raw, raw, low, high)
        found = (
            re.fullmatch(r"([0-9]{1,18})\s*(?:([kmg])(?:ib)?)?", raw.strip().lower()) if isinstance(raw, str) else None
        )
        if found is None:
            raise Wrong(f"{shown(raw)} is not a size")
        return _within(raw, int(found[1]) << _SHIFTS[found[2] or ""], low, high)

    def written(number: int) -> str:
        return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"

    units = "bytes, or a number followed by K, M or G (KiB, MiB, GiB)"
    return Kind(f"{units}, from {written(low)} to {written(high)}", read)


def line(allowed: str) -> Kind:
    """One line of text, with a word for what it is. No message shows it: it may be anything."""

    def read(raw: object) -> str:
        text = _text(raw, "text")
        if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for c in text):
            raise Wrong("has line breaks or control characters in it (an indented line continues the one above)")
        return text

    return Kind(allowed, read)


def choice(*words: str) -> Kind:
    """One of a few words, in any case."""

    def read(raw: object) -> str:
        word = raw.strip().lower() if isinstance(raw, str) else ""
        if word in words:
            return word
        near = nearest(word, words)
        raise Wrong(f"invalid value {shown(raw)}" + (f" (did you mean {near}?)" if near else ""))

    return Kind(", ".join(words), read)


def names(allowed: str, one: Kind, *, star: bool = False) -> Kind:
    """A list: text with commas, or a JSON list of text. Read as a tuple, each name once, in the order written."""

    def read(raw: object) -> tuple[str, ...]:
        items = [item for item in raw.split(",") if item.strip()] if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise Wrong(f"{_json_kind(raw)} is not a list")
        if not items:
            raise Wrong("names nothing")
        found: dict[str, None] = {}
        for item in items:
            name = item.strip() if isinstance(item, str) else item
            if name == "" or (name == "*" and not star):
                raise Wrong(f"{shown(item)} is not allowed in this list")
            found["*" if name == "*" else one.read(name)] = None
        return tuple(found)

    return Kind(allowed, read, many=True)


def dotted(allowed: str) -> Kind:
    """Names with dots between."""

    def read(raw: object) -> str:
        text = _name(raw)
        if not all(text.split(".")):
            raise Wrong(f"{shown(raw)} has a dot too many")
        return text

    return Kind(allowed, read)


def _flag(raw: object) -> bool:
    found = _WORDS.get(str(raw).strip().lower()) if isinstance(raw, str | int) else None
    if found is None:
        raise Wrong(f"{shown(raw)} is neither yes nor no")
    return found


def _matching(pattern: str, what: str) -> Callable[[object], str]:
    """Make what reads a text that fits a pattern as a whole."""

    def read(raw: object) -> str:
        text = _text(raw, what)
        if not re.fullmatch(pattern, text):
            raise Wrong(f"{shown(raw)} is not {what}")
        return text

    return read


_name = _matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", "a name")
_group = _matching(r"[A-Za-z0-9_-]{1,64}", "a group's name")


def _level(raw: object) -> int:
    number = logging.getLevelNamesMapping().get(raw.strip().upper() if isinstance(raw, str) else "")
    if not number:
        raise Wrong(f"{shown(raw)} is not a level")
    return number


def _proxy(raw: object) -> str:
    text = _text(raw, "text")
    try:
        parse_proxy(text)
    except ConfigError:  # which may show a password
        raise Wrong("is not the URL of an HTTP proxy") from None
    return text


def _broker(raw: object) -> URL:
    text = _text(raw, "a URL")
    try:
        return URL.parse(text)
    except ConfigError as error:
        wrong = _first_part(error)
        if wrong.startswith("not a URL") and "@" in text and "%" not in wrong:
            wrong += " (in a user or password write ':', '/' and '@' as %3A, %2F and %40)"
        raise Wrong(wrong) from None


def _address(raw: object) -> Address:
    try:
        return Address.parse(_text(raw, "an address"))
    except ConfigError as error:
        raise Wrong(_first_part(error)) from None


def _exchange(raw: object) -> str:
    text = _text(raw, "an exchange's name")
    if not text or "/" in text:
        raise Wrong(f"{shown(raw)} is not an exchange's name")
    return _address(f"{text}/key").exchange


def _own_host(raw: object) -> str:
    """Read a host name or address that only this machine can reach. What a name means is not looked up here."""
    host: str = line("").read(raw)
    is_address = ":" in host or re.fullmatch(r"[0-9.]+", host)
    if is_address and not host.startswith("127.") and host != "::1":
        raise Wrong(f"{shown(host)} can be reached by other machines")
    return host


FLAG = Kind("0, 1, yes, no, true, false, on, off", _flag)
NAME = Kind("letters, digits, '_', '-' and '.', not starting with '-' or '.', at most 100 of them", _name)
LEVEL = Kind("CRITICAL, DEBUG, ERROR, FATAL, INFO, WARN, WARNING (in any case)", _level)
PROXY = Kind("http://[user:password@]host:port", _proxy)
ADDRESS = Kind("<queue> or <exchange>/<queue>, each at most 255 bytes", _address)
EXCHANGE = Kind("an exchange's name: no '/', at most 255 bytes", _exchange)
GROUPS = names("names with commas between, each of letters, digits, '_' and '-', at most 64 of them", Kind("", _group))
OWN_HOST = Kind("localhost, 127.0.0.1, ::1, or a name for one of these", _own_host)
BROKER = Kind(
    "[adapter+]protocol://[user[:password]@]host[:port][/virtual-host], "
    "protocols amqp, amqps, ssl, tcp; or local:// or local:///path/to.sock",
    _broker,
)


def odd_identity(name: str, *, groups: bool = False) -> str | None:
    """Say what is odd about an identity, which nobody may have meant as it stands; None: nothing.

    Args:
        groups: ``@name`` may stand for a group here, and ``*`` for every identity.
    """
    if name == "@" and groups:
        return f"{shown(name)} names no group; write @ and the name of a group"
    if name.startswith("@") and not groups:
        return f"{shown(name)} is read as an identity; groups are allowed in [access] alone"
    if name[0] in "\"'" or name[-1] in "\"'":
        return f"{shown(name)} has a quote, which is part of the identity; remove it"
    if "*" in name and not (groups and name == "*"):
        return f"{shown(name)} has a * in it, which stands for nothing else here; name each caller, or a group"
    return None


def _text(raw: object, what: str) -> str:
    if not isinstance(raw, str):
        raise Wrong(f"{_json_kind(raw)} is not {what}")
    return raw.strip()


def _within(raw: object, number: N, low: float, high: float) -> N:
    if not low <= number <= high:
        raise Wrong(f"{shown(raw)} is out of range")
    return number


def _json_kind(raw: object) -> str:
    """Name the JSON type of a value that is not shown."""
    if isinstance(raw, list | dict):
        return shown(raw)
    return "true or false" if isinstance(raw, bool) else "a number" if isinstance(raw, int | float) else "text"


def _first_part(error: ConfigError) -> str:
    """Return what is wrong, without what would be allowed, which the kind says."""
    return re.split("; (?:allowed|expected)", str(error))[0]
