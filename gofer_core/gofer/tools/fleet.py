"""``gofer fleet``: who is there, and one method called on many machines."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import AdapterError, CallError, ConfigError, MessagingError
from gofer.messaging.caller_conf import profile
from gofer.tools import login
from gofer.tools.agent_options import broker_options, signing_option
from gofer.tools.arguments import call_input, duration, read_arguments, target
from gofer.tools.connecting import connector_of
from gofer.tools.fleet_output import Live, plain, print_groups, print_outcomes, print_values, summary_line
from gofer.tools.output import complain, harmless, print_json, print_table

if TYPE_CHECKING:
    from gofer.card import Card
    from gofer.fleet import Fleet, Run, Selection

__all__ = ["fleet"]

_FAILED, _STOPPED = 1, 3
_WAVES = ("limit", "batch", "ramp", "soak", "health", "stop_after", "max_unreachable")
_FAILURES = ("exception", "interrupted", "unreachable")


@click.group()
@broker_options
@signing_option
@click.option("-v", "--verbose", is_flag=True, help="Print the connection's events on standard error.")
@click.pass_context
def fleet(context: click.Context, /, *, verbose: bool, **how: Any) -> None:
    """Find machines, and call one method on many of them.

    Machines join by enabled = 1 in [fleet] of their agent.conf. TARGETS is an expression: all, name=web-*, group=web
    and facts.os.id=debian, plugin.dogs>=1.2, not class=Dog. Or @FILE and -: addresses, one a line, from a file or from
    standard input; or @run:ID and outcomes, like "@run:last exception unreachable".

    \b
    Exit status:
      0    all is well, or as well as --require asks
      1    some machines are missing, or have no value
      2    wrong arguments; or what is remembered cannot be read
      3    the run was stopped before its end
      6    no connection to the broker
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    context.obj = how


@fleet.command("ls")
@click.argument("targets", default="all")
@click.option(
    "-w", "--wait", type=duration, default=5.0, metavar="TIME", help="Wait so long for answers (default: 5s)."
)
@click.option("--no-ask", is_flag=True, help="Show what is remembered, and ask nobody.")
@click.option("--json", "as_json", is_flag=True, help="Print the machines' cards as JSON.")
@click.pass_obj
def _ls(how: dict[str, Any], /, targets: str, wait: float, *, no_ask: bool, as_json: bool) -> int:
    """List machines: those that answer, and those that were there before and do not."""
    return _do(how, _list, targets, wait, no_ask, as_json)


async def _list(fleet: Fleet, targets: str, wait: float, no_ask: bool, as_json: bool) -> int:
    answered, refused = set(), Counter[str]()
    if not no_ask:
        found = await fleet.ask(targets, wait=wait)
        answered, refused = set(found.cards), found.refused
    rows, missing = [], 0
    for member in fleet.members.select(_expression(targets)):
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
    return _FAILED if missing else 0


def _row(member: Any, state: str) -> list[str]:
    card = member.card
    plugins = (f"{name} {one.version or ''}".strip() for name, one in card.plugins.items())
    seen = time.strftime("%Y-%m-%d %H:%M", time.localtime(member.last)) if member.answers else ""
    return [
        *map(harmless, (card.name, card.address)),
        state,
        seen,
        ", ".join(card.groups),
        harmless(", ".join(plugins)),
    ]


@fleet.command("ping")
@click.argument("targets", default="all")
@click.option(
    "-w", "--wait", type=duration, default=5.0, metavar="TIME", help="Wait so long for answers (default: 5s)."
)
@click.pass_obj
def _ping(how: dict[str, Any], /, targets: str, wait: float) -> int:
    """Count the machines that answer, and name those that do not."""
    return _do(how, _count, targets, wait)


async def _count(fleet: Fleet, targets: str, wait: float) -> int:
    found = await fleet.ask(targets, wait=wait)
    known = fleet.members.select(_expression(targets))
    missing = [one.name for one in known if one.answers and one.card.address not in found.cards]
    print(f"{_machines(len(found.cards))} answered, {len(missing)} missing")
    for name in missing:
        print(f"missing: {harmless(name)}")
    return _FAILED if missing else 0


@fleet.command("add")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def _add(how: dict[str, Any], /, file: Path) -> int:
    """Add machines that answer no questions: FILE has a section for each address, with name and groups in it."""
    from gofer.fleet import read_members

    async def add(fleet: Fleet) -> int:
        cards = read_members(file)
        fleet.add(cards)
        print(f"{_machines(len(cards))} added")
        return 0

    return _do(how, add)


def _calling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of runs."""
    for option in (
        click.option("--require", metavar="N|%", help="End with 0 if so many machines have a value (default: 100%)."),
        click.option("--jsonl", is_flag=True, help="Print each outcome as a line of JSON, as it comes."),
        click.option("--json", "as_json", is_flag=True, help="Print all outcomes as JSON at the end."),
        click.option("--sum", "sums", metavar="PATH", help="Add up the values' numbers at PATH, like usage.bytes."),
        click.option("--group-by", metavar="PATH", help="Count the values by what they have at PATH, like os.id."),
        click.option("--confirm", is_flag=True, help="Ask at the terminal before each wave but the first."),
        click.option("--max-unreachable", metavar="N|%", help="Stop when so many machines were not reached."),
        click.option("--stop-after", metavar="N|%", help="Stop when so many have failed, of the whole run."),
        click.option("--health", metavar="CLASS.METHOD", help="After each wave its machines must answer this truly."),
        click.option("--soak", metavar="TIME", help="Wait so long between waves."),
        click.option("--ramp", metavar="N|%,...", help="Waves: 1,10%,100% is one machine, then a tenth, then all."),
        click.option("--batch", metavar="N|%", help="Call so many at once (default: 256)."),
    ):
        command = option(command)
    return command


@fleet.command("call", context_settings={"ignore_unknown_options": False})
@click.argument("targets")
@click.argument("method", type=target, metavar="CLASS.METHOD")
@click.argument("arguments", nargs=-1)
@click.option("-w", "--wait", type=duration, default=60.0, metavar="TIME", help="Wait so long for each (default: 60s).")
@click.option(
    "-T", "--ttl", type=duration, metavar="TIME", help="The broker holds it so long for machines that are away."
)
@click.option("--timeout", type=duration, metavar="TIME", help="The method may run so long.")
@click.option(
    "-i", "--input", "given", type=call_input, metavar="JSON", help="All arguments: [[positional], {keywords}]."
)
@click.option("--secret-file", metavar="FILE", help="Read the secret from the first line of FILE; -: standard input.")
@click.option("--user", metavar="NAME", help="The user to call as.")
@click.option("--password-file", metavar="FILE", help="Read the password from the first line of FILE.")
@click.option("--no-ask", is_flag=True, help="Call those that are remembered, without asking who is there.")
@click.option("--limit", metavar="N|%", help="Call no more machines than these, the first by name.")
@click.option("--plan", is_flag=True, help="Print what would be called, in which waves, and send nothing.")
@_calling
@click.pass_obj
def _call(
    how: dict[str, Any], /, targets: str, method: tuple[str, str], arguments: tuple[str, ...], **given: Any
) -> int:
    """Call a method on all machines that TARGETS means; ARGUMENTS as for gofer rmi.

    Each machine has one outcome: value, exception, refused, interrupted, cancelled, unreachable, queued (the broker
    holds it), running (the agent has it), or untouched (the run was stopped before). The run is on the disk before
    anything is sent: `gofer fleet resume last` goes on when this command was killed, and runs nothing twice.
    """
    if given["given"] is None:
        args, kws = read_arguments(arguments)
    elif arguments:
        raise click.UsageError("-i gives all arguments: none may follow")
    else:
        args, kws = given["given"]
    options = {name: given[name] for name in ("wait", "ttl", "timeout") if given[name] is not None}
    if given["secret_file"] is not None:
        options["secret"] = login.from_file(given["secret_file"], "--secret-file")
    if given["user"] is not None:
        options["user"] = given["user"]
        options["password"] = (
            login.ask(f"password of {given['user']}", "--password-file")
            if given["password_file"] is None
            else login.from_file(given["password_file"], "--password-file")
        )

    async def call(fleet: Fleet) -> int:
        _required(given)  # before anything is on the disk
        selection = await _select(fleet, targets, ask=not given["no_ask"])
        selection = selection(confirm=_confirm if given["confirm"] else None, **_waves(given))
        if given["plan"]:
            return _print_plan(selection, method)
        if not len(selection):
            raise ConfigError(f"no machine is meant by {targets!r}; `gofer fleet ls` lists those that are known")
        return await _show(selection[method[0]][method[1]](*args, **kws), given)

    return _do(how, call, **options)


def _print_plan(selection: Selection, method: tuple[str, str]) -> int:
    plan = selection.plan()
    begin = 0
    for n, end in enumerate(plan.ends):
        print(f"wave {n + 1} of {len(plan.ends)}: {'.'.join(method)} on {_machines(end - begin)}")
        for member in plan.members[begin:end]:
            print(f"  {harmless(member.name)} ({harmless(member.card.address_of(method[0]))})")
        begin = end
    return 0


@fleet.command("status")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_obj
def _status(how: dict[str, Any], /, run: str | None, *, as_json: bool) -> int:
    """List the runs; or show how the machines of one stand."""

    async def status(fleet: Fleet) -> int:
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
            print_json(
                [{"id": one.id, "method": one.method, "state": one.state, "counts": counts} for one, counts in runs]
            )
        else:
            columns = ("run", "method", "targets", "state", "outcomes")
            print_table(
                columns, [[one.id, one.method, one.targets, one.state, summary_line(counts)] for one, counts in runs]
            )
        return 0

    return _do(how, status)


@fleet.command("resume")
@click.argument("run", default="last")
@click.option("-w", "--wait", type=duration, metavar="TIME", help="Wait so long for each machine.")
@_calling
@click.pass_obj
def _resume(how: dict[str, Any], /, run: str, wait: float | None, **given: Any) -> int:
    """Go on with a run that was stopped, or whose command was killed; nothing is run twice."""

    async def resume(fleet: Fleet) -> int:
        found = fleet.resume(run, confirm=_confirm if given["confirm"] else None, **_waves(given))
        return await _show(found, given)

    return _do(how, resume, **({} if wait is None else {"wait": wait}))


@fleet.command("retry")
@click.argument("run", default="last")
@click.option("--outcome", "outcomes", multiple=True, help=f"Which outcomes (default: {', '.join(_FAILURES)}).")
@_calling
@click.pass_obj
def _retry(how: dict[str, Any], /, run: str, outcomes: tuple[str, ...], **given: Any) -> int:
    """Call the method of a run again, as a new run, on the machines on which it failed."""

    async def retry(fleet: Fleet) -> int:
        _required(given)
        row = fleet.record.run(run)
        selection = fleet.retry(run, outcomes or _FAILURES)(
            confirm=_confirm if given["confirm"] else None, **_waves(given)
        )
        if not len(selection):
            print(f"run {row.id} has no machine with {', '.join(outcomes or _FAILURES)}")
            return 0
        classname, method, cntr, args, kws = row.request
        return await _show(fleet.begin(selection, (classname, method, cntr), tuple(args), kws), given)

    return _do(how, retry)


@fleet.command("cancel")
@click.argument("run", default="last")
@click.pass_obj
def _cancel(how: dict[str, Any], /, run: str) -> int:
    """Have the agents cancel what they have of a run. `gofer fleet resume` then tells how each machine has ended."""

    async def cancel(fleet: Fleet) -> int:
        asked = await fleet.cancel(run)
        print(f"{_machines(asked)} asked to cancel")
        return 0

    return _do(how, cancel)


@fleet.command("why")
@click.argument("run")
@click.argument("name")
@click.pass_obj
def _why(how: dict[str, Any], /, run: str, name: str) -> int:
    """Print every word that the request of one machine got, in order."""

    async def why(fleet: Fleet) -> int:
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

    return _do(how, why)


@fleet.command("forget")
@click.argument("what")
@click.option("--machine", is_flag=True, help="WHAT is an expression: forget these machines.")
@click.pass_obj
def _forget(how: dict[str, Any], /, what: str, *, machine: bool) -> int:
    """Forget a run; or, with --machine, machines that are gone for good."""

    async def forget(fleet: Fleet) -> int:
        if machine:
            members = fleet.members.select(_expression(what))
            fleet.members.forget(members)
            print(f"{_machines(len(members))} forgotten")
        else:
            row = fleet.record.run(what)
            with fleet.record.held(row):
                fleet.record.forget(row.number)
            print(f"run {row.id} forgotten")
        return 0

    return _do(how, forget)


# -- what they share ---------------------------------------------------------------------------------------------------


def _do(how: dict[str, Any], work: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Do something with the fleet that the options before the command name; return the exit status."""
    from gofer.fleet import Fleet

    async def doing() -> int:
        settings = profile(how["profile_name"])
        authenticator = how["authenticator"] or settings.get("authenticator")
        if authenticator is not None:
            options["authenticator"] = authenticator
        async with Fleet(connector_of(how, settings), **options) as fleet:
            status: int = await work(fleet, *args)
            return status

    try:
        return asyncio.run(doing())
    except ConfigError as wrong:
        if "\n" in str(wrong):  # it points to a place in an expression
            print(f"gofer fleet: {harmless(str(wrong))}", file=sys.stderr)
        else:
            complain("gofer fleet", wrong)
        return 2
    except MessagingError as failed:
        complain("gofer fleet", failed)
        return 6
    except (CallError, TypeError, ValueError) as wrong:
        complain("gofer fleet", wrong)
        return 2


def _expression(text: str) -> Any:
    from gofer.targets import Targets

    return Targets(text)


async def _select(fleet: Fleet, targets: str, *, ask: bool) -> Selection:
    if targets.startswith("@run:"):
        run, *kinds = targets.removeprefix("@run:").split()
        return fleet.retry(run, kinds or _FAILURES)
    if targets == "-" or targets.startswith("@"):
        return fleet.at(_cards(fleet, _lines(targets)), targets)
    if ask:
        try:
            await fleet.ask(targets)
        except AdapterError as cannot:  # some brokers have no exchanges
            complain("gofer fleet", f"nobody was asked who is there: {cannot}; those that are remembered are called")
    return fleet.where(targets)


def _lines(targets: str) -> list[str]:
    try:
        return (sys.stdin.read() if targets == "-" else Path(targets[1:]).read_text("utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"{targets}: cannot be read: {wrong}") from None


def _cards(fleet: Fleet, lines: Iterable[str]) -> list[Card]:
    from gofer.card import Card
    from gofer.messaging.address import Address

    known = {one.card.address: one.card for one in fleet.members.select()}
    addresses = dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    return [known.get(one) or Card(name=one, address=str(Address.parse(one))) for one in addresses]


def _waves(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _WAVES if given.get(name) is not None}


def _confirm(following: int, counts: Counter[str]) -> bool:
    return click.confirm(f"{summary_line(counts)}. Call the next {following} machines?", err=True)


def _required(given: dict[str, Any]) -> Any:
    from gofer.fleet.waves import Amount

    return Amount.parse(given["require"] or "100%", "--require")


async def _show(run: Run, given: dict[str, Any]) -> int:
    """Run it, print what comes, and return the exit status."""
    require = _required(given).of(len(run))
    try:
        with Live(run, quiet=given["jsonl"] or given["as_json"]) as live:
            async for outcome in run:
                live.show(outcome)
                if given["jsonl"]:
                    print(json.dumps(outcome._asdict(), ensure_ascii=False), flush=True)
    except (asyncio.CancelledError, KeyboardInterrupt):
        words = shlex.join(["gofer", "fleet", "resume", run.id])
        complain("gofer fleet", f"interrupted; to go on: {words}; to stop it: gofer fleet cancel {run.id}")
        raise
    _report(run, given)
    if run.stopped is not None:
        complain("gofer fleet", f"run {run.id} was stopped: {run.stopped}")
        return _STOPPED
    return 0 if run.counts["value"] >= require else _FAILED


def _report(run: Run, given: dict[str, Any]) -> None:
    outcomes = run.outcomes
    if given["as_json"]:
        print_json({"run": run.id, "counts": run.counts, "outcomes": [one._asdict() for one in outcomes]})
    elif not given["jsonl"]:
        if given["group_by"] or given["sums"]:
            print_values(outcomes, given["group_by"], given["sums"])
        else:
            print_outcomes(outcomes)
        print(f"run {run.id}: {summary_line(run.counts)}")


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03}"
