"""Reads systemd's units as far as the tests need them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["command", "read_unit"]


def read_unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return a unit's sections; each maps its keys to their values, in their order."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line or line[0] in "#;":
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            assert section not in sections, f"{path}:{number}: twice"
            sections[section] = {}
        else:
            key, equals, value = line.partition("=")
            assert equals, f"{path}:{number}: {line!r} is neither a section nor a setting"
            assert not value.endswith("\\"), f"{path}:{number}: goes on in the next line"
            sections[section].setdefault(key, []).append(value)
    return sections


def command(unit: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return the words of ExecStart, as systemd would start them."""
    (line,) = unit["Service"]["ExecStart"]
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
