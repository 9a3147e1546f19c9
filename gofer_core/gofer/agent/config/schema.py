"""What a table of sections and keys consists of: what is read, what it defaults to, and what it means.

Reading, the hints about unknown keys, and the configuration reference are all made from the tables in ``agent_keys``
and ``descriptor_keys``; there is no other place where a key is named. The documentation of a key is one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gofer.agent.config import values as v

__all__ = ["FreeKeys", "Key", "Schema"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """One key. ``default`` is what stands for an absent or blank one.

    ``blank``: whether it may be given without a value, as an old template does; where that could hide a slip that opens
    a door, it is an error. ``instead``: the key that replaces this old one; using it is a warning.
    """

    section: str
    name: str
    type: v.Type[T_co]
    default: T_co
    doc: str
    blank: bool = True
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class FreeKeys(Generic[T_co]):
    """Keys of a section that are not known beforehand: a pattern for their names, and one type for all."""

    section: str
    name: str
    pattern: str
    type: v.Type[T_co]
    doc: str


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that one kind of file may hold.

    ``sections`` maps each section to its sentence. ``retired`` maps (section, key), or (section, None), to the sentence
    that says what became of it. ``open``: other sections belong to the user and are kept. ``required``: these must be
    there.
    """

    sections: Mapping[str, str]
    keys: tuple[Key[object], ...]
    free: tuple[FreeKeys[object], ...] = ()
    retired: Mapping[tuple[str, str | None], str] = field(default_factory=dict)
    open: bool = False
    required: tuple[str, ...] = ()

    def find(self, section: str, name: str) -> Key[object] | None:
        """Return the key of that name, or None."""
        return next((key for key in self.keys if (key.section, key.name) == (section, name)), None)

    @property
    def protected(self) -> Mapping[str, frozenset[str]]:
        """By section, the keys that keep somebody out: those that may not be blank."""
        return {
            section: frozenset(key.name for key in self.keys if key.section == section and not key.blank)
            for section in self.sections
        }

    def names(self, section: str) -> list[str]:
        """Return the names of a section's keys, in the table's order, old ones left out."""
        return [key.name for key in self.keys if key.section == section and key.instead is None]
