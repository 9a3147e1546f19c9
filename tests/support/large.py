"""Messages over an agent's limit, sent by others than our callers, which would not send them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
from gofer.messaging.adapter import DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess

from support.company import linked
from support.connections import declaring
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

__all__ = ["large_ones_cost_only_themselves"]

#: The agent's limit, and what it may grow by for messages that are over it: much less than one of them.
LIMIT, GROWTH = 1 << 20, 12 << 20


def large_ones_cost_only_themselves(url: str, root: Path, trace: Path, *, size: int, count: int) -> None:
    """Send an agent messages far over its limit, among others: it refuses these, serves the others, stays small."""
    with AgentProcess(root) as goferd:
        goferd.configure(f"[messaging]\nmax_message = {LIMIT}\n")
        goferd.plugin("probe", PROBE, descriptor(url, "large-probe"))
        goferd.start()
        connector = Connector(URL.parse(url), heartbeat=60.0, max_message=1 << 30)
        with linked(connector) as link, Agent(connector, "large-probe", wait=120) as agent:
            until_it_answers(agent, goferd.tail())
            heard = replies(link, "large-replies")
            agent.Probe().note(str(trace), "before")
            process = psutil.Process(goferd.pid)
            before = process.memory_info().rss
            connections = len(process.net_connections("all"))
            for number in range(count):
                send(link, request(trace, f"sn-{number}", size, ours=number % 2 == 0))
            assert agent.Probe().note(str(trace), "after") == "after"
            assert link.wait(lambda: len(heard) >= count, time.monotonic() + 60), goferd.tail()
            grown = process.memory_info().rss - before
            assert grown < GROWTH, f"{grown / (1 << 20):.0f} MiB"
            assert len(process.net_connections("all")) == connections
        assert dict(runs(trace)) == {"before": 1, "after": 1}
        assert "connection lost" not in goferd.tail(200)
    assert sorted(one["sn"] for one in heard) == sorted(f"sn-{number}" for number in range(count))
    assert {(one["status"], one["code"]) for one in heard} == {("rejected", "model.size")}
    assert all(f"allowed: {LIMIT}" in one["details"] for one in heard)


def replies(link: ThreadConnection, queue: str) -> list[dict[str, Any]]:
    """Read a queue from now on."""
    heard: list[dict[str, Any]] = []

    def take(delivery: Delivery) -> None:
        heard.append(json.loads(delivery.body))
        link.accept(delivery)

    link.subscribe(Subscription(queue, 10, take, declaring(DeclareQueue(queue))), 10)
    return heard


def request(trace: Path, sn: str, size: int, *, ours: bool) -> bytes:
    """Write a request of so many bytes and more, its fields in our order or in that of 2.12."""
    called = {"classname": "Probe", "method": "note", "cntr": [[], {}], "args": [str(trace), "x" * size], "kws": {}}
    document = {"sn": sn, "version": "2.0", "routing": [None, "large-probe"], "replyto": "large-replies"}
    return json.dumps({**document, "request": called, "data": {"sn": "another"}}, sort_keys=not ours).encode()


def send(link: ThreadConnection, body: bytes) -> None:
    """Send it, and wait until the broker has it: so that this process holds one at a time."""
    done: list[Any] = []
    eventually(
        lambda: link.publish(
            Address("", "large-probe"), body, deadline=time.monotonic() + 60, settled=lambda *said: done.append(said)
        )
    )
    assert link.wait(lambda: done, time.monotonic() + 60)
