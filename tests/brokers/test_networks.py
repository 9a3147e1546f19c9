"""Calls over a network that misbehaves, on RabbitMQ."""

from __future__ import annotations

import pytest
from support.brokers.rabbitmq import RabbitMQ
from support.networks import NetworkScenarios

pytestmark = pytest.mark.one_rabbitmq


class TestRabbitMQNetworks(NetworkScenarios):
    @pytest.fixture
    def url(self, rabbitmq: RabbitMQ, vhost: str) -> str:
        return rabbitmq.url(vhost=vhost)
