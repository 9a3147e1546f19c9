"""Server programs of gofer 2.12, over RabbitMQ."""

from __future__ import annotations

import pytest
from support.brokers.rabbitmq import RabbitMQ
from support.serverprogram import ServerPrograms

pytestmark = [pytest.mark.broker, pytest.mark.one_rabbitmq]


class TestRabbitMQServerPrograms(ServerPrograms):
    @pytest.fixture
    def url(self, rabbitmq: RabbitMQ) -> str:
        return rabbitmq.url()
