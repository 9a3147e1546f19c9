"""A plugin's settings as its own code has them: ``plugin.cfg.foobar.timeout``, and ``plugin.cfg.model.queue = ...``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gofer.agent.config.descriptor_keys import DESCRIPTOR
from gofer.agent.config.settings import Settings

__all__ = ["LiveSection", "LiveSettings"]


class LiveSection:
    """The values of one section. Any thread.

    ``section.timeout`` is a value, the default of a key that gofer knows, or None; ``section["timeout"]`` is the same,
    but a KeyError for what is neither there nor known. Values may be set and deleted either way. Iteration gives pairs
    of name and value, of what is there; ``in`` and ``len()`` are about that, too. There are no other methods, so that
    no name can be hidden by one. ``repr()`` shows the names and never a value: there may be passwords among them.
    """

    __slots__ = ("_defaults", "_label", "_settings", "_values")

    _settings: LiveSettings
    _label: str
    _values: dict[str, object]
    _defaults: dict[str, object]

    def __init__(
        self, settings: LiveSettings, label: str, values: Mapping[str, object], defaults: Mapping[str, object]
    ) -> None:
        """Keep copies. ``label`` says in messages what this is, like ``[main] of /etc/...``."""
        for name, value in (
            ("_settings", settings),
            ("_label", label),
            ("_values", dict(values)),
            ("_defaults", dict(defaults)),
        ):
            object.__setattr__(self, name, value)

    # Any: the author of a plugin knows what stands in their own section, and a checker cannot.
    def __getattr__(self, name: str) -> Any:
        if name in LiveSection.__slots__ or name.startswith("__"):  # copying asks before there are values
            raise AttributeError(name)
        if name == "keys" and name not in self._values:  # dict(section) takes pairs, unless there is a method `keys`
            raise AttributeError(f"no {name!r} in {self._label}")
        return self._values.get(name, self._defaults.get(name))

    def __getitem__(self, name: str) -> Any:
        for values in (self._values, self._defaults):
            if name in values:
                return values[name]
        raise KeyError(f"no {name!r} in {self._label}; it has: {', '.join(self._values) or 'nothing'}")

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: object) -> None:
        self._values[name] = value
        self._settings._note()

    def __delattr__(self, name: str) -> None:
        if name not in self._values:
            raise AttributeError(f"no {name!r} in {self._label}")
        del self[name]

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._settings._note()

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(list(self._values.items()))

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"<settings {self._label}: {', '.join(self._values)}>"


class LiveSettings:
    """All sections of a descriptor, and those that the plugin's code has added. Any thread.

    ``cfg.foobar`` is a section, without anything in it if there is none; ``cfg["foobar"]`` is a KeyError then. A
    section may be set to a mapping. Iteration gives pairs of name and section, of those that are there. ``cfg()`` is
    ``cfg``: the older way. What the code has set in ``[messaging]`` and ``[model]`` counts from the next
    ``plugin.attach()`` on.
    """

    __slots__ = ("_changes", "_file", "_sections", "_texts")

    _changes: int
    _file: str
    _sections: dict[str, LiveSection]
    _texts: bool

    def __init__(self, file: str, sections: Settings, *, texts: bool = True) -> None:
        """Copy what the descriptor says.

        Args:
            texts: defaults are text, as they are when they are written into an ini file.
        """
        for name, value in (("_file", file), ("_changes", 0), ("_sections", {}), ("_texts", texts)):
            object.__setattr__(self, name, value)
        for name in sections:
            self._sections[name] = self._make(name, {key: sections[name][key] for key in sections[name]})

    def _make(self, name: str, values: Mapping[str, object]) -> LiveSection:
        known = [key for key in DESCRIPTOR.keys if key.section == name and key.instead is None]
        defaults = {key.name: _default(key.default, self._texts) for key in known}
        return LiveSection(self, f"[{name}] of {self._file}", values, defaults)

    def _note(self) -> None:
        object.__setattr__(self, "_changes", self._changes + 1)

    def __call__(self) -> LiveSettings:
        return self

    def __getattr__(self, name: str) -> Any:
        if name in LiveSettings.__slots__ or name.startswith("__"):
            raise AttributeError(name)
        found = self._sections.get(name)
        return self._sections.setdefault(name, self._make(name, {})) if found is None else found

    def __getitem__(self, name: str) -> Any:
        if name in self:
            return self._sections[name]
        there = ", ".join(name for name, _ in self)
        raise KeyError(f"no section {name!r} in {self._file}; it has: {there or 'none'}")

    def __setattr__(self, name: str, values: object) -> None:
        self[name] = values

    def __setitem__(self, name: str, values: object) -> None:
        if not isinstance(values, (Mapping, LiveSection)):
            raise TypeError(f"section {name!r} of {self._file} is a mapping of names to values, not {values!r:.100}")
        self._sections[name] = self._make(name, dict(values))
        self._note()

    def __contains__(self, name: object) -> bool:
        return any(name == there for there, _ in self)

    def __iter__(self) -> Iterator[tuple[str, LiveSection]]:
        return iter([(name, section) for name, section in list(self._sections.items()) if len(section)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name, _ in self)]

    def __repr__(self) -> str:
        return f"<settings of {self._file}: {', '.join(name for name, _ in self)}>"


def _default(value: object, texts: bool) -> object:
    """Return the default of a key as it would stand in the file; None: it would not."""
    if value is None or value == ():
        return None
    if not texts:
        return value
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
