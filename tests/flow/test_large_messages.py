"""Messages over the agent's limit are refused without being held in memory; what others took is given back."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.large import large_ones_cost_only_themselves
from support.localbroker import LocalBroker
from support.waiting import eventually


@pytest.mark.slow
def test_large_messages_over_the_local_broker(root: Path, tmp_path: Path) -> None:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        large_ones_cost_only_themselves(broker.url, root, tmp_path / "trace", size=30 << 20, count=8)


def test_an_agent_gives_back_the_memory_that_a_large_request_took(root: Path) -> None:
    code = "from gofer.decorators import remote\n\n@remote\ndef length(text):\n    return len(text)\n"
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        process.plugin("sizes", code, f"[main]\nenabled=1\n[messaging]\nurl={broker.url}\n[model]\nqueue=sizes\n")
        process.start()
        agent = Agent(broker.url, "sizes", wait=30)
        sizes = agent["sizes"]
        assert [sizes.length("x" * size) for size in (1, 100_000)] == [1, 100_000]
        process_memory = psutil.Process(process.pid).memory_info
        before = process_memory().rss
        assert [sizes.length("x" * 10_000_000) for _ in range(2)] == [10_000_000] * 2
        eventually(lambda: process_memory().rss - before < 8_000_000)
        agent.close()
