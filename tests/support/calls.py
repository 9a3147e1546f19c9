"""The calls of the main job, as tests that run over any broker: a subclass says which."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from gofer.errors import MemberNotFound, NamespaceNotFound, NotFound, NotTaken, RemoteException, RequestTimeout
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, DeleteExchange, DeleteQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent

from support.connections import declaring
from support.goferd import AgentProcess
from support.presence import timed_out, until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

__all__ = ["CallScenarios"]

#: The queue of the agent that a class shares, and of the agent that a test has for itself.
SHARED, OWN = "probe-shared", "probe-own"


class CallScenarios:
    """Subclasses give the fixture ``url``, the broker's, for the whole class.

    One agent serves all tests of the class but those that kill it: they have their own.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
        """A goferd with the probe, with eight threads, for all tests that leave it running."""
        with serving(tmp_path_factory.mktemp("shared"), url, SHARED, threads=8) as process:
            yield process

    @pytest.fixture
    def agent(self, shared: AgentProcess, connector: Connector) -> Iterator[Agent]:
        with Agent(connector, SHARED, wait=30) as agent:
            yield until_it_answers(agent, shared.tail())

    @pytest.fixture
    def own(self, url: str, root: Path) -> Iterator[AgentProcess]:
        """A goferd with the probe, with four threads, at a queue of its own: to be killed."""
        with serving(root, url, OWN, threads=4) as process:
            yield process

    @pytest.fixture
    def own_agent(self, own: AgentProcess, connector: Connector) -> Iterator[Agent]:
        with Agent(connector, OWN, wait=30) as agent:
            yield until_it_answers(agent, own.tail())

    @pytest.fixture
    def connector(self, url: str) -> Connector:
        """How this process connects."""
        return Connector(URL.parse(url), reconnect_max=2.0)

    @pytest.fixture
    def declare_queue(self, url: str) -> Iterator[Callable[[str], None]]:
        """Declare a queue that no agent reads. It is deleted at the end of the test."""
        declared = []

        def declare(name: str) -> None:
            link.ask(DeclareQueue(name))
            declared.append(name)

        with linked(url) as link:
            yield declare
            for name in declared:
                link.ask(DeleteQueue(name))

    # -- values and errors --------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            -7,
            2**70,
            1.5,
            "",
            "grüße, 世界 \U0001f415",
            [],
            [1, [2, {"a": None}]],
            {},
            {"k": [1, {"x": "y"}]},
        ],
    )
    def test_a_value_comes_back_as_it_was(self, agent: Agent, value: object) -> None:
        assert agent.Probe().echo(value) == value
        assert agent(data=value).Probe().echo(thing=value) == value

    def test_a_megabyte_goes_both_ways(self, agent: Agent) -> None:
        text = "x" * (1 << 20)
        assert agent.Probe().echo(text) == text

    def test_constructor_arguments_stay_until_they_are_replaced(self, agent: Agent) -> None:
        probe = agent.Probe()
        assert probe.who() == "nobody"
        probe("rover")
        assert (probe.who(), probe.who()) == ("rover", "rover")
        probe(name="max")
        assert probe.who() == "max"
        assert agent["Probe"]("item")["who"]() == "item"

    def test_an_exception_comes_back_as_itself(self, agent: Agent) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
            agent.Probe().echo(nothing=1)
        with pytest.raises(RemoteException, match="Trouble: over there") as caught:
            agent.Probe().fail("over there", 7)
        assert (caught.value.xclass, caught.value.xargs) == ("Trouble", ["over there"])
        assert caught.value.xstate["code"] == 7  # type: ignore[index]  # the state is plain data of any shape

    def test_what_is_not_exposed_is_not_found(self, agent: Agent) -> None:
        with pytest.raises(NamespaceNotFound, match="Nope"):
            agent.Nope().echo(1)
        with pytest.raises(MemberNotFound, match="nope"):
            agent.Probe().nope()
        for hidden in ("__init__", "__class__", "_Probe__x"):
            with pytest.raises(MemberNotFound):
                agent["Probe"][hidden]()

    def test_progress_is_heard_in_the_thread_that_calls(self, agent: Agent) -> None:
        heard: list[tuple[int, object, object, object]] = []
        mine = threading.get_ident()

        def progress(report: dict[str, object]) -> None:
            assert threading.get_ident() == mine
            heard.append((report["total"], report["completed"], report["details"], report["any"]))  # type: ignore[arg-type]  # checked below

        assert agent(progress=progress, data="mine").Probe().work(3) == 3
        assert heard[-1] == (3, 3, "step 3", "mine")
        steps = [completed for _, completed, _, _ in heard]
        assert steps == sorted(steps)  # type: ignore[type-var]  # they are ints

    # -- how far a request got ----------------------------------------------------------------------------------

    def test_nobody_there_is_heard_at_once(self, url: str) -> None:
        with Agent(url, "no-such-queue", wait=30) as agent:
            start = time.monotonic()
            with pytest.raises(NotFound, match="no-such-queue"):
                agent.Probe().echo(1)
            assert time.monotonic() - start < 10

    def test_a_queue_without_an_agent_times_out_without_a_word(
        self, url: str, declare_queue: Callable[[str], None]
    ) -> None:
        declare_queue("nobody-reads")
        with Agent(url, "nobody-reads") as agent:
            told = timed_out(lambda wait: agent(wait=wait).Probe().echo(1), "sent")
        assert "no word from the agent" in str(told)

    def test_a_call_that_outlives_its_wait_says_how_far_it_is(self, agent: Agent, tmp_path: Path) -> None:
        done = tmp_path / "done"
        timed_out(lambda wait: agent(wait=wait).Probe().until(str(done)), "started")
        told = timed_out(lambda wait: agent(wait=wait).Probe().work(int(10 * wait) + 3), "progress")
        assert told.report["details"].startswith("step ")  # type: ignore[index]  # a dict by its state
        done.touch()

    def test_fired_and_forgotten_runs(self, agent: Agent, tmp_path: Path) -> None:
        trace = tmp_path / "trace"
        sent = [agent(wait=0).Probe().note(str(trace), f"n{n}") for n in range(300)]
        agent.flush(30)
        assert len(set(sent)) == 300
        eventually(lambda: len(runs(trace)) == 300)
        assert set(runs(trace).values()) == {1}

    def test_what_was_not_taken_is_reported_by_the_next_call_and_by_flush(self, url: str) -> None:
        with Agent(url, "no-such-queue", wait=0) as agent:
            sn = agent.Probe().echo(1)
            with pytest.raises(NotTaken) as caught:
                agent.flush(30)
            assert list(caught.value.reasons) == [sn]
            agent.flush(30)  # told once

            sn = agent.Probe().echo(2)
            deadline = time.monotonic() + 30
            told: dict[str, str] = {}
            while not told and time.monotonic() < deadline:
                try:
                    agent.Admin().echo(3)
                except NotTaken as first:
                    told = first.reasons
            assert sn in told
            with contextlib.suppress(NotTaken):
                agent.flush(30)  # the echoes, those that were not told with it

            with pytest.raises(NotTaken, match="no agent at this address"):
                agent(confirm=True).Probe().echo(4)

    def test_a_trigger_sends_once_what_was_written_down_when_it_was_made(self, agent: Agent, tmp_path: Path) -> None:
        trace = tmp_path / "trace"
        names = [str(trace), "pulled"]
        trigger = agent(trigger=1).Probe().note(*names)
        names[1] = "changed"
        thing = [1]
        echo = agent(trigger=1, data="mine").Probe().echo(thing)
        thing.append(2)
        assert agent.Probe().echo("nothing was sent") == "nothing was sent"
        assert not trace.exists()
        outcomes: queue.SimpleQueue[object] = queue.SimpleQueue()
        together = threading.Barrier(8)

        def pull() -> None:
            together.wait(20)
            try:
                outcomes.put(trigger())
            except RuntimeError as late:
                outcomes.put(late)

        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(pull)
        told = [outcomes.get() for _ in range(8)]
        assert told.count("pulled") == 1
        assert sum("was sent already" in str(one) for one in told) == 7
        assert runs(trace) == {"pulled": 1}
        assert echo() == [1]

    def test_a_trigger_without_waiting_returns_its_serial_number(self, agent: Agent, tmp_path: Path) -> None:
        trace = tmp_path / "trace"
        trigger = agent(trigger=1, wait=0).Probe().note(str(trace), "n")
        assert uuid.UUID(trigger.sn).version == 4
        assert trigger() == trigger.sn
        eventually(lambda: runs(trace) == {"n": 1})

    def test_a_trigger_whose_arguments_are_wrong_is_none(self, agent: Agent) -> None:
        with pytest.raises(TypeError, match="argument"):
            agent(trigger=1).Probe().echo({1, 2})

    def test_replies_come_through_the_exchange_that_is_asked_for(
        self, agent: Agent, connector: Connector, url: str
    ) -> None:
        """Whoever else is bound to it sees them, too."""
        name = f"probe-fan-{uuid.uuid4()}"
        with linked(url) as link, Mailbox(connector) as mailbox:
            link.ask(DeclareExchange(name, "fanout"))
            link.ask(Bind(mailbox.name, name, mailbox.name))
            assert agent(exchange=name).Probe().echo("through") == "through"
            assert mailbox.receive()["result"]["retval"] == "through"
            assert agent.Probe().echo("not through") == "not through"
            assert agent(exchange=name).Probe().echo("again") == "again"
            assert mailbox.receive()["result"]["retval"] == "again"
            link.ask(DeleteExchange(name))

    def test_an_exchange_that_is_not_there_is_reported_at_once_and_nothing_is_sent(
        self, agent: Agent, tmp_path: Path
    ) -> None:
        trace = tmp_path / "trace"
        with pytest.raises(NotFound, match="no-such-exchange"):
            agent(exchange="no-such-exchange").Probe().note(str(trace), "n")
        assert agent.Probe().echo("still here") == "still here"
        assert not trace.exists()

    # -- messages that are none, and replies that nobody takes ----------------------------------------------------

    def test_malformed_messages_are_refused_and_the_agent_goes_on(
        self, agent: Agent, connector: Connector, tmp_path: Path
    ) -> None:
        """Each one that names a reply queue is told why; none is executed."""
        trace = tmp_path / "trace"
        with Mailbox(connector) as mailbox:
            good = mailbox.request(str(trace), "ran")
            bad = {
                "version": {**good, "version": "1.0"},
                "no version": {key: value for key, value in good.items() if key != "version"},
                "no request": {key: value for key, value in good.items() if key != "request"},
                "request is text": {**good, "request": "Probe.note"},
                "no method": {**good, "request": {"classname": "Probe"}},
                "args are a number": {**good, "request": {**good["request"], "args": 5}},
                "a path for a number": {**good, "sn": "../../etc/passwd"},
                "a number for a number": {**good, "sn": 12},
                "nested": {**good, "request": {**good["request"], "args": nested(200)}},
            }
            for document in bad.values():
                mailbox.send(SHARED, json.dumps(document).encode())
            for body in (b"", b"{", b"[]", b"5", b"\xff\xfe", b"{}", b"null", b"[" * 100_000, b'"' + b"x" * (1 << 20)):
                mailbox.send(SHARED, body)
            answers = [mailbox.receive() for _ in bad]
            assert {answer["status"] for answer in answers} == {"rejected"}
            assert {answer["code"] for answer in answers} == {"model.version", "model.invalid"}
            assert all(answer["description"] and answer["details"] for answer in answers)
            assert agent.Probe().echo("still here") == "still here"
            assert not trace.exists()

    def test_a_reply_that_nobody_takes_disturbs_nobody(
        self, agent: Agent, connector: Connector, tmp_path: Path
    ) -> None:
        trace = tmp_path / "trace"
        with Mailbox(connector) as mailbox:
            for n, replyto in enumerate(["no-such-queue", "nope/x", "amq.direct/nobody", "no-such-queue", "nope/x"]):
                mailbox.send(SHARED, json.dumps(mailbox.request(str(trace), f"n{n}", replyto=replyto)).encode())
            eventually(lambda: len(runs(trace)) == 5)
            assert [agent.Probe().echo(n) for n in range(50)] == list(range(50))
        assert set(runs(trace).values()) == {1}

    def test_a_result_that_is_not_json_is_an_exception(self, agent: Agent) -> None:
        with pytest.raises(TypeError, match="set"):
            agent.Probe().odd()

    # -- threads and forks --------------------------------------------------------------------------------------

    def test_32_threads_share_an_agent(self, agent: Agent, tmp_path: Path) -> None:
        """No wake-up is lost: each wait ends with its reply or soon after its deadline, interrupts or not."""
        random = Random(20261122)
        plan = [(random.random(), random.uniform(0.05, 0.5), random.uniform(0.0, 0.4)) for _ in range(32 * 12)]
        late: list[str] = []

        def one(kind: float, wait: float, seconds: float) -> str:
            probe = agent(wait=wait).Probe() if kind < 0.5 else agent.Probe()
            start = time.monotonic()
            try:
                if kind < 0.3:
                    probe.note(str(tmp_path / "slow"), "slow", seconds)
                else:
                    assert probe.echo(kind) == kind
                outcome = "value"
            except RequestTimeout:
                outcome = "timeout"
                if time.monotonic() - start > wait + 20:
                    late.append(f"{time.monotonic() - start:.2f} s for a wait of {wait:.2f} s")
            return outcome

        interrupted = threading.Event()
        stop = threading.Event()

        def interrupt() -> None:
            # While the main thread waits (it may well be the pumper at that moment).
            while not stop.wait(0.3) and not interrupted.is_set():
                os.kill(os.getpid(), signal.SIGINT)

        with ThreadPoolExecutor(31) as threads:
            results = [threads.submit(one, *each) for each in plan]
            disturber = threading.Thread(target=interrupt)
            disturber.start()
            try:
                while not interrupted.is_set():
                    try:
                        agent.Probe().note(str(tmp_path / "main"), "main", 0.2)
                    except KeyboardInterrupt:
                        interrupted.set()
            finally:
                stop.set()
                disturber.join()
            outcomes = [result.result(60) for result in results]
        assert interrupted.is_set()
        assert not late
        assert outcomes.count("value") >= len(plan) // 3
        assert agent.Probe().echo("still here") == "still here"

    # Python warns of what gofer promises to bear: locks that other threads held at the fork.
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_both_processes_call_after_a_fork(self, agent: Agent, tmp_path: Path) -> None:
        release, started = tmp_path / "release", tmp_path / "started"
        with ThreadPoolExecutor(1) as threads:
            flying = threads.submit(agent.Probe().until, str(release))
            threads_probe = agent.Probe()
            threads_probe.note(str(started), "flying")
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.close(read)
                    values = [agent.Probe().echo(n) for n in range(20)]
                    os.write(write, b"ok" if values == list(range(20)) else repr(values).encode())
                    agent.close()
                    status = 0
                except BaseException:  # noqa: BLE001 - the child must not run on in the parent's test
                    os.write(write, traceback.format_exc().encode())
                finally:
                    sys.stdout.flush()
                    os._exit(status)
            os.close(write)
            assert [agent.Probe().echo(n) for n in range(20)] == list(range(20))
            with os.fdopen(read, "rb") as pipe:
                assert pipe.read() == b"ok"
            assert os.waitpid(child, 0)[1] == 0
            release.touch()
            assert flying.result(30) == str(release)

    # -- crashes ------------------------------------------------------------------------------------------------

    def test_killed_agent_loses_nothing_and_repeats_nothing_that_waited(
        self, own: AgentProcess, own_agent: Agent, tmp_path: Path
    ) -> None:
        trace, go = tmp_path / "trace", tmp_path / "go"
        with ThreadPoolExecutor(24) as threads:
            running = [threads.submit(own_agent.Probe().note, str(trace), f"r{n}", 0, str(go)) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(own_agent.Probe().note, str(trace), f"w{n}") for n in range(20)]
            eventually(lambda: own_agent.Admin().echo("all sent") == "all sent")
            own.kill()
            before = runs(trace)
            own.start()
            go.touch()
            assert [one.result(60) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(60) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(before) == {f"r{n}" for n in range(4)}
        counted = runs(trace)
        assert {counted[f"w{n}"] for n in range(20)} == {1}
        assert {counted[f"r{n}"] for n in range(4)} == {2}


class Mailbox:
    """A reply queue of its own, and messages as somebody else might write them."""

    def __init__(self, connector: Connector) -> None:
        self._link = pool.acquire(connector)
        self.name = f"mailbox-{uuid.uuid4()}"
        self._got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._subscription = Subscription(self.name, 100, self._take, declaring(DeclareQueue(self.name, expires=60.0)))

    def __enter__(self) -> Mailbox:
        self._link.subscribe(self._subscription, 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._link.unsubscribe(self._subscription, 5)
        self._link.ask(DeleteQueue(self.name))
        pool.release(self._link)

    def request(self, path: str, text: str, replyto: str | None = None) -> dict[str, Any]:
        """Write a request for ``Probe.note``."""
        return {
            "sn": str(uuid.uuid4()),
            "version": "2.0",
            "routing": [None, "anywhere"],
            "replyto": replyto or self.name,
            "request": {"classname": "Probe", "method": "note", "args": [path, text], "kws": {}, "cntr": None},
            "data": None,
        }

    def send(self, address: str, body: bytes) -> None:
        """Send a message, and wait until the broker has it."""
        taken: list[Outcome] = []
        self._link.publish(
            Address.parse(address),
            body,
            deadline=time.monotonic() + 20,
            settled=lambda outcome, _: taken.append(outcome),
        )
        assert self._link.wait(lambda: taken, time.monotonic() + 20)
        assert taken == [Outcome.CONFIRMED]

    def receive(self) -> dict[str, Any]:
        """Wait for the next reply."""
        assert self._link.wait(lambda: not self._got.empty(), time.monotonic() + 40)
        found: dict[str, Any] = json.loads(self._got.get())
        return found

    def waits(self, timeout: float) -> bool:
        """Wait until there is a reply, at most ``timeout`` seconds; tell whether there is one."""
        return self._link.wait(lambda: not self._got.empty(), time.monotonic() + timeout)

    def _take(self, delivery: Delivery) -> None:
        self._got.put(delivery.body)
        self._link.accept(delivery)


@contextmanager
def linked(url: str) -> Iterator[ThreadConnection]:
    """A link to the broker, of this process."""
    link = pool.acquire(Connector.of(url))
    try:
        yield link
    finally:
        pool.release(link)


@contextmanager
def serving(root: Path, url: str, queue: str, *, threads: int) -> Iterator[AgentProcess]:
    """A goferd with the probe, running, and its queue, which is deleted at the end."""
    with AgentProcess(root) as process:
        process.configure("[messaging]\nreconnect_max = 2\n")
        process.plugin("probe", PROBE, descriptor(url, queue, threads=threads))
        yield process.start()
    with linked(url) as link:
        link.ask(DeleteQueue(queue))


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
