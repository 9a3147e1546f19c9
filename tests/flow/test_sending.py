"""What links send: in which order, and what adapters keep of it; and from where a connection is made."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer import aio
from gofer.errors import ConfigError
from gofer.messaging.adapter import Outcome
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.local.adapter import LocalAdapter
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.company import declare
from support.connections import connection_to
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_a_message_whose_sender_has_heard_enough_is_forgotten_by_the_adapter(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be kept there for ever: what is not confirmed has no end that the broker tells."""
    forgotten: list[int] = []
    monkeypatch.setattr(LocalAdapter, "forget", lambda adapter, token: forgotten.append(token))
    link = connection_to(connector)
    link.open(time.monotonic() + 10)
    broker.freeze()  # else it returns them first
    tokens = [
        link.publish(Address("", "nowhere"), b"x", deadline=None, confirm=False, settled=lambda outcome, reason: None)
        for _ in range(3)
    ]
    for token in tokens:
        link.forget(token)
    link.forget(tokens[0])
    link.forget(999)
    eventually(lambda: forgotten == tokens)
    assert not link.core.unconfirmed
    broker.thaw()
    link.close()


def test_what_a_thread_sends_keeps_its_order_whatever_is_asked_meanwhile(
    broker: LocalBroker, link: ThreadConnection
) -> None:
    with (
        EchoAgent(broker.url) as echo,
        Agent(link.connector, "agent", wait=0) as agent,
        ThreadPoolExecutor(1) as threads,
    ):
        sent: list[str] = []
        for n in range(20):
            asked = threads.submit(declare, link, f"other-{n}")
            sent += [agent.Dog().bark(m) for m in range(20)]
            asked.result(10)
        agent.flush(10)
        eventually(lambda: len(echo.seen) == len(sent))
        assert [document["sn"] for document in echo.seen] == sent


def test_a_waiting_call_is_sent_once_more_after_a_reconnect(broker: LocalBroker, connector: Connector) -> None:
    """Not once when the connection is back, and again when the reply queue is subscribed to."""
    with (
        EchoAgent(broker.url, hold=True) as echo,
        Agent(connector, "agent", wait=30) as agent,
        ThreadPoolExecutor(4) as threads,
    ):
        calls = [threads.submit(agent.Dog().bark, n) for n in range(4)]
        eventually(lambda: len(echo.seen) == 4)
        broker.restart()
        echo.hold = False
        assert [call.result(30) for call in calls] == [0, 1, 2, 3]
        assert agent.Dog().bark("last") == "last"
        eventually(lambda: echo.seen[-1]["request"]["args"] == ["last"])
        asked = [(document["request"]["args"][0], document.get("again", False)) for document in echo.seen[:-1]]
        assert sorted(asked) == [(n, again) for n in range(4) for again in (False, True)]


@pytest.mark.parametrize("wait", [1e12, 1e300])
def test_a_wait_may_be_longer_than_any_clock_counts(broker: LocalBroker, connector: Connector, wait: float) -> None:
    async def call() -> Any:
        async with aio.Agent(connector, "agent", wait=wait) as agent:
            return await agent.Dog().bark("loop")

    with (
        EchoAgent(broker.url, hold=True) as echo,
        Agent(connector, "agent", wait=wait) as agent,
        ThreadPoolExecutor(2) as threads,
    ):
        calls = [threads.submit(agent.Dog().bark, "thread"), threads.submit(asyncio.run, call())]
        eventually(lambda: len(echo.seen) == 2 and agent._lease.session().connection.waited_for)
        for document in list(echo.seen):
            echo.answer(document)
        assert [call.result(10) for call in calls] == ["thread", "loop"]


def test_a_large_message_behind_other_commands_leaves_the_connection_as_it_is(link: ThreadConnection) -> None:
    """The connection counts the bytes that wait for the I/O thread, and commands without arguments are among them."""
    declare(link, "sink")
    outcomes: list[Outcome] = []
    busy, go_on = threading.Event(), threading.Event()
    link._submit(0, lambda: (busy.set(), go_on.wait(30)))
    assert busy.wait(10)
    for _ in range(3):
        link.connect_nowait()
        link.publish_nowait(Address("", "sink"), bytes(3 << 20), settled=lambda outcome, _: outcomes.append(outcome))
    assert not link.sendable  # more than 8 MiB wait
    go_on.set()
    assert link.wait(lambda: len(outcomes) == 3, time.monotonic() + 30)
    assert outcomes == [Outcome.CONFIRMED] * 3
    assert link.sendable


def test_where_the_broker_is_may_change_from_one_connection_to_the_next(broker: LocalBroker, root: Path) -> None:
    """A file that holds the URL is read again, and what is wrong with it is told as any other failure."""
    with LocalBroker(str(root / "run/gofer/other.sock")) as other:
        urls: list[object] = [URL.parse(broker.url), ConfigError("url_file: it is empty"), URL.parse(other.url)]

        def read() -> URL:
            now = urls[0]
            if isinstance(now, ConfigError):
                raise now
            assert isinstance(now, URL)
            return now

        link = connection_to(Connector(URL.parse(broker.url), reconnect_max=0.1, source=read))
        link.open(time.monotonic() + 10)
        urls.pop(0)
        broker.kill()
        link.connect_nowait()
        link.wait(lambda: "it is empty" in link.state, time.monotonic() + 10)
        assert "it is empty" in link.state
        urls.pop(0)
        link.open(time.monotonic() + 10)
        link.close()
