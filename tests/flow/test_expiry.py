"""A request's time to live: over before the agent accepts it, it is never run; once accepted, it always is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import RequestTimeout
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually


@pytest.fixture
def connector(root: Path) -> Iterator[Connector]:
    """A broker with the agent's queue, and no agent yet."""
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        connector = Connector(URL.parse(broker.url))
        link = pool.acquire(connector)
        link.ask(DeclareQueue("probe"))
        yield connector
        pool.release(link)


@pytest.fixture
def goferd(root: Path, connector: Connector) -> Iterator[AgentProcess]:
    """A goferd with the probe, not started."""
    with AgentProcess(root) as process:
        process.plugin("probe", PROBE, descriptor(connector.url.text, "probe"))
        yield process


@pytest.mark.parametrize("options", [{"wait": 0, "ttl": 0.3}, {"wait": 0.3}, {"wait": 0.5, "ttl": 0.2}])
def test_what_expired_while_the_agent_was_away_is_never_run(
    goferd: AgentProcess, connector: Connector, tmp_path: Path, options: dict[str, float]
) -> None:
    trace = tmp_path / "trace"
    with Agent(connector, "probe", wait=20) as agent:
        sent = time.monotonic()
        if options["wait"]:
            with pytest.raises(RequestTimeout, match="no word from the agent"):
                agent(**options).Probe().note(str(trace), "expired")
        else:
            agent(**options).Probe().note(str(trace), "expired")
            agent.flush(10)
            eventually(lambda: time.monotonic() - sent > 0.4)
        goferd.start()
        assert agent.Probe().note(str(trace), "later") == "later"
    assert dict(runs(trace)) == {"later": 1}


def test_what_waits_without_a_ttl_is_run_when_the_agent_comes(
    goferd: AgentProcess, connector: Connector, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with Agent(connector, "probe", wait=20) as agent:
        agent(wait=0).Probe().note(str(trace), "posted")
        agent.flush(10)
        goferd.start()
        assert agent.Probe().note(str(trace), "called") == "called"
    assert dict(runs(trace)) == {"posted": 1, "called": 1}


def test_what_was_accepted_in_time_is_run_whenever_its_turn_comes(
    goferd: AgentProcess, connector: Connector, tmp_path: Path
) -> None:
    """One worker is busy for longer than the second request may take to be accepted."""
    trace = tmp_path / "trace"
    goferd.start()
    with Agent(connector, "probe", wait=20) as agent:
        agent(wait=0).Probe().note(str(trace), "first", 2.5)
        eventually(lambda: runs(trace))
        assert agent(ttl=2).Probe().note(str(trace), "second") == "second"
    assert dict(runs(trace)) == {"first": 1, "second": 1}
