"""``gofer fleet ls``, ``ping``, ``add``: the machines that are there, or are remembered."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.targets import Targets
from gofer.tools.arguments import duration
from gofer.tools.fleet_completion import fleet_targets
from gofer.tools.fleet_do import FAILED, fleet_command
from gofer.tools.fleet_output import machines, tell_unfinished
from gofer.tools.output import complain, harmless, print_json, print_table

if TYPE_CHECKING:
    from gofer.fleet import Fleet

__all__ = ["COMMANDS"]

_waiting = click.option(
    "-w", "--wait", type=duration, default=5.0, metavar="TIME", help="Wait so long for answers (default: 5s)."
)


def _expression(text: str) -> str:
    if text == "-" or text.startswith("@"):
        raise click.BadParameter(f"{text[:60]!r} is for call and plan; allowed: an expression, like name=web-*")
    return text


@fleet_command("ls")
@click.argument("targets", default="all", type=_expression, shell_complete=fleet_targets)
@_waiting
@click.option("--no-ask", is_flag=True, help="Show what is remembered, and ask nobody.")
@click.option("--json", "as_json", is_flag=True, help="Print the machines' cards as JSON.")
async def _ls(fleet: Fleet, targets: str, wait: float, *, no_ask: bool, as_json: bool) -> int:
    """List machines: those that answer, and those that were there before and do not."""
    answered, refused = set(), Counter[str]()
    if not no_ask:
        found = await fleet.ask(targets, wait=wait)
        answered, refused = set(found.cards), found.refused
        tell_unfinished(found, targets, wait)
    rows, missing = [], 0
    for member in fleet.members.select(Targets(targets)):
        here = member.card.address in answered
        missing += member.answers and not here and not no_ask
        state = "answers" if here else ("missing" if not no_ask else "known") if member.answers else "added"
        rows.append((member, state))
    if as_json:
        print_json([{**one.fields(), "state": state, "first": one.first, "last": one.last} for one, state in rows])
    else:
        columns = ("name", "address", "state", "seen", "groups", "plugins")
        print_table(columns, [_row(member, state) for member, state in rows])
    for why, count in refused.items():
        complain("gofer fleet ls", f"{count} answers were not believed: {why}")
    return FAILED if missing else 0


def _row(member: Any, state: str) -> list[str]:
    card = member.card
    plugins = ", ".join(f"{name} {one.version or ''}".strip() for name, one in card.plugins.items())
    seen = time.strftime("%Y-%m-%d %H:%M", time.localtime(member.last)) if member.answers else ""
    return [harmless(card.name), harmless(card.address), state, seen, ", ".join(card.groups), harmless(plugins)]


@fleet_command("ping")
@click.argument("targets", default="all", type=_expression, shell_complete=fleet_targets)
@_waiting
async def _ping(fleet: Fleet, targets: str, wait: float) -> int:
    """Count the machines that answer, and name those that do not."""
    found = await fleet.ask(targets, wait=wait)
    tell_unfinished(found, targets, wait)
    known = fleet.members.select(Targets(targets))
    missing = [one.name for one in known if one.answers and one.card.address not in found.cards]
    print(f"{machines(len(found.cards))} answered, {len(missing)} missing")
    for name in missing:
        print(f"missing: {harmless(name)}")
    return FAILED if missing else 0


@fleet_command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
async def _add(fleet: Fleet, file: Path) -> int:
    """Add machines that answer no questions: FILE has a section for each address, with name and groups in it."""
    from gofer.fleet import read_members

    cards = read_members(file)
    fleet.add(cards)
    print(f"{machines(len(cards))} added")
    return 0


COMMANDS = (_ls, _ping, _add)
