"""What is typed behind ``gofer rmi``, as the values it means; and options that several commands have.

What cannot be read is a ``click.UsageError`` that says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.messaging.address import Address

__all__ = [
    "address", "call_arguments", "call_input", "duration", "input_option", "json_value", "option_group",
    "read_argument", "read_arguments", "target",
]  # fmt: skip


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option_group(*each: Decorator) -> Decorator:
    """Make one decorator of several that give a command an option. The first of them stands last in the help."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in each:
            command = option(command)
        return command

    return give


def read_argument(text: str) -> Any:
    """Return the value of one argument.

    What is JSON of a number, true, false, null, an object or an array is that value; all else, JSON texts in double
    quotes included, is the text itself.
    """
    try:
        value = _read_json(text)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


def read_arguments(texts: Iterable[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments; ``name=value`` with a name that Python would take is a keyword.

    Raises:
        UsageError: a keyword is given twice.
    """
    args: list[Any] = []
    kws: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            args.append(read_argument(text))
        elif name in kws:
            raise click.UsageError(f"argument {name!r} is given twice")
        else:
            kws[name] = read_argument(value)
    return args, kws


def call_arguments(
    given: tuple[list[Any], dict[str, Any]] | None, texts: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Return what a method is called with: what ``-i`` has given, or else the arguments as texts.

    Raises:
        UsageError: there are both, or a keyword is given twice.
    """
    if given is None:
        return read_arguments(texts)
    if texts:
        raise click.UsageError("-i gives all arguments: none may follow")
    return given


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_read_float)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _read_float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large for a number")
    return value


def json_value(text: str) -> Any:
    """Read any JSON value."""
    try:
        return _read_json(text)
    except ValueError as error:
        raise click.BadParameter(f"{text[:100]!r} is not JSON: {error}") from None


def call_input(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Read ``[[positional, ...], {keyword: value}]``, or one of the two; ``-`` stands for what standard input holds."""
    if text == "-":
        text = sys.stdin.read()
    found = json_value(text)
    if isinstance(found, dict):
        return [], found
    if isinstance(found, list) and len(found) in (1, 2):
        args, kws = found[0], found[1] if len(found) == 2 else {}
        if isinstance(args, list) and isinstance(kws, dict):
            return args, kws
    like = json.dumps([found if isinstance(found, list) else [found], {}], ensure_ascii=False)
    hint = f"; do you mean {like}?" if len(like) <= 100 else ""
    raise click.BadParameter(f"{text[:100]!r} is not [[positional, ...], {{keyword: value}}]{hint}")


#: Gives a command ``--input``, as ``given``.
input_option = click.option(
    "-i", "--input", "given", type=call_input, metavar="JSON",
    help="All arguments: [[positional, ...], {keyword: value}]; - reads standard input.",
)  # fmt: skip


def target(text: str) -> tuple[str, str]:
    """Read ``Class.method`` or ``module.function``."""
    namespace, _, method = text.rpartition(".")
    if not namespace or not method:
        raise click.BadParameter(f"{text[:100]!r} is not Class.method or module.function")
    return namespace, method


def address(text: str) -> str:
    """Read an address."""
    try:
        return str(Address.parse(text))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def duration(text: str) -> float:
    """Read a time, in seconds."""
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None
