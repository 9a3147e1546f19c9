"""A broker that takes long for one operation: only what waits for that operation waits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from gofer.testing.rabbitmq import RabbitMQ
from support.holding import HoldingProxy
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.reloads import manage

#: Seconds that one declaration takes, and that a call has which has nothing to do with it.
HELD, ENOUGH = 8.0, 4.0


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[HoldingProxy]:
    with HoldingProxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.mark.slow
def test_calls_are_answered_while_the_declaration_of_another_plugins_queue_takes_long(
    rabbitmq: RabbitMQ, proxy: HoldingProxy, root: Path
) -> None:
    url = re.sub(r":\d+$", f":{proxy.port}", rabbitmq.url())
    with AgentProcess(root) as goferd, Agent(rabbitmq.url(), "quick-probe", wait=20) as agent:
        goferd.plugin("quick", PROBE, descriptor(url, "quick-probe"))
        goferd.start()
        until_it_answers(agent, goferd.tail())

        proxy.hold("slow-probe", HELD)
        goferd.plugin("slow", PROBE, descriptor(url, "slow-probe"))
        with ThreadPoolExecutor(1) as threads:
            loaded = threads.submit(manage, root, do="load", path="slow.conf")
            assert proxy.held.wait(20)
            answered = 0
            while not proxy.released.is_set():
                assert agent(wait=ENOUGH).Probe().echo(answered) == answered
                answered += 1
            assert answered
            loaded.result(30)

        with Agent(rabbitmq.url(), "slow-probe", wait=20) as slow:
            until_it_answers(slow, goferd.tail())
        assert "connection lost" not in goferd.tail(200)
