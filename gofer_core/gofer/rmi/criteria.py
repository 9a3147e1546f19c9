"""Criteria: which requests are meant, told by what their callers have put beside them (``data``)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from gofer.errors import InvalidOperator
from gofer.messaging.document import encode, shown
from gofer.suggest import available, did_you_mean

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_TERMS", "OPERATORS", "InvalidOperator", "check", "matches"]

#: What criteria may be at most: all of it is asked of each request that waits or runs.
MAX_TERMS, MAX_DEPTH, MAX_BYTES = 1000, 16, 64 * 1024


def matches(criteria: Mapping[str, Any], data: Any) -> bool:
    """Tell whether criteria that :func:`check` has let through hold for some data. Pure; never raises.

    ========================  ==========================================================================
    ``{"match": {"k": v}}``   data is an object that has each ``k``, with the value ``v``; a ``v`` that is
                              an object matches in the same way
    ``{"eq": v}``             data equals ``v``; ``{"neq": v}``: it does not
    ``{"gt": v}``             data is greater than ``v``; ``{"lt": v}``: less. What has no order is neither
    ``{"in": [v, ...]}``      data equals one of these
    ``{"and": [c, ...]}``     all of these criteria hold; ``{"or": [c, ...]}``: at least one
    ========================  ==========================================================================

    Several operators in one object must all hold. Values are equal where Python says so.
    """
    return all(OPERATORS[operator](wanted, data) for operator, wanted in criteria.items())


def check(criteria: Any) -> None:
    """Check criteria, whole, before any of them is asked.

    Raises:
        InvalidOperator: an operator that there is none of.
        ValueError: something in it has the wrong shape, is empty (which would mean every request), or is too much:
            criteria are asked of each request that there is.
    """
    size = _size(criteria)
    if size > MAX_BYTES:
        raise ValueError(f"criteria of {size} bytes; {MAX_BYTES} are allowed")
    terms = _check(criteria, 1)
    if terms > MAX_TERMS:
        raise ValueError(
            f"criteria of {terms} terms; {MAX_TERMS} are allowed (operators, keys to match, values in a list)"
        )


def _check(criteria: Any, depth: int) -> int:
    """Check criteria at some depth; return how many terms they are."""
    if depth > MAX_DEPTH:
        raise ValueError(f"criteria are nested deeper than {MAX_DEPTH}")
    if not isinstance(criteria, Mapping):
        raise ValueError(f"criteria are an object with an operator, not a {type(criteria).__name__}")
    if not criteria:
        raise ValueError("empty criteria would mean every request")
    terms = 0
    for operator, wanted in criteria.items():
        if operator not in OPERATORS:
            hint = did_you_mean(operator, OPERATORS)
            raise InvalidOperator(f"{shown(operator, 60)} is not an operator{hint}; allowed: {available(OPERATORS)}")
        shape = _SHAPES.get(operator)
        if shape is not None and not isinstance(wanted, shape):
            raise ValueError(f"{operator}: {_NAMES[shape]}, not a {type(wanted).__name__}")
        if shape is not None and not wanted:
            raise ValueError(f"{operator}: is empty")
        terms += 1
        if operator in ("and", "or"):
            terms += sum(_check(one, depth + 1) for one in wanted)
        elif operator == "match":
            terms += _keys(wanted, depth + 1)
        elif operator == "in":
            terms += len(wanted)
    return terms


def _keys(wanted: Mapping[str, Any], depth: int) -> int:
    if depth > MAX_DEPTH:
        raise ValueError(f"criteria are nested deeper than {MAX_DEPTH}")
    return len(wanted) + sum(_keys(value, depth + 1) for value in wanted.values() if isinstance(value, Mapping))


def _size(criteria: Any) -> int:
    try:
        return len(encode({"": criteria}))
    except (UnicodeEncodeError, TypeError, ValueError):  # lone surrogates, which only the original's encoder writes
        return len(json.dumps(criteria, default=str))


def _match(wanted: Mapping[str, Any], data: Any) -> bool:
    return isinstance(data, Mapping) and all(
        key in data and (_match(value, data[key]) if isinstance(value, Mapping) else data[key] == value)
        for key, value in wanted.items()
    )


def _greater(one: Any, other: Any) -> bool:
    try:
        return bool(one > other)
    except TypeError:
        return False


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "match": _match,
    "eq": lambda wanted, data: bool(data == wanted),
    "neq": lambda wanted, data: bool(data != wanted),
    "gt": lambda wanted, data: _greater(data, wanted),
    "lt": _greater,
    "in": lambda wanted, data: data in wanted,
    "and": lambda wanted, data: all(matches(one, data) for one in wanted),
    "or": lambda wanted, data: any(matches(one, data) for one in wanted),
}

_SHAPES: Mapping[str, type] = {"match": dict, "in": list, "and": list, "or": list}
_NAMES: Mapping[type, str] = {dict: "an object", list: "a list"}
