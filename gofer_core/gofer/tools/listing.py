"""``gofer plugins``, ``gofer adapters`` and ``gofer authenticators``: what is installed, and what an adapter can do."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.entry_points import listed
from gofer.errors import ConfigError, GoferError
from gofer.root import Root
from gofer.tools.arguments import duration, option_group
from gofer.tools.connecting import connector_of, tls_options
from gofer.tools.output import complain, harmless, print_json, print_table

if TYPE_CHECKING:
    from gofer.agent.config import Descriptor
    from gofer.testing.own_broker import Finding

__all__ = ["adapters", "authenticators", "plugins"]

_SUPPORTED = {True: "yes", False: "no", None: "not tried"}


def _seconds(text: str) -> float:
    seconds = duration(text)
    if not 0 < seconds <= 86400:
        raise click.BadParameter(f"{text!r} is not more than 0 and at most 86400 (a day)")
    return seconds


_HOW_LONG = "How long importing one may take."
#: Gives a command the options ``--timeout`` and ``--json``.
_listing_options = option_group(
    click.option("--json", "as_json", is_flag=True, help="Print JSON: a list with one object for each."),
    click.option("--timeout", type=_seconds, default=10.0, show_default=True, metavar="SECONDS", help=_HOW_LONG),
)


@click.command()
@_listing_options
def authenticators(as_json: bool, timeout: float) -> None:
    """List the installed authenticators, by the names that descriptors and `gofer rmi -A` use.

    Each is imported in a separate process, to show whether it is broken.
    """
    _list("gofer.authenticators", as_json, timeout)


@click.command()
@_listing_options
@click.option("--test", "url", metavar="URL", help="Test what gofer can do on the broker at URL.")
@tls_options
def adapters(as_json: bool, timeout: float, url: str | None, **how: Any) -> int:
    """List the installed adapters, by the names that stand in URLs before the +.

    Each is imported in a separate process, to show whether it is broken.

    With --test, run the contract of adapters on your broker instead, and print what it supports. The test takes half a
    minute or more. It uses queues and exchanges with names of its own (contract-...), and deletes them. It does not
    touch anything else at the broker. It needs pytest. The options for certificates are for --test.

    \b
    Exit status:
      0    listed; or tested, and the broker supports all that gofer asks for
      1    tested, and the broker does not support some of it: the table says what
      2    wrong arguments, or pytest is not installed
      6    no connection to the broker
    """
    if url is None:
        _list("gofer.adapters", as_json, timeout)
        return 0
    if find_spec("pytest") is None:
        raise click.UsageError("--test needs pytest, which is not installed: pip install pytest")
    return _test({"url": url, **how}, as_json)


@click.command()
@click.option("--root", metavar="DIR", help="Read the descriptors under DIR/etc/gofer (default: GOFER_ROOT, else /).")
@_listing_options
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
    _list(GROUP, as_json, timeout, place, described)


def _list(
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
    rows: list[dict[str, Any]] = []
    checks: dict[str, Descriptor | None] = {}
    for one in listed(group):
        row: dict[str, Any] = asdict(one)
        descriptor = None
        if described is not None:
            theirs = described.get(one.name, [])
            enabled = [each for each in theirs if each.enabled]
            descriptor = next(iter([*enabled, *theirs]), None)
            row |= {"enabled": bool(enabled), "descriptors": [str(each.file) for each in theirs]}
        rows.append(row)
        checks[one.name] = descriptor
    broken = _broken(group, root or Root(), checks, timeout)
    for row in rows:
        row["broken"] = broken[row["name"]]
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


def _broken(
    group: str, root: Root, checks: Mapping[str, Descriptor | None], seconds: float
) -> Mapping[str, str | None]:
    """Import all that is to be checked, each in a process of its own; tell by the names why it is broken, or None.

    Args:
        checks: of plugins, the descriptor of each, if there is one.
        seconds: how long each may take.
    """
    from gofer.agent.config import redescribe
    from gofer.agent.helper_process import import_objects, import_problems

    if group != "gofer.plugins":
        return dict(zip(checks, import_objects(root, group, list(checks), seconds), strict=True))
    found: dict[str, str | None] = {}
    described = {}
    for name, descriptor in checks.items():
        try:
            described[name] = descriptor or redescribe(Path(f"{name}.conf"), {"main": {"plugin": name}})[0]
        except ConfigError as wrong:  # no descriptor can name it
            found[name] = str(wrong)
    problems = import_problems(root, list(described.values()), seconds=seconds)
    errors = [one for one in problems if (one.severity, one.section, one.key) == ("error", "main", "plugin")]
    reasons = {one.file: one.text for one in reversed(errors)}
    return found | {name: reasons.get(str(one.file)) for name, one in described.items()}


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _test(how: dict[str, Any], as_json: bool) -> int:
    from gofer.testing.own_broker import check_login, run_contract

    try:
        connector = connector_of(how, {})
        check_login(connector)
    except GoferError as error:
        complain("gofer adapters", error)
        return 6
    findings = run_contract(connector, _progress if sys.stderr.isatty() else lambda _: None)
    rows = [asdict(one) for one in findings]
    if as_json:
        print_json(rows)
    else:
        cells = [[one.promise, _SUPPORTED[one.kept], harmless(one.why)] for one in findings]
        print_table(["", "SUPPORTED", "WHY NOT"], cells)
        tried = [one for one in findings if one.kept is not None]
        print(f"{sum(bool(one.kept) for one in tried)} of {len(tried)} are supported by {connector.url}.")
    return int(any(one.kept is False for one in findings))


def _progress(found: Finding) -> None:
    print(f"\r\x1b[K{found.promise[:70]}", end="", file=sys.stderr, flush=True)
