"""The main job over AMQP 0-10: the calls of all brokers on Qpid Broker-J, its restart, logins, and other protocols."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import AdapterError, Cancelled, NotFound
from gofer.messaging.adapter import DeleteExchange, DeleteQueue, Outcome
from gofer.messaging.adapters import find
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing._contract.driver import Driver
from gofer_adapter_qpid import QpidAdapter
from support.brokers import BrokerJ
from support.calls import CallScenarios, serving
from support.certificates import Certificates
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.waiting import eventually

JOB = """
import os, time
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote


def stay():
    end = time.monotonic() + 30
    while not Context.current().cancelled():
        if time.monotonic() > end:
            raise TimeoutError("never cancelled")
        time.sleep(0.005)


class Job:
    @remote
    @fork
    def forked(self, size):
        return "x" * size

    @remote
    @fork
    def pid(self):
        return os.getpid()

    @remote
    def stay(self):
        stay()

    @remote
    @fork
    def stay_forked(self):
        stay()
"""

#: Adapters whose protocol Broker-J speaks, too.
OTHERS = ["amqp", "proton"]


class TestQpidCalls(CallScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, brokerj: BrokerJ) -> str:
        return brokerj.url(adapter="qpid")

    def test_all_go_on_when_the_broker_stops_and_starts(
        self, brokerj: BrokerJ, own: AgentProcess, own_agent: Agent, tmp_path: Path
    ) -> None:
        """Each call that waited has its answer, and none of those that ran was run again."""
        trace = tmp_path / "trace"
        with ThreadPoolExecutor(24) as threads:
            probe = own_agent(wait=90).Probe()
            running = [threads.submit(probe.note, str(trace), f"r{n}", 3.0) for n in range(4)]
            eventually(lambda: len(runs(trace)) == 4)
            waiting = [threads.submit(probe.note, str(trace), f"w{n}") for n in range(20)]
            assert own_agent.Admin().echo("all sent") == "all sent"
            brokerj.restart()
            assert [one.result(90) for one in running] == [f"r{n}" for n in range(4)]
            assert [one.result(90) for one in waiting] == [f"w{n}" for n in range(20)]
        assert set(runs(trace).values()) == {1}, own.tail()
        assert own_agent.Probe().echo("on") == "on"

    def test_a_forked_method_returns_and_a_cancelled_one_ends(self, brokerj: BrokerJ, root: Path) -> None:
        url = brokerj.url(adapter="qpid")
        with AgentProcess(root) as process, Agent(url, "qpid-forked", wait=30) as agent:
            process.plugin("job", JOB, descriptor(url, "qpid-forked", threads=4))
            process.start()
            until_it_answers(agent, process.tail())
            job = agent.Job()
            assert job.forked(200_000) == "x" * 200_000
            assert job.pid() != process.pid
            with ThreadPoolExecutor(2) as threads:
                for method in ("stay", "stay_forked"):
                    running = threads.submit(getattr(agent(data={"group": method}).Job(), method))
                    eventually(partial(cancelled, agent, method))
                    with pytest.raises(Cancelled):
                        running.result(30)


def cancelled(agent: Agent, group: str) -> Any:
    """Cancel the requests of a group, and return which these were."""
    return agent.Admin().cancel(criteria={"match": {"group": group}})


@contextmanager
def driven(url: str, **options: Any) -> Iterator[Driver]:
    """Open a connection by the adapter that a URL names; what its names name is deleted at the end."""
    driver = Driver(find(URL.parse(url))(Connector(URL.parse(url), **options))).open()
    try:
        yield driver
        for operation in [kind(name) for kind in (DeleteQueue, DeleteExchange) for name in driver.names]:
            try:
                driver.ask(operation)
            except NotFound:
                pass  # of the other kind
    finally:
        driver.close()


def log_in(url: str) -> None:
    """Open a connection, and close it."""
    with driven(url):
        pass


class TestOtherProtocols:
    """Broker-J carries messages between the protocols that it speaks."""

    @pytest.mark.parametrize("other", OTHERS)
    @pytest.mark.parametrize("qpid_calls", [True, False], ids=["qpid calls", "qpid serves"])
    def test_a_caller_reaches_an_agent_on_another_protocol(
        self, brokerj: BrokerJ, tmp_path: Path, other: str, qpid_calls: bool
    ) -> None:
        url = {name: brokerj.url(adapter=name) for name in ("qpid", other)}
        caller, server = ("qpid", other) if qpid_calls else (other, "qpid")
        trace = tmp_path / "trace"
        with (
            serving(tmp_path / "root", url[server], f"{server}-serves", threads=4) as process,
            Agent(url[caller], f"{server}-serves", wait=30) as agent,
        ):
            until_it_answers(agent, process.tail())
            probe = agent.Probe()
            assert probe.echo({"text": "grüße, 世界", "none": None}) == {"text": "grüße, 世界", "none": None}
            text = "x" * (1 << 20)
            assert probe.echo(text) == text
            steps: list[Any] = []
            assert agent(progress=lambda report: steps.append(report["completed"])).Probe().work(3) == 3
            assert steps[-1] == 3
            for n in range(20):
                agent(wait=0, ttl=60).Probe().note(str(trace), f"n{n}")
            agent.flush(30)
            eventually(lambda: len(runs(trace)) == 20)
            assert set(runs(trace).values()) == {1}
            process.kill()  # one whose end the broker has not been told may run once more
            process.start()
            assert agent.Probe().echo("again") == "again"
        assert set(runs(trace).values()) <= {1, 2}

    @pytest.mark.parametrize("other", OTHERS)
    @pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00", "ключ".encode(), random.Random(1).randbytes(200_000)])
    def test_a_message_arrives_as_it_was_sent(self, brokerj: BrokerJ, other: str, body: bytes) -> None:
        with driven(brokerj.url(adapter="qpid")) as one, driven(brokerj.url(adapter=other)) as two:
            for sender, receiver in ((one, two), (two, one)):
                exchange, queue = sender.exchange("topic"), receiver.queue()
                receiver.bind(queue, exchange, "a.*")
                receiver.subscribe(queue)
                for durable in (True, False):
                    sent = sender.post("a.b", body, exchange=exchange, ttl=90.5, durable=durable)
                    assert sender.confirmed(sent).outcome is Outcome.CONFIRMED
                    delivery = receiver.one()
                    assert delivery.body == body
                    assert delivery.redelivered in (False, None)
                    assert delivery.ttl == pytest.approx(90.5, abs=1.0)
                    receiver.adapter.release(delivery)
                    again = receiver.one()
                    assert (again.body, again.redelivered in (True, None)) == (body, True)
                    receiver.accept(again)


class TestLogins:
    def test_without_a_user_a_broker_may_know_the_client_certificate(
        self, brokerj: BrokerJ, certificates: Certificates
    ) -> None:
        files = {"cacert": str(certificates.authority), "clientcert": str(certificates.client_both)}
        with driven(brokerj.url(adapter="qpid", external=True), **files) as driver:
            driver.give(driver.queue(), b"by certificate")

    def test_a_broker_whose_certificate_does_not_verify_is_refused(
        self, brokerj: BrokerJ, certificates: Certificates
    ) -> None:
        url = URL.parse(brokerj.url(adapter="qpid", tls=True, user=None))
        driver = Driver(QpidAdapter(Connector(url, cacert=str(certificates.other_authority))))
        with pytest.raises(AdapterError, match="certificate does not verify"):
            driver.open()

    def test_without_a_user_anonymous_is_taken_where_it_is_offered(self, brokerj: BrokerJ) -> None:
        with driven(f"qpid+amqp://127.0.0.1:{brokerj.anonymous_port}") as driver:
            driver.give(driver.queue(), b"from nobody")

    def test_with_a_user_anonymous_is_not_taken(self, brokerj: BrokerJ) -> None:
        with pytest.raises(AdapterError, match=r"login refused for user 'guest': the broker offers only ANONYMOUS"):
            log_in(f"qpid+amqp://guest:wrong@127.0.0.1:{brokerj.anonymous_port}")

    def test_a_virtual_host_that_is_not_there_is_reported(self, brokerj: BrokerJ) -> None:
        with pytest.raises(AdapterError, match="virtual host 'nowhere'"):
            log_in(brokerj.url(adapter="qpid") + "/nowhere")

    def test_a_virtual_host_is_named_by_the_path(self, brokerj: BrokerJ) -> None:
        with driven(brokerj.url(adapter="qpid") + "/default") as driver:
            driver.give(driver.queue(), b"at home")


class TestSessions:
    def test_more_than_a_connection_has_are_refused_and_harm_nobody(self, brokerj: BrokerJ) -> None:
        """256 are Broker-J's default; what fails does for want of them, and what is there goes on."""
        with driven(brokerj.url(adapter="qpid")) as driver:
            queue = driver.queue()
            held = driver.hold(queue, b"held")
            numbers = [driver.subscribe(queue, prefetch=1) for _ in range(253)]
            with pytest.raises(AdapterError, match="all 256 sessions"):
                driver.subscribe(queue)
            for number in numbers:
                driver.cancel(number)
            driver.accept(*held)
            assert driver.hold(queue, b"on")[0].body == b"on"

    def test_many_messages_behind_one_that_is_held(self, brokerj: BrokerJ) -> None:
        """More than a session may have numbers behind the first one that is not completed (65,536)."""
        with driven(brokerj.url(adapter="qpid")) as driver:
            queue = driver.queue()
            driver.subscribe(queue, prefetch=1000)
            (held,) = driver.hold(queue, b"held")
            sent = done = 0
            while done < 70_000:
                while sent - done < 500 and sent < 70_000:
                    driver.post(queue, b"%d" % sent, confirm=False, durable=False)
                    sent += 1
                for delivery in driver.take(min(250, sent - done)):
                    assert delivery.body == b"%d" % done
                    driver.adapter.accept(delivery)
                    done += 1
            driver.adapter.release(held)
            assert driver.one().redelivered is True
