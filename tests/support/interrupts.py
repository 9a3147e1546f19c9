"""Interrupts and signals at random instants of a caller, on any broker: nothing stays locked, and nobody hangs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from gofer.errors import RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent

from support.echo import EchoAgent
from support.waiting import eventually

__all__ = ["InterruptScenarios", "Interrupts", "at_random", "check_locks"]

#: Interrupts of one test.
INTERRUPTS = 300


class Interrupts:
    """Interrupts the main thread as Ctrl-C does, by a real signal, at a random instant of some work."""

    def __init__(self, seed: int = 20261128) -> None:
        self._random = Random(seed)
        self._armed = False
        self.struck = 0

    def during(self, work: Callable[[], object], most: float) -> bool:
        """Do some work, and interrupt it within ``most`` seconds; return whether it was faster than that."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(0.00001, most))
            work()
            self._armed = False
        except (KeyboardInterrupt, RuntimeError) as struck:
            # Python's own: an interrupt while a Thread starts may raise "release unlocked lock" instead.
            if not isinstance(struck, KeyboardInterrupt) and not isinstance(struck.__context__, KeyboardInterrupt):
                raise
            self.struck += 1
            return False
        return True

    def _strike(self, *_: object) -> None:
        if self._armed:  # else the work has ended
            self._armed = False
            raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGALRM, self._strike)
        return self

    def __exit__(self, *_: object) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


@contextmanager
def at_random(handler: Callable[[], object], enough: Callable[[], bool], most: float) -> Iterator[None]:
    """Have something done by a signal handler, again and again, at random instants of the main thread."""
    random = Random(20261123)

    def strike(*_: object) -> None:
        handler()
        if not enough():
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, most))

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_locks(threads: ThreadPoolExecutor) -> None:
    """Fail if this thread has left a lock of the pool's, or of a connection's: another thread tries to take each."""

    def free(lock: Any) -> bool:
        taken: bool = lock.acquire(timeout=10)
        if taken:
            lock.release()
        return taken

    locks = {"pool": pool._lock, "guard": pool.guard}
    for connection in list(pool._connections.values()):
        locks[f"shared by {connection}"] = connection._sharing
        if isinstance(connection, ThreadConnection):
            locks[f"wakeup of {connection}"] = connection._wakeup._lock
    held = [name for name, lock in locks.items() if not threads.submit(free, lock).result(20)]
    assert not held


@contextmanager
def busy(agent: Agent, threads: ThreadPoolExecutor, count: int) -> Iterator[None]:
    """Have other threads call all the while; fail when one of their calls fails, or hangs."""
    over = threading.Event()

    def call() -> int:
        done = 0
        while not over.is_set():
            assert agent.Dog().bark(done) == done
            done += 1
        return done

    calls = [threads.submit(call) for _ in range(count)]
    try:
        yield
    finally:
        over.set()
    assert all(each.result(60) for each in calls)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an interrupt in a collected generator
class InterruptScenarios:
    """Subclasses have a fixture ``url``."""

    @pytest.fixture
    def connector(self, url: str) -> Connector:
        return Connector(URL.parse(url), reconnect_max=0.5, heartbeat=5.0)

    @pytest.fixture
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(4) as threads:
            yield threads

    @pytest.mark.slow
    def test_300_interrupts_of_calls(self, url: str, connector: Connector, threads: ThreadPoolExecutor) -> None:
        """The calls of two other threads go on, and so do this one's."""
        with (
            EchoAgent(url, "interrupted"),
            Agent(connector, "interrupted", wait=60) as agent,
            Interrupts() as interrupts,
        ):
            assert agent.Dog().bark(0) == 0
            connection = agent._lease.session().connection
            up_since = connection.up_since
            posts, last = agent(wait=0), 0
            with busy(agent, threads, 2):
                while interrupts.struck < INTERRUPTS:
                    interrupts.during(lambda: (agent.Dog().bark(1), posts.Dog().bark(2), agent.Dog().bark(3)), 0.006)
                    if interrupts.struck % 20 == 0 and interrupts.struck != last:
                        last = interrupts.struck
                        assert agent.Dog().bark(last) == last
            check_locks(threads)
            assert agent.Dog().bark("still") == "still"
            agent.flush(30)
            assert connection.up_since == up_since

    @pytest.mark.slow
    def test_300_interrupts_of_connecting_and_closing(self, url: str, threads: ThreadPoolExecutor) -> None:
        """Each connection is another one's: an equal connector would share it."""
        number = 0

        def work() -> None:
            nonlocal number
            number += 1
            mine = Connector(URL.parse(url), reconnect_max=0.5, heartbeat=5.0 + number % 3 / 10)
            with Agent(mine, "interrupted", wait=60) as agent:
                agent.Dog().bark(1)

        same = Connector(URL.parse(url), reconnect_max=0.5, heartbeat=4.0)
        try:
            with EchoAgent(url, "interrupted"), Agent(same, "interrupted", wait=60) as agent:
                assert agent.Dog().bark(0) == 0
                with Interrupts() as interrupts, busy(agent, threads, 1):
                    while interrupts.struck < INTERRUPTS:
                        interrupts.during(work, 0.02)
                    check_locks(threads)
                    for _ in range(3):
                        work()  # what was interrupted keeps no equal connector from connecting
        finally:
            pool.close()  # what an interrupted program leaves is closed at its end

    def test_a_signal_handler_that_calls_is_answered_or_refused(
        self, url: str, connector: Connector, threads: ThreadPoolExecutor
    ) -> None:
        told: list[object] = []

        def call() -> None:
            try:
                told.append(agent.Dog().bark("signal"))
            except RuntimeError as refused:
                told.append(refused)

        with EchoAgent(url, "interrupted"), Agent(connector, "interrupted", wait=60) as agent:
            assert agent.Dog().bark(0) == 0
            with busy(agent, threads, 2), at_random(call, lambda: told.count("signal") > 40, 0.02):
                while told.count("signal") <= 40:
                    assert agent.Dog().bark("main") == "main"
            check_locks(threads)
        assert all(isinstance(one, RuntimeError) for one in told if one != "signal")

    def test_a_signal_handler_may_send_at_any_instant(self, url: str, connector: Connector) -> None:
        sent: list[str] = []
        with EchoAgent(url, "interrupted") as echo, Agent(connector, "interrupted", wait=60) as agent:
            posts = agent(wait=0)
            assert agent.Dog().bark(0) == 0
            with at_random(lambda: sent.append(posts.Dog().bark("signal")), lambda: len(sent) > 100, 0.004):
                while len(sent) <= 100:
                    assert agent.Dog().bark(len(sent)) >= 0
                    agent(wait=0).Dog().bark("post")
            agent.flush(30)
            eventually(lambda: {document["sn"] for document in echo.seen}.issuperset(sent))

    def test_an_interrupt_ends_a_wait_at_once(self, url: str, connector: Connector) -> None:
        """Whatever it waits for: a reply, room, the connection."""
        with EchoAgent(url, "interrupted", hold=True), Agent(connector, "interrupted", wait=60) as agent:
            with Interrupts() as interrupts:
                for _ in range(20):
                    begun = time.monotonic()
                    assert not interrupts.during(lambda: agent.Dog().bark("never"), 0.2)
                    assert time.monotonic() - begun < 20
            with pytest.raises(RequestTimeout):
                agent(wait=0.1).Dog().bark("never")
