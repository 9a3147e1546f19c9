"""Calls that share a link: none pays for what another waits for, gives up, or does wrong."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from gofer import aio
from gofer.errors import ConnectionLost, NotFound, NotTaken, RequestTimeout
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.proxy import Agent
from support.company import declare
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_a_call_that_gives_up_takes_no_reply_queue_from_one_that_waits(
    broker: LocalBroker, connector: Connector
) -> None:
    with (
        EchoAgent(broker.url, hold=True) as echo,
        Agent(connector, "agent", wait=40) as agent,
        ThreadPoolExecutor(1) as threads,
    ):
        waiting = threads.submit(agent.Dog().bark, 42)
        eventually(lambda: echo.seen)
        broker.kill()
        with pytest.raises((RequestTimeout, ConnectionLost)):
            agent(wait=0.3).Dog().bark(1)
        echo.hold = False  # it is asked again: this broker has forgotten the first request, and the reply queue
        broker.start()
        assert waiting.result(60) == 42


def test_the_first_call_of_a_process_is_asked_again_after_a_restart(broker: LocalBroker, connector: Connector) -> None:
    with (
        EchoAgent(broker.url, hold=True) as echo,
        Agent(connector, "agent", wait=40) as agent,
        ThreadPoolExecutor(1) as threads,
    ):
        call = threads.submit(agent.Dog().bark, 42)
        eventually(lambda: echo.seen)
        echo.hold = False
        broker.restart()
        assert call.result(60) == 42


def test_an_impatient_first_call_is_no_answer_for_a_patient_one(broker: LocalBroker, connector: Connector) -> None:
    with EchoAgent(broker.url), Agent(connector, "agent", wait=40) as agent, ThreadPoolExecutor(2) as threads:
        broker.freeze()
        impatient = threads.submit(agent(wait=0.3).Dog().bark, 1)
        eventually(lambda: any(link.waited_for for link in list(pool._connections.values())))
        patient = threads.submit(agent.Dog().bark, 2)
        with pytest.raises((RequestTimeout, ConnectionLost)):
            impatient.result(10)
        broker.thaw()
        assert patient.result(60) == 2


def test_what_is_wrong_in_itself_leaves_the_connection_alone(link: ThreadConnection) -> None:
    link.open(time.monotonic() + 10)
    before = link.up_since
    with pytest.raises(ValueError, match=r"surrogates|utf-8"):
        link.ask(DeclareQueue("\ud800"))
    assert link.up_since == before


def test_a_subscription_that_is_wrong_in_itself_is_its_owners_problem(
    broker: LocalBroker, connector: Connector
) -> None:
    lost: list[str] = []
    with EchoAgent(broker.url), Agent(connector, "agent", wait=30) as agent:
        assert agent.Dog().bark(1) == 1
        link = pool.acquire(connector)
        bad = Subscription("agent", 0, lambda _: None, on_lost=lost.append)
        link.subscribe(bad, 0)
        assert agent.Dog().bark(2) == 2
        assert "prefetch" in lost[0]
        link.unsubscribe(bad, 1)
        pool.release(link)


def test_what_was_to_be_confirmed_is_reported_to_the_one_who_asked(broker: LocalBroker, connector: Connector) -> None:
    stop = threading.Event()
    with Agent(connector, "nowhere", wait=30) as agent, ThreadPoolExecutor(1) as threads:

        def others() -> None:
            while not stop.is_set():
                with pytest.raises(NotFound):
                    agent.Dog().bark(1)

        busy = threads.submit(others)
        try:
            for n in range(20):
                with pytest.raises(NotTaken, match="no agent at this address"):
                    agent(wait=0, confirm=True).Dog().bark(n)
        finally:
            stop.set()
        busy.result(10)


def test_an_impatient_call_is_not_held_up_by_a_patient_one(broker: LocalBroker, link: ThreadConnection) -> None:
    """Not even where both wait for their reply queues at a broker that does not answer."""
    link.open(time.monotonic() + 10)
    connector = link.connector
    with EchoAgent(broker.url), Agent(connector, "agent", wait=20) as agent, ThreadPoolExecutor(1) as threads:
        broker.freeze()
        patient = threads.submit(agent.Dog().bark, 42)
        eventually(lambda: asking(link))
        took = []
        for wait in (0.5, 0.2):
            start = time.monotonic()
            with pytest.raises(RequestTimeout, match="did not answer for the queue"):
                agent(wait=wait, exchange="amq.direct").Dog().bark(1)
            took.append(time.monotonic() - start - wait)
        broker.thaw()
        assert patient.result(15) == 42
        assert max(took) < 8  # it was 10: what the patient one has


def test_what_is_sent_while_the_broker_is_asked_something_follows(broker: LocalBroker, link: ThreadConnection) -> None:
    declare(link, "sink")
    link.shared("made before", list)
    with Agent(link.connector, "sink", wait=0) as agent, ThreadPoolExecutor(1) as threads:
        broker.freeze()
        asked = threads.submit(declare, link, "other")
        eventually(lambda: asking(link))
        sent = [agent.Dog().bark(n) for n in range(10)]  # returns at once
        assert link.shared("made before", list) == []
        broker.thaw()
        agent.flush(10)
        asked.result(10)
        assert len(set(sent)) == 10


def test_too_much_that_waits_for_an_answer_waits_no_longer_than_it_may(
    broker: LocalBroker, link: ThreadConnection
) -> None:
    declare(link, "sink")
    with Agent(link.connector, "sink", wait=0) as agent, ThreadPoolExecutor(1) as threads:
        broker.freeze()
        asked = threads.submit(declare, link, "other")
        eventually(lambda: asking(link))
        for _ in range(3):
            agent.Dog().bark("x" * (3 << 20))
        start = time.monotonic()
        with pytest.raises(RequestTimeout):
            agent(wait=0.3).Dog().bark(1)
        assert time.monotonic() - start < 8
        broker.thaw()
        asked.result(10)
        agent.flush(10)


def asking(link: ThreadConnection) -> bool:
    """Tell whether the broker is asked something on the link at the moment."""
    return link.is_open and any(pending.answer for pending in list(link.core._pending.values()))


def stopped(echo: EchoAgent) -> None:
    """Answer the request that the agent holds as a method does that raises StopIteration."""
    eventually(lambda: echo.seen)
    failure = {
        "retval": None,
        "exval": "",
        "xmodule": "builtins",
        "xclass": "StopIteration",
        "xstate": {},
        "xargs": [7],
    }
    echo.answer(echo.seen[0], result=failure)


def test_a_method_may_raise_stop_iteration(broker: LocalBroker, connector: Connector) -> None:
    with (
        EchoAgent(broker.url, hold=True) as echo,
        Agent(connector, "agent", wait=30) as agent,
        ThreadPoolExecutor(1) as threads,
    ):
        threads.submit(stopped, echo)
        with pytest.raises(StopIteration) as caught:
            agent.Dog().bark(1)
        assert caught.value.value == 7


def test_what_a_method_that_raises_stop_iteration_raises_in_a_coroutine(broker: LocalBroker) -> None:
    """Python lets no coroutine raise it, and no future hold it."""

    async def call() -> None:
        async with aio.Agent(broker.url, "agent", wait=30) as agent:
            await agent.Dog().bark(1)

    with EchoAgent(broker.url, hold=True) as echo, ThreadPoolExecutor(1) as threads:
        threads.submit(stopped, echo)
        with pytest.raises(RuntimeError, match=r"the method raised StopIteration\(7\)") as caught:
            asyncio.run(call())
        assert isinstance(caught.value.__cause__, StopIteration)


def test_what_a_progress_callback_raises_is_its_callers(broker: LocalBroker, connector: Connector) -> None:
    """Whatever it is: of the errors that end a call some mean something to it, but not from there."""
    with EchoAgent(broker.url, hold=True) as echo, ThreadPoolExecutor(1) as threads:
        for wrong in (ConnectionLost("of another call"), StopIteration("stop"), ValueError("any")):

            def report(_: object, wrong: Exception = wrong) -> None:
                raise wrong

            def tell() -> None:
                eventually(lambda: echo.seen)
                echo.answer(echo.seen.pop(), status="progress", total=1, completed=0, details="")

            with Agent(connector, "agent", wait=30, progress=report) as agent:
                threads.submit(tell)
                with pytest.raises(type(wrong)) as caught:
                    agent.Dog().bark(1)
                assert caught.value is wrong


def test_the_connection_of_a_loop_that_is_over_is_closed(broker: LocalBroker) -> None:
    """Whoever leaves an agent unclosed leaves nothing open, be the agent gone or not."""
    kept: list[aio.Agent] = []

    async def call() -> None:
        agent = aio.Agent(broker.url, "agent", wait=30)
        kept.append(agent)
        assert await agent.Dog().bark(1) == 1

    with EchoAgent(broker.url):
        asyncio.run(call())
        link = kept[-1]._lease.session().connection
        eventually(lambda: link.closed)


@pytest.mark.slow
def test_the_connection_of_agents_that_a_loop_has_forgotten_is_closed(broker: LocalBroker) -> None:
    async def call() -> None:
        agent = aio.Agent(broker.url, "agent", wait=30)
        assert await agent.Dog().bark(1) == 1
        link = agent._lease.session().connection
        del agent
        deadline = time.monotonic() + 10
        while not link.closed and time.monotonic() < deadline:
            gc.collect()
            await asyncio.sleep(0.02)
        assert link.closed
        async with aio.Agent(broker.url, "agent", wait=30) as another:
            assert await another.Dog().bark(2) == 2

    with EchoAgent(broker.url):
        asyncio.run(call())
