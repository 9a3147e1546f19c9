"""What the annotations of a function say of its arguments and its value: checked, and told as JSON Schema.

Only annotations are looked at that mean plain JSON: None, bool, int, float, str, lists, tuples, dicts with text for
keys, Literal, TypedDict, and unions of these. All others, such as classes and dates, allow anything: what they mean for
JSON is their author's secret.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as kinds

from gofer.messaging.value import plain

__all__ = ["Contract", "Parameter", "constructor_of", "contract_of"]

_MARK = "__gofer_contract__"
_PLAIN = (
    kinds.AnyType,
    kinds.NoneType,
    kinds.BoolType,
    kinds.IntType,
    kinds.FloatType,
    kinds.StrType,
    kinds.LiteralType,
)
_STEP = re.compile(r"\.[^.\[]+|\[[0-9]+\]|\[\.\.\.\]")
_ANY_KEY = "[...]"
_EMPTY = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A parameter. ``type`` is the type of what may be passed, None: anything; ``annotation`` is its text."""

    name: str
    kind: Any
    type: Any
    default: Any
    annotation: str | None


class Contract:
    """What a function says of its arguments and its value.

    ``parameters`` are without ``self``; None: the function tells none. ``checks``: whether any of them has a type.
    """

    def __init__(self, function: Callable[..., Any], *, bound: bool) -> None:
        """Read the annotations. One that means nothing here, for whatever reason, is as if it were not there."""
        self.parameters: list[Parameter] | None = None
        self.returns: Any = None
        self._others: Parameter | None = None
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            self.checks = False
            return  # what is written in C tells no signature
        names = getattr(inspect.unwrap(function), "__globals__", {})
        self.parameters = [
            Parameter(
                one.name,
                one.kind,
                _type_of(one.annotation, names, one.default),
                one.default,
                None if one.annotation is _EMPTY else inspect.formatannotation(one.annotation).strip("'"),
            )
            for one in list(signature.parameters.values())[1 if bound else 0 :]
        ]
        self.returns = _type_of(signature.return_annotation, names)
        # A wrapper may pass on other arguments than it is given.
        wrapped = hasattr(function, "__wrapped__")
        self.checks = not wrapped and any(one.type is not None for one in self.parameters)
        self._positional = [
            one for one in self.parameters if one.kind in (one.kind.POSITIONAL_ONLY, one.kind.POSITIONAL_OR_KEYWORD)
        ]
        self._named = {
            one.name: one
            for one in self.parameters
            if one.kind in (one.kind.KEYWORD_ONLY, one.kind.POSITIONAL_OR_KEYWORD)
        }
        self._more = next((one for one in self.parameters if one.kind is one.kind.VAR_POSITIONAL), None)
        self._others = next((one for one in self.parameters if one.kind is one.kind.VAR_KEYWORD), None)

    def fault(self, args: Sequence[Any], kws: Mapping[str, Any]) -> str | None:
        """Say where the first argument is that does not fit, and why; None: all fit.

        Arguments that are missing, or too many, are not looked for: Python refuses these by itself.
        """
        if not self.checks:
            return None
        for number, value in enumerate(args):
            one = self._positional[number] if number < len(self._positional) else self._more
            if one is not None and one.type is not None and (wrong := _wrong_for(value, one)):
                name = one.name if one is not self._more else f"{one.name}[{number - len(self._positional)}]"
                return f"{name}{wrong}"
        for name, value in kws.items():
            one = self._named.get(name, self._others)
            if one is not None and one.type is not None and (wrong := _wrong_for(value, one)):
                return f"{name}{wrong}"
        return None

    def schemas(self) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
        """Return a JSON Schema for each parameter and for the value (``{}``: anything), and what these refer to."""
        wanted = [*(one.type for one in self.parameters or ()), self.returns]
        found, definitions = msgspec.json.schema_components(
            [one for one in wanted if one is not None],
            ref_template="#/$defs/{name}",
            schema_hook=lambda anything: {"description": "any JSON value"},
        )
        schemas = iter(found)
        *parameters, value = ({} if one is None else dict(next(schemas)) for one in wanted)
        return parameters, value, definitions

    def schema(self) -> dict[str, Any]:
        """Tell all arguments that have a name as one JSON Schema, of an object."""
        schemas, _, definitions = self.schemas()
        told: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        for one, schema in zip(self.parameters or (), schemas, strict=True):
            if one.kind not in (one.kind.VAR_POSITIONAL, one.kind.VAR_KEYWORD):
                told["properties"][one.name] = schema
                if one.default is _EMPTY:
                    told["required"].append(one.name)
                else:
                    with suppress(Exception):  # what is not plain JSON, or cannot even be looked at, is not told
                        schema["default"] = plain(one.default)
        if self.parameters is not None and self._others is None:
            told["additionalProperties"] = False
        return {**told, "$defs": definitions} if definitions else told


def contract_of(function: Callable[..., Any], *, bound: bool) -> Contract:
    """Return the contract of a function, which is read once.

    Args:
        bound: its first parameter is not its callers'.
    """
    found: Any = getattr(function, "__dict__", {}).get(_MARK)
    if not isinstance(found, dict):
        found = {}
        try:
            setattr(function, _MARK, found)
        except (AttributeError, TypeError):
            pass  # of a kind that keeps nothing: it is read each time
    if bound not in found:
        found[bound] = Contract(function, bound=bound)
    contract: Contract = found[bound]
    return contract


def constructor_of(cls: type) -> Contract:
    """Return the contract of a class's constructor."""
    found = inspect.getattr_static(cls, "__init__")
    return contract_of(_nothing if found is object.__init__ else found, bound=True)


def _nothing(self: object) -> None:
    """Construct an object of a class that has no constructor of its own."""


def _type_of(annotation: Any, names: Mapping[str, Any], default: Any = _EMPTY) -> Any:
    if annotation is _EMPTY:
        return None
    try:
        hints = typing.get_type_hints(
            SimpleNamespace(__annotations__={"it": annotation}), dict(names), include_extras=True
        )
        found = hints["it"]
        if default is None:
            found = found | None
        return found if _is_checked(kinds.type_info(found)) else None
    except Exception:  # noqa: BLE001 - it is the plugin's code, and may be about what is imported for type checkers only
        return None


def _is_checked(info: Any) -> bool:
    """Tell whether a type means plain JSON, and not just any."""
    parts = info.types if isinstance(info, kinds.UnionType) else (info,)
    anything = any(isinstance(one, kinds.AnyType | kinds.CustomType) for one in parts)
    return not anything and all(map(_is_json, _within(info)))


def _is_json(info: Any) -> bool:
    if isinstance(info, kinds.DictType):
        return isinstance(info.key_type, kinds.StrType | kinds.AnyType)
    compound = (kinds.ListType, kinds.VarTupleType, kinds.TupleType, kinds.UnionType, kinds.TypedDictType)
    return isinstance(info, (*_PLAIN, *compound)) or (isinstance(info, kinds.CustomType) and info.cls is object)


def _within(info: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Iterate over a type and all that it is made of."""
    if isinstance(info, kinds.TypedDictType):
        if info.cls in seen:
            return
        seen = (*seen, info.cls)
    yield info
    inner = [getattr(info, name, None) for name in ("item_type", "value_type")]
    inner += getattr(info, "item_types", ()) if isinstance(info, kinds.TupleType) else ()
    inner += getattr(info, "types", ()) if isinstance(info, kinds.UnionType) else ()
    inner += [field.type for field in info.fields] if isinstance(info, kinds.TypedDictType) else ()
    for one in inner:
        if one is not None:
            yield from _within(one, seen)


def _wrong_for(value: Any, one: Parameter) -> str | None:
    """Say why a value does not fit a parameter; None: it fits, or is what the parameter has by default."""
    if type(value) is type(one.default) and value == one.default:
        return None
    return _wrong(value, one.type)


def _wrong(value: Any, wanted: Any) -> str | None:
    """Say where a value does not fit a type, and why; None: it fits."""
    try:
        msgspec.convert(value, wanted, strict=True)
    except msgspec.ValidationError as wrong:
        text, _, path = str(wrong).partition(" - at `$")
        where = path.removesuffix("`")
        if _ANY_KEY in where:
            where = _with_keys(value, wanted, where)
        return f"{where}: {text[:1].lower()}{text[1:].replace('`', '')}"
    except RecursionError:
        return ": is nested too deeply"
    return None


def _with_keys(value: Any, wanted: Any, path: str) -> str:
    """Write a path with the keys of dicts, which msgspec does not tell: those that do not fit even without the rest."""
    steps: list[Any] = []
    told = ""
    for step in _STEP.findall(path):
        if step != _ANY_KEY:
            steps.append(step[1:] if step[0] == "." else int(step[1:-1]))
            told += step
            continue
        inner = functools.reduce(lambda outer, at: outer[at], steps, value)
        entries = list(inner.items())
        fits, fails = 0, len(entries)  # so many of the first ones
        while fails - fits > 1:
            some = (fits + fails) // 2
            if _wrong_at_all(_with(value, steps, dict(entries[:some])), wanted):
                fails = some
            else:
                fits = some
        key, item = entries[fits]
        value = _with(value, steps, {key: item})
        steps.append(key)
        told += f"[{key[:100]!r}]"
    return told


def _wrong_at_all(value: Any, wanted: Any) -> bool:
    try:
        msgspec.convert(value, wanted, strict=True)
    except msgspec.ValidationError:
        return True
    return False


def _with(value: Any, steps: Sequence[Any], inner: Any) -> Any:
    """Copy a value with another one at a place in it."""
    if not steps:
        return inner
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[steps[0]] = _with(copy[steps[0]], steps[1:], inner)
    return copy
