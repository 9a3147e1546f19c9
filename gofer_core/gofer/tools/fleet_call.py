"""``gofer fleet call``, ``plan``, ``resume``, ``retry``, ``watch``: running a method, and telling how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import AdapterError, ConfigError
from gofer.sections import Unreadable, decode
from gofer.targets import Targets
from gofer.tools.arguments import call_arguments, duration, input_option, option_group, target
from gofer.tools.connecting import proof_options, proofs
from gofer.tools.fleet_completion import fleet_methods, fleet_outcomes, fleet_runs, fleet_targets
from gofer.tools.fleet_do import FAILED, STOPPED, fleet_command, fleet_words, with_fleet
from gofer.tools.fleet_output import (
    live_line,
    machines,
    print_plan,
    print_report,
    summary_line,
    tell_of_care,
    tell_unfinished,
)
from gofer.tools.output import complain

if TYPE_CHECKING:
    from gofer.card import Card
    from gofer.fleet import Fleet, Run, Selection, Watch

__all__ = ["COMMANDS"]

_WAVES = ("limit", "batch", "ramp", "soak", "health", "stop_after", "max_unreachable")
_ASKING = 5.0  # seconds to wait for answers to who is there

_limit = click.option("--limit", metavar="N|%", help="Call no more machines than these, the first by name.")
_ramp = click.option("--ramp", metavar="N|%,...", help="Waves: 1,10%,100% is one machine, then a tenth, then all.")


#: Gives a command the options that say how a run goes on.
_waving = option_group(
    click.option("--confirm", is_flag=True, help="Ask at the terminal before each wave but the first."),
    click.option("--max-unreachable", metavar="N|%", help="Stop when so many machines were not reached."),
    click.option("--stop-after", metavar="N|%", help="Stop when so many have failed, of the whole run."),
    click.option("--health", metavar="CLASS.METHOD", help="After each wave its machines must answer this truly."),
    click.option("--soak", metavar="TIME", help="Wait so long between waves."),
    click.option("--batch", metavar="N|%", help="Call so many at once (default: 256)."),
)


#: Gives a command the options that say what is printed of a run.
_showing = option_group(
    click.option("--require", metavar="N|%", help="End with 0 if so many machines have a value (default: 100%)."),
    click.option("--jsonl", is_flag=True, help="Print each outcome as a line of JSON, as it comes."),
    click.option("--json", "as_json", is_flag=True, help="Print all outcomes as JSON at the end."),
    click.option("--hist", metavar="PATH", help="Show how the values' numbers at PATH are spread."),
    click.option("--sum", "sums", metavar="PATH", help="Add up the values' numbers at PATH, like usage.bytes."),
    click.option("--group-by", metavar="PATH", help="Count the values by what they have at PATH, like os.id."),
)


@click.command("call")
@click.argument("targets", shell_complete=fleet_targets)
@click.argument("method", type=target, metavar="CLASS.METHOD", shell_complete=fleet_methods)
@click.argument("arguments", nargs=-1)
@click.option("-w", "--wait", type=duration, default=60.0, metavar="TIME", help="Wait so long for each (default: 60s).")
@click.option(
    "-T", "--ttl", type=duration, metavar="TIME", help="The broker holds it so long for machines that are away."
)
@click.option("--timeout", type=duration, metavar="TIME", help="The method may run so long.")
@input_option
@proof_options
@click.option("--no-ask", is_flag=True, help="Call those that are remembered, without asking who is there.")
@click.option("--plan", is_flag=True, help="Print the method's documentation and marks, the waves and their machines.")
@_limit
@_ramp
@_waving
@_showing
@click.pass_obj
def _call(
    how: dict[str, Any], /, targets: str, method: tuple[str, str], arguments: tuple[str, ...], **given: Any
) -> int:
    """Call a method on all machines that TARGETS means; ARGUMENTS as for gofer rmi.

    Each machine has one outcome: value, exception, refused, interrupted, cancelled, unreachable, queued (the broker
    holds it), running (the agent has it), or untouched (the run was stopped before). The run is on the disk before
    anything is sent: `gofer fleet resume last` goes on when this command was killed, and runs nothing twice.

    A method that a machine has marked destructive is called on one machine, then on a tenth, then on the rest, up to
    the first failure. --ramp, --batch or --stop-after says otherwise.
    """
    args, kws = call_arguments(given["given"], arguments)
    options = {name: given[name] for name in ("wait", "ttl", "timeout") if given[name] is not None}
    if not given["plan"]:
        options |= proofs(given, {})

    async def call(fleet: Fleet) -> int:
        _required(given)  # before anything is on the disk
        selection = _with_waves(await _select(fleet, targets, ask=not given["no_ask"]), given)
        if not len(selection):
            raise ConfigError(f"no machine is meant by {targets!r}; `gofer fleet ls` lists those that are known")
        if given["plan"]:
            return await print_plan(fleet, selection, method, as_json=given["as_json"])
        tell_of_care(selection, method)
        return await _show(selection[method[0]][method[1]](*args, **kws), given)

    return with_fleet(how, call, **options)


_plan = click.Command(
    "plan",
    params=[param for param in _call.params if param.name != "plan"],
    callback=lambda **given: _call.callback(plan=True, **given),  # type: ignore[misc] # it has one
    help="Print what `gofer fleet call` would do: the method's documentation and marks, the waves, the machines.\n\n"
    "It calls nothing. It asks who is there, and one of the machines for the documentation.",
)


@click.command("resume")
@click.argument("run", default="last", shell_complete=fleet_runs)
@click.option("-w", "--wait", type=duration, metavar="TIME", help="Wait so long for each machine.")
@_waving
@_showing
@click.pass_obj
def _resume(how: dict[str, Any], /, run: str, wait: float | None, **given: Any) -> int:
    """Go on with a run that was stopped, or whose command was killed; nothing is run twice.

    Its waves and their limits are as they were, unless the options change them.
    """

    async def resume(fleet: Fleet) -> int:
        _required(given)
        waves = _waves(given) | ({"confirm": True} if given["confirm"] else {})
        return await _show(fleet.resume(run, confirm=_confirm, **waves), given)

    return with_fleet(how, resume, **({} if wait is None else {"wait": wait}))


@fleet_command("retry")
@click.argument("run", default="last", shell_complete=fleet_runs)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    shell_complete=fleet_outcomes,
    help="Which outcomes (default: exception, interrupted, unreachable).",
)
@_limit
@_ramp
@_waving
@_showing
async def _retry(fleet: Fleet, run: str, outcomes: tuple[str, ...], **given: Any) -> int:
    """Call the method of a run again, as a new run, on the machines on which it failed."""
    from gofer.fleet.fleet import FAILURES

    _required(given)
    row = fleet.record.run(run)
    selection = _with_waves(fleet.retry(run, outcomes or FAILURES), given)
    if not len(selection):
        print(f"run {row.id} has no machine with {', '.join(outcomes or FAILURES)}")
        return 0
    classname, method, cntr, args, kws = row.request
    tell_of_care(selection, (classname, method))
    return await _show(fleet.begin(selection, (classname, method, cntr), tuple(args), kws), given)


@fleet_command("watch")
@click.argument("run", default="last", shell_complete=fleet_runs)
@_showing
async def _watch(fleet: Fleet, run: str, **given: Any) -> int:
    """Follow a run that another command runs, to its end; the exit status is that of the run.

    It reads what is on the disk, and asks no broker. To interrupt it does nothing to the run.
    """
    _required(given)
    return await _show(fleet.watch(run), given)


# -- what they share ---------------------------------------------------------------------------------------------------


async def _select(fleet: Fleet, targets: str, *, ask: bool) -> Selection:
    if targets.startswith("@run:"):
        run, *kinds = targets.removeprefix("@run:").split() or [""]
        if not run:
            raise ConfigError("@run: names no run; allowed: a run's id or last, like '@run:last exception'")
        return fleet.retry(run, kinds) if kinds else fleet.retry(run)
    if targets == "-" or targets.startswith("@"):
        return fleet.at(_cards(fleet, _lines(targets)), targets)
    if ask:
        # Those that are remembered are called, whether they answer now or not: it need not wait for each of them.
        expected = () if fleet.members.select(Targets(targets)) else None
        try:
            tell_unfinished(await fleet.ask(targets, wait=_ASKING, expected=expected), targets, _ASKING)
        except AdapterError as cannot:  # some brokers have no exchanges
            complain("gofer fleet", f"nobody was asked who is there: {cannot}; those that are remembered are called")
    return fleet.where(targets)


def _lines(targets: str) -> list[str]:
    if targets == "@":
        raise ConfigError("@ names no file; allowed: @FILE, a file with an address on each line")
    try:
        return decode(sys.stdin.buffer.read() if targets == "-" else Path(targets[1:]).read_bytes()).splitlines()
    except OSError as wrong:
        raise ConfigError(f"{targets}: cannot be read: {wrong}") from None
    except Unreadable as wrong:
        raise ConfigError(f"{'standard input' if targets == '-' else targets}: {wrong}") from None


def _cards(fleet: Fleet, lines: Iterable[str]) -> list[Card]:
    from gofer.card import Card
    from gofer.messaging.address import Address

    known = {one.card.address: one.card for one in fleet.members.select()}
    addresses = dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    return [known.get(one) or Card(name=one, address=str(Address.parse(one))) for one in addresses]


def _waves(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _WAVES if given.get(name) is not None}


def _with_waves(selection: Selection, given: dict[str, Any]) -> Selection:
    return selection(confirm=_confirm if given["confirm"] else None, **_waves(given))


async def _confirm(following: int, counts: Counter[str]) -> bool:
    """Ask a person, while the connection lives on."""
    question = f"{summary_line(counts)}. Call the next {machines(following)}? [y/N] "
    begin = "\r\x1b[K" if sys.stderr.isatty() else ""  # in place of the line that tells how far the run is
    print(begin + question, end="", file=sys.stderr, flush=True)
    readable, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        loop.add_reader(sys.stdin.fileno(), readable.set)
    except OSError:  # a file, which is always readable
        readable.set()
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    answer = b""
    while (letter := os.read(sys.stdin.fileno(), 1)) not in (b"", b"\n"):
        answer += letter
    return answer.strip().lower() in (b"y", b"yes")


def _required(given: dict[str, Any]) -> Any:
    from gofer.fleet.waves import Amount

    return Amount.parse(given["require"] or "100%", "--require")


async def _show(run: Run | Watch, given: dict[str, Any]) -> int:
    """Run it, or follow it; print what comes, and return the exit status."""
    from gofer.fleet import Run
    from gofer.fleet.state import StateError

    require = _required(given).of(len(run))
    resume, cancel = (shlex.join([*fleet_words(), word, run.id]) for word in ("resume", "cancel"))
    try:
        with live_line(run, quiet=given["jsonl"] or given["as_json"]) as show:
            async for outcome in run:
                show()
                if given["jsonl"]:
                    print(json.dumps(outcome._asdict(), ensure_ascii=False), flush=True)
    except (asyncio.CancelledError, KeyboardInterrupt):
        if isinstance(run, Run):
            complain("gofer fleet", f"interrupted; to go on: {resume}; to stop it: {cancel}")
        raise
    except StateError as failed:
        if not isinstance(run, Run):
            raise
        complain("gofer fleet", f"{failed}; run {run.id} has not ended; to go on when the file can be used: {resume}")
        return 2
    print_report(run, given)
    if run.stopped is not None:
        complain("gofer fleet", f"run {run.id} was stopped: {run.stopped}; to go on: {resume}")
        return STOPPED
    return 0 if run.counts["value"] >= require else FAILED


COMMANDS = (_call, _plan, _resume, _retry, _watch)
