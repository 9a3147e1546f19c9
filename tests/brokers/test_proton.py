"""What the proton adapter does beside the contract: virtual hosts, two protocols on one broker, who cannot do what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gofer.errors import AdapterError, DispatchError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing._contract.driver import Driver
from gofer.testing.proxy import Proxy
from gofer_adapter_amqp import AmqpAdapter
from gofer_adapter_proton import ProtonAdapter
from support.brokers import BrokerJ, RabbitMQ3, RabbitMQ4
from support.certificates import Certificates
from support.danger import DANGER
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import descriptor


def opened(url: str, adapter: type[api.Adapter] = ProtonAdapter, **more: str) -> Driver:
    """Open a connection, by proton unless another adapter is given."""
    return Driver(adapter(Connector(URL.parse(url), **more))).open()  # type: ignore[arg-type] # names of files


#: Calls, and ends without closing anything.
CALLER = """
import sys
from gofer.errors import NotFound
from gofer.proxy import Agent
try:
    Agent(sys.argv[1], "no-such-queue", wait=30).Dog().bark()
except NotFound:
    print("not found")
"""


@pytest.fixture(params=["rabbitmq4", "brokerj"])
def both(request: pytest.FixtureRequest, rabbitmq4: RabbitMQ4, brokerj: BrokerJ) -> Iterator[tuple[Driver, Driver]]:
    """Two connections to one broker: by AMQP 0-9-1, and by 1.0."""
    broker = {"rabbitmq4": rabbitmq4, "brokerj": brokerj}[request.param]
    old, new = opened(broker.url(adapter="amqp"), AmqpAdapter), opened(broker.url(adapter="proton"))
    yield old, new
    for driver in (old, new):
        for name in driver.names:
            for operation in (api.DeleteQueue(name), api.DeleteExchange(name)):
                try:
                    new.ask(operation)
                except NotFound:
                    pass  # it is of the other kind
    old.close()
    new.close()


class TestVirtualHosts:
    def test_the_path_of_the_url_names_it(self, rabbitmq: RabbitMQ3 | RabbitMQ4, vhost: str) -> None:
        inside, outside = opened(rabbitmq.url(vhost=vhost)), opened(rabbitmq.url())
        name = inside.queue()
        outside.fails(NotFound, api.Subscribe(1, name, 1))
        inside.subscribe(name)
        inside.close()
        outside.close()

    def test_one_that_is_not_there_is_a_refusal(self, rabbitmq: RabbitMQ3 | RabbitMQ4) -> None:
        driver = Driver(ProtonAdapter(Connector(URL.parse(rabbitmq.url(vhost="nowhere")))))
        with pytest.raises(AdapterError, match="nowhere"):
            driver.open().queue()
        driver.cut()

    @pytest.mark.parametrize("piece", [1, 100_000])
    def test_broker_j_refuses_one_that_is_not_there_at_once(self, brokerj: BrokerJ, piece: int) -> None:
        """Not: opens, and closes again for a reason that may pass."""
        with Proxy(URL.parse(brokerj.url(adapter="proton"))) as proxy:
            proxy.to_client.piece, proxy.to_client.pause = piece, 0.0001
            with pytest.raises(AdapterError, match=r"virtual host 'nowhere'.*hostname"):
                Driver(ProtonAdapter(Connector(replace(proxy.url, path="nowhere")))).open()


class TestTwoProtocols:
    @pytest.mark.parametrize("size", [0, 3, 100_000])
    def test_a_message_arrives_as_it_was_sent(self, both: tuple[Driver, Driver], size: int) -> None:
        for sender, receiver in (both, both[::-1]):
            queue = receiver.queue()
            receiver.subscribe(queue)
            body = bytes(range(256)) * (size // 256 + 1)
            sender.give(queue, body[:size], ttl=90.0)
            delivery = receiver.one()
            assert (delivery.body, delivery.redelivered) == (body[:size], False)
            assert delivery.ttl == pytest.approx(90.0, abs=5.0)
            receiver.accept(delivery)

    def test_exchanges_of_the_one_route_for_the_other(self, both: tuple[Driver, Driver]) -> None:
        for sender, receiver in (both, both[::-1]):
            exchange, queue = receiver.exchange("topic"), receiver.queue()
            receiver.bind(queue, exchange, "a.*")
            receiver.subscribe(queue)
            sender.give("a.b", b"routed", exchange=exchange)
            assert receiver.one().body == b"routed"
        # Broker-J drops what has no route at an exchange that was declared over 0-9-1, and confirms it over 1.0.
        exchange = both[1].exchange("topic")
        for sender in both:
            assert sender.send("b", exchange=exchange) is api.Outcome.RETURNED

    def test_what_was_declared_by_the_one_is_no_other_for_the_other(self, both: tuple[Driver, Driver]) -> None:
        old, new = both
        name = old.queue()
        assert new.ask(api.DeclareQueue(name)) is None


class TestWhatABrokerCannotDo:
    @pytest.mark.parametrize(("broker", "name"), [("rabbitmq3", "RabbitMQ 3"), ("artemis", "ActiveMQ Artemis")])
    def test_an_error_names_the_broker_and_the_operation(
        self, broker: str, name: str, request: pytest.FixtureRequest
    ) -> None:
        driver = opened(request.getfixturevalue(broker).url(adapter="proton"))
        with pytest.raises(AdapterError, match=f"{name} cannot declare exchange 'x' over AMQP 1.0; use"):
            driver.ask(api.DeclareExchange("x"))
        with pytest.raises(AdapterError, match=f"{name} cannot subscribe exclusively over AMQP 1.0"):
            driver.ask(api.Subscribe(1, "x", 1, exclusive=True))
        driver.close()


class TestCertificates:
    @pytest.mark.parametrize("broker", ["rabbitmq3", "rabbitmq4", "brokerj", "artemis"])
    def test_a_client_certificate_is_a_login(
        self, broker: str, certificates: Certificates, request: pytest.FixtureRequest
    ) -> None:
        files = {"clientcert": str(certificates.client), "clientkey": str(certificates.client_key)}
        url = request.getfixturevalue(broker).url(external=True)
        driver = opened(url, cacert=str(certificates.authority), **files)
        driver.queue()
        driver.close()


class TestTheEndOfTheProcess:
    def test_a_program_that_closes_nothing_ends_well(self, brokerj: BrokerJ) -> None:
        command = [sys.executable, "-c", CALLER, brokerj.url(adapter="proton")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "not found\n"), done.stderr


class TestMethodsThatRunOnce:
    def test_their_calls_are_refused_and_all_other_methods_work(
        self, brokerj: BrokerJ, root: Path, tmp_path: Path
    ) -> None:
        """No broker reads a queue exclusively over AMQP 1.0, so nothing else keeps a second agent from it."""
        url = brokerj.url(adapter="proton")
        with AgentProcess(root) as process, Agent(url, "proton-once", wait=30) as agent:
            process.plugin("danger", DANGER, descriptor(url, "proton-once"))
            process.start()
            until_it_answers(agent, process.tail())
            agent.Danger().sized(str(tmp_path / "trace"), "four")
            assert (tmp_path / "trace").read_text() == "4\n"
            with pytest.raises(DispatchError, match=r"Danger.single\(\): marked @once.*Over AMQP 1.0"):
                agent.Danger().single(str(tmp_path / "once"))
            assert not (tmp_path / "once").exists()
            assert "plugin danger: calls of its @once methods are refused" in process.tail()
