"""Agents and callers behind an HTTP proxy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import AdapterError
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.certificates import Certificates
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.relays import ConnectProxy
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

QUEUE = "behind-a-proxy"
PLAIN, TLS = "broker.example:5672", "broker.example:5671"


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def proxy(rabbitmq: RabbitMQ) -> Iterator[ConnectProxy]:
    with ConnectProxy({PLAIN: rabbitmq.port, TLS: rabbitmq.tls_port}, login="agent:hush-hush") as proxy:
        yield proxy


@pytest.fixture
def caller(rabbitmq: RabbitMQ) -> Iterator[Agent]:
    with Agent(rabbitmq.url(), QUEUE, wait=40) as agent:
        yield agent
    rabbitmq.delete_queue(QUEUE)


def test_an_agent_keeps_to_its_proxy_whatever_becomes_of_it(
    rabbitmq: RabbitMQ, proxy: ConnectProxy, caller: Agent, root: Path
) -> None:
    """A refused login, a silence, nonsense, a hang-up, and a cut: each costs time, and nothing else."""
    proxy.login = "other:login"
    with AgentProcess(root) as goferd:
        own = f"http://agent:hush-hush@127.0.0.1:{proxy.port}"
        goferd.configure(f"[messaging]\nproxy = {own}\nreconnect_max = 0.5\n")
        goferd.plugin("probe", PROBE, descriptor(f"amqp://{PLAIN}", QUEUE))
        goferd.start()
        eventually(lambda: f"the proxy 127.0.0.1:{proxy.port} refuses the connection: '407" in goferd.tail())
        proxy.says = b"SSH-2.0-OpenSSH_9.2p1\r\n"
        eventually(lambda: len(proxy.asked) > 2)
        proxy.says = b""
        eventually(lambda: len(proxy.asked) > 4)
        proxy.says, proxy.login = None, "agent:hush-hush"
        assert until_it_answers(caller, goferd.tail()).Probe().echo("through it") == "through it"

        for _ in range(3):
            before = len(proxy.asked)
            proxy.cut()
            eventually(lambda before=before: len(proxy.asked) > before)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            assert caller.Probe().echo("again") == "again"
        proxy.stop()
        posted = [caller(wait=0).Probe().echo(n) for n in range(20)]
        caller.flush(20)
        proxy.start()
        assert caller.Probe().echo("after all others") == "after all others"
        assert len(posted) == 20
        assert set(proxy.asked) == {PLAIN}
        assert "hush-hush" not in goferd.log.read_text()


def test_an_agents_environment_does_not_count(
    rabbitmq: RabbitMQ, proxy: ConnectProxy, caller: Agent, certificates: Certificates, root: Path
) -> None:
    with AgentProcess(root, environ={"HTTPS_PROXY": proxy.url, "ALL_PROXY": proxy.url}) as goferd:
        tls = f"\n        cacert = {certificates.authority}\n        [model]"
        goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(tls=True), QUEUE).replace("\n        [model]", tls))
        goferd.start()
        assert until_it_answers(caller, goferd.tail()).Probe().echo("directly") == "directly"
    assert not proxy.asked


def test_a_callers_environment_counts_for_tls(  # noqa: PLR0917 - all are fixtures
    rabbitmq: RabbitMQ,
    proxy: ConnectProxy,
    caller: Agent,
    certificates: Certificates,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://agent:hush-hush@127.0.0.1:{proxy.port}")
    secure = Connector(
        URL.parse(f"amqps://{TLS}"),
        cacert=str(certificates.authority),
        host_validation=False,  # the broker's certificate is for localhost
        reconnect_max=0.5,
    )
    with AgentProcess(root) as goferd:
        goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE))
        goferd.start()
        until_it_answers(caller, goferd.tail())
        assert not proxy.asked  # the caller's URL has no TLS
        with Agent(secure, QUEUE, wait=40) as agent:
            assert agent.Probe().echo("through it") == "through it"
            proxy.cut()
            assert agent.Probe().echo("again") == "again"
            assert proxy.asked == [TLS, TLS]
        strict = Agent(Connector(secure.url, host_validation=False), QUEUE, wait=40)
        with strict, pytest.raises(AdapterError, match="does not verify"):
            strict.Probe().echo("no authority knows it")
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        refused = Agent(Connector(secure.url, heartbeat=20.0), QUEUE, wait=40)
        words = r"broker\.example:5671: the proxy .* refuses the connection: '407"
        with refused, pytest.raises(AdapterError, match=words):
            refused.Probe().echo("without a login")
