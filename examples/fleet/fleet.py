"""Ask many machines how full a disk is, and tell the outcome of each.

It needs the plugin disks of ../first-plugin on every machine. The exit status is 0 if all have enough space.
"""

import argparse
import asyncio
import sys
from collections import Counter
from typing import NamedTuple

from gofer.aio import Agent
from gofer.errors import CallError, GoferError, NotFound, Rejected, RequestTimeout


class Outcome(NamedTuple):
    """What became of the call to one machine."""

    machine: str
    what: str  # "ok", "low", "no agent", "timeout", "rejected" or "failed"
    text: str


async def ask(url: str, machine: str, path: str, least: int, wait: float) -> Outcome:
    """Call one machine. All agents of this process share one connection to the broker."""
    async with Agent(url, machine, wait=wait) as agent:
        try:
            usage = await agent.Disk(path).usage()
        except NotFound:
            return Outcome(machine, "no agent", "the broker has no such queue: check the name, and that goferd runs")
        except RequestTimeout as timeout:
            return Outcome(machine, "timeout", f"after {timeout.wait:g} s; the last state was {timeout.state!r}")
        except Rejected as rejected:
            return Outcome(machine, "rejected", f"{rejected.code}: {rejected.description}")
        except (CallError, GoferError) as error:
            return Outcome(machine, "failed", first_line(error))
        except Exception as error:  # noqa: BLE001 - the method's own exception, of any class: it is this machine's outcome
            return Outcome(machine, "failed", f"{type(error).__name__}: {first_line(error)}")
    free = usage["free"] * 100 // usage["total"]
    return Outcome(machine, "ok" if free >= least else "low", f"{free} % free")


def first_line(error: BaseException) -> str:
    """Return what an error says, without the remote trace."""
    return str(error).partition("\n")[0]


async def ask_all(machines: list[str], *, url: str, path: str, least: int, wait: float, at_once: int) -> list[Outcome]:
    """Call all machines, so many at a time, and return the outcomes in the order of the machines."""
    places = asyncio.Semaphore(at_once)

    async def one(machine: str) -> Outcome:
        async with places:
            return await ask(url, machine, path, least, wait)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(machine)) for machine in machines]
    return [task.result() for task in tasks]


def main() -> int:
    """Read the command line, print a line for each machine and a summary, and return the exit status."""
    parser = argparse.ArgumentParser(description="How full is a disk of many machines?")
    parser.add_argument("machines", nargs="+", metavar="MACHINE", help="the address of an agent")
    parser.add_argument("--url", default="local://", help="the broker")
    parser.add_argument("--path", default="/", help="a directory on that disk")
    parser.add_argument("--least", type=int, default=10, metavar="PERCENT", help="how much must be free")
    parser.add_argument("--wait", type=float, default=10.0, metavar="SECONDS", help="for each machine")
    parser.add_argument("--at-once", type=int, default=256, metavar="NUMBER", help="of machines")
    given = vars(parser.parse_args())
    outcomes = asyncio.run(ask_all(given.pop("machines"), **given))
    for outcome in outcomes:
        print(f"{outcome.machine:<20} {outcome.what:<10} {outcome.text}")
    counted = Counter(outcome.what for outcome in outcomes)
    print(", ".join(f"{number} {what}" for what, number in sorted(counted.items(), key=lambda one: (-one[1], one[0]))))
    return 0 if set(counted) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
