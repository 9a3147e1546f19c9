"""Measure gofer over AMQP 1.0 against proton's own BlockingConnection on the same broker, in one run, interleaved.

``PYTHONPATH=tests python bench/amqp_1_0.py [--broker rabbitmq4] [--rounds 5] [--calls 1000]``. The broker is rabbitmq4
or brokerj; GOFER_RABBITMQ4 or GOFER_BROKERJ says where its programs are (scripts/brokers makes them).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import sleep

import raw_proton
import run
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.brokers import BrokerJ, RabbitMQ4

_BROKERS = {"rabbitmq4": (RabbitMQ4, "/queues/"), "brokerj": (BrokerJ, "")}


def main() -> None:
    """Run all measures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", default="rabbitmq4", choices=_BROKERS, help="default: rabbitmq4")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, 3 or more (default: 5)")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each measure in each round (default: 1000)")
    options = parser.parse_args()
    kind, prefix = _BROKERS[options.broker]
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gofer-bench-")))
        broker = stack.enter_context(kind(home / "broker"))
        url = broker.url(adapter="proton")
        connection = pool.acquire(Connector.of(url))
        for queue in ("bench-echo", "bench-answers"):
            connection.ask(DeclareQueue(queue))
        server = subprocess.Popen([sys.executable, raw_proton.__file__, url, f"{prefix}bench-echo"])
        stack.callback(server.wait)
        stack.callback(server.kill)
        sleep(0.5)
        process = stack.enter_context(AgentProcess(home / "agent"))
        process.plugin("bench", run.PLUGIN, run.DESCRIPTOR.format(url=url, queue="bench"))
        process.start()
        agent = stack.enter_context(Agent(url, "bench", wait=30))
        run.ready(agent.Bench().total)
        caller = raw_proton.Caller(url, f"{prefix}bench-echo", f"{prefix}bench-answers")
        stack.callback(caller.close)
        for _ in range(50):
            caller.call()
        measures = {
            "one caller: raw BlockingConnection (the floor)": partial(run.timed, caller.call, options.calls),
            "one caller: raw, durable requests": partial(run.timed, partial(caller.call, durable=True), options.calls),
            "one caller: gofer over proton": partial(run.sequence, agent, options.calls),
            "one caller: gofer over proton, 8 threads": partial(run.threaded, agent, options.calls),
            "one caller: gofer.aio over proton, 64 calls": partial(run.in_flight, url, options.calls, 64),
        }
        results: dict[str, list[run.Measure]] = {name: [] for name in measures}
        for number in range(max(3, options.rounds)):
            for name, measure in measures.items():
                results[name].append(measure())
                print(f"round {number + 1}: {name}: {results[name][-1][0]:.0f}/s", file=sys.stderr)
        pool.release(connection)
    print(run.head(max(3, options.rounds), options.calls))
    print(run.table(results))


if __name__ == "__main__":
    main()
