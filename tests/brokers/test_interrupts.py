"""Interrupts and signals at random instants of a caller, over each RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.brokers.rabbitmq import RabbitMQ
from support.interrupts import InterruptScenarios

pytestmark = pytest.mark.one_rabbitmq


class TestRabbitMQ(InterruptScenarios):
    @pytest.fixture
    def url(self, rabbitmq: RabbitMQ) -> Iterator[str]:
        yield rabbitmq.url()
        rabbitmq.delete_queue("interrupted")
