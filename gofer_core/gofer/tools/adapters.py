"""``gofer adapters``: the adapters that are installed, which speak to brokers, and what they can do on a broker."""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import GoferError
from gofer.tools.connecting import connector_of, tls_options
from gofer.tools.listing import list_entry_points, listing_options
from gofer.tools.output import complain, harmless, print_json, print_table

if TYPE_CHECKING:
    from gofer.testing.own_broker import Finding

__all__ = ["adapters"]

_STATES = {True: "yes", False: "no", None: "not tried"}


@click.command()
@listing_options
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
        list_entry_points("gofer.adapters", as_json, timeout)
        return 0
    if find_spec("pytest") is None:
        raise click.UsageError("--test needs pytest, which is not installed: pip install pytest")
    return _test({"url": url, **how}, as_json)


def _test(how: dict[str, Any], as_json: bool) -> int:
    from gofer.testing.own_broker import check_login, run_contract

    try:
        connector = connector_of(how, {})
        check_login(connector)
    except GoferError as error:
        complain("gofer adapters", error)
        return 6
    findings = run_contract(connector, _progress if sys.stderr.isatty() else lambda _: None)
    rows = [dataclasses.asdict(one) for one in findings]
    if as_json:
        print_json(rows)
    else:
        cells = [[one.promise, _STATES[one.kept], harmless(one.why)] for one in findings]
        print_table(["", "SUPPORTED", "WHY NOT"], cells)
        tried = [one for one in findings if one.kept is not None]
        print(f"{sum(bool(one.kept) for one in tried)} of {len(tried)} are supported by {connector.url}.")
    return int(any(one.kept is False for one in findings))


def _progress(found: Finding) -> None:
    print(f"\r\x1b[K{found.promise[:70]}", end="", file=sys.stderr, flush=True)
