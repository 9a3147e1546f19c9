"""A plugin's settings as its own code has them: ``plugin.cfg.foobar.timeout``, and ``plugin.cfg.model.queue = ...``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from gofer.agent.config.descriptor import DESCRIPTOR, Descriptor, redescribe
from gofer.agent.config.keys import written
from gofer.agent.config.problem import Problem
from gofer.errors import ConfigError
from gofer.messaging.url import URL
from gofer.sections import Sections

__all__ = ["LiveSection", "LiveSettings", "as_changed"]


class _Named:
    """What sections and all settings have in common: names, as attributes and items, and no methods to hide one."""

    __slots__ = ("_changes", "_label", "_values")

    _changes: list[int]  # one number, how many there were in all sections together
    _label: str
    _values: dict[str, Any]

    def __init__(self, label: str, values: Mapping[str, Any], changes: list[int]) -> None:
        for name, value in zip(_Named.__slots__, (changes, label, dict(values)), strict=True):
            object.__setattr__(self, name, value)

    def _there(self) -> dict[str, Any]:
        return self._values

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        self._values[name] = value
        self._changes[0] += 1

    def __contains__(self, name: object) -> bool:
        return name in self._there()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(list(self._there().items()))

    def __len__(self) -> int:
        return len(self._there())

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._there()]

    def __repr__(self) -> str:
        return f"<settings {self._label}: {', '.join(self._there())}>"


class LiveSection(_Named):
    """The values of one section. Any thread.

    ``section.timeout`` is a value, the default of a key that gofer knows, or None; ``section["timeout"]`` is the same,
    but a KeyError for what is neither there nor known. Values may be set and deleted either way. Iteration gives pairs
    of name and value, of what is there; ``in`` and ``len()`` are about that, too. There are no other methods, so that
    no name can be hidden by one. ``repr()`` shows the names and never a value: there may be passwords among them.
    """

    __slots__ = ("_defaults",)

    _defaults: dict[str, Any]

    def __init__(
        self, label: str, values: Mapping[str, Any], changes: list[int], defaults: dict[str, Any] | None = None
    ) -> None:
        """Keep a copy. ``label`` says in messages what this is, like ``[main] of /etc/...``."""
        super().__init__(label, values, changes)
        object.__setattr__(self, "_defaults", defaults or {})

    # Any: the author of a plugin knows what stands in their own section, and a checker cannot.
    def __getattr__(self, name: str) -> Any:
        if name in (*_Named.__slots__, "_defaults") or name.startswith("__"):  # copying asks before there are values
            raise AttributeError(name)
        if name == "keys" and name not in self._values:  # dict(section) takes pairs, unless there is a method `keys`
            raise AttributeError(f"no {name!r} in {self._label}")
        return self._values.get(name, self._defaults.get(name))

    def __getitem__(self, name: str) -> Any:
        if name not in self._values and name not in self._defaults:
            raise KeyError(f"no {name!r} in {self._label}; it has: {', '.join(self._values) or 'nothing'}")
        return getattr(self, name)

    def __delattr__(self, name: str) -> None:
        if name not in self._values:
            raise AttributeError(f"no {name!r} in {self._label}")
        del self[name]

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._changes[0] += 1


class LiveSettings(_Named):
    """All sections of a descriptor, and those that the plugin's code has added. Any thread.

    ``cfg.foobar`` is a section, without anything in it if there is none; ``cfg["foobar"]`` is a KeyError then. A
    section may be set to a mapping. Iteration gives pairs of name and section, of those that are there. ``cfg()`` is
    ``cfg``: the older way. What the code has set in ``[messaging]`` and ``[model]`` counts from the next
    ``plugin.attach()`` on.
    """

    __slots__ = ("_texts",)

    _texts: bool

    def __init__(self, file: str, sections: Sections, *, texts: bool = True) -> None:
        """Copy what the descriptor says.

        Args:
            texts: defaults are text, as they are when they are written into an ini file.
        """
        super().__init__(f"of {file}", {}, [0])
        object.__setattr__(self, "_texts", texts)
        self._values.update({name: self._make(name, values) for name, values in sections.items()})

    def _make(self, name: str, values: Mapping[str, object]) -> LiveSection:
        known = [key for key in DESCRIPTOR.of(name) if key.instead is None and key.default not in (None, ())]
        defaults = {key.name: written(key.default) if self._texts else key.default for key in known}
        return LiveSection(f"[{name}] {self._label}", values, self._changes, defaults)

    def _there(self) -> dict[str, LiveSection]:
        return {name: section for name, section in list(self._values.items()) if len(section)}

    def __call__(self) -> LiveSettings:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in (*_Named.__slots__, "_texts") or name.startswith("__"):
            raise AttributeError(name)
        if name == "keys" and name not in self._values:  # dict(cfg) takes pairs, unless there is a method `keys`
            raise AttributeError(f"no section {name!r} in {self._label}")
        found = self._values.get(name)
        return self._values.setdefault(name, self._make(name, {})) if found is None else found

    def __getitem__(self, name: str) -> Any:
        there = self._there()
        if name in there:
            return there[name]
        raise KeyError(
            f"no section {name!r} in {self._label.removeprefix('of ')}; it has: {', '.join(there) or 'none'}"
        )

    def __setitem__(self, name: str, values: object) -> None:
        if not isinstance(values, (Mapping, LiveSection)):
            raise TypeError(f"section {name!r} {self._label} is a mapping of names to values, not {values!r:.100}")
        super().__setitem__(name, self._make(name, dict(values)))


def as_changed(file: Descriptor, settings: LiveSettings) -> tuple[Descriptor, list[Problem]]:
    """Return the descriptor with what a plugin's code has set, and what is odd about that.

    Args:
        file: the descriptor as it is in the file.

    Raises:
        ConfigError: what is set cannot be used, or is what counts only in the file, where nobody would notice that it
            does not.
    """
    found, problems = redescribe(file.file, _sections_of(settings))
    known = redescribe(file.file, _sections_of(LiveSettings(str(file.file), file.sections)))[1]
    odd = [problem for problem in problems if problem not in known]
    if found.authenticator != file.authenticator:
        text = "counts only in the file; set plugin.authenticator, to an object"
        raise ConfigError(f"{file.file}: [messaging] authenticator: {text}")
    for name in ("admin", "trust", "required", "accept", "forward", "extends"):
        if getattr(found, name) != getattr(file, name):
            raise ConfigError(f"{file.file}: [main] {name}: counts only in the file, and plugin.cfg has another")
    idle = [name for name in ("name", "plugin", "enabled", "threads") if getattr(found, name) != getattr(file, name)]
    odd += [Problem("warning", str(file.file), "main", name, "counts only in the file") for name in idle]
    return found, odd


def _sections_of(settings: LiveSettings) -> dict[str, dict[str, object]]:
    """Return plain sections, as they would have been read from a file; what was set to None is not there."""
    found: dict[str, dict[str, object]] = {"main": {}}
    for name, section in settings:
        found[name] = {key: _plain(value) for key, value in section if value is not None}
    return found


def _plain(value: object) -> object:
    if isinstance(value, URL):
        return value.text
    return os.fspath(value) if isinstance(value, os.PathLike) else value
