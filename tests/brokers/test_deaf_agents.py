"""An agent that hears nothing, though its connection seems open: it notices, and helps itself. A busy one is let be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.proxy import Proxy
from support.amqp_proxy import DeafeningProxy, HoldingProxy
from support.brokers import BrokerJ, RabbitMQ3
from support.brokers.rabbitmq import RabbitMQ
from support.certificates import Certificates
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.reloads import manage
from support.waiting import eventually

QUEUE = "hearing"
#: Seconds between two probes here; after two and a bit a deaf connection is given up.
INTERVAL = 1.5


@pytest.fixture
def proxy(rabbitmq: RabbitMQ, vhost: str) -> Iterator[DeafeningProxy]:
    with DeafeningProxy(URL.parse(rabbitmq.url(vhost=vhost))) as proxy:
        yield proxy


@contextmanager
def serving(root: Path, url: str, more: str = "", **how: Any) -> Iterator[AgentProcess]:
    with AgentProcess(root, **how) as goferd:
        goferd.configure(f"[messaging]\nprobe_interval = {INTERVAL}\nreconnect_max = 0.5\n")
        goferd.plugin("probe", PROBE, descriptor(url, QUEUE, threads=1, more=more))
        goferd.start()
        yield goferd


@pytest.fixture
def goferd(proxy: DeafeningProxy, root: Path) -> Iterator[AgentProcess]:
    with serving(root, proxy.url.text) as goferd:
        yield goferd


@pytest.fixture
def caller(rabbitmq: RabbitMQ, vhost: str) -> Iterator[Agent]:
    with Agent(rabbitmq.url(vhost=vhost), QUEUE, wait=40) as agent:
        yield agent


def connection(goferd: AgentProcess) -> dict[str, Any]:
    """Return what ``gofer mgt`` shows of the plugin's connection."""
    shown: dict[str, Any] = manage(goferd.root, do="show")["plugins"][0]["connection"]
    return shown


def consumers(rabbitmq: RabbitMQ, vhost: str) -> int:
    """Return how many consumers the request queue has."""
    return rabbitmq.count(QUEUE, "consumers", vhost)


# -- deaf ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_agent_whose_deliveries_are_lost_on_their_way_connects_again(
    proxy: DeafeningProxy, goferd: AgentProcess, caller: Agent
) -> None:
    """Heartbeats, answers and confirms still arrive."""
    until_it_answers(caller)
    assert proxy.connections == 1
    proxy.deaf = True
    number = caller(wait=0).Probe().echo(1)
    assert number
    eventually(lambda: "deaf: it seems open" in goferd.tail())
    assert proxy.lost >= 1
    proxy.deaf = False
    assert caller.Probe().echo(2) == 2
    eventually(lambda: connection(goferd)["probe"]["returned"] is not None)
    assert "connection lost: deaf" in goferd.tail()


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False], ids=["declared again", "not declared again"])
def test_a_subscription_that_the_broker_has_forgotten_without_a_word_is_made_again(
    rabbitmq: RabbitMQ, proxy: DeafeningProxy, goferd: AgentProcess, caller: Agent, declared: bool
) -> None:
    vhost = str(proxy.url.path)
    until_it_answers(caller)
    before = connection(goferd)["up"]
    proxy.hides_cancels = True
    rabbitmq.api("DELETE", f"/queues/{quote(vhost)}/{QUEUE}")
    if declared:  # by somebody else
        rabbitmq.api("PUT", f"/queues/{quote(vhost)}/{QUEUE}", {"durable": True})
    eventually(lambda: proxy.lost)
    until_it_answers(caller)
    assert f"no requests from queue '{QUEUE}'" in goferd.tail()
    assert consumers(rabbitmq, vhost) == 1
    assert connection(goferd)["up"] > before  # the connection stays
    assert proxy.connections == 1


@pytest.mark.slow
def test_a_private_queue_that_is_gone_without_a_word_is_made_again(
    rabbitmq: RabbitMQ, vhost: str, proxy: DeafeningProxy, goferd: AgentProcess, caller: Agent
) -> None:
    until_it_answers(caller)
    eventually(lambda: connection(goferd)["probe"]["returned"] is not None)
    proxy.hides_cancels = True
    (name,) = [one["name"] for one in rabbitmq.queues(vhost) if one["name"].startswith("gofer.probe.")]
    rabbitmq.api("DELETE", f"/queues/{quote(vhost)}/{name}")
    eventually(lambda: proxy.lost)
    gone = time.monotonic()
    eventually(lambda: connection(goferd)["probe"]["returned"] < time.monotonic() - gone)
    assert proxy.connections == 1


@pytest.mark.slow
def test_a_broker_that_stands_still_is_found_without_heartbeats_too(rabbitmq: RabbitMQ, vhost: str, root: Path) -> None:
    url = f"{rabbitmq.url(vhost=vhost)}\n        heartbeat = 0"
    with serving(root, url) as goferd, Agent(rabbitmq.url(vhost=vhost), QUEUE, wait=40) as caller:
        until_it_answers(caller)
        rabbitmq.freeze()
        try:
            eventually(lambda: "deaf: it seems open" in goferd.tail())
            eventually(lambda: connection(goferd)["state"] != "open")
        finally:
            rabbitmq.thaw()
        until_it_answers(caller)
        eventually(lambda: connection(goferd)["probe"]["returned"] is not None)


# -- another broker: no queue expires there ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["amqp", "qpid"])
def test_on_broker_j_a_private_queue_is_probed_and_goes_with_an_agent_that_is_killed(
    brokerj: BrokerJ, root: Path, adapter: str
) -> None:
    def probes() -> list[str]:
        return [one["name"] for one in brokerj.queues() if one["name"].startswith("gofer.probe.")]

    url = brokerj.url(adapter=adapter)
    with serving(root, url) as goferd, Agent(url, QUEUE, wait=40) as caller:
        until_it_answers(caller)
        eventually(lambda: connection(goferd)["probe"]["returned"] is not None)
        busy_for(4 * INTERVAL, goferd)
        assert connection(goferd)["probe"]["returned"] < 3 * INTERVAL
        assert len(probes()) == 1
        goferd.kill()
        eventually(lambda: not probes())


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["amqp", "qpid"])
def test_on_broker_j_a_queue_that_was_deleted_is_declared_again(brokerj: BrokerJ, root: Path, adapter: str) -> None:
    url = brokerj.url(adapter=adapter)
    with serving(root, url) as goferd, Agent(url, QUEUE, wait=40) as caller:
        until_it_answers(caller)
        brokerj.api("DELETE", f"/queue/default/default/{QUEUE}")
        until_it_answers(caller)
        assert f"no requests from queue '{QUEUE}'" in goferd.tail()


# -- busy -----------------------------------------------------------------------------------------------------------


def busy_for(seconds: float, goferd: AgentProcess) -> None:
    """Wait, and check that the agent was taken for deaf at no time."""
    up = connection(goferd)["up"]
    until = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= until, timeout=seconds + 30)
    assert connection(goferd)["up"] >= up + seconds - 0.2
    assert "deaf" not in goferd.tail(500)


@pytest.mark.slow
def test_an_agent_with_busy_workers_and_a_full_prefetch_window_is_not_deaf(
    goferd: AgentProcess, caller: Agent, tmp_path: Path
) -> None:
    until_it_answers(caller)
    for _ in range(300):
        caller(wait=0).Probe().until(str(tmp_path / "go on"))
    caller.flush(20)
    busy_for(5 * INTERVAL, goferd)
    (tmp_path / "go on").touch()
    assert caller.Probe().echo(1) == 1


@pytest.mark.slow
def test_an_agent_that_the_broker_has_blocked_is_not_deaf(
    rabbitmq: RabbitMQ, goferd: AgentProcess, caller: Agent
) -> None:
    until_it_answers(caller)
    with rabbitmq.taking_no_messages():
        eventually(lambda: "blocked" in connection(goferd)["state"])
        busy_for(5 * INTERVAL, goferd)
    busy_for(3 * INTERVAL, goferd)
    assert caller.Probe().echo(1) == 1


def carry_slowly(proxy: Proxy, goferd: AgentProcess, caller: Agent, way: str) -> None:
    """Have a large message take longer than two probes, which wait behind it."""
    until_it_answers(caller)
    direction, size = getattr(proxy, way), 3 << 20
    direction.piece, direction.pause = size // 60, INTERVAL / 10
    start = time.monotonic()
    if way == "to_client":
        assert len(caller.Probe().echo("x" * size)) == size
    else:
        assert caller.Probe().twice("x" * (size // 2)) == "x" * size
    assert time.monotonic() - start > 4 * INTERVAL
    direction.piece = 0
    assert proxy.connections == 1
    assert "connection lost" not in goferd.tail(500)
    eventually(lambda: connection(goferd)["probe"]["returned"] is not None)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["to_client", "to_broker"])
def test_an_agent_to_which_or_from_which_a_large_message_is_on_its_way_is_not_deaf(
    proxy: DeafeningProxy, goferd: AgentProcess, caller: Agent, way: str
) -> None:
    carry_slowly(proxy, goferd, caller, way)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["to_client", "to_broker"])
def test_nor_is_it_when_the_large_message_goes_over_tls(
    rabbitmq: RabbitMQ3, vhost: str, certificates: Certificates, root: Path, way: str
) -> None:
    plain, secure = rabbitmq.url(vhost=vhost), URL.parse(rabbitmq.url(vhost=vhost, tls=True))
    with Proxy(secure) as proxy:
        more = f"{proxy.url.text}\n        cacert = {certificates.authority}"
        with serving(root, more) as goferd, Agent(plain, QUEUE, wait=40) as caller:
            carry_slowly(proxy, goferd, caller, way)


@pytest.mark.slow
def test_an_agent_whose_private_queue_takes_long_to_declare_is_not_deaf(
    rabbitmq: RabbitMQ, vhost: str, root: Path, caller: Agent
) -> None:
    declared = bytes((0, 50, 0, 11, 48)) + b"gofer.probe."
    with HoldingProxy(URL.parse(rabbitmq.url(vhost=vhost)), declared) as proxy, serving(root, proxy.url.text) as goferd:
        assert proxy.held.wait(20)
        until_it_answers(caller)
        busy_for(3 * INTERVAL, goferd)
        assert connection(goferd)["probe"]["returned"] is None
        proxy.release()
        eventually(lambda: connection(goferd)["probe"]["returned"] is not None)


# -- what cannot be probed ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rights", "why"),
    [
        ({"configure": QUEUE, "write": ".*", "read": QUEUE}, "gofer.probe."),  # no queue of its own
        ({"configure": ".*", "write": QUEUE, "read": ".*"}, "amq.default"),  # nothing to write into it
    ],
)
def test_an_agent_that_may_not_probe_says_so_and_goes_on(
    rabbitmq: RabbitMQ, vhost: str, root: Path, rights: dict[str, str], why: str
) -> None:
    rabbitmq.api("PUT", "/users/narrow", {"password": "narrow", "tags": ""})
    rabbitmq.api("PUT", f"/permissions/{quote(vhost)}/narrow", rights)
    try:
        with serving(root, rabbitmq.url("narrow", "narrow", vhost)) as goferd:
            eventually(lambda: "the connection cannot be probed" in goferd.tail())
            busy = connection(goferd)["up"]
            until = time.monotonic() + 5 * INTERVAL
            eventually(lambda: time.monotonic() >= until)
            shown = connection(goferd)
            assert why in shown["probe"]["error"]
            assert shown["up"] >= busy + 4 * INTERVAL
            assert goferd.tail(500).count("the connection cannot be probed") == 1
            assert (shown["state"], shown["reading"]) == ("open", True)
    finally:
        rabbitmq.api("DELETE", "/users/narrow")
