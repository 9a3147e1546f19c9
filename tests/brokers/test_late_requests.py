"""A request that waited in the socket of a broker that took nothing, over RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.one_rabbitmq]


@pytest.fixture
def goferd(rabbitmq: RabbitMQ, root: Path) -> Iterator[AgentProcess]:
    with AgentProcess(root) as process:
        process.plugin("probe", PROBE, descriptor(rabbitmq.url(), "late-probe"))
        yield process.start()


@pytest.mark.parametrize("how", ["frozen", "out of memory"])
def test_what_the_broker_read_too_late_is_not_run(
    rabbitmq: RabbitMQ, goferd: AgentProcess, tmp_path: Path, how: str
) -> None:
    trace = tmp_path / "trace"
    connector = Connector(URL.parse(rabbitmq.url()), heartbeat=30.0)
    with Agent(connector, "late-probe", wait=40) as agent:
        until_it_answers(agent, goferd.tail())
        with rabbitmq.standing_still() if how == "frozen" else rabbitmq.taking_no_messages():
            with pytest.raises(RequestTimeout):
                agent(wait=1).Probe().note(str(trace), "late")
            sent = time.monotonic()
            eventually(lambda: time.monotonic() - sent > 4)
        assert agent.Probe().note(str(trace), "later") == "later"
    assert dict(runs(trace)) == {"later": 1}
    assert "is not run: its ttl" in goferd.tail()
