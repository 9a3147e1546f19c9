"""Messages over the agent's limit are refused without being held in memory, over RabbitMQ."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.brokers.rabbitmq import RabbitMQ
from support.large import large_ones_cost_only_themselves

pytestmark = pytest.mark.one_rabbitmq


@pytest.mark.slow
def test_large_messages_over_rabbitmq(root: Path, programs: Path | None, tmp_path: Path) -> None:
    with RabbitMQ(tmp_path / "node", config="max_message_size = 134217728", programs=programs) as rabbitmq:
        large_ones_cost_only_themselves(rabbitmq.url(), root, tmp_path / "trace", size=100 << 20, count=4)
