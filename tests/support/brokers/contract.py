"""What the contract of adapters is told of each broker: a class to put before ``AdapterContract``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

from support.brokers import Artemis, Broker, BrokerJ, RabbitMQ3, RabbitMQ4
from support.certificates import Certificates

__all__ = ["Alarm", "OnArtemis", "OnBrokerJ", "OnRabbitMQ3", "OnRabbitMQ4"]

Alarm = Callable[[], AbstractContextManager[object]]


class _On:
    """Subclasses give the fixture ``broker``."""

    @pytest.fixture
    def url(self, broker: Broker) -> URL:
        """Give the URL of the broker, with a login."""
        return URL.parse(broker.url())

    @pytest.fixture
    def tls(self, broker: Broker, certificates: Certificates) -> Connector:
        """Give the connector for its TLS port."""
        return Connector(URL.parse(broker.url(tls=True)), cacert=str(certificates.authority))

    @pytest.fixture
    def frozen(self, broker: Broker) -> Alarm:
        """Give a function whose context is a broker that stands still."""
        return broker.standing_still


class OnRabbitMQ3(_On):
    """On the system's RabbitMQ."""

    @pytest.fixture
    def broker(self, rabbitmq3: RabbitMQ3) -> Broker:
        """Give it."""
        return rabbitmq3

    @pytest.fixture
    def alarm(self, rabbitmq3: RabbitMQ3) -> Alarm:
        """Give a function whose context is a RabbitMQ that takes no messages."""
        return rabbitmq3.taking_no_messages


class OnRabbitMQ4(_On):
    """On RabbitMQ 4."""

    @pytest.fixture
    def broker(self, rabbitmq4: RabbitMQ4) -> Broker:
        """Give it."""
        return rabbitmq4

    @pytest.fixture
    def alarm(self, rabbitmq4: RabbitMQ4) -> Alarm:
        """Give a function whose context is a RabbitMQ that takes no messages."""
        return rabbitmq4.taking_no_messages


class OnBrokerJ(_On):
    """On Broker-J."""

    @pytest.fixture
    def broker(self, brokerj: BrokerJ) -> Broker:
        """Give it."""
        return brokerj


class OnArtemis(_On):
    """On Artemis."""

    @pytest.fixture
    def broker(self, artemis: Artemis) -> Broker:
        """Give it."""
        return artemis
