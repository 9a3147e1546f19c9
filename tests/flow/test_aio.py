"""Calls from coroutines, over the local broker and a real goferd."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer import proxy
from gofer.aio import Agent
from gofer.errors import ConnectionLost, NotFound, NotTaken, RemoteException, RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One for all tests that leave it running."""
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def connector(broker: LocalBroker) -> Connector:
    return Connector(URL.parse(broker.url), reconnect_max=0.5)


@pytest.fixture(scope="module")
def goferd(connector: Connector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("goferd")) as process:
        process.configure("[messaging]\nreconnect_max = 0.5\n")
        process.plugin("probe", PROBE, descriptor(connector.url.text, "probe", threads=4))
        yield process.start()


@pytest.fixture
def served(goferd: AgentProcess, connector: Connector) -> None:
    """The agent is at its queue, perhaps again."""
    with proxy.Agent(connector, "probe", wait=10) as agent:
        until_it_answers(agent, goferd.tail())


@pytest.mark.usefixtures("served")
class TestCalls:
    def test_values_exceptions_and_options(self, connector: Connector) -> None:
        async def main() -> None:
            async with Agent(connector, "probe", wait=20) as agent:
                assert await agent.Probe().echo("grüße") == "grüße"
                assert await agent["Probe"]("rover")["who"]() == "rover"
                with pytest.raises(RemoteException, match="Trouble"):
                    await agent.Probe().fail("there", 3)
                with pytest.raises(TypeError, match="unknown option"):
                    agent(nothing=1)
                trigger = agent(trigger=1).Probe().echo("later")
                assert await trigger() == "later"

        asyncio.run(main())

    def test_a_thousand_calls_are_in_flight_on_one_connection(self, connector: Connector) -> None:
        async def main() -> None:
            async with Agent(connector, "probe", wait=60) as agent:
                probe = agent.Probe()
                await probe.echo(0)
                descriptors = len(os.listdir("/proc/self/fd"))
                threads = threading.active_count()
                values = await asyncio.gather(*(probe.echo(n) for n in range(1000)))
                assert values == list(range(1000))
                # Fewer, where what connected, or an earlier test, has let go of its own only now.
                assert len(os.listdir("/proc/self/fd")) <= descriptors
                assert threading.active_count() <= threads

        asyncio.run(main())

    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    def test_progress_is_reported_to_functions_and_coroutines(self, connector: Connector, kind: str) -> None:
        heard: list[Any] = []

        async def tell(report: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            heard.append(report["completed"])

        async def main() -> None:
            callback = tell if kind == "coroutine" else lambda report: heard.append(report["completed"])
            async with Agent(connector, "probe", wait=20) as agent:
                assert await agent(progress=callback).Probe().work(3) == 3

        asyncio.run(main())
        assert heard == sorted(heard)
        assert heard[-1] == 3

    def test_a_timeout_says_how_far_it_got_and_the_loop_goes_on(self, connector: Connector, tmp_path: Path) -> None:
        async def main() -> None:
            async with Agent(connector, "probe", wait=20) as agent:
                waiting = asyncio.create_task(agent(wait=2.5).Probe().until(str(tmp_path / "go")))
                for n in range(20):
                    assert await agent.Probe().echo(n) == n
                with pytest.raises(RequestTimeout) as caught:
                    await waiting
                assert caught.value.state == "started"
                (tmp_path / "go").touch()

        asyncio.run(main())

    def test_cancelling_a_task_ends_its_wait_alone(self, connector: Connector, tmp_path: Path) -> None:
        async def main() -> None:
            async with Agent(connector, "probe", wait=20) as agent:
                first = asyncio.create_task(agent.Probe().until(str(tmp_path / "go")))
                second = asyncio.create_task(agent.Probe().until(str(tmp_path / "go")))
                await agent.Probe().echo("both are sent")
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
                async with asyncio.timeout(10):
                    assert await agent.Probe().echo("still here") == "still here"
                (tmp_path / "go").touch()
                assert await second == str(tmp_path / "go")

        asyncio.run(main())

    def test_fired_and_forgotten(self, connector: Connector, tmp_path: Path) -> None:
        trace = tmp_path / "trace"

        async def main() -> None:
            async with Agent(connector, "probe", wait=0) as agent:
                sent = [await agent.Probe().note(str(trace), f"n{n}") for n in range(600)]
                assert len(set(sent)) == 600
                await agent.flush(20)

        asyncio.run(main())
        eventually(lambda: len(runs(trace)) == 600)
        assert set(runs(trace).values()) == {1}

    def test_a_restarted_broker_costs_no_answer(
        self, connector: Connector, broker: LocalBroker, tmp_path: Path
    ) -> None:
        trace = tmp_path / "trace"

        async def main() -> None:
            async with Agent(connector, "probe", wait=30) as agent:
                calls = [asyncio.create_task(agent.Probe().note(str(trace), f"n{n}", 0.4)) for n in range(12)]
                await asyncio.to_thread(eventually, lambda: len(runs(trace)) >= 4)
                await asyncio.to_thread(broker.restart)
                assert await asyncio.gather(*calls) == [f"n{n}" for n in range(12)]

        asyncio.run(main())
        assert set(runs(trace).values()) == {1}

    def test_threads_and_loops_have_links_of_their_own(self, connector: Connector) -> None:
        async def main() -> None:
            async with Agent(connector, "probe", wait=20) as agent:
                with proxy.Agent(connector, "probe", wait=20) as other:
                    both = await asyncio.gather(agent.Probe().echo(1), asyncio.to_thread(other.Probe().echo, 2))
                assert both == [1, 2]

        for _ in range(3):
            asyncio.run(main())


def test_nobody_there_is_heard_at_once(connector: Connector) -> None:
    async def main() -> None:
        async with Agent(connector, "nobody", wait=20) as agent:
            start = time.monotonic()
            with pytest.raises(NotFound, match="nobody"):
                await agent.Dog().bark()
            assert time.monotonic() - start < 15
            await agent(wait=0).Dog().bark()
            with pytest.raises(NotTaken, match="no agent at this address"):
                await agent.flush(10)

    asyncio.run(main())


def test_a_broker_that_is_not_there_is_reported_at_once(root: Path) -> None:
    async def main() -> None:
        async with Agent(f"local://{root}/missing.sock", "nobody", wait=20) as agent:
            start = time.monotonic()
            with pytest.raises(ConnectionLost, match="missing"):
                await agent.Dog().bark()
            assert time.monotonic() - start < 15

    asyncio.run(main())


def test_a_lost_connection_is_waited_for_until_the_deadline(root: Path) -> None:
    broker = LocalBroker(str(root / "run/gofer/broker.sock"))
    broker.start()
    connector = Connector(URL.parse(broker.url), reconnect_max=0.5)

    async def main() -> None:
        async with Agent(connector, "nobody", wait=0.6) as agent:
            with pytest.raises(NotFound):
                await agent(wait=30).Dog().bark()
            broker.kill()
            start = time.monotonic()
            with pytest.raises(RequestTimeout):
                await agent.Dog().bark()
            assert time.monotonic() - start < 15

    asyncio.run(main())


def test_an_agent_that_is_being_closed_keeps_no_other_from_its_calls(connector: Connector) -> None:
    goes_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        first = Agent(connector, "nobody", wait=20)
        with pytest.raises(NotFound):
            await first.Dog().bark()
        busy = loop.run_in_executor(None, goes_on.wait)  # so that it is only about to be closed
        closing = asyncio.create_task(first.close())
        await asyncio.sleep(0)
        second = Agent(connector, "nobody", wait=10)
        try:
            with pytest.raises(NotFound):
                await second.Dog().bark()
        finally:
            goes_on.set()
        await asyncio.gather(busy, closing, second.close())

    asyncio.run(main())


def test_it_closes_cleanly_without_a_warning(connector: Connector) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        agent = Agent(connector, "nobody", wait=20)
        with pytest.raises(NotFound):
            await agent.Dog().bark()
        await agent.close()
        await agent.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await agent.Dog().bark()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(), debug=True)
        gc.collect()
    eventually(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


def test_a_task_that_is_cancelled_before_it_begins_leaves_nothing_behind(connector: Connector) -> None:
    async def main() -> None:
        async with Agent(connector, "nobody", wait=20) as agent:
            task = asyncio.create_task(agent.Dog().bark())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(one.message) for one in told if "never awaited" in str(one.message)] == []
