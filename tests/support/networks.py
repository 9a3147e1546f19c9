"""Calls over a network that misbehaves, between a broker and both sides: for a broker of any kind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.proxy import Proxy

from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.waiting import eventually

__all__ = ["NetworkScenarios"]

QUEUE = "networks"
CALLERS = 8
HEARTBEAT = 1.0


def cuts(proxy: Proxy, done: Callable[[int], None]) -> None:
    """Cut all connections, ten times."""
    for _ in range(10):
        proxy.cut()
        done(1)


def truncates(proxy: Proxy, done: Callable[[int], None]) -> None:
    """Cut in the middle of what is said, to us and to the broker, wherever that is."""
    dice = random.Random(7)
    for direction in (proxy.to_client, proxy.to_broker) * 5:
        direction.limit = dice.randrange(3000)
        eventually(lambda direction=direction: direction.limit <= 0)
        direction.limit = None
        done(1)


def stalls(proxy: Proxy, done: Callable[[int], None]) -> None:
    """Pass nothing on for longer than a silent peer may live, in one direction and in both."""
    for stalled in ([proxy.to_client], [proxy.to_broker], [proxy.to_client, proxy.to_broker]):
        for direction in stalled:
            direction.stalled = True
        until = time.monotonic() + 3 * HEARTBEAT
        eventually(lambda until=until: time.monotonic() >= until)
        for direction in stalled:
            direction.stalled = False
        done(1)


def drips(proxy: Proxy, done: Callable[[int], None]) -> None:
    """Pass on 20 bytes at a time."""
    for direction in (proxy.to_client, proxy.to_broker):
        direction.piece, direction.pause = 20, 0.001
    done(1)
    for direction in (proxy.to_client, proxy.to_broker):
        direction.piece = 0
    done(1)


class NetworkScenarios:
    """A subclass gives a fixture ``url``."""

    @pytest.fixture
    def proxy(self, url: str) -> Iterator[Proxy]:
        with Proxy(URL.parse(url)) as proxy:
            yield proxy

    @pytest.mark.slow
    @pytest.mark.parametrize("mistreat", [cuts, truncates, stalls, drips])
    def test_each_call_has_its_value_whatever_the_network_does(
        self, proxy: Proxy, root: Path, mistreat: Callable[[Proxy, Callable[[int], None]], None]
    ) -> None:
        connector = Connector(proxy.url, heartbeat=HEARTBEAT, reconnect_max=0.3)
        done, over = [0] * CALLERS, threading.Event()
        with AgentProcess(root) as goferd, Agent(connector, QUEUE, wait=120) as agent:
            goferd.configure("[messaging]\nreconnect_max = 0.3\n")
            text = f"{proxy.url.text}\n        heartbeat = {HEARTBEAT:g}"
            goferd.plugin("probe", PROBE, descriptor(text, QUEUE, threads=4))
            goferd.start()
            until_it_answers(agent)

            def call(mine: int) -> None:
                while not over.is_set():
                    assert agent.Probe().echo([mine, done[mine]]) == [mine, done[mine]]
                    done[mine] += 1

            def go_on(calls: int) -> None:
                """Wait until each of the callers had some more answers."""
                before = list(done)
                eventually(lambda: all(now >= then + calls for now, then in zip(done, before, strict=True)), 120)

            with ThreadPoolExecutor(CALLERS) as threads:
                callers = [threads.submit(call, number) for number in range(CALLERS)]
                try:
                    go_on(1)
                    mistreat(proxy, go_on)
                    go_on(10)
                finally:
                    over.set()
                for one in callers:
                    one.result(130)
