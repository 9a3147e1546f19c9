"""Configuration files of anybody, read as gofer 2 read them: plugins' own, and those of other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gofer.errors import ConfigError
from gofer.sections import Unreadable, parse_ini, parse_json

__all__ = ["Config", "Graph", "get_bool"]

_TRUE = frozenset({"1", "y", "yes", "true", "on", "enabled"})
_FALSE = frozenset({"", "0", "n", "no", "false", "off", "disabled"})


class Config(dict[str, dict[str, Any]]):
    """Sections of names and values: ``Config("/etc/rhsm/rhsm.conf")["server"]["hostname"]``.

    Args:
        sources: files (ini, or JSON where the name ends in ``.json``) and mappings; the later ones stand over the
            earlier ones, value by value. Values of ini files are text, and no ``%`` or ``#`` in them means anything.

    Raises:
        OSError: a file cannot be read.
        ConfigError: a file is neither ini nor JSON; the text names it.
    """

    def __init__(self, *sources: str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        for source in sources:
            self.merge(source if isinstance(source, Mapping) else _read(Path(source)))

    def merge(self, other: Mapping[str, Mapping[str, Any]]) -> None:
        """Put the values of other sections over these.

        Raises:
            ConfigError: there is something in it that is no section.
        """
        for name, section in other.items():
            if not isinstance(section, Mapping):
                raise ConfigError(f"{name!r} is no section: {type(section).__name__}; allowed: names with values")
            self.setdefault(str(name), {}).update(section)

    def graph(self) -> Graph:
        """Return a view of it with attributes."""
        return Graph(self)


class Graph:
    """Sections and values as attributes: ``Graph(config).server.hostname``; None for what is not there.

    Values may be set; they are those of the mapping that it is made of.
    """

    __slots__ = ("_of",)

    def __init__(self, of: Any) -> None:
        object.__setattr__(self, "_of", of)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if isinstance(self._of, Config):
            return Graph(self._of.setdefault(name, {}))
        return self._of.get(name)

    def __setattr__(self, name: str, value: object) -> None:
        self._of[name] = value

    def __repr__(self) -> str:
        return f"<Graph of {', '.join(map(str, self._of))}>"


def get_bool(value: object) -> bool:
    """Read a word that means yes or no: 1, yes, true, on, enabled; 0, no, false, off, disabled, or nothing.

    Raises:
        ValueError: it means neither.
    """
    word = "" if value is None else str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{value!r} is neither yes nor no; allowed: {', '.join(sorted((_TRUE | _FALSE) - {''}))}")


def _read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        text = path.read_text("utf-8")
        content = parse_json(text) if path.suffix == ".json" else parse_ini(text)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except Unreadable as wrong:
        raise ConfigError(f"{path}: {'' if wrong.section is None else f'[{wrong.section}]: '}{wrong}") from None
    if content.ignored:
        raise ConfigError(f"{path}: is neither [section] nor key=value nor a comment (line {content.ignored[0]})")
    return content.sections
