"""Values that cross the wire: plain JSON, checked where they are made.

Plain is None, bool, int (of at most 4,300 digits: Python reads no more), finite float, str, list, tuple, and dict with
str keys, nested at most 100 deep. Anything else is a TypeError that names the place, never a silent conversion: an
encoder would make null of NaN and text of bytes.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

__all__ = ["MAX_DEPTH", "plain"]

MAX_DEPTH = 100

_ATOMS = frozenset({str, bool, type(None)})
_TOO_LARGE = 10**4300

#: Where a value is: the path to what holds it (None: nothing does) and its place there. It becomes text for an error.
_Path = tuple[Any, Any]


def plain(value: Any, what: str = "value") -> Any:
    """Return the value, with subclasses of str, int and float made plain.

    Args:
        what: how to name the value in an error: ``argument 2``, ``result``.

    Raises:
        TypeError: something in it is not plain JSON, or it is nested too deep (or contains itself).
    """
    if type(value) in _ATOMS and (type(value) is not str or value.isascii()):
        return value
    return _plain(value, (None, what), 0)


def _plain(value: Any, path: _Path, depth: int) -> Any:
    kind = type(value)
    if kind is str or isinstance(value, str):
        return value if kind is str and value.isascii() else _text(value, path)
    if kind in _ATOMS:
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise TypeError(f"{_name(path)} is {value!r}: only finite numbers can be sent")
        return float(value)
    if isinstance(value, int):
        if not -_TOO_LARGE < value < _TOO_LARGE:
            raise TypeError(f"{_name(path)} is an integer of more than 4,300 digits, which cannot be sent")
        return int(value)
    if depth >= MAX_DEPTH:
        raise TypeError(f"{_name(path).split('[', 1)[0]} is nested deeper than {MAX_DEPTH}")
    if isinstance(value, (list, tuple)):
        return [_plain(item, (path, n), depth + 1) for n, item in enumerate(value)]
    if isinstance(value, dict):
        return {_key(key, path): _plain(item, (path, key), depth + 1) for key, item in value.items()}
    raise TypeError(f"{_name(path)} is a {kind.__module__}.{kind.__qualname__}: only plain JSON values can be sent")


def _name(path: _Path) -> str:
    """Name the place of a value."""
    above, here = path
    return str(here) if above is None else f"{_name(above)}[{here!r}]"


def _text(value: str, path: _Path) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as bad:
        text = f"{_name(path)} is text with a lone surrogate at {bad.start}: it cannot be sent as UTF-8"
        raise TypeError(text) from None
    return value if type(value) is str else str.__str__(value)


def _key(key: Any, path: _Path) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{_name(path)} has the key {key!r}: the keys of a dict must be text")
    return _text(key, path)
