"""Brokers that hang, hang up, or are not there: what calls and links make of them, and what it costs."""

from __future__ import annotations

import itertools
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.errors import AdapterError, ConnectionLost, NotFound, RequestTimeout
from gofer.messaging.adapter import Closed, Subscribe
from gofer.messaging.connector import Connector
from gofer.messaging.local import wire
from gofer.messaging.local.adapter import LocalAdapter
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.company import connected, declare, linked, rude_broker, run, silent_broker
from support.connections import connection_to
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_a_wait_is_kept_when_the_broker_does_not_answer_for_the_reply_queue(
    broker: LocalBroker, connector: Connector, link: ThreadConnection
) -> None:
    link.open(time.monotonic() + 10)
    with Agent(connector, "agent", wait=0.5) as agent:
        broker.freeze()
        start = time.monotonic()
        try:
            with pytest.raises(RequestTimeout):
                agent.Dog().bark(1)
            assert time.monotonic() - start < 8
        finally:
            broker.thaw()


def test_output_that_the_broker_does_not_take_costs_nothing(
    broker: LocalBroker, connector: Connector, link: ThreadConnection
) -> None:
    declare(link, "sink")
    with Agent(connector, "sink", wait=0) as agent:
        broker.freeze()
        try:
            agent.Dog().bark("x" * (4 << 20))
            eventually(lambda: link.backlog)
            before, start = time.process_time(), time.monotonic()
            eventually(lambda: time.monotonic() - start > 1.5)  # the keeper has come by
            assert time.process_time() - before < 0.5
        finally:
            broker.thaw()
        agent.flush(10)


@pytest.mark.slow
def test_a_link_that_is_stuck_does_not_cost_another_one_its_heartbeats(
    broker: LocalBroker, connector: Connector, link: ThreadConnection, root: Path
) -> None:
    declare(link, "sink")
    with LocalBroker(str(root / "run/gofer/other.sock")) as other, Agent(connector, "sink", wait=0) as agent:
        with linked(connected(other.url)) as idle:
            idle.open(time.monotonic() + 10)
            broker.freeze()
            try:
                agent.Dog().bark("x" * (4 << 20))
                eventually(lambda: link.backlog)
                for _ in range(2):  # whoever looks after idle links comes by, and again
                    looked_at = idle.core.deadline
                    eventually(lambda looked_at=looked_at: idle.core.deadline > looked_at)
            finally:
                broker.thaw()
        agent.flush(10)


def test_a_message_that_ends_the_connection_is_not_sent_again_and_again(root: Path) -> None:
    path = str(root / "rude.sock")
    with rude_broker(path, wire.Publish) as rude, Agent(f"local://{path}", "q", wait=2) as agent:
        with pytest.raises(RequestTimeout):
            agent.Dog().bark(1)
        assert 2 <= rude.connections < 20


def test_a_subscription_that_ends_the_connection_is_tried_ever_more_rarely(root: Path) -> None:
    path = str(root / "rude.sock")
    link = pool.acquire(Connector(URL.parse(f"local://{path}")))
    with rude_broker(path, Subscribe) as rude:
        link.open(time.monotonic() + 5)
        link.subscribe(Subscription("q", 1, lambda _: None), 0)
        assert link.wait(lambda: rude.connections >= 2, time.monotonic() + 10)
        link.wait(lambda: False, time.monotonic() + 1)
        assert rude.connections < 12
        pool.release(link)


@pytest.mark.slow
def test_links_that_nobody_uses_and_that_are_down_are_let_go(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        with pytest.raises(ConnectionLost):
            Agent(f"local://{root}/nobody{n}.sock", "q", wait=1).Dog().bark()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before, what="links of brokers that were never there")


def test_a_call_without_descriptors_raises_what_it_always_raises(broker: LocalBroker) -> None:
    ended = run(
        """
        import os, resource, sys
        from gofer.errors import RequestTimeout
        from gofer.messaging.connector import Connector
        from gofer.messaging.pool import pool
        from gofer.proxy import Agent
        from support.connections import suspend
        link = pool.acquire(Connector.of(sys.argv[1]))
        link.open(None)
        agent = Agent(sys.argv[1], "nobody", wait=1)
        suspend(link)
        most = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
        try:
            agent.Dog().bark()
        except RequestTimeout as late:
            print(late.state, flush=True)
        os._exit(0)
        """,
        broker.url,
    )
    assert ended.stdout == "not sent\n", ended.stderr


def test_closing_does_not_wait_for_whoever_is_connecting(root: Path) -> None:
    with silent_broker(str(root / "silent.sock")) as url, ThreadPoolExecutor(1) as threads:
        agent = Agent(url, "agent", wait=30)
        call = threads.submit(agent.Dog().bark, 1)
        eventually(lambda: any(link.waited_for for link in list(pool._connections.values())))
        start = time.monotonic()
        agent.close()
        with pytest.raises(ConnectionLost, match="closed"):
            call.result(30)
        assert time.monotonic() - start < 15  # not the 30 seconds of its wait


def test_a_call_to_a_broker_that_says_nothing_names_the_login(root: Path) -> None:
    with silent_broker(str(root / "silent.sock")) as url, Agent(url, "agent") as agent:
        said = r"it was not sent: no connection to .* in time: no answer to the login yet"
        eventually(lambda: says(said, agent(wait=0.3)))


def says(text: str, agent: Agent) -> bool:
    """Whether a call that is not sent says so: a busy machine may have no socket yet."""
    with pytest.raises(RequestTimeout) as late:
        agent.Dog().bark(1)
    return re.search(text, str(late.value)) is not None


def refuse_from(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the broker refuse the login from this try on."""
    tries, begin = itertools.count(1), LocalAdapter.begin

    def begin_or_refuse(adapter: LocalAdapter, now: float) -> None:
        begin(adapter, now)
        if next(tries) >= first:
            refused = Closed(AdapterError("login refused: the password has changed"))
            monkeypatch.setattr(adapter, "events", iter([[refused]]).__next__)

    monkeypatch.setattr(LocalAdapter, "begin", begin_or_refuse)


def test_a_login_that_is_refused_later_does_not_end_the_wait(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be granted again. When the time is over, the error says what was refused."""
    refuse_from(2, monkeypatch)
    link = connection_to(connector)
    link.open(time.monotonic() + 10)
    broker.restart()
    link.wait(lambda: not link.is_open, time.monotonic() + 5)
    start = time.monotonic()
    with pytest.raises(ConnectionLost, match="the password has changed"):
        link.open(start + 0.7)
    assert time.monotonic() - start >= 0.7
    assert "the password has changed" in link.state
    link.close()


def test_a_first_login_that_is_refused_is_reported_at_once(
    connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_from(1, monkeypatch)
    link = connection_to(connector)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(AdapterError, match="the password has changed") as caught:
            link.open(start + 60)
        assert len(caught.traceback) < 6  # its own: one object for all would grow with each who raises it
    assert time.monotonic() - start < 30  # of 60
    link.close()


def test_a_connection_of_agents_that_are_gone_is_closed_soon(
    broker: LocalBroker, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gofer.messaging.connection._IDLE_UNUSED", 60.0)
    with EchoAgent(broker.url):
        assert Agent(connector, "agent", wait=30).Dog().bark(1) == 1
        link = pool._connections[connector, None]
        with Agent(connector, "agent", wait=30) as agent:
            assert agent.Dog().bark(1) == 1
            assert pool._connections[connector, None] is link  # not at once: the next one may come
            monkeypatch.setattr("gofer.messaging.connection._IDLE_UNUSED", 0.2)
        eventually(lambda: link.closed)


def test_what_a_subscription_was_refused_for_is_reported_whatever_follows(
    broker: LocalBroker, link: ThreadConnection
) -> None:
    link.open(time.monotonic() + 10)
    wanted = Subscription("no-such-queue", 1, lambda _: None)
    errors = []
    for _ in range(2):
        with pytest.raises(NotFound, match="no-such-queue") as caught:
            link.subscribe(wanted, 5)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    broker.freeze()
    with pytest.raises(ConnectionLost, match="no-such-queue"):
        link.subscribe(wanted, 0.2)
    broker.thaw()
