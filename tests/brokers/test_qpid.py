"""The main job over AMQP 0-10: the calls of all brokers on Qpid Broker-J, its restart, logins, and other protocols."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.brokers import BrokerJ
from support.calls import CallScenarios
from support.probe import runs
from support.waiting import eventually


class TestQpidCalls(CallScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, brokerj: BrokerJ) -> str:
        return brokerj.url(adapter="qpid")

    def test_all_go_on_when_the_broker_stops_and_starts(
        self, brokerj: BrokerJ, own: AgentProcess, own_agent: Agent, tmp_path: Path
    ) -> None:
        """Each call that waited has its answer, and none of those that ran was run again."""
        trace = tmp_path / "trace"
        with ThreadPoolExecutor(24) as threads:
            probe = own_agent(wait=90).Probe()
            running = [threads.submit(probe.note, str(trace), f"r{n}", 3.0) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(probe.note, str(trace), f"w{n}") for n in range(20)]
            assert own_agent.Admin().echo("all sent") == "all sent"
            brokerj.restart()
            assert [one.result(90) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(90) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(runs(trace).values()) == {1}, own.tail()
        assert own_agent.Probe().echo("on") == "on"
