"""Large messages over RabbitMQ: those over the limit are refused without being held in memory, the others pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.forked import FORKED
from support.goferd import AgentProcess
from support.large import large_ones_cost_only_themselves
from support.probe import descriptor

pytestmark = [pytest.mark.one_rabbitmq, pytest.mark.slow]


@pytest.fixture(scope="module")
def large(programs: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A RabbitMQ that takes messages of 128 MiB; its URL."""
    folder = tmp_path_factory.mktemp("large")
    with RabbitMQ(folder / "node", config="max_message_size = 134217728", programs=programs) as rabbitmq:
        yield rabbitmq.url()


def test_large_messages_over_rabbitmq(large: str, root: Path, tmp_path: Path) -> None:
    large_ones_cost_only_themselves(large, root, tmp_path / "trace", size=30 << 20, count=4)


def test_the_result_of_a_forked_method_may_have_50_mb(large: str, root: Path) -> None:
    with AgentProcess(root) as process, Agent(large, "large-forks", wait=60) as agent:
        process.configure("[messaging]\nmax_message = 64M\n")
        process.plugin("forked", FORKED, descriptor(large, "large-forks"))
        process.start()
        assert agent.Forked().large(50_000_000) == "x" * 50_000_000
