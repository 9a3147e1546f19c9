"""A result that is known is not lost with its agent: what stands in the ledger has it written before it is taken."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

ONCE = (
    PROBE
    + """
from gofer.decorators import once


class Single:
    @remote
    @once
    def note(self, path, text, seconds, until):
        return Probe().note(path, text, seconds, until)
"""
)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def goferd(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("goferd")) as process:
        process.configure("[messaging]\nreconnect_max = 1\n")
        process.plugin("results", ONCE, descriptor(broker.url, "results", threads=2))
        yield process.start()


@pytest.fixture
def agent(broker: LocalBroker, goferd: AgentProcess) -> Iterator[Agent]:
    with Agent(Connector(URL.parse(broker.url), reconnect_max=1.0), "results", wait=60) as agent:
        yield until_it_answers(agent, goferd.tail())


def rows_in(process: AgentProcess, *states: str) -> list[bytes | None]:
    """Read the results of the requests in the ledger that are in some states."""
    path = process.root / "var/lib/gofer/ledger/ledger.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        if not file.execute("PRAGMA user_version").fetchone()[0]:
            return []
        return [
            row
            for (row,) in file.execute(
                f"SELECT result FROM requests WHERE state IN ({', '.join('?' * len(states))})", states
            )
        ]


@pytest.mark.parametrize("name", ["Single", "Probe"], ids=["once", "slow"])
def test_a_result_outlives_its_agent_and_its_broker(
    broker: LocalBroker, goferd: AgentProcess, agent: Agent, tmp_path: Path, name: str
) -> None:
    """The method ends while there is no broker that could take its result, and then the agent is killed."""
    trace, go = tmp_path / "trace", tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(agent[name].note, str(trace), "ran", 0, str(go))
        eventually(
            lambda: rows_in(goferd, "queued", "running")
        )  # noted at once, or taking long enough to be written down
        eventually(lambda: runs(trace))
        broker.kill()
        go.touch()
        eventually(lambda: any(b"ran" in (result or b"") for result in rows_in(goferd, "answering")))
        goferd.kill()
        broker.start()
        goferd.start()
        assert call.result(30) == "ran"
    assert runs(trace) == {"ran": 1}
    eventually(lambda: not rows_in(goferd, "answering"))
