"""How an event loop connects: where nothing blocks it starts no thread, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest
from gofer.aio import Agent
from gofer.errors import ConnectionLost
from gofer.messaging.connector import Connector
from support.company import connected
from support.ports import full, listening

WAIT = 20.0


def connector(port: int, host: str = "127.0.0.1") -> Connector:
    return connected(f"amqp://{host}:{port}")


def reason(connector: Connector) -> str:
    """Return why a call finds no connection."""

    async def main() -> str:
        async with Agent(connector, "agent", wait=WAIT) as agent:
            with pytest.raises(ConnectionLost) as caught:
                await agent.Dog().bark(1)
            return str(caught.value)

    return asyncio.run(main())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that are started."""
    names, start = [], threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    return names


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_that_refuses_is_reported_without_a_thread(host: str, started: list[str]) -> None:
    with listening(host.strip("[]")) as (_, port):
        pass
    assert f"{host}:{port}: Connection refused" in reason(connector(port, host))
    assert started == []


def test_an_address_that_takes_no_connection_is_given_up_in_time(
    started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gofer.messaging.asyncio_driver.OPEN", 0.4)
    begun = time.monotonic()
    with full() as port:
        assert f"127.0.0.1:{port}: no answer within 0.4 s" in reason(connector(port))
    assert time.monotonic() - begun < WAIT / 2
    assert started == []


def test_a_name_is_looked_up_by_a_thread(started: list[str]) -> None:
    with listening() as (_, port):
        pass
    assert "Connection refused" in reason(connector(port, "localhost"))
    assert "gofer-connect" in started


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "cancelled"])
def test_what_is_given_up_while_it_connects_leaves_no_socket(closed: bool) -> None:
    async def main() -> None:
        mine = len(descriptors())  # the loop has its own
        agent = Agent(connector(port), "agent", wait=WAIT)
        call = asyncio.ensure_future(agent.Dog().bark(1))
        while len(descriptors()) <= mine:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        if closed:
            await agent.close()
            with pytest.raises(ConnectionLost):
                await call

    def descriptors() -> list[str]:
        return os.listdir("/proc/self/fd")

    with full() as port:
        before = descriptors()
        asyncio.run(main())
        assert len(descriptors()) == len(before)
