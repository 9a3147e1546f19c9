"""The amqp adapter keeps the whole contract on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

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

    @pytest.fixture
    def frozen(self, rabbitmq: RabbitMQ) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def frozen() -> Iterator[None]:
            rabbitmq.freeze()
            try:
                yield
            finally:
                rabbitmq.thaw()

        return frozen

    @pytest.fixture
    def alarm(self, rabbitmq: RabbitMQ) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def alarm() -> Iterator[None]:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
            try:
                yield
            finally:
                rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")

        return alarm
