"""Read plain sections by a schema: typed values on one side, problems on the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from gofer.agent.config.ini import Sections
from gofer.agent.config.problem import Problem, nearest, plain
from gofer.agent.config.schema import FreeKeys, Key, Schema
from gofer.agent.config.values import Names, Type, Wrong

__all__ = ["Reader", "Values"]

T = TypeVar("T")
_NOT_GIVEN = object()
_COMMENT = re.compile(r"\s[#;]")


class Values:
    """What was read, by key. Later files may be put over earlier ones."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], object] = {}
        self._free: dict[str, dict[str, object]] = {}

    def __getitem__(self, key: Key[T]) -> T:
        """Return the value of a key, or its default."""
        return cast(T, self._keys.get((key.section, key.name), key.default))  # stored by the key's own type

    def __contains__(self, key: Key[object]) -> bool:
        return (key.section, key.name) in self._keys

    def free(self, keys: FreeKeys[T]) -> dict[str, T]:
        """Return the values of a section's free keys, by name."""
        return cast(dict[str, T], dict(self._free.get(keys.section, {})))  # stored by the keys' own type

    def put(self, key: Key[object], value: object) -> None:
        """Set the value of a key."""
        self._keys[key.section, key.name] = value

    def put_free(self, keys: FreeKeys[object], name: str, value: object) -> None:
        """Set the value of a free key."""
        self._free.setdefault(keys.section, {})[name] = value


class Reader:
    """Reads the sections of one file by a schema into ``values``, and collects ``problems`` in the file's order.

    In a file that is no JSON a comment behind a value, and quotes around it, are part of the value; that is told.
    """

    def __init__(self, schema: Schema, file: str, values: Values | None = None) -> None:
        self.schema = schema
        self.file = file
        self._ini = not file.endswith(".json")
        self.values = Values() if values is None else values
        self.problems: list[Problem] = []

    @property
    def failed(self) -> bool:
        """Whether there was an error."""
        return any(problem.severity == "error" for problem in self.problems)

    def error(self, key: Key[T], text: str) -> None:
        """Note an error at a key."""
        self.problems.append(Problem("error", self.file, key.section, key.name, text))

    def warn(self, section: str, key: str | None, text: str) -> None:
        """Note a warning."""
        self.problems.append(Problem("warning", self.file, section, key, text))

    def read(self, sections: Sections) -> None:
        """Read all sections. A value that is wrong is not put into ``values``."""
        for section in self.schema.required:
            if section not in sections:
                self._missing(section, sections)
        for section, keys in sections.items():
            if section in self.schema.sections:
                for name, raw in keys.items():
                    self._read_key(section, name, raw)
            elif (section, None) in self.schema.retired:
                self.warn(section, None, f"no longer used: {self.schema.retired[section, None]}")
            else:
                self._unknown_section(section, sections)
                self._check_own(section, keys)

    def _read_key(self, section: str, name: str, raw: object) -> None:
        key = self.schema.find(section, name)
        if key is not None:
            self._read_known(key, raw)
            return
        retired = self.schema.retired.get((section, name))
        if retired is not None:
            self.warn(section, name, f"no longer used: {retired}")
            return
        for free in self.schema.free:
            if free.section == section and re.fullmatch(free.pattern, name):
                value = self._value(free.type, section, name, raw, blank=True)
                if value is not _NOT_GIVEN:
                    self.values.put_free(free, name, value)
                return
        self._unknown_key(section, name)

    def _read_known(self, key: Key[object], raw: object) -> None:
        if self._ini and isinstance(raw, str):
            if _COMMENT.search(raw):
                self.error(key, "has a comment behind its value; allowed: comments on lines of their own")
                return
            if len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'":
                self.warn(key.section, key.name, "has quotes around its value, which are part of it; remove them")
        value = self._value(key.type, key.section, key.name, raw, blank=key.blank)
        if value is _NOT_GIVEN:
            return
        if key.instead is not None:
            self.warn(key.section, key.name, f"is deprecated; write {key.instead} instead")
        self.values.put(key, value)

    def _value(self, kind: Type[object], section: str, name: str, raw: object, *, blank: bool) -> object:
        # A comma alone is an empty list, as in the descriptors that came with gofer 2.12.
        if (
            raw is None
            or raw == []
            or (isinstance(raw, str) and not raw.strip(" ,\n" if type(kind) is Names else None))
        ):
            if blank:
                return _NOT_GIVEN
            text = f"has no value; allowed: {kind.allowed}; or remove the line"
        else:
            try:
                return kind.read(raw)
            except Wrong as wrong:
                text = f"{wrong}; allowed: {kind.allowed}"
        self.problems.append(Problem("error", self.file, section, name, text))
        return _NOT_GIVEN

    def _unknown_key(self, section: str, name: str) -> None:
        known = self.schema.names(section)
        patterns = [free.name for free in self.schema.free if free.section == section]
        elsewhere = [key.section for key in self.schema.keys if key.name == name and key.instead is None]
        near = nearest(name, known)
        if elsewhere:
            hint = "; it belongs in " + " or ".join(f"[{place}]" for place in elsewhere)
        else:
            hint = f"; did you mean {near}?" if near else ""
        stop = "" if hint.endswith("?") else ";"
        self.warn(section, name, f"unknown key, ignored{hint}{stop} allowed: {', '.join([*known, *patterns])}")

    def _missing(self, section: str, sections: Iterable[str]) -> None:
        near = nearest(section, sections)
        text = f"the section is missing; add [{section}] and below it enabled = 1"
        if near:
            text = f"the section is missing; is it the one named [{plain(near)}]? Rename that to [{section}]"
        elif not sections:
            text = f"the file has no section; add [{section}] and below it enabled = 1"
        self.problems.append(Problem("error", self.file, section, None, text))

    def _check_own(self, section: str, keys: Mapping[str, object]) -> None:
        """Warn of comments behind values in a section of the user's own. No value is shown: it may be a password."""
        for name, raw in keys.items():
            if self._ini and isinstance(raw, str) and _COMMENT.search(raw):
                text = "is passed on with all that stands behind the '='; write comments on lines of their own"
                self.warn(section, name, text)

    def _unknown_section(self, section: str, sections: Sections) -> None:
        allowed = ", ".join(f"[{name}]" for name in self.schema.sections)
        if not self.schema.open:
            near = nearest(section, self.schema.sections)
            hint = f"; did you mean [{near}]?" if near else ";"
            self.warn(section, None, f"unknown section, ignored{hint} allowed: {allowed}")
            return
        # Where the standard section is there, only a very near name is a slip: [domain] beside [main] is none.
        near = nearest(section, self.schema.sections, cutoff=0.8)
        if near in sections:
            near = nearest(section, self.schema.sections, cutoff=0.92)
        if near is not None:
            text = f"unknown section; did you mean [{near}]? The plugin gets it as a section of its own"
            self.warn(section, None, text)
