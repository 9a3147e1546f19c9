"""``gofer stubs``: a client module with the types of what an agent has, for type checkers and editors.

All of it is written from what the agent tells. Nothing of that becomes code but names in Python's sense, and values as
their repr. What the module itself needs has names with ``_`` in front, which no remote name has.
"""

from __future__ import annotations

import itertools
import json
import keyword
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from gofer.tools.arguments import duration
from gofer.tools.connecting import agent_options
from gofer.tools.describe import at_address
from gofer.tools.output import complain, filled
from gofer.tools.rmi import answer

__all__ = ["stubs", "write_stubs"]

_FIRST = "# Written by gofer stubs. Do not change it: write it again."
_UNWRITTEN = 74  # the exit status of every command whose output cannot be written
_OWN = ("close", "flush", "Admin")  # names of the agent itself
_SIMPLE = MappingProxyType(
    {"integer": "_int", "number": "_float", "string": "_str", "boolean": "_bool", "null": "None"}
)


@click.command()
@agent_options
@click.option("-w", "--wait", type=duration, metavar="TIME", help="Wait so long for the answer: 5, 2m (default: 90s).")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where to write (default: here).",
)
@click.option("-n", "--name", metavar="NAME", help="The module's name (default: from the address).")
def stubs(output: Path, name: str | None, **how: Any) -> int:
    """Write a typed client module for the agent at an address: NAME.py, and NAME.pyi with its types.

    The module has two classes, Client for threads and AsyncClient for coroutines. Both are used like gofer.proxy.Agent
    and gofer.aio.Agent. Type checkers know their classes, methods, arguments and values.

    Exit statuses are those of gofer rmi.
    """
    status, told = answer("gofer stubs", [], {}, {**how, "target": ("Admin", "describe")})
    if status != 0:
        return status
    if "asked" not in told:
        raise click.UsageError("this agent does not tell types: gofer-core there is too old")
    module = name or re.sub(r"\W", "_", str(how["address"] or told["asked"]).rpartition("/")[2])
    if not _is_name(module):
        raise click.UsageError(f"{module[:100]!r} is no name of a module; give another one by --name")
    source, types, left = write_stubs(told, how["address"])
    paths = [output / f"{module}.py", output / f"{module}.pyi"]
    for path in paths:
        if path.exists() and not path.read_text("utf-8", "replace").startswith(_FIRST):
            raise click.UsageError(f"{path} is there already, and was not written by gofer stubs")
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path, text in zip(paths, (source, types), strict=True):
            _replace(path, text)
    except OSError as wrong:
        complain("gofer stubs", f"cannot write into {output}: {wrong.strerror}")
        return _UNWRITTEN
    for path in paths:
        print(path)
    for one in left:
        complain("gofer stubs", f"left out: {one[:100]!r} cannot be written as a name in Python")
    return 0


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(text, "utf-8")
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_stubs(told: Mapping[str, Any], address: str | None) -> tuple[str, str, list[str]]:
    """Return the module, its types, and the names that are left out. ``told`` is what ``Admin.describe`` says."""
    writer = _Writer(address)
    for plugin in at_address(told):
        writer.take(plugin)
    return writer.module(), writer.types(), writer.left


class _Writer:
    """Collects what an agent has, and writes it."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._spaces: dict[str, list[Mapping[str, Any]]] = {}  # classes and modules: their methods
        self._constructors: dict[str, Mapping[str, Any]] = {}
        self._dicts: dict[str, str] = {}  # TypedDicts, by their names
        self._named: dict[str, str] = {}  # and by what they are
        self.left: list[str] = []

    def take(self, plugin: Mapping[str, Any]) -> None:
        """Take all of a plugin that has a name in Python; what came before it counts."""
        for cls in plugin["classes"]:
            name = cls["name"]
            if not all(map(_is_word, name.split("@", 1))) or not _is_name(name.partition("@")[0]) or name in _OWN:
                self.left.append(name)
            elif name not in self._spaces:
                self._spaces[name] = self._usable(name, cls["methods"])
                self._constructors[name] = cls
        for space in plugin["names"]:
            if plugin["functions"] and _is_name(space) and space not in (*self._spaces, *_OWN):
                self._spaces[space] = self._usable(space, plugin["functions"])

    def _usable(self, name: str, methods: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        found = [
            one for one in methods if _is_name(one["name"]) and all(_is_name(p["name"]) for p in one["parameters"])
        ]
        self.left += [f"{name}.{one['name']}" for one in methods if one not in found]
        return found

    def module(self) -> str:
        """Write the module."""
        default = "" if self._address is None else f" = {self._address!r}"
        self.types()  # collects the dicts
        doc = repr(f"A client of what the agent has at {self._address or 'an address'}.")
        names = repr(["AsyncClient", "Client", *self._dicts])
        return filled("stubs/module", first=_FIRST, doc=doc, names=names, dicts=self._written_dicts(), default=default)

    def types(self) -> str:
        """Write the types of the module."""
        classes = "\n".join(line for asynchronous in (False, True) for line in self._client(asynchronous))
        return filled("stubs/types", first=_FIRST, dicts=self._written_dicts(), classes=classes)

    def _written_dicts(self) -> str:
        return "".join(f"\n\n{text}" for text in self._dicts.values())

    def _client(self, asynchronous: bool) -> Iterator[str]:
        def stub(space: str) -> str:
            return f"_{re.sub('[@.]', '_', space)}{'__async' if asynchronous else ''}"

        for space, methods in self._spaces.items():
            yield from ("", f"class {stub(space)}:")
            if space in self._constructors:
                yield f"    def __call__({self._parameters(self._constructors[space])}) -> _Self: ..."
            for method in methods:
                value = self._type(method["returns"], method["returns"].get("$defs", {}), value=True)
                value = f"_Awaitable[{value}]" if asynchronous else value
                yield f"    def {method['name']}({self._parameters(method)}) -> {value}:"
                yield from (f"        {str(method.get('documentation', ''))!r}", "        ...")
            if not methods and space not in self._constructors:
                yield "    ..."
        name, a, more = ("AsyncClient", "async ", "a") if asynchronous else ("Client", "", "")
        address = "address: _str" if self._address is None else "address: _str = ..."
        yield filled("stubs/client", name=name, a=a, more=more, address=address).rstrip()
        for space in self._spaces:
            if "@" not in space:
                yield from ("    @property", f"    def {space}(self) -> {stub(space)}: ...")
        versions = [space for space in self._spaces if "@" in space]
        for space in versions:
            pair = ", ".join(f"_Literal[{part!r}]" for part in space.split("@", 1))
            yield from (["    @_overload"] if len(versions) > 1 else [])
            yield f"    def __getitem__(self, name: _tuple[{pair}], /) -> {stub(space)}: ..."

    def _parameters(self, described: Mapping[str, Any]) -> str:
        definitions = described["schema"].get("$defs", {})
        parts, before = ["self"], ""
        for one in described["parameters"]:
            kind, name = one["kind"], one["name"]
            if before == "positional_only" != kind:
                parts.append("/")
            if kind == "keyword_only" and before not in ("keyword_only", "var_positional"):
                parts.append("*")
            stars = {"var_positional": "*", "var_keyword": "**"}.get(kind, "")
            optional = " = ..." if one["default"] is not None else ""
            parts.append(f"{stars}{name}: {self._type(one['schema'], definitions)}{optional}")
            before = kind
        if before == "positional_only":
            parts.append("/")
        return ", ".join(parts)

    def _type(self, schema: Any, definitions: Mapping[str, Any], *, value: bool = False) -> str:
        """Write a JSON Schema as a type. ``value``: of what comes back, where a list is one; else it may be a tuple."""
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type")
        written = "_Any"
        if "$ref" in schema:
            written = self._dict(str(schema["$ref"]).rpartition("/")[2], definitions)
        elif "anyOf" in schema:
            written = _union(self._type(one, definitions, value=value) for one in schema["anyOf"])
        elif "enum" in schema:
            plain = all(one is None or type(one) in (str, int, bool) for one in schema["enum"])
            written = f"_Literal[{', '.join(map(repr, schema['enum']))}]" if plain else "_Any"
        elif kind == "array":
            parts = [self._type(one, definitions, value=value) for one in schema.get("prefixItems", ())]
            item = _union(parts) if parts else self._type(schema.get("items"), definitions, value=value)
            written = f"_list[{item}]" if value else f"_list[{item}] | _tuple[{', '.join(parts) or f'{item}, ...'}]"
        elif kind == "object":
            written = f"_dict[_str, {self._type(schema.get('additionalProperties'), definitions, value=value)}]"
        elif isinstance(kind, str):
            written = _SIMPLE.get(kind, "_Any")
        return written

    def _dict(self, name: str, definitions: Mapping[str, Any]) -> str:
        """Write a TypedDict, once, and return its name."""
        schema = definitions.get(name)
        if not isinstance(schema, dict) or schema.get("type") != "object" or "properties" not in schema:
            return "_Any"
        key = f"{name} {json.dumps(schema, sort_keys=True)}"
        if key in self._named:
            return self._named[key]
        wanted = re.sub(r"\W", "_", name).strip("_")
        wanted = wanted if _is_name(wanted) else "Dict"
        taken = {*self._named.values(), "Client", "AsyncClient"}
        numbered = (f"{wanted}{number}" for number in itertools.count(2))
        found = self._named[key] = wanted if wanted not in taken else next(one for one in numbered if one not in taken)
        required = schema.get("required", ())
        fields = {
            field: kind if field in required else f"_NotRequired[{kind}]"
            for field, one in schema["properties"].items()
            for kind in (self._type(one, definitions, value=True),)
        }
        if all(map(_is_name, fields)):
            body = [f"    {field}: {kind}" for field, kind in fields.items()] or ["    pass"]
            self._dicts[found] = "\n".join([f"class {found}(_TypedDict):", *body])
        else:
            listed = ", ".join(f"{field!r}: {kind!r}" for field, kind in fields.items())
            self._dicts[found] = f"{found} = _TypedDict({found!r}, {{{listed}}})"
        return found


def _union(parts: Iterable[str]) -> str:
    different = list(dict.fromkeys(parts))
    return "_Any" if "_Any" in different or not different else " | ".join(different)


def _is_word(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_.]{1,200}", text) is not None


def _is_name(text: object) -> bool:
    """Tell whether a text is a name in Python that may be a remote one."""
    word = str(text)
    return _is_word(text) and word.isidentifier() and not keyword.iskeyword(word) and word[0] != "_" and word != "self"
