"""What is wrong with a configuration: one problem, one line."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Problem", "plain", "shown"]


class Problem(Struct, frozen=True):
    """One thing that is wrong in a configuration file. ``str()`` is exactly one line, and shows no password.

    An ``error`` means that what it concerns is not used: a descriptor with one is not loaded. A ``warning`` means that
    it is used, perhaps not as it was meant. ``section`` and ``key`` are None where the problem is about the whole file.
    """

    severity: Literal["error", "warning"]
    file: str
    section: str | None
    key: str | None
    text: str

    def __str__(self) -> str:
        place = plain(self.file, 4096) + ":"
        if self.section is not None:
            place += f" [{plain(self.section)}]"
            place += ":" if self.key is None else f" {plain(self.key)}:"
        return f"{place} {' '.join(self.text.split())}"


def shown(value: object, limit: int = 200) -> str:
    """Return a value that somebody wrote as its repr on one line, cut to ``limit`` characters; lists in words."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = repr(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def plain(text: str, limit: int = 100) -> str:
    """Return a name as it is where that is harmless on a line, else as ``shown``."""
    return text if text and text.isprintable() and len(text) <= limit else shown(text, limit)
