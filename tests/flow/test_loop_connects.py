"""How an event loop connects: where nothing blocks it starts no thread, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gofer.aio import Agent
from gofer.errors import ConnectionLost, RequestTimeout
from gofer.messaging.connector import Connector
from support.company import connected
from support.echo import EchoAgent
from support.localbroker import LocalBroker
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


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


async def start_to_connect(agent: Agent) -> asyncio.Future[object]:
    """Make a call, and return when a socket connects for it."""
    before = len(descriptors())
    call = asyncio.ensure_future(agent.Dog().bark(1))
    while len(descriptors()) <= before:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)
    return call


def test_where_no_thread_can_be_started_the_next_call_tries_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, refusals = threading.Thread.start, [RuntimeError("can't start new thread")]

    def refused(thread: threading.Thread) -> None:
        if thread.name == "gofer-connect" and refusals:
            raise refusals.pop()
        start(thread)

    async def main() -> None:
        async with Agent(connected(broker.url), "agent", wait=WAIT) as agent:
            with pytest.raises(ConnectionLost, match="can't start new thread"):
                await agent.Dog().bark(1)
            assert await agent.Dog().bark(2) == 2

    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, EchoAgent(broker.url):
        monkeypatch.setattr(threading.Thread, "start", refused)
        asyncio.run(main())


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "cancelled"])
def test_what_is_given_up_while_it_connects_leaves_no_socket(closed: bool) -> None:
    async def main() -> None:
        agent = Agent(connector(port), "agent", wait=WAIT)
        call = await start_to_connect(agent)
        if closed:
            await agent.close()
            with pytest.raises(ConnectionLost):
                await call

    with full() as port:
        before = descriptors()
        asyncio.run(main())
        assert len(descriptors()) == len(before)


def test_a_loop_that_was_only_closed_leaves_no_socket_to_the_garbage_collector() -> None:
    async def main() -> None:
        (await start_to_connect(Agent(connector(port), "agent", wait=WAIT))).cancel()

    async def another() -> None:
        async with Agent(connector(port), "agent", wait=0.01) as agent:
            with pytest.raises(RequestTimeout):
                await agent.Dog().bark(1)

    gc.disable()
    try:
        with full() as port:
            before = descriptors()
            loop = asyncio.new_event_loop()
            loop.run_until_complete(main())
            loop.close()  # and nothing of asyncio.run
            asyncio.run(another())
            assert len(descriptors()) == len(before)
    finally:
        gc.enable()


def test_a_forked_child_keeps_no_socket_that_connects_for_its_parent() -> None:
    """Else the broker would not hear of the parent's end."""
    script = """
import asyncio, os, sys
from gofer.aio import Agent

def descriptors():
    return len(os.listdir("/proc/self/fd"))

async def main():
    agent = Agent(sys.argv[1], "agent", wait=20)
    call = asyncio.ensure_future(agent.Dog().bark(1))
    before = descriptors()
    while (connecting := descriptors()) <= before:
        await asyncio.sleep(0)
    if (child := os.fork()) == 0:
        os._exit(connecting - descriptors())
    call.cancel()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(asyncio.run(main()))
"""
    with full() as port:
        command = [sys.executable, "-c", script, f"amqp://127.0.0.1:{port}"]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "1\n"
