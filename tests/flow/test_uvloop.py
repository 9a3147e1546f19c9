"""Calls from coroutines in an event loop that is not asyncio's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from gofer.aio import Agent
from gofer.errors import NotFound, RequestTimeout
from support.company import connected
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.uvloops import many_calls


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function in uvloop; fail for whatever the loop had to report."""
    faults: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
    assert not faults, (len(faults), faults[0])


def test_hundreds_of_calls_one_by_one_and_at_once(broker: LocalBroker) -> None:
    async def main() -> None:
        async with Agent(connected(broker.url), "agent", wait=40) as agent:
            dog = agent.Dog()
            for n in range(400):
                assert await dog.bark(n) == n
            assert await asyncio.gather(*(dog.bark(n) for n in range(400))) == list(range(400))

    with EchoAgent(broker.url):
        run(main)


def test_one_call_may_wait_while_others_come_back(broker: LocalBroker) -> None:
    async def main() -> None:
        async with Agent(connected(broker.url), "agent", wait=20) as agent:
            await agent.Dog().bark("up")
            broker.freeze()
            waiting = asyncio.create_task(agent(wait=0.5).Dog().bark("too late"))
            with pytest.raises(RequestTimeout):
                await waiting
            broker.thaw()
            assert await agent.Dog().bark("again") == "again"
            with pytest.raises(NotFound):
                await Agent(connected(broker.url), "nobody", wait=20).Dog().bark()

    with EchoAgent(broker.url):
        run(main)


def test_a_restarted_broker_costs_no_answer(broker: LocalBroker) -> None:
    async def main() -> None:
        async with Agent(connected(broker.url), "agent", wait=40) as agent:
            await agent.Dog().bark(0)
            text = "x" * 1_000_000
            broker.freeze()
            calls = [asyncio.ensure_future(agent.Dog().bark(text)) for _ in range(4)]
            await asyncio.sleep(0)
            await asyncio.to_thread(broker.restart)
            assert await asyncio.gather(*calls) == [text] * 4
            await agent(wait=0).Dog().bark("posted")
            await agent.flush(20)

    with EchoAgent(broker.url):
        run(main)


@pytest.mark.slow
def test_ten_thousand_calls_256_at_a_time_leave_stderr_empty(broker: LocalBroker) -> None:
    with EchoAgent(broker.url):
        many_calls(broker.url, "agent", ("Dog", "bark"))
