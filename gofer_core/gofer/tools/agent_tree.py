"""An agent as a tree for people: what ``gofer agent show`` prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from gofer.tools.output import harmless

__all__ = ["print_agent"]

_COLOURS = {"running": "green", "loading": "yellow", "quarantined": "red", "disabled": "dim", "stopped": "dim"}


def print_agent(told: Mapping[str, Any]) -> None:
    """Print what an agent has told of itself."""
    agent = told["agent"]
    tree = Tree(
        _line(
            (f"goferd {agent['version']}", "bold"),
            (f" {agent['state']}", _COLOURS.get(agent["state"], "yellow")),
            f": pid {agent['pid']}, user {agent['user']}, root {agent['root']}",
            f", host {agent['host']}, since {agent['started']}",
            f", {agent['rss'] / 1e6:.1f} MB, {agent['threads']} threads",
        ),
        guide_style="dim",
    )
    if agent["ledger"]["error"]:
        tree.add(_line("ledger: ", (agent["ledger"]["error"], "red")))
    for reason in agent.get("closed", ()):
        tree.add(_line(("no plugin takes requests: ", "bold"), (reason, "red")))
    for certificate in agent.get("certificates", ()):
        if certificate["warning"]:
            tree.add(_line((certificate["warning"], "red")))
    for plugin in told["plugins"]:
        _plugin(tree, plugin)
    for name in agent["waiting"]:
        tree.add(_line((f"{name} ", "bold"), ("waits to be loaded", "yellow")))
    if not told["plugins"] and not agent["waiting"]:
        tree.add(_line(("no plugins", "dim")))
    # A reader that is a program, or a pager, gets whole lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as written:
        console.print(tree)
    print(written.get(), end="")  # by rich itself a reader that has gone away would be status 1


def _plugin(tree: Tree, plugin: Mapping[str, Any]) -> None:
    source = " ".join(filter(None, (plugin["distribution"], plugin["version"])))
    source = source or plugin["file"] or plugin["module"] or ""
    branch = tree.add(
        _line(
            (f"{plugin['name']} ", "bold"),
            (plugin["state"], _COLOURS.get(plugin["state"], "")),
            f"  {source}" if source else "",
        )
    )
    if plugin["error"]:
        branch.add(_line((plugin["error"], "red")))
    if plugin["trace"]:
        branch.add(_line((plugin["trace"].rstrip(), "dim")))
    if plugin["state"] not in ("running", "loading"):
        return
    branch.add(_line(_queue(plugin)))
    if plugin["foreign"]:
        branch.add(_line((plugin["foreign"], "red")))
    counts = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in plugin["counters"].items() if number)
    branch.add(_line(f"requests: {counts or 'none'}"))
    workers = plugin["workers"]
    branch.add(_line(f"workers: {workers['busy']} of {workers['threads']} busy, {workers['waiting']} tasks waiting"))
    for one in plugin["overdue"]:
        told = f" for {one['seconds']:g} s, request {one['sn']}: {one['reason']}"
        branch.add(_line((f"overdue {one['target']}", "red"), told))
    for cls in (plugin["api"] or {}).get("classes", ()):
        version = f" version {cls['version']}" if cls.get("version") else ""
        inner = branch.add(_member(f"class {cls['name'].partition('@')[0]}{version}", cls["constructor"], cls["doc"]))
        for method in cls["methods"]:
            inner.add(_member(method["name"], method["signature"], method["doc"], _marks(method)))
    for function in (plugin["api"] or {}).get("functions", ()):
        branch.add(
            _member(f"{plugin['name']}.{function['name']}", function["signature"], function["doc"], _marks(function))
        )
    for action in plugin["actions"]:
        branch.add(_line(f"action {action['name']} ", _action(action)))


def _queue(plugin: Mapping[str, Any]) -> str:
    connection = plugin["connection"]
    if connection is None:
        return "no queue"
    reading = ""
    if connection["state"] == "open":
        error = f" ({connection['error']})" if connection["error"] else ""
        reading = ", reading" if connection["reading"] else f", not reading{error}"
    return f"queue {plugin['queue']} at {plugin['url']}: {connection['state']}{reading}{_probe(connection['probe'])}"


def _probe(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return ""
    if probe["error"]:
        return f", not probed ({probe['error']})"
    age = probe["returned"]
    return ", probe not back yet" if age is None else f", probe came back {age:g} s ago"


def _member(name: str, signature: str, doc: str, marks: Iterable[str] = ()) -> Text:
    notes = "".join(f" @{mark}" for mark in marks)
    return _line((f"{name}{signature}", "cyan"), (notes, "magenta"), (f"  {doc}" if doc else "", "dim"))


def _marks(member: Mapping[str, Any]) -> list[str]:
    marks = [name for name in ("once", "secret") if member[name]]
    if member["model"] == "fork":
        marks.append("fork")
    if member["users"]:
        marks.append(f"user({', '.join(member['users'])})")
    return marks


def _action(action: Mapping[str, Any]) -> str:
    last = action["last"]
    parts = [action["schedule"], action["state"] + (f" since {action['began']}" if action["began"] else "")]
    parts.append(f"{action['runs']} runs, {action['failures']} failed")
    if last is not None:
        error = f": {last['error']}" if last["error"] else ""
        parts.append(f"last {last['began']}, {last['seconds']:g} s, {last['outcome']}{error}")
    if action["next"] is not None:
        parts.append(f"next {action['next']}")
    return "; ".join(parts)


def _line(*parts: str | tuple[str, str]) -> Text:
    """Make a line of texts, each alone or with its style."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((harmless(text), style) for text, style in pairs))
