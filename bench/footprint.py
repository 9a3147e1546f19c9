"""Memory and threads of an agent: idle, after a large call, behind a long queue, with many plugins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
    def length(self, text):
        return len(text)

    @remote
    def sleep(self, seconds):
        time.sleep(seconds)
"""
_IDLE = 3.0  # seconds after which an agent is idle


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
    """Return by how many MB an agent, and this process, have grown after a call with 10 MB and a short result."""
    with _running(url, root) as (process, agent):
        for _ in range(100):
            agent.Bench().echo("x" * 1000)
        sleep(_IDLE)
        before, mine = _size(process), _size(None)
        agent.Bench().length("x" * 10_000_000)
        sleep(_IDLE)
        return _size(process) - before, _size(None) - mine


def queued(url: str, root: Path, count: int = 10_000) -> float:
    """Return the MB that 1,000 requests take behind a method that is busy."""
    with _running(url, root) as (process, agent):
        bench = agent(wait=0).Bench()
        for _ in range(100):
            agent.Bench().echo("x" * 100)
        sleep(_IDLE)
        before = _size(process)
        bench.sleep(15)
        for _ in range(count):
            bench.echo("x" * 100)
        agent.flush(60)
        sleep(8)  # by then the agent has taken what it takes
        grown = (_size(process) - before) / count * 1000
        agent(wait=60).Bench().echo("x")  # behind all others
        return grown


def many_plugins(url: str, root: Path, count: int = 50) -> tuple[int, int, float]:
    """Return the threads of an agent with so many plugins before and after each has answered a call, and its MB."""
    process = AgentProcess(root)
    for number in range(count):
        process.plugin(f"bench{number}", _PLUGIN, DESCRIPTOR.format(url=url, queue=f"{root.name}-{number}"))
    with process:
        process.start()
        sleep(_IDLE)
        idle, size = psutil.Process(process.pid).num_threads(), _size(process)
        for number in range(count):
            with Agent(url, f"{root.name}-{number}", wait=30) as agent:
                ready(partial(agent.Bench().echo, "x"))
        return idle, psutil.Process(process.pid).num_threads(), size


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
def _running(url: str, root: Path) -> Iterator[tuple[AgentProcess, Agent]]:
    process = AgentProcess(root)
    process.plugin("bench", _PLUGIN, DESCRIPTOR.format(url=url, queue=root.name))
    with process, Agent(url, root.name, wait=30) as agent:
        process.start()
        ready(lambda: agent.Bench().echo("x"))
        yield process, agent


def _size(process: AgentProcess | None) -> float:
    """Return the MB of an agent, or of this process."""
    return psutil.Process(None if process is None else process.pid).memory_info().rss / 1e6
