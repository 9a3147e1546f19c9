"""Requests sent without waiting: what becomes of them is told to whoever can be told, once."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
from gofer.errors import ConnectionLost, NotTaken
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.thread_driver import ThreadConnection
from gofer.proxy import Agent
from gofer.rmi.client.session import ThreadSession
from gofer.rmi.client.unconfirmed import Unconfirmed
from support.company import declare
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_what_was_lost_with_the_connection_is_reported_by_the_next_call(
    broker: LocalBroker, connector: Connector
) -> None:
    with EchoAgent(broker.url) as echo:
        link = pool.acquire(connector)
        agent = Agent(connector, "agent", wait=10)
        assert agent.Dog().bark(1) == 1
        broker.freeze()
        lost = [agent(wait=0).Dog().bark(2)]
        eventually(lambda: link.core.unconfirmed)
        broker.kill()
        eventually(lambda: not link.is_open)
        broker.start()
        eventually(lambda: echo.subscription.active)
        with pytest.raises(NotTaken) as caught:
            agent.Dog().bark(4)
        assert sorted(caught.value.reasons) == sorted(lost)
        agent.close()
        pool.release(link)


def test_failures_of_agents_that_are_gone_are_logged_and_hold_nothing(
    broker: LocalBroker, connector: Connector, link: ThreadConnection, caplog: pytest.LogCaptureFixture
) -> None:
    link.open(time.monotonic() + 10)
    agent = Agent(connector, "nowhere", wait=0)
    sn = agent.Dog().bark(1)
    lease = weakref.ref(agent._lease)
    del agent
    gc.collect()
    assert lease() is None
    eventually(lambda: sn in caplog.text)
    assert "no agent at this address" in caplog.text
    link.shared(Unconfirmed, lambda: Unconfirmed(link))._failures.clear()  # else told at the end of this process


def test_so_many_without_an_answer_are_reported_and_nothing_more_is_sent(
    broker: LocalBroker, link: ThreadConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadSession, "publish_wait", 0.3)
    declare(link, "sink")
    with Agent(link.connector, "sink", wait=0) as agent:
        broker.freeze()
        sent = [agent.Dog().bark(n) for n in range(Unconfirmed.most)]
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match="not sent: the broker has not answered for 256 requests"):
            agent.Dog().bark("one more")
        assert time.monotonic() - start < 8
        broker.thaw()
        agent.flush(10)
        assert len(set(sent)) == Unconfirmed.most


def test_few_but_large_ones_without_an_answer_are_many(
    broker: LocalBroker, link: ThreadConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadSession, "publish_wait", 0.3)
    monkeypatch.setattr(Unconfirmed, "most_bytes", 1 << 20)
    declare(link, "sink")
    with Agent(link.connector, "sink", wait=0) as agent:
        broker.freeze()
        agent.Dog().bark("x" * (1 << 20))
        with pytest.raises(ConnectionLost, match="has not answered for 1 requests"):
            agent.Dog().bark("one more")
        broker.thaw()
        agent.flush(10)


def test_one_that_somebody_waited_for_is_reported_once(
    broker: LocalBroker, link: ThreadConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadSession, "publish_wait", 0.3)
    link.open(time.monotonic() + 10)
    with Agent(link.connector, "nowhere", wait=0) as agent:
        broker.freeze()
        with pytest.raises(NotTaken, match="no word from the broker in time"):
            agent(confirm=True).Dog().bark(1)
        broker.thaw()
        agent.flush(10)  # it was refused by now, and that is no news


def test_large_ones_that_nobody_waits_for_are_taken_as_fast_as_the_broker_takes_them(
    broker: LocalBroker, link: ThreadConnection
) -> None:
    """A socket takes some hundred kilobytes at a time: with a second in between these took a minute."""
    declare(link, "sink")
    with Agent(link.connector, "sink", wait=0) as agent:
        for _ in range(4):
            agent.Dog().bark("x" * 3_000_000)
        eventually(lambda: not link.backlog, timeout=20)
        agent.flush(10)
