"""Brokers of several hosts, and what is read anew at each connection: the URL's file, certificates, names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from gofer import aio
from gofer.errors import ConnectionLost, RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.proxy import Proxy
from support.brokers.rabbitmq import RabbitMQ
from support.certificates import Certificates
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.relays import Relay
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

QUEUE = "of-several-hosts"


@pytest.fixture
def caller(rabbitmq: RabbitMQ) -> Iterator[Agent]:
    """Reaches the broker itself, whatever becomes of the relays."""
    with Agent(rabbitmq.url(), QUEUE, wait=40) as agent:
        yield agent
    rabbitmq.delete_queue(QUEUE)


@pytest.fixture
def goferd(rabbitmq: RabbitMQ, caller: Agent, root: Path) -> Iterator[AgentProcess]:
    """Likewise, until its descriptor says something else."""
    with AgentProcess(root) as goferd:
        goferd.configure("[messaging]\nreconnect_max = 0.5\n")
        goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE))
        yield goferd


@pytest.fixture
def served(goferd: AgentProcess, caller: Agent) -> AgentProcess:
    goferd.start()
    until_it_answers(caller, goferd.tail())
    return goferd


@pytest.fixture
def first(rabbitmq: RabbitMQ) -> Iterator[Relay]:
    with Relay(rabbitmq.port) as relay:
        yield relay


@pytest.fixture
def second(rabbitmq: RabbitMQ) -> Iterator[Relay]:
    with Relay(rabbitmq.port) as relay:
        yield relay


def connector(hosts: str, **options: Any) -> Connector:
    return Connector(URL.parse(f"amqp://{hosts}"), reconnect_max=0.5, **options)


@contextmanager
def black_hole() -> Iterator[str]:
    """A host that neither takes nor refuses a connection: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """A host that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """A host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nameless() -> Iterator[str]:
    yield "no-such-host.invalid:5672"


@pytest.mark.parametrize("first", [nobody, black_hole, nameless])
@pytest.mark.usefixtures("served")
def test_a_caller_finds_the_host_that_serves(rabbitmq: RabbitMQ, first: Any) -> None:
    with first() as host:
        hosts = f"{host},127.0.0.1:{rabbitmq.port}"
        with Agent(connector(hosts), QUEUE, wait=40) as agent:
            assert agent.Probe().echo("found") == "found"

        async def call() -> object:
            async with aio.Agent(connector(hosts, heartbeat=9.0), QUEUE, wait=40) as agent:
                return await agent.Probe().echo("found")

        assert asyncio.run(call()) == "found"


@pytest.mark.parametrize("first", [nobody, black_hole, nameless])
def test_an_agent_finds_the_host_that_serves(
    rabbitmq: RabbitMQ, goferd: AgentProcess, caller: Agent, first: Any
) -> None:
    with first() as host:
        goferd.plugin("probe", PROBE, descriptor(f"amqp://{host},127.0.0.1:{rabbitmq.port}", QUEUE))
        goferd.start()
        assert until_it_answers(caller, goferd.tail()).Probe().echo("found") == "found"
        goferd.stop()


@pytest.mark.slow
def test_a_host_that_says_nothing_to_the_login_does_not_keep_an_agent_from_the_next(
    rabbitmq: RabbitMQ, goferd: AgentProcess, caller: Agent
) -> None:
    with silent() as host:
        goferd.plugin("probe", PROBE, descriptor(f"amqp://{host},127.0.0.1:{rabbitmq.port}", QUEUE))
        goferd.start()
        eventually(lambda: "no answer to the login" in goferd.tail(), 60)
        assert until_it_answers(caller, goferd.tail()).Probe().echo("found") == "found"
        goferd.stop()


def test_all_hosts_are_named_when_none_serves() -> None:
    with nobody() as one, nobody() as two, Agent(connector(f"{one},{two}"), QUEUE, wait=20) as agent:
        with pytest.raises(ConnectionLost) as caught:
            agent.Probe().echo()
        assert one in str(caught.value)
        assert two in str(caught.value)


def test_both_sides_fail_over_and_back(first: Relay, second: Relay, goferd: AgentProcess, caller: Agent) -> None:
    """Each time the host in use goes away and the other one serves; nothing that is asked is lost."""
    hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
    goferd.plugin("probe", PROBE, descriptor(f"amqp://{hosts}", QUEUE))
    goferd.start()
    until_it_answers(caller, goferd.tail())
    with Agent(connector(hosts), QUEUE, wait=40) as agent:
        assert agent.Probe().echo("up") == "up"
        assert (first.open, second.open) == (2, 0)
        for _ in range(2):
            for gone, serves in ((first, second), (second, first)):
                gone.stop()
                assert agent.Probe().echo("over") == "over"
                assert (gone.open, serves.open) == (0, 2)
                gone.start()


def test_a_file_of_the_url_is_read_at_each_try(  # noqa: PLR0917 - all are fixtures
    rabbitmq: RabbitMQ, first: Relay, second: Relay, goferd: AgentProcess, caller: Agent, root: Path
) -> None:
    file = root / "etc/gofer/broker.url"
    file.write_text(f"amqp://guest:wrong@127.0.0.1:{first.port}\n")
    text = descriptor("", QUEUE).replace("url = ", f"url_file = {file}")
    goferd.plugin("probe", PROBE, text)
    goferd.start()
    eventually(lambda: first.connections > 1)
    file.write_text("no URL at all: ://\n")
    eventually(lambda: f"{file}: " in goferd.tail())
    file.write_text(f"amqp://guest:guest@127.0.0.1:{first.port}\n")
    assert until_it_answers(caller, goferd.tail()).Probe().echo("first") == "first"
    file.write_text(f"amqp://guest:guest@127.0.0.1:{second.port}\n")
    assert caller.Probe().echo("it stays") == "it stays"
    assert second.connections == 0
    first.cut()
    eventually(lambda: second.open == 1)
    assert caller.Probe().echo("second") == "second"
    assert first.open == 0
    assert "wrong" not in goferd.log.read_text()


def test_certificates_are_read_at_each_try(
    rabbitmq: RabbitMQ, goferd: AgentProcess, caller: Agent, certificates: Certificates, tmp_path: Path
) -> None:
    with Relay(rabbitmq.tls_port) as relay:
        cacert = tmp_path / "authority.pem"
        cacert.write_bytes(certificates.other_authority.read_bytes())
        tls = f"\n        cacert = {cacert}\n        [model]"
        url = f"amqps://localhost:{relay.port}"
        goferd.plugin("probe", PROBE, descriptor(url, QUEUE).replace("\n        [model]", tls))
        goferd.start()
        eventually(lambda: "does not verify" in goferd.tail())
        cacert.write_bytes(certificates.authority.read_bytes())
        assert until_it_answers(caller, goferd.tail()).Probe().echo("trusted") == "trusted"
        cacert.write_bytes(certificates.other_authority.read_bytes())
        relay.cut()
        eventually(lambda: goferd.tail(400).count("does not verify") > 1)
        cacert.write_bytes(certificates.authority.read_bytes())
        assert caller.Probe().echo("again") == "again"
        goferd.stop()


@pytest.mark.usefixtures("served")
def test_an_address_of_a_name_that_hangs_up_does_not_keep_from_the_next(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer in front of nobody takes connections, too."""
    resolve = socket.getaddrinfo
    with Relay() as balancer:
        ports = [balancer.port, rabbitmq.port]

        def look_up(host: str, port: int, *how: Any, **options: Any) -> Any:
            if host != "two.example" or options.get("flags"):
                return resolve(host, port, *how, **options)
            return [found for port in ports for found in resolve("127.0.0.1", port, *how, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with Agent(connector("two.example"), QUEUE, wait=20) as agent:
            with pytest.raises(ConnectionLost):
                agent.Probe().echo("nobody")
            assert agent.Probe().echo("the other one") == "the other one"
        assert balancer.connections == 1


@pytest.mark.usefixtures("served")
def test_a_port_that_has_served_before_is_not_suspected_of_tls(rabbitmq: RabbitMQ) -> None:
    """The broker restarts behind a balancer, which takes connections and hangs up."""
    with Proxy(URL.parse(rabbitmq.url())) as balancer:
        hosts = f"{balancer.url.host}:{balancer.url.port}"
        with Agent(connector(hosts), QUEUE, wait=40) as agent:
            assert agent.Probe().echo("served") == "served"
            balancer.refuses = True
            balancer.cut()

            def told() -> bool:
                with pytest.raises(RequestTimeout) as late:
                    agent(wait=0.5).Probe().echo("nobody")
                assert "TLS" not in str(late.value)
                return "before it said anything" in str(late.value)

            eventually(told)


@pytest.mark.usefixtures("served")
def test_names_are_resolved_at_each_try(first: Relay, second: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name moves to another machine: the next connection goes there."""
    resolve, ports = socket.getaddrinfo, [first.port]

    def look_up(host: str, port: int, *how: Any, **options: Any) -> Any:
        if host != "moving.example" or options.get("flags"):
            return resolve(host, port, *how, **options)
        return resolve("127.0.0.1", ports[-1], *how, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Agent(connector("moving.example"), QUEUE, wait=40) as agent:
        assert agent.Probe().echo("first") == "first"
        ports.append(second.port)
        assert agent.Probe().echo("it stays") == "it stays"
        assert second.connections == 0
        first.cut()
        eventually(lambda: second.open == 1)
        assert agent.Probe().echo("second") == "second"
