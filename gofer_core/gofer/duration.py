"""Durations as people write them: ``30``, ``'30s'``, ``'5m'``, ``'2h'``, ``'1d'``.

One function reads them all: configuration files, callers' options, and command lines.
"""

from __future__ import annotations

import math
import re

from gofer.errors import ConfigError

__all__ = ["DURATIONS", "parse_duration"]

DURATIONS = "seconds as a number, or a number followed by s, m, h or d, like '30s', '5m', '2h', '1d'"
"""What ``parse_duration`` takes, in words, for messages and help texts."""

_SHAPE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([smhd]?)")


def parse_duration(value: float | str) -> float:
    """Read a duration and return it in seconds, 0 or more and finite.

    A number, or a text without a unit, is in seconds. Spaces around a text are ignored.

    Raises:
        ConfigError: a text that is no duration, or a number that is negative, infinite or not a number.
        TypeError: neither a number nor text (a bool is not a number here).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"a duration is {DURATIONS}; not {type(value).__name__}")
    if isinstance(value, str):
        return _parse_text(value)
    try:
        seconds = float(value)
    except OverflowError:  # an int too large for a float, and perhaps for repr()
        raise ConfigError(f"the duration is too long a number; allowed: {DURATIONS}") from None
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigError(f"duration {repr(value)[:200]} is not a finite number of 0 or more; allowed: {DURATIONS}")
    return seconds


def _parse_text(text: str) -> float:
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{repr(text)[:200]} is not a duration; allowed: {DURATIONS}")
    seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
    if not math.isfinite(seconds):
        raise ConfigError(f"duration {repr(text)[:200]} is too long; allowed: {DURATIONS}")
    return seconds
