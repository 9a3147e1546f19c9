"""Real brokers for the tests of this folder. One that is missing is a failure with the line to run, never a skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.testing.rabbitmq import RabbitMQ
from support.certificates import Certificates

pytest.register_assert_rewrite("gofer.testing._contract")  # whose driver some tests here use without the suite

#: The largest message that the test broker takes, in bytes; more than the contract's largest, which is 8 MiB.
MESSAGE_LIMIT = 10 * 1024 * 1024


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker; all that use the session's RabbitMQ are run by one process, so that there is one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.broker)
            if "rabbitmq" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group("rabbitmq"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, what it signed for the broker and a client, and another authority."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def message_limit() -> int:
    """The size in bytes of the largest message that the test broker takes."""
    return MESSAGE_LIMIT


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RabbitMQ]:
    """A RabbitMQ for the whole session, with management, TLS, and a limit on the size of messages."""
    with RabbitMQ(
        tmp_path_factory.mktemp("rabbitmq") / "node",
        management=True,
        plugins=["rabbitmq_auth_mechanism_ssl"],
        config=f"""
            max_message_size = {MESSAGE_LIMIT}
            auth_mechanisms.1 = PLAIN
            auth_mechanisms.2 = AMQPLAIN
            auth_mechanisms.3 = EXTERNAL
        """,
        tls_config=f"""
            ssl_options.cacertfile = {certificates.authority}
            ssl_options.certfile = {certificates.server}
            ssl_options.keyfile = {certificates.server_key}
            ssl_options.verify = verify_peer
            ssl_options.fail_if_no_peer_cert = false
        """,
    ) as broker:
        yield broker
