"""The callers of a soak: ``python -m soak.callers ROLE URL HOME SEED UNTIL``, one process for each role.

Every request is written down before it is sent, and its outcome when it is known. No new ones are sent after ``UNTIL``
(``time.time()``); the process ends when all outcomes are known.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from gofer import aio
from gofer.errors import Cancelled, Interrupted, RequestTimeout
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator

from soak.oneway import listen, post
from soak.places import ONCE, PLAIN, SIGNED, WAIT, Journal, Places, size_of

__all__ = ["main"]


_REPORTED = "reported as cancelled"


@dataclass(frozen=True, slots=True)
class Kind:
    """Callers that do the same: how many, what they call, and the longest pause between two calls."""

    name: str
    count: int
    call: Callable[[Any, random.Random], Any]
    pause: float
    queue: str = PLAIN
    trigger: int = 0


THREADS = (
    Kind("quick", 4, lambda agent, chance: agent.Soak().quick(), 0.2),
    Kind("trigger", 1, lambda agent, chance: agent.Soak().quick(), 0.4, trigger=1),
    Kind("some", 2, lambda agent, chance: agent.Soak().some(chance.uniform(0.2, 3.0)), 0.2),
    Kind("slow", 4, lambda agent, chance: agent.Soak().some(chance.uniform(5.0, 8.0)), 0.2),
    Kind("forked", 2, lambda agent, chance: agent.Soak().forked(chance.choice([0.0, chance.uniform(0, 1.5)])), 0.3),
    Kind("large", 1, lambda agent, chance: agent.Soak().sized("x" * chance.randint(1, 400_000)), 2.0),
    Kind("exchange", 1, lambda agent, chance: agent(exchange="amq.direct").Soak().quick(), 0.5),
    Kind("raising", 1, lambda agent, chance: agent.Soak().raising(), 1.0),
    Kind("progress", 1, lambda agent, chance: agent.Soak().reporting(chance.uniform(0.5, 3.0)), 0.5),
    Kind("signed", 2, lambda agent, chance: agent.Soak().quick(), 0.4, SIGNED),
    Kind("signed", 1, lambda agent, chance: agent.Soak().some(chance.uniform(0.5, 3.0)), 0.4, SIGNED),
    Kind("once", 2, lambda agent, chance: agent.Once().once(chance.choice([0.0, chance.uniform(0, 1.5)])), 0.3, ONCE),
)


async def cancelling(agent: aio.Agent, chance: random.Random) -> Any:
    """Make a call, and cancel it."""
    trigger = agent(trigger=1).Soak().some(chance.uniform(2.0, 5.0))
    call = asyncio.ensure_future(trigger())
    await asyncio.sleep(chance.uniform(0.0, 2.0))
    found = await agent.Admin().cancel(sn=trigger.sn)
    value = await call
    return [*value, _REPORTED] if found else value


COROUTINES = (
    Kind("aio", 24, lambda agent, chance: agent.Soak().quick(), 2.0),
    Kind("aio-waited", 8, lambda agent, chance: agent.Soak().waited(chance.uniform(0.05, 2.0)), 1.0),
    Kind("cancelled", 2, cancelling, 2.0),
)
MORTAL = (
    Kind("mortal", 2, lambda agent, chance: agent.Soak().quick(), 0.4),
    Kind("mortal", 1, lambda agent, chance: agent.Soak().some(chance.uniform(0.2, 3.0)), 0.4),
)
FROZEN = (
    Kind("frozen", 2, lambda agent, chance: agent.Soak().quick(), 0.4),
    Kind("frozen", 1, lambda agent, chance: agent.Soak().some(chance.uniform(0.2, 3.0)), 0.4),
)


@dataclass(frozen=True, slots=True)
class Role:
    """What all callers of a process have in common."""

    url: str
    places: Places
    seed: str
    until: float
    journal: Journal

    def agent(self, queue: str, make: Callable[..., Any]) -> Any:
        """Make a proxy for one of the plugins."""
        signer = HmacAuthenticator(self.places.keys) if queue == SIGNED else None
        return make(self.url, queue, wait=WAIT, authenticator=signer)

    def end(self, id: str, start: float, value: Any, error: Exception | None) -> None:
        """Write down how a request has ended."""
        outcome, detail = judge(id, value, error)
        self.journal.write("end", id, outcome=outcome, detail=detail, seconds=round(perf_counter() - start, 6))


def judge(id: str, value: Any, error: Exception | None) -> tuple[str, str]:
    """Say in a word how a request has ended, and more if that is not how it should."""
    match error:
        case None if isinstance(value, list) and value[0] == id:
            return "value", _REPORTED if value[-1] == _REPORTED else ""
        case KeyError(args=(mine, _)) if mine == id:
            return "raised", ""
        case Interrupted() | Cancelled():
            return type(error).__name__.lower(), str(error)
        case RequestTimeout():
            return f"timeout: {error.state}", str(error)
        case None:
            return "wrong value", repr(value)[:200]
    return f"error: {type(error).__name__}", str(error)[:500]


def in_thread(role: Role, kind: Kind, name: str) -> None:
    """Make calls, one after the other."""
    chance = random.Random(f"{role.seed} {name}")
    number = 0
    with role.agent(kind.queue, Agent) as agent:
        while time.time() < role.until:
            number += 1
            id = f"{name}-{number}"
            role.journal.write("sent", id, kind=kind.name)
            start, value, error = perf_counter(), None, None
            try:
                value = kind.call(agent(data=id, trigger=kind.trigger), chance)
                if kind.trigger:
                    value = value()
            except Exception as raised:  # noqa: BLE001 - an outcome, whatever it is
                error = raised
            role.end(id, start, value, error)
            time.sleep(chance.uniform(0, kind.pause))


def in_threads(role: Role, kinds: tuple[Kind, ...]) -> None:
    """Run all callers that are threads."""
    own = f"-{os.getpid()}" if kinds is MORTAL else ""  # others follow it, and name their requests differently
    names = [
        (kind, f"{kind.name}{own}-{order}{number}") for order, kind in enumerate(kinds) for number in range(kind.count)
    ]
    with ThreadPoolExecutor(len(names)) as threads:
        for done in [threads.submit(in_thread, role, kind, name) for kind, name in names]:
            done.result()


async def in_task(role: Role, agent: aio.Agent, kind: Kind, name: str) -> None:
    """Make calls, one after the other, beside others in the same event loop."""
    chance = random.Random(f"{role.seed} {name}")
    number = 0
    while time.time() < role.until:
        number += 1
        id = f"{name}-{number}"
        role.journal.write("sent", id, kind=kind.name)
        start, value, error = perf_counter(), None, None
        try:
            call: Awaitable[Any] = kind.call(agent(data=id), chance)
            value = await call
        except Exception as raised:  # noqa: BLE001 - an outcome, whatever it is
            error = raised
        role.end(id, start, value, error)
        await asyncio.sleep(chance.uniform(0, kind.pause))


async def in_tasks(role: Role) -> None:
    """Run all callers that are coroutines, on one connection."""
    async with role.agent(PLAIN, aio.Agent) as agent, asyncio.TaskGroup() as tasks:
        for kind in COROUTINES:
            for number in range(kind.count):
                tasks.create_task(in_task(role, agent, kind, f"{kind.name}-{number}"))


def main(name: str, url: str, home: str, seed: str, until: str) -> None:
    """Play a role."""
    places = Places(Path(home))
    journal = Journal(places.journals / f"{name}-{os.getpid()}")
    role = Role(url, places, seed, float(until), journal)
    match name:
        case "threads":
            in_threads(role, THREADS)
        case "mortal":
            in_threads(role, MORTAL)
        case "frozen":
            in_threads(role, FROZEN)
        case "coroutines":
            asyncio.run(in_tasks(role))
        case "posts" | "replies":
            post(name, url, seed, role.until, journal)
        case "listener":
            listen(url, journal)
    journal.write("size", name, size=size_of("self"))
    # A thread that is left behind would hold the process for ever; that is a finding, too.
    left = [
        thread.name for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()
    ]
    if left:
        sys.exit(f"{name}: threads are left: {left}")


if __name__ == "__main__":
    main(*sys.argv[1:])
