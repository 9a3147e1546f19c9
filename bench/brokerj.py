"""Measure gofer over the protocols of Qpid Broker-J against raw py-amqp on the same Broker-J, in one run, interleaved.

``PYTHONPATH=tests python bench/brokerj.py [--adapters qpid] [--rounds 5] [--calls 2000]``. The environment variable
GOFER_BROKERJ names the directory with its Java archives (scripts/brokers makes it). Prints a table in markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import run
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.brokers import BrokerJ


class MemoryBrokerJ(BrokerJ):
    """A Broker-J that keeps its messages in memory, so that the protocols are measured and not Derby and the disk."""

    def write_files(self) -> None:
        """Write its configuration."""
        super().write_files()
        file = self.base_dir / "config.json"
        configuration = json.loads(file.read_text())
        (node,) = configuration["virtualhostnodes"]
        node |= {"type": "Memory", "virtualHostInitialConfiguration": '{"type": "Memory"}'}
        file.write_text(json.dumps(configuration))


def main() -> None:
    """Run all measures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", default="qpid", help="adapters, with commas between them (default: qpid)")
    parser.add_argument("--disk", action="store_true", help="have persistent messages on disk (default: in memory)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, 3 or more (default: 5)")
    parser.add_argument("--calls", type=int, default=2000, help="calls of each measure in each round (default: 2000)")
    parser.add_argument("--only", default="", help="only measures with this in their names, like 'one caller'")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gofer-bench-")))
        broker = stack.enter_context((BrokerJ if options.disk else MemoryBrokerJ)(home / "brokerj"))
        raw_url = broker.url(adapter="amqp")
        for kind in ("echo", "confirmed", "sink"):
            stack.enter_context(run.serving(raw_url, kind))
        measures = {
            "one caller: raw py-amqp (the floor)": lambda: run.ping_pong(raw_url, "echo", options.calls),
            "one caller: raw, persistent, confirmed": lambda: run.ping_pong(raw_url, "confirmed", options.calls),
            "in flight: raw py-amqp, 8 threads (the floor)": lambda: run.rated(
                run.THREADS * (options.calls // run.THREADS), run.raw.threaded(raw_url, 8, options.calls // 8)
            ),
            "one way: raw py-amqp (the floor)": lambda: (
                options.calls / run.raw.one_way(raw_url, options.calls),
                [],
            ),
        }
        process = stack.enter_context(AgentProcess(home / "agent"))
        names = options.adapters.split(",")
        for name in names:
            url = broker.url(adapter=name)
            process.plugin(f"bench_{name}", run.PLUGIN, run.DESCRIPTOR.format(url=url, queue=f"bench-{name}"))
        process.start()
        for name in names:
            url, queue = broker.url(adapter=name), f"bench-{name}"
            agent = stack.enter_context(Agent(url, queue, wait=30))
            run.ready(agent.Bench().total)
            measures |= {
                f"one caller: gofer over {name}": partial(run.sequence, agent, options.calls),
                f"in flight: gofer over {name}, 8 threads": partial(run.threaded, agent, options.calls),
                f"in flight: gofer.aio over {name}, 64 calls": partial(run.in_flight, url, options.calls, 64, queue),
                f"one way: gofer over {name}": partial(run.one_way, agent, options.calls),
            }
        measures = {name: measure for name, measure in measures.items() if options.only in name}
        results: dict[str, list[run.Measure]] = {name: [] for name in measures}
        for number in range(max(3, options.rounds)):
            for name, measure in measures.items():
                results[name].append(measure())
                print(f"round {number + 1}: {name}: {results[name][-1][0]:.0f}/s", file=sys.stderr)
    print(run.head(max(3, options.rounds), options.calls))
    print(run.table(results))


if __name__ == "__main__":
    main()
