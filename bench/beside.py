"""Measure this gofer beside another checkout of it (an older one), on one RabbitMQ, in one run, interleaved.

``PYTHONPATH=tests python bench/beside.py ../other-checkout [--rounds 7] [--calls 2000]``. Each checkout needs its own
``.venv`` (``make check`` makes it). Both keep an agent running; in each round every measure is taken first here, then
there, and in the next round the other way round. Ratios are to the floor (raw py-amqp) of the same round.
Prints a table in markdown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from support.brokers.rabbitmq import RabbitMQ

HERE = Path(__file__).absolute().parents[1]

#: Runs in the Python of a checkout, with its ``bench``: takes the name of a measure, and prints its calls a second.
WORKER = """
import sys
from contextlib import ExitStack
from pathlib import Path

bench, url, home, calls = sys.argv[1:]
sys.path[:0] = [bench, f"{bench}/../tests"]
import run
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess

with ExitStack() as stack:
    for kind in ("echo", "confirmed", "sink"):
        stack.enter_context(run.serving(url, kind))
    process = stack.enter_context(AgentProcess(Path(home)))
    process.plugin("bench", run.PLUGIN, run.DESCRIPTOR.format(url=url, queue="bench"))
    process.start()
    agent = stack.enter_context(Agent(url, "bench", wait=30))
    run.ready(agent.Bench().total)
    measures = run.the_measures(url, agent, int(calls))
    print("ready", flush=True)
    for line in sys.stdin:
        print(measures[line.strip()]()[0], flush=True)
"""

ONE, EIGHT, WAY = ("one caller: gofer", "8 threads: gofer", "one way: gofer")
LOOP = "8 threads: gofer.aio, 64 calls in flight"
#: Each measure, and the floor that it is compared with.
MEASURES = {
    ONE: "one caller: raw py-amqp (the floor)",
    EIGHT: "8 threads: raw py-amqp (the floor)",
    LOOP: "8 threads: raw py-amqp (the floor)",
    WAY: "one way: raw py-amqp (the floor)",
}


class Checkout:
    """An agent and a caller of one checkout, in a virtual host of their own."""

    def __init__(self, top: Path, url: str, home: Path, calls: int) -> None:
        self.process = subprocess.Popen(
            [top / ".venv/bin/python", "-c", WORKER, str(top / "bench"), url, str(home), str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=top,
        )
        self._read()

    def measure(self, name: str) -> float:
        """Return calls a second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a checkout's bench has ended: see above")
        return line.strip()

    def __enter__(self) -> Checkout:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def main() -> None:
    """Run all rounds and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2000, help="calls of each measure in each round")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gofer-bench-")))
        broker = stack.enter_context(RabbitMQ(home / "rabbitmq"))
        checkouts = {}
        for name, top in (("here", HERE), ("there", options.other.absolute())):
            broker.ctl("add_vhost", name)
            broker.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
            checkout = Checkout(top, broker.url("guest", "guest", name), home / name, options.calls)
            checkouts[name] = stack.enter_context(checkout)
        for number in range(options.rounds):
            for floor in dict.fromkeys(MEASURES.values()):
                note(rates, floor, checkouts["here"].measure(floor), number)
                for measure in (name for name, its in MEASURES.items() if its == floor):
                    for name in ("here", "there") if number % 2 == 0 else ("there", "here"):
                        note(rates, f"{name}: {measure}", checkouts[name].measure(measure), number)
    print(table(rates))


def note(rates: dict[str, list[float]], name: str, rate: float, number: int) -> None:
    """Keep a rate, and show it."""
    rates.setdefault(name, []).append(rate)
    print(f"round {number + 1}: {name}: {rate:.0f}/s", file=sys.stderr)


def table(rates: dict[str, list[float]]) -> str:
    """Lay the medians of all rounds out in markdown."""
    lines = ["| measure | floor | here | there | here / floor | there / floor | here / there |", "|" + "---|" * 7]
    for measure, floor in MEASURES.items():
        low, here, there = rates[floor], rates[f"here: {measure}"], rates[f"there: {measure}"]
        calls = [f"{statistics.median(each):.0f}" for each in (low, here, there)]
        ratios = [spread(here, low), spread(there, low), spread(here, there)]
        lines.append("| " + " | ".join([measure, *calls, *ratios]) + " |")
    return "\n".join(lines)


def spread(mine: list[float], others: list[float]) -> str:
    """Give the median of the ratios, round by round, and the least and the greatest."""
    ratios = [a / b for a, b in zip(mine, others, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
