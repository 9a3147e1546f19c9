"""``gofer plugins`` and ``gofer authenticators``; and what they share with ``gofer adapters``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gofer.entry_points import listed
from gofer.root import Root
from gofer.tools.arguments import duration, option_group
from gofer.tools.import_check import Check, check_imports
from gofer.tools.output import complain, print_json, print_table

if TYPE_CHECKING:
    from gofer.agent.config import Descriptor

__all__ = ["authenticators", "list_entry_points", "listing_options", "plugins"]


def _seconds(text: str) -> float:
    seconds = duration(text)
    if not 0 < seconds <= 86400:
        raise click.BadParameter(f"{text!r} is not more than 0 and at most 86400 (a day)")
    return seconds


_HOW_LONG = "How long importing one may take."
#: Gives a command the options ``--timeout`` and ``--json``.
listing_options = option_group(
    click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each."),
    click.option("--timeout", type=_seconds, default=10.0, show_default=True, metavar="SECONDS", help=_HOW_LONG),
)


@click.command()
@listing_options
def authenticators(as_json: bool, timeout: float) -> None:
    """List the installed authenticators, by the names that descriptors and `gofer rmi -A` use.

    Each is imported in a separate process, to show whether it is broken.
    """
    list_entry_points("gofer.authenticators", as_json, timeout)


@click.command()
@click.option("--root", metavar="DIR", help="Read the descriptors under DIR/etc/gofer (default: GOFER_ROOT, else /).")
@listing_options
def plugins(root: str | None, as_json: bool, timeout: float) -> None:
    """List the installed plugins, and whether a descriptor switches them on.

    Each is imported in a separate process, to show whether it is broken. Errors in descriptors go to standard error.
    """
    from gofer.agent.config import Problem, read_descriptors
    from gofer.agent.sources import GROUP, locate

    place = Root.from_environ(os.environ, root)
    descriptors, problems = read_descriptors(place)
    missing = [found for one in descriptors if one.enabled and isinstance(found := locate(place, one), Problem)]
    for problem in [*problems, *missing]:
        complain("gofer plugins", problem)
    described: dict[str, list[Descriptor]] = {}
    for one in descriptors:
        described.setdefault(one.plugin or one.entry, []).append(one)
    list_entry_points(GROUP, as_json, timeout, place, described)


def list_entry_points(
    group: str,
    as_json: bool,
    timeout: float,
    root: Root | None = None,
    described: Mapping[str, Sequence[Descriptor]] | None = None,
) -> None:
    """Print all that is installed in a group, and what is wrong with it.

    Args:
        timeout: seconds that importing one may take.
        described: of plugins, the descriptors of each, by its name.
    """
    rows, checks = [], []
    for one in listed(group):
        row: dict[str, Any] = asdict(one)
        descriptor = None
        if described is not None:
            theirs = described.get(one.name, [])
            enabled = [each for each in theirs if each.enabled]
            descriptor = next((each.file for each in [*enabled, *theirs]), None)
            row |= {"enabled": bool(enabled), "descriptors": [str(each.file) for each in theirs]}
        rows.append(row)
        checks.append(Check(group, one.name, descriptor))
    for row, broken in zip(rows, check_imports(root or Root(), checks, timeout), strict=True):
        row["broken"] = broken
    if as_json:
        print_json(rows)
    elif rows:
        columns = ["name", "version", "distribution", "value"]
        columns += ["enabled", "descriptors"] if described is not None else []
        headings = [{"value": "MODULE"}.get(column, column.upper()) for column in columns]
        cells = [
            [*(_cell(row[column]) for column in columns), f"broken: {row['broken']}" if row["broken"] else "ok"]
            for row in rows
        ]
        print_table([*headings, "STATE"], cells)
    else:
        print(f"No {group.removeprefix('gofer.').removesuffix('s')} is installed.")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
