"""A queue that is slow to declare delays nobody else on the same connection."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.adapter import DeclareQueue, DeleteQueue
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.amqp_proxy import HoldingProxy, declare_ok
from support.brokers.rabbitmq import RabbitMQ
from support.company import linked
from support.goferd import AgentProcess
from support.presence import answers
from support.probe import PROBE, descriptor
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

QUEUE, SLOW = "probe-slow-answers", "slow-to-declare"


@pytest.mark.slow
def test_64_calls_in_flight_go_on_while_one_queue_is_declared_for_eight_seconds(rabbitmq: RabbitMQ, root: Path) -> None:
    """Eight seconds are four heartbeats of the connection."""
    with AgentProcess(root) as goferd, HoldingProxy(URL.parse(rabbitmq.url()), declare_ok(SLOW)) as proxy:
        connector = Connector(proxy.url, heartbeat=2.0)
        goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE, threads=4))
        goferd.start()
        with Agent(connector, QUEUE, wait=20) as agent, linked(connector) as link, ThreadPoolExecutor(65) as threads:
            eventually(lambda: answers(agent), what=goferd.tail())
            up_since = link.up_since
            done = [0] * 64
            over = threading.Event()

            def call(number: int) -> None:
                while not over.is_set():
                    assert agent.Probe().echo(number) == number
                    done[number] += 1

            calls = [threads.submit(call, number) for number in range(64)]
            try:
                eventually(lambda: min(done) > 0)
                slow = threads.submit(link.ask, DeclareQueue(SLOW), 60.0)
                assert proxy.held.wait(10)
                before, end = list(done), time.monotonic() + 8.0
                eventually(lambda: min(now - then for now, then in zip(done, before, strict=True)) >= 10, 60)
                eventually(lambda: time.monotonic() >= end)
                link.ask(DeclareQueue("quick"))  # nor does it delay another declaration
                link.ask(DeleteQueue("quick"))
                assert not slow.done()
            finally:
                over.set()
                proxy.release()
            assert slow.result(10) is None
            for each in calls:
                each.result(20)
            assert link.up_since == up_since
            for queue in (SLOW, QUEUE):
                link.ask(DeleteQueue(queue))
