"""The main job over the local broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.adapter.base import QueueSpec
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.calls import CallScenarios
from support.localbroker import LocalBroker
from support.probe import runs
from support.waiting import eventually


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


class TestLocalCalls(CallScenarios):
    @pytest.fixture
    def url(self, broker: LocalBroker) -> str:
        return broker.url

    @pytest.fixture
    def queue(self) -> str:
        return "probe"

    @pytest.fixture
    def declare_queue(self, connector: Connector) -> Iterator[Callable[[str], None]]:
        link = pool.acquire(connector)
        yield lambda name: link.call(lambda a, t: a.declare_queue(QueueSpec(name), t)) and None
        pool.release(link)

    def test_a_restarted_broker_is_sent_what_it_forgot(
        self, broker: LocalBroker, agents: AgentProcess, agent: Agent, tmp_path: Path
    ) -> None:
        """It keeps nothing: callers publish again what was not accepted, and what runs ends at its caller."""
        trace = tmp_path / "trace"
        with ThreadPoolExecutor(24) as threads:
            running = [threads.submit(agent.Probe().note, str(trace), f"r{n}", 1.0) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(agent.Probe().note, str(trace), f"w{n}") for n in range(20)]
            assert agent.Admin().echo("all sent") == "all sent"
            broker.restart()
            assert [one.result(60) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(60) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(runs(trace).values()) == {1}, agents.tail()
