"""Lines of a crontab: minute, hour, day of month, month, day of week.

A field is ``*``, a number, a range ``a-b``, each of these with a step ``/n`` behind it, or a list of such with commas
between. Months and days of the week may be named by three letters; 0 and 7 are both Sunday.
"""

from __future__ import annotations

import re

from msgspec import Struct

__all__ = ["Crontab", "parse_crontab"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ITEM = re.compile(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d{1,4}))?", re.ASCII)


class Crontab(Struct, frozen=True):
    """The numbers that each field of a line means, in their order; Sunday is 0.

    ``either``: both kinds of day were limited, and one that fits is enough. ``hourly``: the hour was ``*``.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    either: bool
    hourly: bool


def parse_crontab(line: str) -> Crontab:
    """Read a line.

    Raises:
        ValueError: it is none, or says a day that no year has; the text names the field and what is allowed.
    """
    fields = line.split()
    if len(fields) != 5:
        raise ValueError("has not five fields: minute, hour, day of month, month, day of week")
    minutes = _field("minute", fields[0], 0, 59)
    hours = _field("hour", fields[1], 0, 23)
    days = _field("day of month", fields[2], 1, 31)
    months = _field("month", fields[3], 1, 12, _MONTHS)
    weekdays = tuple(sorted({day % 7 for day in _field("day of week", fields[4], 0, 7, _WEEKDAYS)}))
    either = fields[2][0] != "*" and fields[4][0] != "*"
    if not either and not any(day <= _LONGEST[month - 1] for month in months for day in days):
        raise ValueError("says a day that does not exist in its months")
    return Crontab(minutes, hours, days, months, weekdays, either, fields[1] == "*")


def _field(name: str, text: str, low: int, high: int, names: tuple[str, ...] = ()) -> tuple[int, ...]:
    allowed = f"{low}-{high}" + (f", {names[0]}-{names[-1]}" if names else "")

    def number(word: str) -> int:
        if word.lower() in names:
            return names.index(word.lower()) + low
        value = int(word) if word.isdecimal() and len(word) < 3 else -1
        if not low <= value <= high:
            raise ValueError(f"{name} is {text[:50]!r}: {word[:20]!r} is not in {allowed}")
        return value

    found: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{name} is {text[:50]!r}; allowed: *, {allowed}, ranges like 1-5, steps like */2, lists")
        step = int(match[4] or 1)
        if match[2] is None:
            first, last = low, high
        else:
            first = number(match[2])
            last = number(match[3]) if match[3] else (high if match[4] else first)
            if last == 0 < first and high == 7:  # Sunday at the end of a week: fri-sun
                last = 7
        if step < 1 or last < first:
            raise ValueError(f"{name} is {text[:50]!r}: {item!r} means no value at all")
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))
