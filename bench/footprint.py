"""Memory and threads of an agent: idle, after a large call, behind a long queue, with many plugins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import psutil
from gofer.errors import NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess

__all__ = ["DESCRIPTOR", "after_large", "many_plugins", "queued", "ready", "start_and_size"]

DESCRIPTOR = """
[main]
enabled = 1

[messaging]
url = {url}

[model]
queue = {queue}
"""
_PLUGIN = """
import time

from gofer.decorators import remote


class Bench:
    @remote
    def echo(self, text):
        return text

    @remote
    def sleep(self, seconds):
        time.sleep(seconds)
"""
_IDLE = 3.0  # seconds after which an agent is idle
_MB = 1e6


def start_and_size(url: str, root: Path) -> tuple[float, float]:
    """Return the seconds from an agent's start to its first reply, and its size when idle, in MB."""
    queue = root.name
    connection = pool.acquire(Connector.of(url))
    connection.ask(DeclareQueue(queue))
    process = AgentProcess(root)
    process.plugin("bench", _PLUGIN, DESCRIPTOR.format(url=url, queue=queue))
    with Agent(url, queue, wait=30) as agent, process:
        begin = threading.Thread(target=process.start)
        start = perf_counter()
        begin.start()
        agent.Bench().echo("x")  # it waits in the queue until the agent takes it
        seconds = perf_counter() - start
        begin.join()
        sleep(_IDLE)
        size = _size(process)
    pool.release(connection)
    return seconds, size


def after_large(url: str, root: Path) -> tuple[float, float]:
    """Return by how many MB an agent, and this process, have grown after a call whose text has 10 MB."""
    with _running(url, root) as (process, agent):
        for _ in range(100):
            agent.Bench().echo("x" * 100)
        agent.Bench().echo("x" * 1000)
        sleep(_IDLE)
        before, mine = _size(process), psutil.Process().memory_info().rss / _MB
        agent.Bench().echo("x" * 10_000_000)
        sleep(_IDLE)
        return _size(process) - before, psutil.Process().memory_info().rss / _MB - mine


def queued(url: str, root: Path, count: int = 10_000) -> tuple[float, float]:
    """Return the MB that 1,000 requests take behind a method that is busy, and how many are done in a second then."""
    with _running(url, root, "threads = 1\n") as (process, agent):
        bench = agent(wait=0).Bench()
        for _ in range(100):
            agent.Bench().echo("x" * 100)
        sleep(_IDLE)
        before = _size(process)
        bench.sleep(15)
        for _ in range(count):
            bench.echo("x" * 100)
        agent.flush(60)
        sleep(8)  # the agent has taken all it takes
        grown = (_size(process) - before) / count * 1000
        agent(wait=60).Bench().echo("x")  # behind all others, of which few are done when the busy method ends
        return grown, _size(process) - before


def many_plugins(url: str, root: Path, count: int) -> tuple[int, float]:
    """Return the threads and the MB of an idle agent with so many plugins; each has answered a call."""
    process = AgentProcess(root)
    for number in range(count):
        process.plugin(f"bench{number}", _PLUGIN, DESCRIPTOR.format(url=url, queue=f"{root.name}-{number}"))
    with process:
        process.start()
        for number in range(count):
            with Agent(url, f"{root.name}-{number}", wait=30) as agent:
                ready(lambda agent=agent: agent.Bench().echo("x"))
        sleep(_IDLE)
        return psutil.Process(process.pid).num_threads(), _size(process)


def ready(call: Callable[[], object]) -> None:
    """Wait until the agent has declared its queue."""
    deadline = perf_counter() + 20
    while True:
        try:
            call()
        except NotFound:
            if perf_counter() > deadline:
                raise
            sleep(0.05)
        else:
            return


@contextmanager
def _running(url: str, root: Path, more: str = "") -> Iterator[tuple[AgentProcess, Agent]]:
    process = AgentProcess(root)
    process.plugin("bench", _PLUGIN, DESCRIPTOR.format(url=url, queue=root.name) + more)
    with process, Agent(url, root.name, wait=30) as agent:
        process.start()
        ready(lambda: agent.Bench().echo("x"))
        yield process, agent


def _size(process: AgentProcess) -> float:
    return psutil.Process(process.pid).memory_info().rss / _MB
