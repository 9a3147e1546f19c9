"""Forked methods over RabbitMQ: results as large as its messages may be made."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.forked import FORKED
from support.goferd import AgentProcess
from support.probe import descriptor

pytestmark = pytest.mark.one_rabbitmq


@pytest.mark.slow
def test_a_result_of_50_mb_crosses_where_messages_may_be_that_large(programs: Path | None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        config = "max_message_size = 134217728"
        url = stack.enter_context(RabbitMQ(tmp_path / "rabbitmq", config=config, programs=programs)).url()
        process = stack.enter_context(AgentProcess(tmp_path / "agent"))
        agent = stack.enter_context(Agent(url, "large-forks", wait=60))
        process.configure("[messaging]\nmax_message = 64M\n")
        process.plugin("forked", FORKED, descriptor(url, "large-forks"))
        process.start()
        assert agent.Forked().large(50_000_000) == "x" * 50_000_000
