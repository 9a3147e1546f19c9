"""A descriptor's sections as they stand in its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Settings"]


class Settings:
    """Named values, read as attributes or by ``[...]``; a section inside a file's sections is Settings again.

    A value of an ini file is text; one of a JSON file has its own type. ``name in``, ``len()`` and iteration are about
    the names. There are no other methods, so that no name in a file can be hidden by one. Nothing can be changed; any
    thread may read. A plugin's code has :class:`gofer.agent.config.LiveSettings`, which are made of these.
    ``repr()`` shows the names and never a value: there may be passwords among them.
    """

    __slots__ = ("_label", "_values")

    _label: str
    _values: dict[str, object]

    def __init__(self, label: str, values: Mapping[str, object]) -> None:
        """Keep a copy of ``values``. ``label`` says in messages what this is, like ``[main] of /etc/...``."""
        object.__setattr__(self, "_label", label)
        object.__setattr__(self, "_values", dict(values))

    @classmethod
    def of_file(cls, file: str, sections: Mapping[str, Mapping[str, object]]) -> Settings:
        """Make the settings of a file from its sections."""
        return cls(file, {name: cls(f"[{name}] of {file}", keys) for name, keys in sections.items()})

    # Any: the author of a plugin knows what stands in their own section, and a checker cannot.
    def __getattr__(self, name: str) -> Any:
        if name in Settings.__slots__ or name.startswith("__"):  # copying and pickling ask before there are values
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(self._missing(name), name=name, obj=self) from None

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(self._missing(name)) from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self._label} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{self._label} cannot be changed")

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return self._values == other._values

    __hash__ = None  # type: ignore[assignment]  # values out of JSON may be lists, so no hash is possible

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"<Settings {self._label}: {', '.join(self._values)}>"

    def __reduce__(self) -> tuple[type[Settings], tuple[str, dict[str, object]]]:
        return Settings, (self._label, self._values)

    def _missing(self, name: str) -> str:
        return f"no {name!r} in {self._label}; it has: {', '.join(self._values) or 'nothing'}"
