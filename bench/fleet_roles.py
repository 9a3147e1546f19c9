"""The processes of bench/fleet.py: the emulator, and the caller. They take commands, a line each, and answer with JSON.

They import nothing but gofer: their memory is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import sys
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

_HEARTBEAT = 60.0
_PATIENCE = 300.0  # seconds that agents may take to come back


async def commands() -> Any:
    """Yield the commands that come."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line.strip()


def answer(**what: Any) -> None:
    """Answer a command, with the memory and processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**what, "MB": used, "CPU": process_time()}), flush=True)


async def agents(url: str, count: int, durable: bool) -> None:
    """Be the emulator. Commands: start; back (wait until all are, and tell how many were when); runs."""
    from gofer.testing.emulator import Emulator

    emulator = Emulator(Connector(URL.parse(url), heartbeat=_HEARTBEAT), count, durable=durable)
    async for command in commands():
        begun = monotonic()
        if command == "start":
            await emulator.start()
            answer(seconds=monotonic() - begun)
        elif command == "back":
            seen = [(begun, emulator.up)]
            while seen[-1][1] < count and monotonic() - begun < _PATIENCE:
                await asyncio.sleep(0.2)
                seen.append((monotonic(), emulator.up))
            answer(seen=seen)
        else:
            answer(runs=len(emulator.runs), twice=sum(times > 1 for times in emulator.runs.values()))
    os._exit(0)  # their broker is thrown away: nobody has to delete ten thousand queues


async def caller(url: str, directory: str, jitter: float) -> None:
    """Be the caller. Commands: ask, call, usage."""
    from gofer.fleet import Fleet

    async with Fleet(Connector(URL.parse(url), heartbeat=_HEARTBEAT), directory=Path(directory), wait=60) as fleet:
        async for command in commands():
            begun = monotonic()
            if command == "ask":
                found = await fleet.ask(wait=30.0, jitter=jitter)
                answer(seconds=found.seconds, found=len(found.cards), refused=dict(found.refused))
                del found
            elif command == "usage":
                answer()
            else:
                run, outcomes = fleet.where().Emulated().work(1), {}
                async for one in run:
                    outcomes[one.kind] = one.value
                answer(seconds=monotonic() - begun, counts=dict(run.counts), examples=outcomes)


def main() -> None:
    """Be one of the two, until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("agents", "caller"))
    parser.add_argument("url")
    parser.add_argument("--count", type=int)
    parser.add_argument("--transient", action="store_true")
    parser.add_argument("--directory")
    parser.add_argument("--jitter", type=float)
    how = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)  # each agent would tell that it has lost the broker
    if how.role == "agents":
        asyncio.run(agents(how.url, how.count, not how.transient))
    else:
        Path(how.directory).mkdir()
        asyncio.run(caller(how.url, how.directory, how.jitter))


if __name__ == "__main__":
    main()
