"""Ten thousand calls in uvloop over RabbitMQ, to a real agent."""

from __future__ import annotations

from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.uvloops import many_calls

pytestmark = pytest.mark.one_rabbitmq

QUEUE = "probe-uvloop"


@pytest.mark.slow
def test_ten_thousand_calls_256_at_a_time_leave_stderr_empty(rabbitmq: RabbitMQ, root: Path) -> None:
    with AgentProcess(root) as goferd, Agent(rabbitmq.url(), QUEUE, wait=20) as agent:
        goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE, threads=4))
        goferd.start()
        until_it_answers(agent, goferd.tail())
        many_calls(rabbitmq.url(), QUEUE, ("Probe", "echo"))
        goferd.stop()
    rabbitmq.delete_queue(QUEUE)
