"""Links over the local broker: what they do when it goes, comes back, freezes or forgets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from gofer.errors import ConnectionLost, NotFound, RequestTimeout
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Delivery, Outcome, PurgeQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.company import declare, linked
from support.connections import cut, declaring, suspend
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


@pytest.fixture
def connector(broker: LocalBroker) -> Connector:
    return Connector(URL.parse(broker.url), reconnect_max=0.5, heartbeat=1.0)


@pytest.fixture
def link(connector: Connector) -> Iterator[ThreadConnection]:
    link = pool.acquire(connector)
    yield link
    pool.release(link)


class Reader:
    """A subscription that keeps the bodies it is given."""

    def __init__(self, link: ThreadConnection, queue: str, prepare: bool = True) -> None:
        self.link = link
        self.bodies: list[bytes] = []
        self.lost: list[str] = []
        declare = declaring(DeclareQueue(queue)) if prepare else None
        self.subscription = Subscription(queue, 10, self._take, declare, self.lost.append)

    def _take(self, delivery: Delivery) -> None:
        self.bodies.append(delivery.body)
        self.link.accept(delivery)

    def wait_for(self, count: int) -> list[bytes]:
        assert self.link.wait(lambda: len(self.bodies) >= count, time.monotonic() + 30)
        return self.bodies


def send(link: ThreadConnection, queue: str, body: bytes) -> Outcome:
    """Send a message and return what became of it."""
    told: list[Outcome] = []
    link.publish(
        Address("", queue), body, deadline=time.monotonic() + 10, settled=lambda outcome, _: told.append(outcome)
    )
    assert link.wait(lambda: told, time.monotonic() + 30)
    assert len(told) == 1
    return told[0]


# -- opening ------------------------------------------------------------------------------------------------------


def test_a_first_connection_that_is_refused_is_reported_at_once(root: Path) -> None:
    link = pool.acquire(Connector(URL.parse(f"local://{root}/nobody.sock")))
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(ConnectionLost, match=r"nobody\.sock"):
            link.open(start + 60)
    assert time.monotonic() - start < 30  # of 60
    pool.release(link)


def test_a_lost_connection_is_waited_for_until_the_deadline(link: ThreadConnection, broker: LocalBroker) -> None:
    link.open(time.monotonic() + 30)
    broker.kill()
    eventually(lambda: not link.is_open)
    start = time.monotonic()
    with pytest.raises(ConnectionLost):
        link.open(start + 0.5)
    assert 0.5 <= time.monotonic() - start < 20
    assert "no connection" in link.state
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(link.open, time.monotonic() + 30)
        broker.start()
        waiting.result(30)
    assert link.state == "open"


# -- subscriptions ------------------------------------------------------------------------------------------------


def test_a_subscription_comes_back_with_its_queue_after_a_restart(link: ThreadConnection, broker: LocalBroker) -> None:
    reader = Reader(link, "reader")
    link.subscribe(reader.subscription, 10)
    assert send(link, "reader", b"one") is Outcome.CONFIRMED
    reader.wait_for(1)
    broker.restart()
    eventually(lambda: not link.is_open)
    assert link.wait(lambda: reader.subscription.active, time.monotonic() + 30)
    assert send(link, "reader", b"two") is Outcome.CONFIRMED
    assert reader.wait_for(2) == [b"one", b"two"]


def test_a_queue_deleted_under_its_reader_is_declared_again(link: ThreadConnection) -> None:
    reader = Reader(link, "reader")
    link.subscribe(reader.subscription, 10)
    link.ask(DeleteQueue("reader"))
    assert link.wait(lambda: reader.lost, time.monotonic() + 30)
    assert link.wait(lambda: reader.subscription.active, time.monotonic() + 30)
    assert send(link, "reader", b"again") is Outcome.CONFIRMED
    assert reader.wait_for(1) == [b"again"]


def test_a_missing_queue_is_reported_and_tried_again_when_asked(link: ThreadConnection) -> None:
    reader = Reader(link, "later", prepare=False)
    with pytest.raises(NotFound, match="later"):
        link.subscribe(reader.subscription, 10)
    link.subscribe(reader.subscription, 0)  # from now on the link tries by itself
    assert link.wait(lambda: reader.lost, time.monotonic() + 30)
    link.ask(DeclareQueue("later"))
    assert link.wait(lambda: reader.subscription.active, time.monotonic() + 30)


def test_what_comes_after_an_unsubscribe_goes_back_to_its_queue(link: ThreadConnection) -> None:
    held: list[Delivery] = []
    first = Subscription("shared", 1, held.append, declaring(DeclareQueue("shared")))
    link.subscribe(first, 10)
    for n in range(3):
        assert send(link, "shared", b"%d" % n) is Outcome.CONFIRMED
    assert link.wait(lambda: held, time.monotonic() + 30)
    link.unsubscribe(first, 10)
    link.release(held[0])
    reader = Reader(link, "shared")
    link.subscribe(reader.subscription, 10)
    assert reader.wait_for(3) == [b"0", b"1", b"2"]


# -- sends --------------------------------------------------------------------------------------------------------


def test_what_was_sent_and_not_answered_is_lost_once(link: ThreadConnection, broker: LocalBroker) -> None:
    link.ask(DeclareQueue("sink"))
    broker.freeze()
    told: list[Outcome] = []
    for _ in range(5):
        assert link.publish_nowait(Address("", "sink"), b"x", settled=lambda outcome, _: told.append(outcome))
    eventually(lambda: len(link.core.unconfirmed) == 5)
    broker.kill()
    assert link.wait(lambda: len(told) >= 5, time.monotonic() + 30)
    assert told == [Outcome.UNKNOWN] * 5
    assert not link.core.unconfirmed
    assert not link.publish_nowait(Address("", "sink"), b"x", settled=lambda outcome, _: told.append(outcome))
    assert len(told) == 5


def test_a_subscription_ends_with_a_connection_that_is_lost_at_that_moment(
    link: ThreadConnection, broker: LocalBroker
) -> None:
    """As when an agent and its broker are stopped together."""
    reader = Reader(link, "kennel")
    link.subscribe(reader.subscription, 30)
    start = time.monotonic()
    link._submit(0, lambda: (broker.kill(), link.core.lost("cut by the test", start)))
    link.unsubscribe(reader.subscription, 60)
    assert time.monotonic() - start < 30  # of 60
    assert not link.is_open


def test_a_frozen_broker_is_noticed_within_two_heartbeats(link: ThreadConnection, broker: LocalBroker) -> None:
    link.open(time.monotonic() + 30)
    broker.freeze()
    start = time.monotonic()
    assert link.wait(lambda: not link.is_open, start + 20)
    assert time.monotonic() - start < 8  # two of one second, and what a busy machine adds
    broker.thaw()


@pytest.mark.slow
def test_an_idle_link_is_kept_alive_and_used_again(link: ThreadConnection, connector: Connector) -> None:
    """Nobody waits on it for three heartbeats."""
    link.open(time.monotonic() + 30)
    before = link.up_since
    assert before is not None
    eventually(lambda: time.monotonic() - before > 3.2)
    link.ask(DeclareQueue("idle"))
    assert send(link, "idle", b"x") is Outcome.CONFIRMED
    assert link.up_since == before


def test_a_suspended_link_opens_again_when_it_is_used(link: ThreadConnection) -> None:
    reader = Reader(link, "reader")
    link.subscribe(reader.subscription, 10)
    suspend(link)
    assert send(link, "reader", b"awake") is Outcome.CONFIRMED
    assert reader.wait_for(1) == [b"awake"]


# -- closing ------------------------------------------------------------------------------------------------------


def test_closing_ends_every_wait(connector: Connector) -> None:
    link = pool.acquire(connector)
    link.open(time.monotonic() + 30)
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(link.wait, lambda: False, None) for _ in range(8)]
        eventually(lambda: link.waited_for)
        pool.release(link)
        for one in waiting:
            with pytest.raises(ConnectionLost, match="closed"):
                one.result(30)
    with pytest.raises(ConnectionLost, match="closed"):
        link.open(None)
    link.close()


def test_links_are_shared_counted_and_closed_with_their_last_user(connector: Connector) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    first, second = pool.acquire(connector), pool.acquire(connector)
    assert first is second
    first.open(time.monotonic() + 30)
    pool.release(first)
    assert first.is_open
    pool.release(second)
    assert not first.is_open
    third = pool.acquire(connector)
    assert third is not first
    pool.release(third)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_many_threads_make_the_first_call_of_one_agent(connector: Connector) -> None:
    """They take up one share in one link, and closing the agent gives it back."""
    agent = Agent(connector, "nobody", wait=30)
    barrier = threading.Barrier(16)

    def first() -> None:
        barrier.wait()
        with pytest.raises(NotFound):
            agent.Dog().bark()

    with ThreadPoolExecutor(16) as threads:
        for one in [threads.submit(first) for _ in range(16)]:
            one.result(20)
    agent.close()
    again = pool.acquire(connector)
    assert not again.is_open  # the shared one was closed with its last user
    pool.release(again)
    with pytest.raises(ConnectionLost, match="closed"):
        agent.Dog().bark()


def test_a_call_without_a_broker_says_why_and_in_time(broker: LocalBroker, connector: Connector) -> None:
    with Agent(connector, "nobody", wait=0.6) as agent:
        with pytest.raises(NotFound):
            agent(wait=30).Dog().bark()
        broker.kill()
        start = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            agent.Dog().bark()
        assert time.monotonic() - start < 20
        assert caught.value.state in ("not sent", "sent")
        assert "connection" in str(caught.value)


def test_the_first_call_of_a_connection_is_asked_again_too(
    root: Path, broker: LocalBroker, connector: Connector, link: ThreadConnection, tmp_path: Path
) -> None:
    """It is sent as soon as its reply queue is there, and the broker forgets both while its method runs."""
    trace = tmp_path / "trace"
    link.ask(DeclareQueue("probe"))
    with AgentProcess(root) as process, ThreadPoolExecutor(1) as threads:
        process.configure("[messaging]\nreconnect_max = 0.5\n")
        process.plugin("probe", PROBE, descriptor(broker.url, "probe"))
        process.start()
        with Agent(replace(connector, heartbeat=7.0), "probe", wait=20) as agent:
            call = threads.submit(agent.Probe().note, str(trace), "ran", 1.0)
            eventually(lambda: runs(trace))
            broker.restart()
            assert call.result(30) == "ran"
    assert dict(runs(trace)) == {"ran": 1}


# -- the end of a process -----------------------------------------------------------------------------------------


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program that ends with work in flight."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_end_of_a_process_flushes_what_it_sent(broker: LocalBroker, link: ThreadConnection) -> None:
    reader = Reader(link, "sink")
    link.subscribe(reader.subscription, 10)
    ended = run(
        """
        import sys
        from gofer.proxy import Agent
        dog = Agent(sys.argv[1], "sink", wait=0).Dog()
        for n in range(1000):
            dog.bark(n)
        """,
        broker.url,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(reader.wait_for(1000)) == 1000


def test_the_end_of_a_process_complains_about_what_was_not_taken(broker: LocalBroker) -> None:
    ended = run(
        """
        import sys
        from gofer.proxy import Agent
        print(Agent(sys.argv[1], "no-such-queue", wait=0).Dog().bark("x"))
        """,
        broker.url,
    )
    assert ended.returncode == 0
    assert ended.stdout.strip() in ended.stderr
    assert "no agent at this address" in ended.stderr


def test_a_process_that_ends_leaves_no_reply_queue(broker: LocalBroker, link: ThreadConnection) -> None:
    ended = run(
        """
        import sys
        from gofer.errors import NotFound
        from gofer.proxy import Agent
        agent = Agent(sys.argv[1], "nobody", wait=30)
        try:
            agent.Dog().bark("x")
        except NotFound:
            pass
        from gofer.messaging.pool import pool
        from gofer.rmi.client.session import ThreadSession
        link = pool.acquire(next(iter(pool._connections))[0])
        print(link.shared((ThreadSession, None), lambda: None).replies.address)
        """,
        broker.url,
    )
    name = ended.stdout.strip()
    assert name, ended.stderr
    with pytest.raises(NotFound):
        link.ask(PurgeQueue(name))


@pytest.mark.parametrize("kind", ["delivery", "settled"])
def test_a_handler_that_fails_is_its_own_problem(
    link: ThreadConnection, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("mine")

    handlers: dict[str, Callable[..., None]] = {"delivery": lambda *_: None, "settled": lambda *_: None}
    handlers[kind] = fail
    subscription = Subscription("bad", 10, handlers["delivery"], declaring(DeclareQueue("bad")))
    link.subscribe(subscription, 10)
    link.publish(Address("", "bad"), b"x", deadline=time.monotonic() + 10, settled=handlers["settled"])
    assert link.wait(lambda: "ZeroDivisionError: mine" in caplog.text, time.monotonic() + 30)
    reader = Reader(link, "good")
    link.subscribe(reader.subscription, 10)
    assert send(link, "good", b"fine") is Outcome.CONFIRMED
    assert reader.wait_for(1) == [b"fine"]


def test_a_connection_that_is_made_again_at_once_leaves_no_socket_behind(
    broker: LocalBroker, recwarn: pytest.WarningsRecorder
) -> None:
    """Nor is the old one polled any more, which would be reported as ready for ever."""
    with linked(Connector(URL.parse(broker.url), reconnect_max=0.0)) as link:
        declare(link, "q")
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            cut(link)
            declare(link, "q")
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert link._wire is not None
        assert link._polled == link._wire.fileno()
        turns: list[float] = []
        sleep = link._sleep

        def counted(now: float) -> bool:
            turns.append(now)
            return sleep(now)

        link._sleep = counted  # type: ignore[method-assign] # counts the turns of this one
        with ThreadPoolExecutor(1) as threads:
            threads.submit(threading.Event().wait, 0.3).result()
        assert len(turns) < 20
    assert not [str(warning.message) for warning in recwarn]
