"""``gofer emulate``: many agents in one process, for trying what calls many."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace
from typing import Any

import click

from gofer.errors import ConfigError, MessagingError
from gofer.messaging.caller_conf import profile
from gofer.tools.arguments import duration, json_value
from gofer.tools.connecting import broker_options, connector_of
from gofer.tools.output import complain

__all__ = ["emulate"]

_HEARTBEAT = 60.0


@click.command()
@broker_options
@click.option("-n", "count", type=click.IntRange(1, 50_000), default=100, help="How many agents (default: 100).")
@click.option("--prefix", default="emulated", metavar="NAME", help="What their names begin with (default: emulated).")
@click.option(
    "--answer",
    type=json_value,
    metavar="JSON",
    help="What methods return (default: the agent's name and the arguments).",
)
@click.option(
    "--latency", type=duration, default=0.0, metavar="TIME", help="A method takes up to so long (default: 0)."
)
@click.option("--fail", type=click.FloatRange(0, 1), default=0.0, help="The share whose methods raise, like 0.05.")
@click.option(
    "--crash", type=click.FloatRange(0, 1), default=0.0, help="The share of requests in whose middle an agent crashes."
)
@click.option("--down", type=duration, default=2.0, metavar="TIME", help="A crashed agent is back after up to so long.")
@click.option("--frozen", type=click.FloatRange(0, 1), default=0.0, help="The share that never answer a request.")
@click.option("--gone", type=click.FloatRange(0, 1), default=0.0, help="The share whose queues do not exist.")
@click.option("--seed", type=int, default=0, help="Of what they do: the same one has the same agents do the same.")
@click.option("--runs", type=click.Path(dir_okay=False), help="Write the serial number of each run into this file.")
def emulate(*, count: int, runs: str | None, **how: Any) -> int:
    """Emulate agents until interrupted: each has its own connection, joins the fleet, and answers every method.

    Prints "ready" when all are up. Each needs an open file (ulimit -n) here, and two at the broker.

    \b
    Exit status:
      0    interrupted, as meant
      2    wrong arguments
      6    no connection to the broker
    """
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    try:
        asyncio.run(_emulate(count, runs, how))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0
    except ConfigError as wrong:
        complain("gofer emulate", wrong)
        return 2
    except (MessagingError, OSError) as failed:
        complain("gofer emulate", failed)
        return 6
    return 0


async def _emulate(count: int, runs: str | None, how: dict[str, Any]) -> None:
    from gofer.testing.emulator import Emulator, Script

    as_given = {name: how[name] for name in ("answer", "fail", "crash", "frozen", "gone", "seed")}
    script = Script(latency=(0.0, how["latency"]), down=(0.0, how["down"]), **as_given)
    file = None if runs is None else open(runs, "a", buffering=1, encoding="utf-8")  # noqa: SIM115, ASYNC230 - it stays open to the end

    def ran(sn: str) -> None:
        if file is not None:
            file.write(f"{sn}\n")

    # One process cannot send ten thousand heartbeats every few seconds, and a broker should not have to take them.
    connector = replace(connector_of(how, profile(how["profile_name"])), heartbeat=_HEARTBEAT)
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with Emulator(connector, count, script, prefix=how["prefix"], ran=ran):
        print("ready", flush=True)
        await asyncio.Event().wait()
