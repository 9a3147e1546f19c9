"""A caller that waits asks again when a reply may have been lost, and is answered by what was run once."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.errors import AdapterError, NotFound, RequestTimeout
from gofer.messaging.adapter import DeclareExchange, DeleteExchange, DeleteQueue
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi.client.session import ThreadSession
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.presence import answers
from support.probe import PROBE, descriptor, runs
from support.relays import Relay
from support.waiting import eventually

QUEUE = "probe-asked-again"

CALLER = """
import sys
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent

connector = Connector(URL.parse(sys.argv[1]), reconnect_max=1.0)
with Agent(connector, sys.argv[2], wait=60) as agent:
    print(agent.Probe().note(sys.argv[3], "ran", 1.0), flush=True)
"""


@pytest.fixture
def goferd(rabbitmq: RabbitMQ, root: Path) -> Iterator[AgentProcess]:
    with AgentProcess(root) as process:
        process.configure("[messaging]\nreconnect_max = 1\n")
        process.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE, threads=2))
        process.start()
        yield process


@pytest.fixture
def agent(rabbitmq: RabbitMQ, goferd: AgentProcess) -> Iterator[Agent]:
    with Agent(Connector(URL.parse(rabbitmq.url()), reconnect_max=1.0), QUEUE, wait=60) as agent:
        eventually(lambda: answers(agent), what=goferd.tail())
        yield agent
        link_of(agent).ask(DeleteQueue(QUEUE))


def link_of(agent: Agent) -> ThreadConnection:
    """Return the link that an agent's calls go through."""
    connection: ThreadConnection = agent._lease.session().connection
    return connection


def test_a_result_that_the_broker_forgot_is_given_again(
    rabbitmq: RabbitMQ, goferd: AgentProcess, agent: Agent, tmp_path: Path
) -> None:
    """The caller stands still while its result arrives, and while the broker is killed and forgets it."""
    trace = tmp_path / "trace"
    caller = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CALLER), rabbitmq.url(), QUEUE, str(trace)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert caller.stdout is not None
    with caller.stdout:
        eventually(lambda: runs(trace))
        caller.send_signal(signal.SIGSTOP)
        eventually(lambda: "Probe.note value" in goferd.tail())
        assert agent.Probe().echo("its result is sent, too") == "its result is sent, too"
        rabbitmq.kill()
        rabbitmq.start()
        eventually(lambda: answers(agent), timeout=30)
        caller.send_signal(signal.SIGCONT)
        assert caller.stdout.readline() == "ran\n"
    assert caller.wait(30) == 0
    assert dict(runs(trace)) == {"ran": 1}


def test_a_reply_queue_deleted_under_a_caller_costs_no_answer(
    goferd: AgentProcess, agent: Agent, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    link = link_of(agent)
    queue = link.shared((ThreadSession, None), lambda: pytest.fail("there is no session")).replies.address
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(agent.Probe().note, str(trace), f"n{n}", 0.5) for n in range(4)]
        eventually(lambda: len(runs(trace)) >= 2)
        link.ask(DeleteQueue(queue))
        assert [call.result(30) for call in calls] == [f"n{n}" for n in range(4)]
    assert set(runs(trace).values()) == {1}


@pytest.mark.parametrize("right", ["write", "configure"])
def test_a_caller_whose_rights_are_taken_while_its_request_runs_gets_the_value_when_they_are_back(
    rabbitmq: RabbitMQ, agent: Agent, tmp_path: Path, right: str
) -> None:
    """It waits on: an error that says "not run" would not be true. Another request is refused, and did not run."""
    trace, over = tmp_path / "trace", tmp_path / "over"
    rabbitmq.add_user("waiting", "secret")
    with Relay(rabbitmq.port) as relay, ThreadPoolExecutor(1) as threads:
        url = URL.parse(f"amqp://waiting:secret@127.0.0.1:{relay.port}")
        with Agent(Connector(url, reconnect_max=0.5), QUEUE, wait=60) as caller:
            runs_on = threads.submit(caller.Probe().note, str(trace), "first", 0, str(over))
            eventually(lambda: runs(trace))
            rights = {"configure": ".*", "write": ".*", "read": ".*"}
            rabbitmq.api("PUT", "/permissions/%2F/waiting", rights | {right: ""})
            before = relay.connections
            relay.cut()
            eventually(lambda: relay.connections > before)  # what is sent now is not sent over the old one
            for _ in range(2):
                with pytest.raises(AdapterError, match="ACCESS_REFUSED"):
                    caller.Probe().note(str(trace), "second")
            rabbitmq.api("PUT", "/permissions/%2F/waiting", rights)
            over.touch()
            assert runs_on.result(60) == "first"
    rabbitmq.delete_user("waiting")
    assert dict(runs(trace)) == {"first": 1}


def test_replies_come_again_through_an_exchange_that_was_deleted_and_made_anew(
    goferd: AgentProcess, agent: Agent
) -> None:
    """The broker tells nobody that a binding has gone. The error of a call names the exchange while there is none."""
    exchange, link = DeclareExchange("for-replies", "direct"), link_of(agent)

    def ended(kind: type[Exception] | None) -> bool:
        try:
            return agent(exchange=exchange.name, wait=1).Probe().echo(True) is True and kind is None
        except (NotFound, RequestTimeout) as error:
            return type(error) is kind and (kind is RequestTimeout or exchange.name in str(error))

    link.ask(exchange)
    eventually(lambda: ended(None))
    link.ask(DeleteExchange(exchange.name))
    eventually(lambda: ended(RequestTimeout) or ended(NotFound))
    eventually(lambda: ended(NotFound))
    link.ask(exchange)
    eventually(lambda: ended(None))
    link.ask(DeleteExchange(exchange.name))  # and where it is back before anybody has missed it
    link.ask(exchange)
    eventually(lambda: ended(None))
    link.ask(DeleteExchange(exchange.name))


def test_a_request_over_the_brokers_limit_is_refused_alone(
    goferd: AgentProcess, agent: Agent, tmp_path: Path, message_limit: int
) -> None:
    """Its channel is closed by the broker; what was sent beside it is asked again, and the culprit is told."""
    trace = tmp_path / "trace"
    with ThreadPoolExecutor(9) as threads:
        calls = [threads.submit(agent.Probe().note, str(trace), f"n{n}", 0.3) for n in range(8)]
        large = threads.submit(agent.Probe().echo, "x" * (message_limit + 1))
        with pytest.raises(Exception, match=r"refused|larger|limit"):
            large.result(30)
        assert [call.result(30) for call in calls] == [f"n{n}" for n in range(8)]
    assert set(runs(trace).values()) == {1}


def test_a_result_over_the_brokers_limit_disturbs_nobody(
    goferd: AgentProcess, agent: Agent, message_limit: int
) -> None:
    half = "x" * (message_limit // 2 + 100)
    with ThreadPoolExecutor(1) as threads:
        large = threads.submit(agent(wait=3).Probe().twice, half)
        assert [agent.Probe().echo(n) for n in range(200)] == list(range(200))
        with pytest.raises(TimeoutError):
            large.result(30)
    assert agent.Probe().echo("on") == "on"
