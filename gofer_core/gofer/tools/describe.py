"""``gofer describe``: what can be called at an agent's address, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from gofer.tools.arguments import duration
from gofer.tools.connecting import agent_options
from gofer.tools.output import harmless, print_json
from gofer.tools.rmi import answer

__all__ = ["at_address", "describe", "method_lines"]


@click.command()
@agent_options
@click.option("-w", "--wait", type=duration, metavar="TIME", help="Wait so long for the answer: 5, 2m (default: 90s).")
@click.option("--json", "as_json", is_flag=True, help="Print what Admin.describe tells, of all plugins, as JSON.")
def describe(as_json: bool, **how: Any) -> int:
    """Show the classes, methods and functions that can be called at an agent's address.

    It asks Admin.describe, and shows what the caller may call: signatures, marks and whole docstrings. With --json,
    each method has a JSON Schema of its arguments and of its value.

    Exit statuses are those of gofer rmi.
    """
    status, told = answer("gofer describe", [], {}, {**how, "target": ("Admin", "describe")})
    if status != 0:
        return status
    if as_json:
        print_json(told)
    else:
        for plugin in at_address(told):
            print(*map(harmless, _lines(plugin)), sep="\n")
    return 0


def at_address(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the plugins whose methods are answered at the address: the one that was asked, and those behind it."""
    plugins: list[dict[str, Any]] = told["plugins"]
    asked = told.get("asked")
    first = next((one for one in plugins if one["plugin"] == asked), None)
    if first is None:  # an agent that does not tell
        return plugins
    return [first, *(one for one in plugins if one["plugin"] in first["forwards"])]


def method_lines(plugins: Iterable[Mapping[str, Any]], namespace: str, name: str) -> list[str]:
    """Return what is told of one method, as lines: its signature with its marks, and its documentation."""
    for plugin in plugins:
        classes = [cls["methods"] for cls in plugin["classes"] if cls["name"] == namespace]
        functions = [plugin["functions"]] if namespace in plugin["names"] else []
        for methods in classes + functions:
            for method in methods:
                if method["name"] == name:
                    return "\n".join(_method(method, f"{namespace}.{name}")).strip().splitlines()
    return []


def _lines(plugin: Mapping[str, Any]) -> Iterator[str]:
    source = " ".join(filter(None, (plugin.get("distribution"), plugin.get("version"))))
    yield f"plugin {plugin['plugin']}{f' ({source})' if source else ''}"
    for cls in plugin["classes"]:
        yield f"\n  class {cls['name']}{cls['constructor']}"
        yield from _documentation(cls, "    ")
        for method in cls["methods"]:
            yield from _method(method, f"    {method['name']}")
    if plugin["functions"]:
        yield "\n  functions"
    for function in plugin["functions"]:
        yield from _method(function, f"    {plugin['plugin']}.{function['name']}")


def _method(method: Mapping[str, Any], name: str) -> Iterator[str]:
    marks = [mark for mark in ("read_only", "destructive", "idempotent", "once", "secret") if method.get(mark)]
    marks += ["fork"] if method["model"] == "fork" else []
    marks += [f"user({', '.join(method['users'])})"] if method["users"] else []
    marks += [f"timeout({method['timeout']:g} s)"] if method["timeout"] else []
    yield f"\n{name}{method['signature']}{''.join(f'  @{mark}' for mark in marks)}"
    yield from _documentation(method, "        ")


def _documentation(described: Mapping[str, Any], indent: str) -> Iterator[str]:
    for line in (described.get("documentation") or described["doc"]).splitlines():
        yield f"{indent}{line}".rstrip()
