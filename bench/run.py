"""Measure gofer against raw py-amqp on one RabbitMQ, in one run, interleaved; and the memory and threads of agents.

``make bench``, or ``PYTHONPATH=tests python bench/run.py [--rounds 5] [--only speed|signed|footprint]``. Rates depend
on the machine and its mood; the ratios to the floor of the same round are what counts. Prints tables in markdown, as
bench/README.md keeps them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep

import raw
from footprint import DESCRIPTOR, after_large, many_plugins, queued, ready, start_and_size
from gofer import aio
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from signing import Signing
from support.brokers.rabbitmq import RabbitMQ

PLUGIN = """
from gofer.decorators import fork, remote

count = 0


class Bench:
    @remote
    def echo(self, text):
        return text

    @remote
    @fork
    def forked(self, text):
        return text

    @remote
    def add(self):
        global count
        count += 1

    @remote
    def total(self):
        return count
"""
THREADS = 8
TEXT, LARGE = "x" * 100, "x" * 1_000_000
Measure = tuple[float, list[float]]  # calls a second, and the seconds of each call (if it was timed)


def main() -> None:
    """Run all measures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, 3 or more (default: 5)")
    parser.add_argument("--calls", type=int, default=2000, help="calls of each measure in each round (default: 2000)")
    parser.add_argument("--only", choices=("speed", "signed", "footprint"), help="leave out the others")
    options = parser.parse_args()
    options.rounds = max(3, options.rounds)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gofer-bench-")))
        # What pip has installed is compiled: an agent must not do that at each start, which also takes memory.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(home / "compiled")
        url = stack.enter_context(RabbitMQ(home / "rabbitmq")).url()
        results, sizes = {}, []
        if options.only != "footprint":
            results = rates(url, home, options)
        if options.only in {None, "footprint"}:
            sizes = footprints(url, home, options.rounds)
    print(head(options.rounds, options.calls))
    print("\n\n".join(filter(None, (table(results) if results else "", "\n".join(sizes)))))


def rates(url: str, home: Path, options: argparse.Namespace) -> dict[str, list[Measure]]:
    """Take the measures that are compared with a floor, round by round."""
    with ExitStack() as stack:
        for kind in ("echo", "confirmed", "sink"):
            stack.enter_context(serving(url, kind))
        process = stack.enter_context(AgentProcess(home / "agent"))
        process.plugin("bench", PLUGIN, DESCRIPTOR.format(url=url, queue="bench"))
        signing = Signing(home / "keys")
        for name in signing.makers:
            process.plugin(f"bench_{name}", PLUGIN, signing.descriptor(name, url, f"bench-{name}"))
        process.start()
        agent = stack.enter_context(Agent(url, "bench", wait=30))
        signed = {
            name: stack.enter_context(Agent(url, f"bench-{name}", wait=30, authenticator=make()))
            for name, make in signing.makers.items()
        }
        for one in (agent, *signed.values()):
            ready(one.Bench().total)
        measures = the_measures(url, agent, options.calls) if options.only != "signed" else {}
        if options.only != "speed":
            measures["signed: gofer, unsigned (the floor)"] = lambda: sequence(agent, options.calls)
            for name, one in signed.items():
                measures[f"signed: gofer, {name}"] = partial(sequence, one, options.calls)
        results: dict[str, list[Measure]] = {name: [] for name in measures}
        for number in range(options.rounds):
            for name, measure in measures.items():
                results[name].append(measure())
                print(f"round {number + 1}: {name}: {results[name][-1][0]:.0f}/s", file=sys.stderr)
        return results


def footprints(url: str, home: Path, rounds: int) -> list[str]:
    """Measure memory, threads and the start of agents; return the lines of a table in markdown."""
    figures: dict[str, list[float]] = {}

    def note(**found: float) -> None:
        for name, figure in found.items():
            figures.setdefault(name.replace("_", " "), []).append(figure)

    start_and_size(url, home / "first")  # compiles
    for n in range(rounds):
        seconds, size = start_and_size(url, home / f"start-{n}")
        note(seconds_from_its_start_to_its_first_reply=seconds, MB_when_idle=size)
        agent, caller = after_large(url, home / f"large-{n}")
        note(MB_more_after_a_call_with_10_MB=agent, MB_more_at_its_caller=caller)
    note(MB_for_each_1000_of_10000_requests_that_wait=queued(url, home / "queued"))
    idle, called, size = many_plugins(url, home / "plugins")
    note(threads_with_50_plugins=idle, threads_when_each_was_called=called, MB_with_50_plugins=size)
    lines = ["| an agent's | median | lowest | highest |", "|---|---|---|---|"]
    for name, found in figures.items():
        lines.append(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} | {max(found):.2f} |")
    return lines


def the_measures(url: str, agent: Agent, calls: int) -> dict[str, Callable[[], Measure]]:
    """Name what is measured, in the order of a round. The name before a colon says which floor counts."""
    return {
        "one caller: raw py-amqp (the floor)": lambda: ping_pong(url, "echo", calls),
        "one caller: raw, persistent, confirmed": lambda: ping_pong(url, "confirmed", calls),
        "one caller: gofer": lambda: sequence(agent, calls),
        "one caller: gofer, forked": lambda: sequence(agent, max(100, calls // 10), "forked"),
        "8 threads: raw py-amqp (the floor)": lambda: rated(
            THREADS * (calls // THREADS), raw.threaded(url, 8, calls // 8)
        ),
        "8 threads: gofer": lambda: threaded(agent, calls),
        "8 threads: gofer.aio, 64 calls in flight": lambda: in_flight(url, calls, 64),
        "8 threads: gofer.aio, 256 calls in flight": lambda: in_flight(url, calls, 256),
        "one way: raw py-amqp (the floor)": lambda: (calls / raw.one_way(url, calls), []),
        "one way: gofer": lambda: one_way(agent, calls),
        "1 MB there and back: raw py-amqp (the floor)": lambda: ping_pong(url, "echo", max(20, calls // 50), LARGE),
        "1 MB there and back: gofer": lambda: sequence(agent, max(20, calls // 50), text=LARGE),
    }


def rated(count: int, measured: tuple[float, list[float]]) -> Measure:
    """Make a rate of seconds."""
    return count / measured[0], measured[1]


def timed(call: Callable[[], object], count: int) -> Measure:
    """Call so often in sequence."""
    times = []
    begin = perf_counter()
    for _ in range(count):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return count / (perf_counter() - begin), times


def ping_pong(url: str, kind: str, calls: int, body: str = "x" * 300) -> Measure:
    """Measure raw calls in sequence."""
    caller = raw.Caller(url, kind, body)
    try:
        for _ in range(min(50, calls)):
            caller.call()
        return timed(caller.call, calls)
    finally:
        caller.close()


def sequence(agent: Agent, calls: int, method: str = "echo", text: str = TEXT) -> Measure:
    """Measure one caller that waits for each result."""
    call = getattr(agent.Bench(), method)
    for _ in range(min(50, calls)):
        call(text)
    return timed(lambda: call(text), calls)


def threaded(agent: Agent, calls: int) -> Measure:
    """Measure eight threads that share one connection."""
    bench, times = agent.Bench(), []

    def run() -> None:
        times.extend(timed(lambda: bench.echo(TEXT), calls // THREADS)[1])

    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / (perf_counter() - start), times


def in_flight(url: str, calls: int, width: int, queue: str = "bench") -> Measure:
    """Measure one event loop that keeps so many calls in flight."""
    times: list[float] = []

    async def main() -> float:
        async with aio.Agent(url, queue, wait=30) as agent:
            bench, left = agent.Bench(), iter(range(calls))

            async def run() -> None:
                for _ in left:
                    start = perf_counter()
                    await bench.echo(TEXT)
                    times.append(perf_counter() - start)

            await bench.echo(TEXT)
            start = perf_counter()
            await asyncio.gather(*(run() for _ in range(width)))
            return perf_counter() - start

    return calls / asyncio.run(main()), times


def one_way(agent: Agent, calls: int) -> Measure:
    """Measure from the first call until the last method has run, and all of them are settled."""
    before = agent.Bench().total()
    bench = agent(wait=0).Bench()
    start = perf_counter()
    for _ in range(calls):
        bench.add()
    agent.flush(60)
    while agent.Bench().total() < before + calls:
        pass
    return calls / (perf_counter() - start), []


@contextmanager
def serving(url: str, kind: str) -> Iterator[None]:
    """Run one of the raw servers."""
    server = subprocess.Popen([sys.executable, raw.__file__, url, kind])
    try:
        sleep(0.5)
        yield
    finally:
        server.kill()
        server.wait()


def head(rounds: int, calls: int) -> str:
    """Say where and with what this was measured."""
    return (
        f"Python {platform.python_version()}, py-amqp {version('amqp')}, gofer-core {version('gofer-core')}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores shared by broker, agent and caller; "
        f"{rounds} rounds of {calls} calls, interleaved.\n"
    )


def table(results: dict[str, list[Measure]]) -> str:
    """Lay the results out in markdown: the medians over the rounds, and the ratio to the floor of the same round."""
    lines = ["| measure | calls/s | p50 ms | p99 ms | ratio to the floor: median (min-max) |", "|---|---|---|---|---|"]
    floors = {name.split(":")[0]: rates for name, rates in results.items() if "the floor" in name}
    for name, rounds in results.items():
        floor = floors[name.split(":")[0]]
        ratios = [mine[0] / its[0] for mine, its in zip(rounds, floor, strict=True)]
        latencies = sorted(seconds for _, times in rounds for seconds in times)
        p50, p99 = (f"{latencies[int(len(latencies) * part)] * 1000:.2f}" if latencies else "" for part in (0.5, 0.99))
        rate = statistics.median(rate for rate, _ in rounds)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {name} | {rate:.0f} | {p50} | {p99} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
