"""A link that an event loop drives: what it costs the loop, and what it leaves there."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.aio import Agent
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.asyncio_driver import AsyncioConnection, AsyncioWaiter
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from support.company import connected
from support.connections import declaring
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


@pytest.fixture
def connector(broker: LocalBroker) -> Connector:
    return connected(broker.url)


def link_of(loop: asyncio.AbstractEventLoop) -> AsyncioConnection:
    (link,) = (link for (_, its), link in pool._connections.items() if its is loop)
    assert isinstance(link, AsyncioConnection)
    return link


def test_calls_that_wait_for_the_first_connection_together_do_not_wake_each_other(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, wakes, wake = 1000, [0], AsyncioWaiter.wake

    def counted(alarm: AsyncioWaiter) -> None:
        wakes[0] += 1
        wake(alarm)

    async def main() -> None:
        async with Agent(connector, "agent", wait=40) as agent:
            broker.freeze()
            calls = [asyncio.ensure_future(agent.Dog().bark(n)) for n in range(count)]
            await asyncio.sleep(0.1)
            broker.thaw()
            assert await asyncio.gather(*calls) == list(range(count))

    monkeypatch.setattr(AsyncioWaiter, "wake", counted)
    with EchoAgent(broker.url):
        asyncio.run(main())
    assert wakes[0] < 50 * count  # each of them woke all before it


def test_a_loop_with_nothing_to_do_takes_no_turns(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, take_turn = [0], AsyncioConnection._take_turn

    def counted(connection: AsyncioConnection) -> None:
        turns[0] += 1
        take_turn(connection)

    async def main() -> None:
        async with Agent(connector, "agent", wait=20) as agent:
            await agent.Dog().bark(1)
            link = link_of(asyncio.get_running_loop())
            await link.subscribe(Subscription("other", 1, lambda _: None, declaring(DeclareQueue("other"))), None)
            before = turns[0]
            await asyncio.sleep(0.4)
            assert turns[0] - before < 50

    with EchoAgent(broker.url):
        monkeypatch.setattr(AsyncioConnection, "_take_turn", counted)
        asyncio.run(main())


def test_a_connection_that_dies_with_output_waiting_leaves_nothing_in_the_loop(
    broker: LocalBroker, connector: Connector
) -> None:
    faults: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(context))
        async with Agent(connector, "agent", wait=40) as agent:
            await agent.Dog().bark(1)
            broker.freeze()
            text = "x" * 1_000_000
            calls = [asyncio.ensure_future(agent.Dog().bark(text)) for _ in range(4)]
            link = link_of(loop)
            await asyncio.to_thread(eventually, lambda: link.backlog)
            await asyncio.to_thread(broker.restart)
            assert await asyncio.gather(*calls) == [text] * 4

    with EchoAgent(broker.url) as echo:
        asyncio.run(main())
        eventually(lambda: echo.seen)
    assert not faults


@pytest.mark.filterwarnings("error:pytest.PytestUnraisableExceptionWarning")
def test_a_socket_that_was_opened_when_the_loop_ended_is_closed(connector: Connector) -> None:
    async def main(*, late: bool) -> None:
        connection = AsyncioConnection(connector, lambda _: False, asyncio.get_running_loop())
        connection.connect_nowait()
        await asyncio.sleep(0)  # now a thread opens it
        if late:
            eventually(lambda: not opening())
        await connection.aclose()

    def opening() -> bool:
        return any(thread.name == "gofer-connect" for thread in threading.enumerate())

    for late in (False, True):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main(late=late))
        eventually(lambda: not opening())
        loop.close()
        gc.collect()  # a socket that nobody has closed is an error here


@pytest.mark.parametrize("started", [True, False])
def test_the_end_of_a_loop_closes_its_sockets_also_where_the_broker_does_not_answer(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """A socket that nobody has closed fails the test at its end."""
    monkeypatch.setattr("gofer.messaging.asyncio_driver._CLOSE", 0.3)

    async def main() -> None:
        connection = AsyncioConnection(connector, lambda _: False, asyncio.get_running_loop())
        await connection.open(None)
        broker.freeze()
        if started:
            connection.start_closing()

    asyncio.run(main())
    broker.thaw()
