"""Reading sections by the annotations of structs: typed values on one side, problems on the other.

A key is a field of a struct, annotated with its section, its kind, and a sentence; the name in files is the field's
encoded name, and the default the field's. Nothing else says what keys there are: reading, the hints about unknown keys,
the defaults of ``plugin.cfg``, and the tables of docs/configuration.md are all made from these annotations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

import msgspec
from msgspec import Struct

from gofer.agent.config.files import read_text
from gofer.agent.config.kinds import Kind, Wrong
from gofer.agent.config.problem import Problem, plain
from gofer.sections import Content, Sections, Unreadable, has_comment, parse_ini, parse_json
from gofer.suggest import nearest

__all__ = ["GUARD", "Key", "Reader", "Schema", "keys_of", "written"]

GUARD: Final = "guard"
"""Marks a key that keeps somebody out: without a value it is an error, for that could hide a slip that opens a door."""


class Key(Struct, frozen=True):
    """One key.

    Attributes:
        field: the field of the struct that it becomes.
        default: what stands for an absent or blank one.
        pattern: of keys that are not known beforehand, what their names look like; ``name`` stands for these.
        instead: the key that replaces this old one; using it is a warning.
    """

    section: str
    name: str
    field: str
    kind: Kind
    sentence: str
    default: object = None
    guard: bool = False
    pattern: re.Pattern[str] | None = None
    instead: str | None = None


def keys_of(*structs: type[msgspec.Struct]) -> Iterator[Key]:
    """Iterate over the keys among the fields of structs: those with ``Annotated[..., section, kind, sentence]``.

    ``GUARD``, or a pattern for the names of free keys, may follow.
    """
    for struct in structs:
        for one in msgspec.structs.fields(struct):
            if get_origin(one.type) is Annotated:
                section, kind, sentence, *more = one.type.__metadata__
                default = None if one.default is msgspec.NODEFAULT else one.default
                pattern = next((mark for mark in more if isinstance(mark, re.Pattern)), None)
                yield Key(section, one.encode_name, one.name, kind, sentence, default, GUARD in more, pattern)


class Schema(Struct, frozen=True):
    """Everything that one kind of file may hold.

    ``sections`` maps each section to its sentence. ``retired`` maps (section, key), or (section, None), to the sentence
    that says what became of it. ``open``: other sections belong to the user and are kept. ``required``: this section
    must be there.
    """

    sections: Mapping[str, str]
    keys: tuple[Key, ...]
    retired: Mapping[tuple[str, str | None], str] = {}
    open: bool = False
    required: str | None = None

    def find(self, section: str, name: str) -> Key | None:
        """Return the key of that name, or the one that stands for it; None: there is none."""
        for key in self.of(section):
            if key.name == name if key.pattern is None else key.pattern.fullmatch(name):
                return key
        return None

    def of(self, section: str) -> list[Key]:
        """Return the keys of a section."""
        return [key for key in self.keys if key.section == section]

    @property
    def guards(self) -> Mapping[str, frozenset[str]]:
        """By section, the keys that keep somebody out."""
        return {section: frozenset(key.name for key in self.of(section) if key.guard) for section in self.sections}


def written(value: object) -> str | None:
    """Write a default as it would stand in a file; None: it would not."""
    if value is None or value == ():
        return None
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, int) and value >= 1 << 20:
        return f"{value >> 20}M"
    return f"{value:g}" if isinstance(value, float) else str(value)


class Reader:
    """Reads the sections of one file by a schema, and collects ``problems`` in the file's order.

    ``values`` maps (section, key) to what was read; what is blank or wrong is not in it. ``lines`` maps it to the line
    in the file, where that is known. In a file that is no JSON a comment behind a value, and quotes around it, are part
    of the value; that is told.
    """

    def __init__(self, schema: Schema, path: Path) -> None:
        self.schema = schema
        self.path = path
        self._ini = path.suffix != ".json"
        self.values: dict[tuple[str, str], object] = {}
        self.lines: Mapping[tuple[str, str], int] = {}
        self.problems: list[Problem] = []

    @property
    def failed(self) -> bool:
        """Whether there was an error."""
        return any(problem.severity == "error" for problem in self.problems)

    def fields(self) -> dict[str, Any]:
        """Return what was read by the names of the struct's fields. Old keys are not among these, nor free ones."""
        given = {(key.section, key.name): key.field for key in self.schema.keys if key.instead is None}
        return {given[place]: value for place, value in self.values.items() if place in given}

    def error(self, section: str | None, key: str | None, text: str) -> None:
        """Note an error."""
        self._note("error", section, key, text)

    def warn(self, section: str | None, key: str | None, text: str) -> None:
        """Note a warning."""
        self._note("warning", section, key, text)

    def _note(self, severity: Literal["error", "warning"], section: str | None, key: str | None, text: str) -> None:
        self.problems.append(Problem(severity, str(self.path), section, key, text))

    def read_file(self, *, trusted: bool = False) -> Content | None:
        """Read the file, and all its sections. None: it cannot be used.

        Args:
            trusted: refuse a file that somebody else than root or this process's user could have written.
        """
        guards = self.schema.guards
        try:
            text = read_text(self.path, trusted=trusted)
            content = (
                parse_ini(text, guards, frozenset(self.schema.sections)) if self._ini else parse_json(text, guards)
            )
        except Unreadable as error:
            self.error(error.section, None, str(error))
            return None
        for remark in content.remarks:
            self.warn(*remark)
        self.lines = content.lines
        self.read(content.sections)
        return content

    def read(self, sections: Sections) -> None:
        """Read all sections."""
        if self.schema.required is not None and self.schema.required not in sections:
            self._say_missing(self.schema.required, sections)
        for section, keys in sections.items():
            if section in self.schema.sections:
                for name, raw in keys.items():
                    self._read_key(section, name, raw)
            elif (section, None) in self.schema.retired:
                self.warn(section, None, f"no longer used: {self.schema.retired[section, None]}")
            else:
                self._say_unknown_section(section, sections)
                for name, raw in keys.items():  # it may be a password, so it is not shown
                    if self._has_comment(raw):
                        text = (
                            "has a comment after its value, which becomes part of it; write comments on their own lines"
                        )
                        self.warn(section, name, text)

    def _read_key(self, section: str, name: str, raw: object) -> None:
        key = self.schema.find(section, name)
        if key is None:
            retired = self.schema.retired.get((section, name))
            self.warn(section, name, f"no longer used: {retired}" if retired else self._unknown_key(section, name))
        elif self._has_comment(raw):
            self.error(section, name, "has a comment after its value; write comments on their own lines")
        elif raw is None or raw == [] or (isinstance(raw, str) and not raw.strip(" ,\n" if key.kind.many else None)):
            # A comma alone is an empty list, as in the descriptors that came with gofer 2.12.
            if key.guard:
                self.error(section, name, f"has no value; allowed: {key.kind.allowed}; or remove the line")
        else:
            if self._ini and isinstance(raw, str) and len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'":
                self.warn(section, name, "has quotes around its value, which are part of it; remove them")
            try:
                self.values[section, name] = key.kind.read(raw)
            except Wrong as wrong:
                self.error(section, name, f"{wrong}; allowed: {key.kind.allowed}")
            else:
                if key.instead is not None:
                    self.warn(section, name, f"is deprecated; write {key.instead} instead")

    def _has_comment(self, raw: object) -> bool:
        return self._ini and isinstance(raw, str) and has_comment(raw)

    def _unknown_key(self, section: str, name: str) -> str:
        known = [key.name for key in self.schema.of(section) if key.instead is None]
        near = nearest(name, known)
        places = [f"[{key.section}]" for key in self.schema.keys if key.name == name and key.instead is None]
        hint = f"; it belongs in {' or '.join(places)};" if places else f"; did you mean {near}?" if near else ";"
        return f"unknown key, ignored{hint} allowed: {', '.join(known)}"

    def _say_missing(self, section: str, sections: Iterable[str]) -> None:
        near = nearest(section, sections)
        if near:
            text = f"the section is missing; is it the one named [{plain(near)}]? Rename that to [{section}]"
        else:
            what = "the section is missing" if sections else "the file has no section"
            text = f"{what}; add [{section}] and below it enabled = 1"
        self.error(section, None, text)

    def _say_unknown_section(self, section: str, sections: Iterable[str]) -> None:
        known = self.schema.sections
        if not self.schema.open:
            near = nearest(section, known)
            hint = f"; did you mean [{near}]?" if near else ";"
            allowed = ", ".join(f"[{name}]" for name in known)
            self.warn(section, None, f"unknown section, ignored{hint} allowed: {allowed}")
            return
        # Where the standard section is there, only a very near name is a slip: [domain] beside [main] is none.
        near = nearest(section, known, cutoff=0.8)
        if near is not None and near in sections:
            near = nearest(section, known, cutoff=0.92)
        if near is not None and all(key.guard for key in self.schema.of(near)):  # without it everybody is let in
            self.error(section, None, f"unknown section; if it is meant to be [{near}], rename it, else call it other")
        elif near is not None:
            text = f"unknown section; did you mean [{near}]? The plugin gets it as a section of its own"
            self.warn(section, None, text)
