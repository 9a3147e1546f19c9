"""Which machines of a fleet are meant: one small language, read here, and asked of each machine's card.

::

    expression = either
    either     = both   { "or" both }
    both       = single { "and" single }
    single     = "not" single | "(" either ")" | "all" | test
    test       = path [ operator values ]
    operator   = "=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">="
    values     = value { "," value }
    value      = word | 'text' | "text"

A path is ``name``, ``address``, ``group``, ``plugin``, ``class``, ``gofer``, ``plugin.NAME`` (that plugin's version) or
``facts.NAME`` (``facts.os.id``). ``=`` compares the whole value, in which ``*`` and ``?`` are wild; ``~`` looks for a
part of it. Several values mean: any of them. ``<`` and the like compare numbers as numbers, and text as versions:
1.10 is later than 1.9. A path alone asks whether there is such a value. A path with several values (groups) passes a
test if one of them does; ``!=`` and ``!~`` if none does. There are no regular expressions: the longest evaluation
takes an agent a few milliseconds.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gofer.errors import ConfigError

__all__ = ["MAX_LENGTH", "Targets"]

#: What an expression may have at most: characters, tests, and brackets within brackets.
MAX_LENGTH = 4096
_MOST_TESTS = 128
_DEEPEST = 32
#: Characters of a value that a test looks at, and how many values of a list.
_LONGEST = 1024
_MOST_VALUES = 256

_TOKEN = re.compile(
    r"""\s*(?: (?P<mark>[()]) | (?P<op>!=|!~|<=|>=|=|~|<|>) | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
    | (?P<comma>,) | (?P<word>[^\s()=!~<>'",]+) )""",
    re.VERBOSE,
)
_WORDS = ("and", "or", "not", "all")
_PATHS = ("name", "address", "group", "plugin", "class", "gofer")
_ORDERS: dict[str, Callable[[int], bool]] = {
    "<": lambda order: order < 0,
    "<=": lambda order: order <= 0,
    ">": lambda order: order > 0,
    ">=": lambda order: order >= 0,
}
#: Words in a version that make it an earlier one: 2.0rc1 comes before 2.0.
_BEFORE = ("a", "alpha", "b", "beta", "c", "dev", "pre", "rc")


class _Token(Struct, frozen=True):
    kind: str  # mark, op, text (in quotes), word, comma, end
    text: str
    at: int


class _Test(Struct, frozen=True):
    path: str
    operator: str = ""
    values: tuple[str, ...] = ()

    def passes(self, card: Mapping[str, Any]) -> bool:
        found = [one for one in _look_up(card, self.path) if one is not None]
        if not self.operator:
            return any(one not in (False, "", 0) for one in found)
        if self.operator.startswith("!"):
            return not any(self._fits(one, self.operator[1:]) for one in found)
        return any(self._fits(one, self.operator) for one in found)

    def _fits(self, found: Any, operator: str) -> bool:
        if operator in _ORDERS:
            orders = (_compare(found, value) for value in self.values)
            return any(order is not None and _ORDERS[operator](order) for order in orders)
        text = _text(found)
        if operator == "~":
            return any(value in text for value in self.values)
        return any(text == value or fnmatch.fnmatchcase(text, value.replace("[", "[[]")) for value in self.values)


class _Not(Struct, frozen=True):
    one: _Node

    def passes(self, card: Mapping[str, Any]) -> bool:
        return not self.one.passes(card)


class _Several(Struct, frozen=True):
    every: bool  # else any
    parts: tuple[_Node, ...]

    def passes(self, card: Mapping[str, Any]) -> bool:
        return (all if self.every else any)(part.passes(card) for part in self.parts)


_Node = _Test | _Not | _Several


class Targets:
    """An expression that was read. Frozen; equal if the text is.

    Args:
        text: the expression; nothing, or ``all``, means every machine.

    Raises:
        ConfigError: it cannot be read; the text points to the place.
    """

    def __init__(self, text: str = "all") -> None:
        self.text = " ".join(text.split()) if len(text) <= MAX_LENGTH else text
        self._node = _Parser(self.text).parse()

    def matches(self, card: Mapping[str, Any]) -> bool:
        """Tell whether a machine is meant.

        Args:
            card: its card as plain data: see :class:`gofer.card.Card`.
        """
        return self._node.passes(card)

    @property
    def group(self) -> str | None:
        """A group that all who are meant are in, so that only its machines need to be asked; None: there is none."""
        node = self._node
        parts = node.parts if isinstance(node, _Several) and node.every else (node,)
        tests = [part for part in parts if isinstance(part, _Test) and (part.path, part.operator) == ("group", "=")]
        single = (test.values[0] for test in tests if len(test.values) == 1)
        return next((name for name in single if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)), None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Targets) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text or "all"

    def __repr__(self) -> str:
        return f"Targets({str(self)!r})"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        if len(text) > MAX_LENGTH:
            raise ConfigError(f"the expression has {len(text)} characters; allowed: {MAX_LENGTH}")
        self._tokens = self._split()
        self._token = next(self._tokens)
        self._tests = 0

    def parse(self) -> _Node:
        if self._token.kind == "end":
            return _Several(every=True, parts=())
        node = self._series("or", 0)
        if self._token.kind != "end":
            raise self._wrong("expected 'and', 'or', or the end")
        return node

    def _split(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._text.rstrip()):
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                quote = self._text[at] in "'\""
                raise self._wrong("a quote that is not closed" if quote else "not expected here", _Token("", "", at))
            kind = str(found.lastgroup)
            start = found.start(kind) - (kind in ("single", "double"))
            yield _Token("text" if kind in ("single", "double") else kind, found[kind], start)
            at = found.end()
        while True:
            yield _Token("end", "", len(self._text))

    def _series(self, word: str, depth: int) -> _Node:
        part = self._single if word == "and" else lambda depth: self._series("and", depth)
        parts = [part(depth)]
        while self._token == _Token("word", word, self._token.at):
            self._next()
            parts.append(part(depth))
        return parts[0] if len(parts) == 1 else _Several(every=word == "and", parts=tuple(parts))

    def _single(self, depth: int) -> _Node:
        token = self._token
        if depth > _DEEPEST:
            raise self._wrong(f"more than {_DEEPEST} brackets and 'not' within each other")
        if token.kind == "mark" and token.text == "(":
            self._next()
            node = self._series("or", depth + 1)
            if (self._token.kind, self._token.text) != ("mark", ")"):
                raise self._wrong("expected ')', 'and' or 'or'")
            self._next()
            return node
        if token.kind == "word" and token.text == "not":
            self._next()
            return _Not(self._single(depth + 1))
        if token.kind == "word" and token.text == "all":
            self._next()
            return _Several(every=True, parts=())
        if token.kind != "word" or token.text in _WORDS:
            raise self._wrong("expected a test like group=web, 'not', 'all', or '('")
        return self._test()

    def _test(self) -> _Node:
        path = self._token
        first, _, rest = path.text.partition(".")
        if not (path.text in _PATHS or (first in ("facts", "plugin") and rest)):
            allowed = f"{', '.join(_PATHS)}, plugin.NAME, facts.NAME"
            raise self._wrong(f"no such thing to test: {path.text[:60]!r}; allowed: {allowed}")
        self._tests += 1
        if self._tests > _MOST_TESTS:
            raise self._wrong(f"more than {_MOST_TESTS} tests")
        self._next()
        if self._token.kind != "op":
            return _Test(path.text)
        operator = self._next().text
        values = [self._value()]
        while self._token.kind == "comma":
            self._next()
            values.append(self._value())
        if len(values) > _MOST_VALUES:
            raise self._wrong(f"more than {_MOST_VALUES} values")
        return _Test(path.text, operator, tuple(values))

    def _value(self) -> str:
        if self._token.kind not in ("word", "text"):
            raise self._wrong("expected a value; put it in quotes if it has spaces, commas or operators in it")
        return self._next().text

    def _next(self) -> _Token:
        token, self._token = self._token, next(self._tokens)
        return token

    def _wrong(self, why: str, token: _Token | None = None) -> ConfigError:
        at = (token or self._token).at
        begin = max(0, at - 40)
        excerpt = self._text[begin : at + 30]
        return ConfigError(f"{why}, at character {at + 1}:\n  {excerpt}\n  {' ' * (at - begin)}^")


def _look_up(card: Mapping[str, Any], path: str) -> Sequence[Any]:
    """Return the values that a card has at a path; several for a list."""
    first, _, rest = path.partition(".")
    plugins: Mapping[str, Mapping[str, Any]] = card.get("plugins") or {}
    found: Any
    match first:
        case "group":
            found = card.get("groups")
        case "class":
            found = [name for one in plugins.values() for name in one.get("classes") or ()]
        case "plugin" if not rest:
            found = list(plugins)
        case "plugin":
            found = plugins[rest].get("version") or "0" if rest in plugins else None
        case "facts":
            found = card.get("facts")
            for step in rest.split("."):
                found = found.get(step) if isinstance(found, Mapping) else None
        case _:
            found = card.get("version" if first == "gofer" else first)
    return found[:_MOST_VALUES] if isinstance(found, list | tuple) else [found]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:_LONGEST] if isinstance(value, str | int | float) else ""


def _compare(found: Any, wanted: str) -> int | None:
    """Compare a card's value with an expression's: less than 0, 0 or more. None: they cannot be compared."""
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            number, other = float(found), float(wanted)
        except (ValueError, OverflowError):
            return None
        return (number > other) - (number < other)
    left, right = _version(_text(found)), _version(wanted)
    return int(left > right) - int(left < right) if left and right else None


def _version(text: str) -> tuple[Any, ...]:
    """Make a key by which versions sort; an empty one for text that does not begin with a number."""
    parts = re.findall(r"[0-9]{1,18}|[a-z]+", text.lower())
    count = next((n for n, part in enumerate(parts) if not part.isdigit()), len(parts))
    if not count:
        return ()
    release, rest = [int(part) for part in parts[:count]], parts[count:]
    while len(release) > 1 and release[-1] == 0:  # 1.0 is 1
        release.pop()
    rank = 1 if not rest else 0 if rest[0] in _BEFORE else 2
    return (*release, -1), rank, *((1, int(part), "") if part.isdigit() else (0, 0, part) for part in rest)
