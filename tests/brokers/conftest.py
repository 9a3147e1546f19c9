"""Real brokers for the tests of this folder. One that is missing is a failure with the line to run, never a skip.

``GOFER_BROKERS=rabbitmq,rabbitmq4,brokerj,artemis`` says on which brokers they run (``make brokers`` sets it).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import Artemis, BrokerJ, RabbitMQ3, RabbitMQ4, ServerTLS
from support.brokers.chosen import FIXTURES, choose_tests, chosen_brokers
from support.brokers.server import made_by
from support.certificates import Certificates

pytest.register_assert_rewrite("gofer.testing._contract")  # whose driver some tests here use without the suite

#: The largest message that the test broker takes, in bytes; more than the contract's largest, which is 8 MiB.
MESSAGE_LIMIT = 10 * 1024 * 1024


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a broker, and leave out what needs one that was not chosen."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.broker)
    choose_tests(config, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is about RabbitMQ on each one that was chosen; what is about our own ends, on the first of them."""
    chosen = [name for name in chosen_brokers() if name.startswith("rabbitmq")]
    if metafunc.definition.get_closest_marker("one_rabbitmq"):
        del chosen[1:]
    for fixture in ("rabbitmq", "programs"):
        if fixture in metafunc.fixturenames and chosen not in ([], ["rabbitmq"]):
            metafunc.parametrize(fixture, chosen, indirect=True, scope="session")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, what it signed for the broker and a client, and another authority."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server_tls(certificates: Certificates) -> ServerTLS:
    """The files that the brokers listen for TLS with."""
    return ServerTLS(certificates.server, certificates.server_key, certificates.authority)


@pytest.fixture
def message_limit() -> int:
    """The size in bytes of the largest message that the test broker takes."""
    return MESSAGE_LIMIT


@pytest.fixture(scope="session")
def rabbitmq3(tmp_path_factory: pytest.TempPathFactory, server_tls: ServerTLS) -> Iterator[RabbitMQ3]:
    """The system's RabbitMQ for the whole session: AMQP 0-9-1 and 1.0, management, TLS, a limit on messages."""
    with RabbitMQ3(
        tmp_path_factory.mktemp("rabbitmq3") / "node",
        management=True,
        config=f"max_message_size = {MESSAGE_LIMIT}",
        tls=server_tls,
    ) as broker:
        yield broker


@pytest.fixture(scope="session")
def rabbitmq4(tmp_path_factory: pytest.TempPathFactory, server_tls: ServerTLS) -> Iterator[RabbitMQ4]:
    """A RabbitMQ 4 for the whole session: AMQP 0-9-1 and 1.0, management, TLS, a limit on messages."""
    with RabbitMQ4(
        tmp_path_factory.mktemp("rabbitmq4") / "node",
        management=True,
        config=f"max_message_size = {MESSAGE_LIMIT}",
        tls=server_tls,
    ) as broker:
        yield broker


@pytest.fixture(scope="session")
def rabbitmq(request: pytest.FixtureRequest) -> RabbitMQ3 | RabbitMQ4:
    """Each RabbitMQ that was chosen: a test that uses this runs on all of them."""
    broker: RabbitMQ3 | RabbitMQ4 = request.getfixturevalue(FIXTURES[getattr(request, "param", "rabbitmq")])
    return broker


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Path | None:
    """Where the programs of each RabbitMQ are that was chosen, for a test that starts one of its own."""
    return made_by("rabbitmq4", "GOFER_RABBITMQ4", None) if getattr(request, "param", "") == "rabbitmq4" else None


@pytest.fixture(scope="session")
def brokerj(tmp_path_factory: pytest.TempPathFactory, server_tls: ServerTLS) -> Iterator[BrokerJ]:
    """A Broker-J for the whole session: AMQP 0-9-1, 0-10 and 1.0, management, TLS."""
    with BrokerJ(tmp_path_factory.mktemp("brokerj") / "broker", tls=server_tls, management=True) as broker:
        yield broker


@pytest.fixture(scope="session")
def artemis(tmp_path_factory: pytest.TempPathFactory, server_tls: ServerTLS) -> Iterator[Artemis]:
    """An Artemis for the whole session: AMQP 1.0, TLS."""
    with Artemis(tmp_path_factory.mktemp("artemis") / "broker", tls=server_tls) as broker:
        yield broker


@pytest.fixture
def vhost(rabbitmq: RabbitMQ3) -> Iterator[str]:
    """A virtual host of this test's own, so that all of its queues are this test's."""
    name = f"test-{time.monotonic_ns()}"
    rabbitmq.add_vhost(name)
    yield name
    rabbitmq.delete_vhost(name)
