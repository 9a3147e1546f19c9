"""Run a soak, and judge it."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib.metadata import version
from pathlib import Path

from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi.store import requests
from gofer.testing.agents import AgentProcess
from support.brokers.rabbitmq import RabbitMQ

from soak.chaos import Chaos, Stage
from soak.crew import Crew
from soak.evidence import Request, collect
from soak.places import ONCE, PLAIN, THREADS, WAIT, Places, read_journals, size_of
from soak.plan import Plan
from soak.relay import Relay
from soak.verdict import Line, judged, table

_DRAIN = 60.0  # seconds that callers have after their own
_LEFT = 90.0  # seconds for what is left: a second answer to a caller that has gone is tried for a minute


def main() -> int:
    """Run it, print the judgement, and return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long callers call (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="what kills and calls are drawn from (default: 1)")
    parser.add_argument("--kills", type=int, help="of goferd (default: 3 a minute)")
    parser.add_argument("--restarts", type=int, help="of RabbitMQ (default: 3 in 10 minutes, and at least 1)")
    parser.add_argument(
        "--others",
        type=int,
        help="freezes of goferd, RabbitMQ and a caller, and stops of goferd in order; and twice as many reloads of "
        "plugins, and cuts of the agent's and the callers' network (default: as many as restarts)",
    )
    parser.add_argument("--least", type=int, help="requests that there must be (default: 2000 a minute)")
    parser.add_argument("--keep", action="store_true", help="leave logs and journals where they are")
    options = parser.parse_args()
    seconds = options.minutes * 60
    kills = round(options.minutes * 3) if options.kills is None else options.kills
    restarts = max(1, round(options.minutes * 0.3)) if options.restarts is None else options.restarts
    least = round(options.minutes * 2000) if options.least is None else options.least
    others = restarts if options.others is None else options.others
    plan = Plan.of(options.seed, seconds, kills, restarts, others)
    home = Path(tempfile.mkdtemp(prefix="gofer-soak-"))
    print(f"{time.strftime('%H:%M:%S')} seed {options.seed}, files in {home}", file=sys.stderr)
    broken = True
    try:
        lines, report = run(home, plan, options.seed, seconds, least)
        broken = not all(line.kept for line in lines)
        print(head(options.seed, options.minutes, plan))
        print(report)
        print("\n".join(written(line) for line in lines))
        for line in lines:
            for culprit in () if line.kept else line.culprits[:20]:
                print(f"{line.promise}: {culprit.shown()}", file=sys.stderr)
    finally:
        if options.keep or broken:
            print(f"kept: {home}", file=sys.stderr)
        else:
            shutil.rmtree(home)
    return int(broken)


def run(home: Path, plan: Plan, seed: int, seconds: float, least: int) -> tuple[list[Line], str]:
    """Let it all happen; return the judgement, and the table."""
    places = Places(home)
    places.make()
    with ExitStack() as stack:
        broker = stack.enter_context(RabbitMQ(home / "rabbitmq"))
        agent = stack.enter_context(AgentProcess(home / "agent"))
        networks = [stack.enter_context(Relay(URL.parse(broker.url()))) for _ in range(2)]
        places.furnish(agent, networks[0].url.text)
        crew = stack.enter_context(Crew(networks[1].url.text, home, seed))
        declare(broker.url())
        agent.start()
        until = time.time() + seconds
        crew.start(until)
        chaos = Chaos(plan, Stage(places, agent, broker, crew, *networks))
        chaos.begin()
        chaos.join()
        crew.finish(until + WAIT + _DRAIN)
        left = drained(broker, home)
        # A killed agent leaves the queue that it has probed the broker with; that expires by itself.
        forsaken = [name for name, _ in queues(broker) if not name.startswith((PLAIN, "gofer.probe."))]
        crew.dismiss()
        size = size_of(agent.pid)
        alive = answers(broker.url())
    journals = list(read_journals(places.journals))
    requests = collect(journals, places.runs)
    sizes = {event["id"]: event["size"] for event in journals if event["event"] == "size"}
    lines = [
        Line(not chaos.failures, "all that was killed came up again", "; ".join(chaos.failures) or "it did"),
        Line(not crew.failures, "all callers came to their end", "; ".join(crew.failures) or "they did"),
        *judged(requests, chaos.ends, chaos.blows, interrupted_in(ledger_of(home)), least),
        Line(not left, "nothing is left in the queues and in the ledger", left or "nothing"),
        Line(
            len(forsaken) <= len(plan.mortal),
            "no caller but the killed ones leaves its queue for replies behind",
            f"{len(forsaken)} queues, {len(plan.mortal)} killed",
        ),
        Line(alive == "yes", "the agent answers at the end", alive),
    ]
    ends = [f"At the end, {name}: {size}." for name, size in {"goferd": size, **sizes}.items()]
    return lines, "\n".join([table(requests), "", summary(requests), *ends, ""])


def declare(url: str) -> None:
    """Have the agent's queues be there before the first call."""
    link = pool.acquire(Connector.of(url))
    try:
        for spec in map(DeclareQueue, THREADS):
            link.ask(spec)
    finally:
        pool.release(link)


def drained(broker: RabbitMQ, home: Path) -> str:
    """Wait until the broker and the ledger hold nothing more; return what they still do."""
    found = ""

    def empty() -> bool:
        nonlocal found
        full = [f"{name}: {count}" for name, count in queues(broker) if count != "0" and name.startswith(PLAIN)]
        opened = open_in(ledger_of(home))
        found = "; ".join([*full, *([f"{opened} open in the ledger"] if opened else [])])
        return not found

    eventually(empty, _LEFT)
    return found


def queues(broker: RabbitMQ) -> list[list[str]]:
    """Return the names of the broker's queues, and how many messages are in each."""
    return [line.split("\t") for line in broker.ctl("list_queues", "--silent", "name", "messages").splitlines()]


def eventually(ready: Callable[[], bool], timeout: float) -> None:
    """Wait until something is so, for at most so many seconds."""
    deadline = time.monotonic() + timeout
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.5)


def ledger_of(home: Path) -> Path:
    """Return where the agent's ledger is."""
    return home / "agent/var/lib/gofer/ledger/ledger.db"


def open_in(ledger: Path) -> int:
    """Count the requests in the ledger that have not ended, or whose results were not sent."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as file:
        which = (requests.QUEUED, requests.RUNNING, requests.ANSWERING)
        return int(file.execute("SELECT count(*) FROM requests WHERE state IN (?, ?, ?)", which).fetchone()[0])


def interrupted_in(ledger: Path) -> set[str]:
    """Read which requests were interrupted: begun by an agent that died, and not run again."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as file:
        rows = file.execute("SELECT sn FROM requests WHERE state = ?", (requests.INTERRUPTED,))
        return {sn for (sn,) in rows}


def answers(url: str) -> str:
    """Say whether the agent answers: yes, or what came instead."""
    try:
        for queue in (PLAIN, ONCE):
            with Agent(url, queue, wait=20) as agent:
                agent.Admin().hello()
    except Exception as error:  # noqa: BLE001 - whatever it is, the line says it
        return f"{type(error).__name__}: {error}"
    return "yes"


def head(seed: int, minutes: float, plan: Plan) -> str:
    """Say what was done, and with what."""
    agent = Counter(blow.how for blow in plan.agent)
    restarts = [blow.how for blow in plan.broker if blow.how != "freeze"]
    return (
        f"Seed {seed}, {minutes:g} minutes. goferd: {', '.join(f'{how} {count}' for how, count in agent.items())}; "
        f"RabbitMQ: {', '.join(restarts)}; frozen: RabbitMQ {len(plan.broker) - len(restarts)}, a caller "
        f"{len(plan.frozen)}; callers killed: {len(plan.mortal) + len(plan.listener)}; networks cut: "
        f"{len(plan.agent_network) + len(plan.callers_network)}. Python {platform.python_version()}, "
        f"py-amqp {version('amqp')}, gofer-core {version('gofer-core')}, {os.cpu_count()} cores.\n"
    )


def summary(requests: dict[str, Request]) -> str:
    """Tell how many runs the kills have cut off."""
    cut = sum(len(one.begun) - len(one.ended) for one in requests.values())
    return f"{sum(len(one.begun) for one in requests.values())} runs, of which kills have cut off {cut}."


def written(line: Line) -> str:
    """Write a promise and what became of it."""
    return f"- {'kept' if line.kept else 'BROKEN'}: {line.promise} ({line.numbers})"


if __name__ == "__main__":
    sys.exit(main())
