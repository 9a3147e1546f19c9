"""Replies that nobody waits for, as tests that run over any broker: a subclass says which."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import AdapterError, GoferError, NamespaceNotFound, NotFound, Rejected, RemoteException
from gofer.messaging.adapter import DeclareQueue, DeleteQueue
from gofer.messaging.address import Address
from gofer.messaging.auth import Authenticator, ValidationFailed, sign
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi import reply
from gofer.rmi.reply import Listener, Notice, ReplyConsumer

from support.calls import linked, serving
from support.goferd import AgentProcess
from support.presence import answers
from support.probe import runs
from support.waiting import eventually

__all__ = ["ReplyScenarios"]

QUEUE = "probe-replies"

CONSUMER = """
import sys, time
from gofer.messaging.auth import Authenticator, ValidationFailed, sign
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.rmi.reply import ReplyConsumer

url, name, path, limit = sys.argv[1:]
heard = 0

def listen(reply):
    global heard
    if not reply.done:
        return
    heard += 1
    if heard > int(limit):
        print("busy\\n", end="", flush=True)
        time.sleep(60)  # to be killed here: told, and not accepted
    with open(path, "a") as file:
        file.write(reply.retval + "\\n")

with ReplyConsumer(name, Connector(URL.parse(url), reconnect_max=2.0)).start(listen):
    print("ready\\n", end="", flush=True)
    sys.stdin.read()
"""


class Ear:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: queue.SimpleQueue[Notice] = queue.SimpleQueue()

    def __call__(self, notice: Notice) -> None:
        self.heard.put(notice)

    def next(self) -> Any:
        return self.heard.get(timeout=20)

    def until_done(self) -> list[Any]:
        """Return what comes, up to the next end."""
        heard = [self.next()]
        while not heard[-1].done:
            heard.append(self.next())
        return heard

    def ends(self, count: int) -> list[Any]:
        """Return so many ends."""
        return [self.until_done()[-1] for _ in range(count)]

    @property
    def silent(self) -> bool:
        return self.heard.empty()


class ReplyScenarios:
    """Subclasses give the fixture ``url``, the broker's, for the whole class."""

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
        with serving(tmp_path_factory.mktemp("shared"), url, QUEUE, threads=4) as process:
            with Agent(url, QUEUE) as agent:
                eventually(lambda: answers(agent), what=process.tail())
            yield process

    @pytest.fixture
    def connector(self, url: str) -> Connector:
        return Connector(URL.parse(url), reconnect_max=2.0)

    @pytest.fixture
    def link(self, url: str) -> Iterator[ThreadConnection]:
        with linked(url) as link:
            yield link

    @pytest.fixture
    def tasks(self, link: ThreadConnection) -> Iterator[str]:
        """The name of a queue for replies; it, and those beside it, are deleted at the end."""
        name = f"tasks-{uuid.uuid4()}"
        yield name
        for each in (name, f"{name}-2", f"{name}.failed"):
            try:
                link.ask(DeleteQueue(each))
            except NotFound:
                pass  # the test made none

    @pytest.fixture
    def agent(self, shared: AgentProcess, connector: Connector, tasks: str) -> Iterator[Agent]:
        """An agent whose replies go to the queue."""
        with Agent(connector, QUEUE, reply=tasks, data={"task": 7}) as agent:
            yield agent

    # -- what is told -------------------------------------------------------------------------------------------

    def test_a_value_is_reported_after_its_statuses(self, agent: Agent, connector: Connector, tasks: str) -> None:
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            sn = agent.Probe().echo({"a": [1, None]})
            heard = ear.until_done()
        assert [type(one) for one in heard] == [reply.Accepted, reply.Started, reply.Succeeded]
        assert [one.kind for one in heard] == ["accepted", "started", "succeeded"]
        assert {one.sn for one in heard} == {sn}
        assert all(one.data == {"task": 7} for one in heard)
        assert {one.origin for one in heard} == {QUEUE}
        assert all(one.timestamp.endswith("Z") for one in heard)
        assert heard[-1].retval == {"a": [1, None]}
        for one in heard:
            one.throw()  # nothing was raised, so nothing is raised
        assert not hasattr(heard[0], "retval")

    def test_an_exception_is_raised_by_throw_as_a_waiting_call_would_raise_it(
        self, agent: Agent, connector: Connector, tasks: str
    ) -> None:
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            agent.Probe().fail("over there", 7)
            failed = ear.until_done()[-1]
            agent.Nope().echo()
            unknown = ear.until_done()[-1]
            agent.Probe().odd()
            odd = ear.until_done()[-1]
        assert type(failed) is reply.Failed
        with pytest.raises(RemoteException, match="Trouble: over there") as caught:
            failed.throw()
        assert caught.value.xclass == "Trouble"
        assert isinstance(failed.exception, RemoteException)
        with pytest.raises(NamespaceNotFound, match="Nope"):
            unknown.throw()
        with pytest.raises(TypeError, match="set"):
            odd.throw()

    def test_progress_is_reported_with_its_numbers(self, agent: Agent, connector: Connector, tasks: str) -> None:
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            agent.Probe().work(3)
            heard = ear.until_done()
        reports = [one for one in heard if isinstance(one, reply.Progress)]
        assert (reports[-1].total, reports[-1].completed, reports[-1].details) == (3, 3, "step 3")
        assert heard.index(reports[0]) > [one.kind for one in heard].index("started")

    def test_a_rejection_says_why(self, agent: Agent, connector: Connector, tasks: str, link: ThreadConnection) -> None:
        ear = Ear()
        body = (
            b'{"sn": "one", "version": "9", "replyto": "%s", "data": 5, "request": {"classname": "P", "method": "m"}}'
        )
        with ReplyConsumer(tasks, connector).start(ear):
            link.publish(Address.parse(QUEUE), body % tasks.encode(), deadline=time.monotonic() + 20)
            rejected = ear.next()
        assert type(rejected) is reply.Rejected
        assert (rejected.sn, rejected.code, rejected.done) == ("one", "model.version", True)
        with pytest.raises(Rejected, match=r"model\.version"):
            rejected.throw()

    def test_a_listener_is_called_by_the_method_of_the_kind(
        self, agent: Agent, connector: Connector, tasks: str
    ) -> None:
        ear = Ear()

        class Mine(Listener):
            def started(self, reply: reply.Started) -> None:
                ear(reply)

            def succeeded(self, reply: reply.Succeeded) -> None:
                ear(reply)

        class Bare:
            def failed(self, reply: reply.Failed) -> None:
                ear(reply)

        consumer = ReplyConsumer(tasks, connector)
        with consumer.start(Mine()):
            agent.Probe().echo(1)
            assert [one.kind for one in ear.until_done()] == ["started", "succeeded"]
        with consumer.start(Bare()):
            agent.Probe().echo(1)
            agent.Probe().fail("x", 1)
            assert [one.kind for one in ear.until_done()] == ["failed"]
        assert ear.silent

    def test_a_trigger_replies_to_the_queue_too(self, agent: Agent, connector: Connector, tasks: str) -> None:
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            trigger = agent(trigger=1).Probe().echo("later")
            agent.Probe().echo("now")
            assert ear.until_done()[-1].retval == "now"
            assert trigger() == trigger.sn
            last = ear.until_done()[-1]
            assert (last.sn, last.retval) == (trigger.sn, "later")

    def test_a_queue_bound_to_an_exchange_is_consumed(self, agent: Agent, connector: Connector, tasks: str) -> None:
        ear = Ear()
        with ReplyConsumer(f"amq.direct/{tasks}", connector).start(ear):
            agent(reply=f"amq.direct/{tasks}").Probe().echo("through")
            assert ear.until_done()[-1].retval == "through"

    # -- the listener -------------------------------------------------------------------------------------------

    def test_a_listener_may_call_agents_and_stop_its_consumer(
        self, agent: Agent, connector: Connector, tasks: str
    ) -> None:
        ear: queue.SimpleQueue[Any] = queue.SimpleQueue()
        consumer = ReplyConsumer(tasks, connector)

        def listen(notice: Any) -> None:
            if notice.done:
                ear.put(agent(reply=None, wait=20).Probe().echo(["again", notice.retval]))
                consumer.stop()

        consumer.start(listen)
        agent.Probe().echo(1)
        assert ear.get(timeout=20) == ["again", 1]
        eventually(lambda: not consumer.running)

    def test_what_a_listener_raised_for_is_reported_again_and_the_others_meanwhile(
        self, agent: Agent, connector: Connector, tasks: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ear, raised = Ear(), Counter[str]()

        def listen(notice: Any) -> None:
            if notice.done and notice.retval == "bad" and raised["bad"] < 2:
                raised["bad"] += 1
                raise SystemExit("not now")
            ear(notice)

        with ReplyConsumer(tasks, connector, pauses=(0.5, 0.1)).start(listen), caplog.at_level(logging.ERROR):
            agent.Probe().echo("bad")
            eventually(lambda: raised["bad"] == 1)
            agent.Probe().echo("good")
            assert [one.retval for one in ear.ends(2)] == ["good", "bad"]
        assert raised["bad"] == 2
        assert "the listener raised for succeeded of request" in caplog.text
        assert "SystemExit: not now" in caplog.text
        assert "in listen" in caplog.text

    def test_what_a_listener_never_takes_is_set_aside_and_never_lost(
        self, agent: Agent, connector: Connector, tasks: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        ear, tries = Ear(), Counter[str]()

        def listen(notice: Any) -> None:
            tries[notice.kind] += 1
            raise ValueError("never")

        with ReplyConsumer(tasks, connector, pauses=(0.05, 0.05)).start(listen), caplog.at_level(logging.ERROR):
            agent.Probe().echo("bad")
            eventually(lambda: f"was put into '{tasks}.failed'" in caplog.text)
        assert tries == {"accepted": 1, "started": 1, "succeeded": 3}
        with ReplyConsumer(tasks, connector).start(ear), ReplyConsumer(f"{tasks}.failed", connector).start(ear):
            heard = ear.until_done()
            assert [(one.kind, one.retval) for one in heard] == [("succeeded", "bad")]

    def test_what_cannot_be_read_is_dropped_and_the_next_is_reported(
        self, agent: Agent, connector: Connector, tasks: str, link: ThreadConnection, caplog: pytest.LogCaptureFixture
    ) -> None:
        ear = Ear()
        bad = [b"", b"{", b"[]", b'{"sn": 5}', b'{"sn": "x", "status": "dancing"}', b"\xff\xfe", b"[" * 100_000]
        with ReplyConsumer(tasks, connector).start(ear), caplog.at_level(logging.WARNING):
            for body in bad:
                link.publish(Address.parse(tasks), body, deadline=time.monotonic() + 20)
            agent.Probe().echo("good")
            assert [one.kind for one in ear.until_done()] == ["accepted", "started", "succeeded"]
            # The replies came over another connection: they may overtake the last of the bad messages.
            eventually(lambda: caplog.text.count("a reply is dropped") == len(bad))

    def test_of_each_request_one_end_is_reported_and_no_status_after_it(
        self, agent: Agent, connector: Connector, tasks: str, link: ThreadConnection
    ) -> None:
        ear = Ear()
        end = b'{"sn": "s1", "version": "2.0", "result": {"retval": 1}}'
        late = b'{"sn": "s1", "version": "2.0", "status": "started"}'
        other = b'{"sn": null, "version": "2.0", "result": {"retval": 2}}'
        consumer = ReplyConsumer(tasks, connector)
        for wanted in ([1, 2, 2], [2, 2]):  # a consumer that is started again remembers
            with consumer.start(ear):
                for body in (end, late, end, other, other):
                    link.publish(Address.parse(tasks), body, deadline=time.monotonic() + 20)
                assert [one.retval for one in ear.ends(len(wanted))] == wanted
        assert ear.silent

    # -- what is believed ---------------------------------------------------------------------------------------

    def test_only_what_the_authenticator_validates_is_reported(
        self, agent: Agent, connector: Connector, tasks: str, link: ThreadConnection, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Key(Authenticator):
            def __init__(self, key: str) -> None:
                self.key = key

            def sign(self, digest: str) -> str:
                return self.key + digest

            def validate(self, document: Any, digest: str, signature: Any) -> str | None:
                if signature != self.key + digest:
                    raise ValidationFailed("another key")
                return document["sn"] and "agent"

        ear = Ear()
        body = b'{"sn": "s%d", "version": "2.0", "result": {"retval": %d}}'
        bodies = [body % (1, 1), sign(body % (2, 2), Key("wrong")), sign(body % (3, 3), Key("right"))]
        with ReplyConsumer(tasks, connector, authenticator=Key("right")).start(ear), caplog.at_level(logging.WARNING):
            for one in bodies:
                link.publish(Address.parse(tasks), one, deadline=time.monotonic() + 20)
            assert [one.retval for one in ear.ends(1)] == [3]
        assert ear.silent
        assert "not signed" in caplog.text
        assert "another key" in caplog.text

    # -- sharing, stopping, crashes -------------------------------------------------------------------------------

    def test_consumers_of_one_queue_share_its_replies(self, agent: Agent, connector: Connector, tasks: str) -> None:
        ears = [Ear(), Ear()]
        told: list[list[str]] = [[], []]
        with ReplyConsumer(tasks, connector).start(ears[0]), ReplyConsumer(tasks, connector).start(ears[1]):
            sent = [agent.Probe().echo(n) for n in range(60)]

            def all_told() -> bool:
                for ear, mine in zip(ears, told, strict=True):
                    while not ear.silent:
                        notice = ear.next()
                        mine.extend([notice.sn] if notice.done else [])
                return len(told[0]) + len(told[1]) >= len(sent)

            eventually(all_told, 30)
        assert sorted(told[0] + told[1]) == sorted(sent)
        assert told[0]
        assert told[1]

    def test_what_comes_while_no_consumer_runs_is_reported_by_the_next(
        self, agent: Agent, connector: Connector, tasks: str, tmp_path: Path
    ) -> None:
        """The queue stays; what was handed over and not told is given back."""
        ear = Ear()
        first_told, go_on = threading.Event(), threading.Event()

        def slow(notice: Notice) -> None:
            if notice.done:
                ear(notice)
                first_told.set()
                go_on.wait(20)

        consumer = ReplyConsumer(tasks, connector)
        consumer.start(slow)
        sent = [agent.Probe().echo(n) for n in range(30)]
        assert first_told.wait(20)
        assert not consumer.stop(0.05)  # its listener has not returned
        go_on.set()
        assert consumer.stop(20)
        assert not consumer.running
        first = ear.next().sn
        assert ear.silent
        sent += [agent.Probe().echo(n) for n in range(30, 40)]
        with ReplyConsumer(tasks, connector).start(ear):
            told = [one.sn for one in ear.ends(len(sent) - 1)]
        assert sorted([first, *told]) == sorted(sent)
        assert ear.silent

    def test_a_consumer_that_is_killed_loses_no_reply(self, agent: Agent, url: str, tasks: str, tmp_path: Path) -> None:
        """What it was busy with comes again, and nothing else does."""
        trace = tmp_path / "told"

        def run(limit: int) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [sys.executable, "-c", CONSUMER, url, tasks, str(trace), str(limit)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

        names = [f"n{n}" for n in range(40)]
        for limit in (7, 11, 1000):
            with run(limit) as consumer:
                assert consumer.stdout is not None
                try:
                    words = [consumer.stdout.readline()]  # of two threads, and so in any order
                    if limit == 7:
                        for name in names:
                            agent.Probe().echo(name)
                    if limit == 1000:
                        assert words == ["ready\n"]
                        eventually(lambda: len(runs(trace)) == len(names))
                        consumer.communicate("")
                    else:
                        words.append(consumer.stdout.readline())
                        assert sorted(words) == ["busy\n", "ready\n"]
                finally:
                    if consumer.poll() is None:
                        os.kill(consumer.pid, signal.SIGKILL)
        assert runs(trace) == dict.fromkeys(names, 1)

    def test_the_queue_is_durable_and_stays(self, connector: Connector, tasks: str, link: ThreadConnection) -> None:
        with ReplyConsumer(tasks, connector).start(Ear()):
            pass
        assert link.ask(DeclareQueue(tasks)) is None

    def test_a_queue_is_declared_as_its_spec_says(
        self, connector: Connector, tasks: str, link: ThreadConnection
    ) -> None:
        spec = DeclareQueue(tasks, expires=60.0)
        with ReplyConsumer(spec, connector).start(Ear()):
            assert link.ask(spec) is None

    def test_a_deleted_queue_is_made_again(
        self, agent: Agent, connector: Connector, tasks: str, link: ThreadConnection, caplog: pytest.LogCaptureFixture
    ) -> None:
        ear = Ear()

        def told() -> bool:
            agent.Probe().echo(1)
            try:
                return bool(ear.heard.get(timeout=0.5))
            except queue.Empty:
                return False

        with caplog.at_level(logging.WARNING), ReplyConsumer(tasks, connector).start(ear):
            link.ask(DeleteQueue(tasks))
            eventually(told)
        assert f"no replies from '{tasks}' for now" in caplog.text

    # -- what is wrong is told at once ----------------------------------------------------------------------------

    def test_a_second_start_and_a_wrong_listener_are_refused(self, connector: Connector, tasks: str) -> None:
        async def later(notice: Notice) -> None: ...

        consumer = ReplyConsumer(tasks, connector)
        wrong: list[tuple[Any, str]] = [
            (Listener, r"pass Listener\(\)"),
            (object(), "a object is not"),
            (later, "async"),
            (None, "NoneType"),
        ]
        for listener, text in wrong:
            with pytest.raises(TypeError, match=text):
                consumer.start(listener)
        assert not consumer.running
        assert consumer.stop()  # it never ran
        with consumer.start(Ear()):
            assert consumer.running
            with pytest.raises(RuntimeError, match="started before"):
                consumer.start(Ear())
        assert not consumer.running

    def test_what_the_broker_refuses_is_reported_by_start(self, connector: Connector) -> None:
        with pytest.raises((AdapterError, NotFound)):
            ReplyConsumer(f"no-such-exchange/{uuid.uuid4()}", connector).start(Ear())

    def test_a_broker_that_is_not_there_is_reported_by_start(self, tmp_path: Path) -> None:
        consumer = ReplyConsumer("tasks", f"local://{tmp_path}/nobody.sock")
        with pytest.raises(GoferError, match=r"nobody\.sock"):
            consumer.start(Ear())
        assert not consumer.running
