"""The amqp adapter keeps the whole contract on RabbitMQ."""

from __future__ import annotations

import pytest
from gofer.messaging.url import URL
from gofer.testing import AdapterContract
from gofer.testing.rabbitmq import RabbitMQ
from gofer_adapter_amqp import AmqpAdapter


class TestAmqpOnRabbitMQ(AdapterContract):
    adapter = AmqpAdapter

    @pytest.fixture
    def url(self, rabbitmq: RabbitMQ) -> URL:
        return URL.parse(rabbitmq.url())
