"""What completes the arguments of ``gofer fleet``: machines and runs that are remembered. The broker is not asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import GoferError

if TYPE_CHECKING:
    from gofer.card import Card
    from gofer.fleet.record import RunRow

__all__ = ["fleet_methods", "fleet_names", "fleet_outcomes", "fleet_runs", "fleet_targets"]

_PATHS = ("all", "not", "name=", "address=", "group=", "plugin=", "class=", "gofer=", "@", "@run:")


def fleet_targets(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the last word of an expression: what is tested, or a name, group, plugin or class that is remembered."""
    before, word = _last_word(incomplete)
    if word.startswith("@run:"):
        found: Iterable[str] = (f"@run:{run}" for run in _run_names(context))
        return [one for one in found if one.startswith(word)]
    path, operator, values = word.partition("=")
    if not operator:
        return [before + one for one in _PATHS if one.startswith(word) and (not before or one[0] != "@")]
    earlier, comma, value = values.rpartition(",")
    known = _safe(one for card in _cards(context) for one in _values(card, path) if one.startswith(value))
    return [f"{before}{path}={earlier}{comma}{one}" for one in known]


def fleet_methods(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a method that a machine has told which is meant, or that was called before; or a class without any."""
    targets = str(context.params.get("targets") or "all")
    plugins = [one for card in _cards(context, targets) for one in card.plugins.values()]
    methods = {one for plugin in plugins for one in (*plugin.methods, *plugin.destructive)}
    named = {one.rpartition(".")[0] for plugin in plugins for one in plugin.methods}
    classes = {f"{one}." for plugin in plugins for one in plugin.classes if one not in named}
    found = methods | classes | {one.method for one in _runs(context)}
    return _safe(one for one in found if one.startswith(incomplete) and one != incomplete)


def fleet_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a machine's name."""
    return _safe(card.name for card in _cards(context) if card.name.startswith(incomplete))


def fleet_runs(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete a run's id; the latest comes first."""
    return [one for one in _run_names(context) if one.startswith(incomplete)]


def fleet_outcomes(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete an outcome."""
    from gofer.fleet.record import OUTCOMES

    return [one for one in OUTCOMES if one.startswith(incomplete)]


def _safe(found: Iterable[str]) -> list[str]:
    """Return what no shell takes for anything but text: whoever sends a card chooses what stands in it."""
    return sorted({one for one in found if re.fullmatch(r"[\w@%+:,./-]+", one)})


def _last_word(text: str) -> tuple[str, str]:
    """Split an expression before its last word, which an opening bracket may begin."""
    at = max(text.rfind(mark) for mark in " (") + 1
    return text[:at], text[at:]


def _values(card: Card, path: str) -> Iterable[str]:
    values: dict[str, Iterable[str]] = {
        "name": [card.name],
        "address": [card.address],
        "group": card.groups,
        "plugin": card.plugins,
        "class": [one for plugin in card.plugins.values() for one in plugin.classes],
        "gofer": [card.version],
    }
    return values.get(path, ())


def _cards(context: click.Context, targets: str = "all") -> list[Card]:
    """Return the cards that are remembered of the broker that the options before name, of the machines that are meant.

    Machines that are named by a file, by standard input, or by a run may be any.
    """
    from gofer.fleet.members import Members
    from gofer.messaging.caller_conf import profile
    from gofer.targets import Targets
    from gofer.tools.connecting import connector_of

    how: dict[str, Any] = {} if context.parent is None else context.parent.params
    try:
        with closing(Members(connector_of(how, profile(how.get("profile_name"))).url)) as members:
            meant = Targets("all" if targets.startswith(("@", "-")) else targets)
            return [one.card for one in members.select(meant)]
    except (GoferError, OSError, ValueError):
        return []  # whoever presses Tab wants no error in the line


def _runs(context: click.Context) -> list[RunRow]:
    from gofer.fleet.record import Record

    try:
        with closing(Record()) as record:
            return record.runs()
    except (GoferError, OSError, ValueError):
        return []  # as above


def _run_names(context: click.Context) -> list[str]:
    runs = [one.id for one in _runs(context)]
    return ["last", *runs] if runs else []
