"""What ``gofer plugins``, ``gofer adapters`` and ``gofer authenticators`` share: entry points, tried and shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from gofer.entry_points import Installed, listed
from gofer.root import Root
from gofer.tools.arguments import duration
from gofer.tools.output import print_json, print_table
from gofer.tools.trial import Trial, run_trials

__all__ = ["describe", "list_entry_points", "listing_options", "show"]

_COLUMNS = {"name": "NAME", "version": "VERSION", "distribution": "DISTRIBUTION", "value": "MODULE"}


def listing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``--timeout`` and ``--json``."""
    timeout = click.option(
        "--timeout",
        type=_seconds,
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long importing one may take.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each.")
    return timeout(as_json(command))


def show(rows: Sequence[Mapping[str, Any]], more: Mapping[str, str], as_json: bool, nothing: str) -> None:
    """Print rows as JSON or as a table.

    Args:
        more: columns besides those of every entry point and its state: key and heading.
        nothing: what to say, instead of an empty table, when there are none.
    """
    if as_json:
        print_json(rows)
        return
    if not rows:
        print(nothing)
        return
    columns = {**_COLUMNS, **more}
    cells = [
        [_cell(row[key]) for key in columns] + [f"broken: {row['broken']}" if row["broken"] else "ok"] for row in rows
    ]
    print_table([*columns.values(), "STATE"], cells)


def list_entry_points(group: str, as_json: bool, timeout: float, what: str) -> None:
    """Try and print all of a group."""
    installed = listed(group)
    broken = run_trials(Root(), [Trial(group, one.name) for one in installed], timeout)
    show([describe(*pair) for pair in zip(installed, broken, strict=True)], {}, as_json, f"No {what} is installed.")


def describe(one: Installed, broken: str | None) -> dict[str, Any]:
    """Return an entry point as JSON: name, version, distribution, value, broken."""
    return {
        "name": one.name,
        "version": one.version,
        "distribution": one.distribution,
        "value": one.value,
        "broken": broken,
    }


def _seconds(text: str) -> float:
    seconds = duration(text)
    if not 0 < seconds <= 86400:
        raise click.BadParameter(f"{text!r} is not more than 0 and at most 86400 (a day)")
    return seconds


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
