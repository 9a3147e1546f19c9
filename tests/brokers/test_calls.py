"""The main job over RabbitMQ: the same calls, a broker that goes away, and ten thousand calls that leave nothing."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.calls import CallScenarios
from support.goferd import AgentProcess
from support.probe import runs
from support.waiting import eventually

_MB = 1 << 20


class TestRabbitMQCalls(CallScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, rabbitmq: RabbitMQ) -> str:
        return rabbitmq.url()

    def test_all_go_on_when_the_broker_stops_and_starts(
        self, rabbitmq: RabbitMQ, own: AgentProcess, own_agent: Agent, tmp_path: Path
    ) -> None:
        """Each call that waited has its answer, and none of those that ran was run again."""
        trace = tmp_path / "trace"
        with ThreadPoolExecutor(24) as threads:
            probe = own_agent(wait=90).Probe()
            running = [threads.submit(probe.note, str(trace), f"r{n}", 3.0) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(probe.note, str(trace), f"w{n}") for n in range(20)]
            assert own_agent.Admin().echo("all sent") == "all sent"
            rabbitmq.restart()
            assert [one.result(90) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(90) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(runs(trace).values()) == {1}, own.tail()
        assert own_agent.Probe().echo("on") == "on"

    def test_ten_thousand_calls_from_eight_threads_leave_nothing(
        self, rabbitmq: RabbitMQ, shared: AgentProcess, agent: Agent
    ) -> None:
        """Threads, descriptors, queues and memory stay as they were; each process has one connection."""
        state = agent.Probe().state

        def call(count: int) -> None:
            probe = agent.Probe()
            for n in range(count):
                assert probe.echo(n) == n

        def calls(count: int) -> None:
            with ThreadPoolExecutor(8) as threads:
                for done in [threads.submit(call, count // 8) for _ in range(8)]:
                    done.result()

        calls(2_000)
        here, there, queues = own_state(), state(), queue_names(rabbitmq)
        calls(8_000)
        here_after, there_after = own_state(), state()
        assert here_after["threads"] == here["threads"]
        assert here_after["descriptors"] == here["descriptors"]
        assert there_after["threads"] <= there["threads"]  # one that has answered Admin before ends when it is idle
        assert there_after["descriptors"] == there["descriptors"]
        assert here_after["rss"] - here["rss"] < 2 * _MB
        assert there_after["rss"] - there["rss"] < 2 * _MB
        assert queue_names(rabbitmq) == queues
        ports = sorted(connection["peer_port"] for connection in eventually(lambda: connections(rabbitmq, 2)))
        assert {owner_of(port) for port in ports} == {os.getpid(), shared.pid}


def own_state() -> dict[str, int]:
    """Tell what this process has open, and how large it is, as the probe does for the agent."""
    return {
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "rss": psutil.Process().memory_info().rss,
    }


def queue_names(rabbitmq: RabbitMQ) -> set[str]:
    """Return the names of all queues."""
    return {queue["name"] for queue in rabbitmq.queues()}


def connections(rabbitmq: RabbitMQ, count: int) -> list[dict[str, int]]:
    """Return the broker's connections once its statistics show that many."""
    found = [each for each in rabbitmq.connections() if "peer_port" in each]
    return found if len(found) == count else []


def owner_of(port: int) -> int | None:
    """Return the process at the other end of a connection to the broker."""
    pids = (os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True)))
    for pid in pids:
        if any(c.laddr.port == port for c in psutil.Process(pid).net_connections("tcp") if c.status == "ESTABLISHED"):
            return pid
    return None
