"""Handlers, interrupts and signals in the middle of everything: the link lives on, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import gofer
import pytest
from gofer.errors import ConnectionLost
from gofer.messaging.adapter import DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.proxy import Agent
from support.company import linked
from support.connections import declaring
from support.echo import EchoAgent
from support.interrupts import InterruptScenarios
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_a_handler_may_close_its_link(connector: Connector) -> None:
    link, runs = pool.acquire(connector), []

    def take(delivery: Delivery) -> None:
        runs.append(delivery)
        pool.release(link)

    link.subscribe(Subscription("q", 10, take, declaring(DeclareQueue("q"))), 5)
    link.publish(Address("", "q"), b"x", deadline=None)
    with pytest.raises(ConnectionLost, match="closed"):
        link.wait(lambda: False, time.monotonic() + 5)
    assert len(runs) == 1


_OURS = tuple(os.path.join(os.path.dirname(gofer.__file__), part) for part in ("messaging", "rmi/client", "proxy"))


def interrupted(n: int, work: Callable[[], object]) -> bool:
    """Do some work, with an interrupt where the n-th of our functions is entered; tell whether there were so many."""
    entered = 0

    def trace(frame: FrameType, event: str, _: Any) -> None:
        nonlocal entered
        if frame.f_code.co_filename.startswith(_OURS):
            entered += 1
            if entered == n:
                raise KeyboardInterrupt

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return entered >= n


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt in a collected generator
def test_an_interrupt_anywhere_in_a_call_leaves_the_link_to_others(broker: LocalBroker, connector: Connector) -> None:
    with EchoAgent(broker.url), Agent(connector, "agent", wait=20) as agent, ThreadPoolExecutor(1) as threads:
        assert agent.Dog().bark(0) == 0
        n, misses = 1, 0
        while misses < 5:  # not every call takes the same way
            misses = 0 if interrupted(n, lambda: agent.Dog().bark("interrupted")) else misses + 1
            assert threads.submit(agent.Dog().bark, n).result(30) == n, n
            assert agent.Dog().bark(n) == n, n
            n += 2
        assert n > 30


def test_an_interrupt_anywhere_in_a_close_leaves_no_thread(connector: Connector) -> None:
    n, more = 1, True
    while more:
        link = pool.acquire(connector)
        link.open(time.monotonic() + 20)
        more = interrupted(n, link.close)
        pool.release(link)
        eventually(lambda link=link: link._done)
        n += 1
    assert n > 3


@pytest.mark.slow
class TestLocal(InterruptScenarios):
    @pytest.fixture
    def url(self, broker: LocalBroker) -> str:
        return broker.url


def test_an_interrupt_as_the_io_thread_is_started_holds_up_nobody(
    connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever needs it next starts it; one that the system runs late ends by itself."""
    late: list[threading.Thread] = []
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        if thread.name != "gofer-io" or late:
            start(thread)
            return
        late.append(thread)  # the system has it, and lets it run when it likes
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", starting)
    with linked(connector) as link:
        with pytest.raises(KeyboardInterrupt):
            link.open(time.monotonic() + 5)
        link.open(time.monotonic() + 5)
        start(late[0])
        late[0].join(10)
        assert not late[0].is_alive()
        assert link.is_open


def test_a_call_that_waits_lets_a_signal_handler_call(broker: LocalBroker, connector: Connector) -> None:
    """A last message at SIGTERM: the thread that handles it is the one that waits on the connection."""
    told: list[object] = []
    with EchoAgent(broker.url, hold=True) as echo, Agent(connector, "agent", wait=15) as agent:

        def last(*_: object) -> None:
            echo.hold = False
            told.append(agent.Dog().bark("last words"))
            echo.answer(echo.seen[0])

        before = signal.signal(signal.SIGUSR1, last)
        signaller = threading.Thread(
            target=lambda: (eventually(lambda: echo.seen), os.kill(os.getpid(), signal.SIGUSR1))
        )
        signaller.start()
        try:
            assert agent.Dog().bark("waiting") == "waiting"
        finally:
            signaller.join()
            signal.signal(signal.SIGUSR1, before)
    assert told == ["last words"]


def test_a_signal_handler_that_calls_takes_no_wake_up_from_the_call_it_interrupted(
    broker: LocalBroker, connector: Connector
) -> None:
    heard = []
    with EchoAgent(broker.url), Agent(connector, "agent", wait=20) as agent, ThreadPoolExecutor(1) as threads:
        entered = threading.Event()

        def handler(*_: object) -> None:
            entered.set()
            heard.append(agent.Dog().bark(1))

        def disturb() -> None:
            eventually(lambda: any(link.waited_for for link in list(pool._connections.values())))
            os.kill(os.getpid(), signal.SIGUSR1)
            assert entered.wait(10)
            broker.thaw()

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            broker.freeze()  # so that the connection comes up while the handler waits for it, too
            disturbed = threads.submit(disturb)
            start = time.monotonic()
            heard.append(agent.Dog().bark(2))
            assert time.monotonic() - start < 10
            disturbed.result(10)
        finally:
            broker.thaw()
            signal.signal(signal.SIGUSR1, before)
    assert heard == [1, 2]


def test_a_handler_that_waits_for_a_reply_is_refused(connector: Connector) -> None:
    with linked(connector) as link:
        told: list[str] = []

        def take(delivery: Delivery) -> None:
            link.accept(delivery)
            with pytest.raises(RuntimeError, match="cannot wait") as caught:
                link.wait(lambda: False, time.monotonic() + 5)
            told.append(str(caught.value))

        link.subscribe(Subscription("q", 10, take, declaring(DeclareQueue("q"))), 5)
        link.publish(Address("", "q"), b"x", deadline=None)
        assert link.wait(lambda: told, time.monotonic() + 5)
