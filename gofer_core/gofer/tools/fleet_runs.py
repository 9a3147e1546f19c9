"""``gofer fleet status``, ``why``, ``cancel``, ``forget``: the runs that are on the disk."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from gofer.errors import ConfigError
from gofer.targets import Targets
from gofer.tools.fleet_completion import fleet_names, fleet_runs
from gofer.tools.fleet_do import fleet_command
from gofer.tools.fleet_output import machines, plain, print_groups, summary_line
from gofer.tools.output import harmless, print_json, print_table

if TYPE_CHECKING:
    from gofer.fleet import Fleet

__all__ = ["COMMANDS"]


@fleet_command("status")
@click.argument("run", required=False, shell_complete=fleet_runs)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
async def _status(fleet: Fleet, run: str | None, *, as_json: bool) -> int:
    """List the runs; or show how the machines of one stand."""
    if run is not None:
        row = fleet.record.run(run)
        rows = fleet.record.targets(row.number)
        if as_json:
            print_json([one._asdict() for one in rows])
        else:
            print(f"run {row.id}: {row.method} on {row.targets}: {row.state}{f' ({row.why})' if row.why else ''}")
            print_groups((one.name, one.outcome, plain(one.details, one.address, one.sn)) for one in rows)
        return 0
    runs = [(one, fleet.record.counts(one.number)) for one in fleet.record.runs()]
    if as_json:
        print_json([{"id": one.id, "method": one.method, "state": one.state, "counts": counts} for one, counts in runs])
    else:
        columns = ("run", "method", "targets", "state", "outcomes")
        print_table(
            columns, [[one.id, one.method, one.targets, one.state, summary_line(counts)] for one, counts in runs]
        )
    return 0


@fleet_command("cancel")
@click.argument("run", default="last", shell_complete=fleet_runs)
async def _cancel(fleet: Fleet, run: str) -> int:
    """Have nothing more of a run sent, and the agents cancel what they have.

    The command that runs it tells how each machine has ended. If it was killed, `gofer fleet resume` tells that, and
    goes on.
    """
    asked = await fleet.cancel(run)
    print(f"{machines(asked)} asked to cancel")
    return 0


@fleet_command("why")
@click.argument("run", shell_complete=fleet_runs)
@click.argument("name", shell_complete=fleet_names)
async def _why(fleet: Fleet, run: str, name: str) -> int:
    """Print every word that the request of one machine got, in order."""
    row = fleet.record.run(run)
    found = [one for one in fleet.record.targets(row.number) if name in (one.name, one.address)]
    if not found:
        raise ConfigError(f"run {row.id} has no machine {name!r}")
    for one in found:
        print(f"{harmless(one.name)} ({harmless(one.address)}), request {one.sn}, wave {one.wave + 1}")
        if one.sent is not None:
            print(f"  {_clock(one.sent)} sent")
        for word in fleet.record.words(row.number, one.n):
            said = "" if word.details is None else f" {json.dumps(word.details, ensure_ascii=False)}"
            print(f"  {_clock(word.at)} {word.word}{harmless(said)}")
        at = "" if one.ended is None else f"{_clock(one.ended)} "
        print(f"  {at}{one.outcome}: {harmless(json.dumps(one.details, ensure_ascii=False))}")
    return 0


@fleet_command("forget")
@click.argument("what", shell_complete=fleet_runs)
@click.option("--machine", is_flag=True, help="WHAT is an expression: forget these machines.")
async def _forget(fleet: Fleet, what: str, *, machine: bool) -> int:
    """Forget a run; or, with --machine, machines that are gone for good."""
    if machine:
        members = fleet.members.select(Targets(what))
        fleet.members.forget(members)
        print(f"{machines(len(members))} forgotten")
    else:
        row = fleet.record.run(what)
        with fleet.record.held(row):
            fleet.record.forget(row.number)
        print(f"run {row.id} forgotten")
    return 0


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03}"


COMMANDS = (_status, _cancel, _why, _forget)
