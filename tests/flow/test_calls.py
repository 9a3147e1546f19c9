"""The main job over the local broker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.calls import CallScenarios
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import runs
from support.waiting import eventually


@pytest.mark.xdist_group("local-calls")  # one process makes what the class shares
class TestLocalCalls(CallScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
        with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
            yield broker

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, broker: LocalBroker) -> str:
        return broker.url

    def test_a_restarted_broker_is_sent_what_it_forgot(
        self, broker: LocalBroker, own: AgentProcess, own_agent: Agent, tmp_path: Path
    ) -> None:
        """It keeps nothing: callers publish again what was not accepted, and what runs ends at its caller."""
        trace = tmp_path / "trace"
        with ThreadPoolExecutor(24) as threads:
            running = [threads.submit(own_agent.Probe().note, str(trace), f"r{n}", 1.0) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(own_agent.Probe().note, str(trace), f"w{n}") for n in range(20)]
            assert own_agent.Admin().echo("all sent") == "all sent"
            broker.restart()
            assert [one.result(60) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(60) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(runs(trace).values()) == {1}, own.tail()
