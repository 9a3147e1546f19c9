"""A broker that takes long for one operation: only what waits for that operation waits."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.amqp_proxy import HoldingProxy, declare_ok
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.reloads import manage

pytestmark = pytest.mark.one_rabbitmq

#: Seconds that one declaration takes, and that a call has which has nothing to do with it.
HELD, ENOUGH = 8.0, 4.0


@pytest.mark.slow
def test_calls_are_answered_while_the_declaration_of_another_plugins_queue_takes_long(
    rabbitmq: RabbitMQ, root: Path
) -> None:
    with (
        HoldingProxy(URL.parse(rabbitmq.url()), declare_ok("slow-probe")) as proxy,
        AgentProcess(root) as goferd,
        Agent(rabbitmq.url(), "quick-probe", wait=20) as agent,
    ):
        url = proxy.url.text
        goferd.plugin("quick", PROBE, descriptor(url, "quick-probe"))
        goferd.start()
        until_it_answers(agent, goferd.tail())

        goferd.plugin("slow", PROBE, descriptor(url, "slow-probe"))
        with ThreadPoolExecutor(1) as threads:
            loaded = threads.submit(manage, root, do="load", path="slow.conf")
            assert proxy.held.wait(20)
            answered, end = 0, time.monotonic() + HELD
            while time.monotonic() < end:
                assert agent(wait=ENOUGH).Probe().echo(answered) == answered
                answered += 1
            assert answered
            proxy.release()
            loaded.result(30)

        with Agent(rabbitmq.url(), "slow-probe", wait=20) as slow:
            until_it_answers(slow, goferd.tail())
        assert "connection lost" not in goferd.tail(200)
