"""Custody over RabbitMQ: what takes long is the agent's own, and no kill loses it or runs it more often than it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Interrupted
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.calls import Mailbox
from support.danger import DANGER, counted_in, died, open_in, restarted
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.waiting import eventually

QUEUE = "dangerous"


@pytest.fixture(scope="module")
def connector(rabbitmq: RabbitMQ) -> Connector:
    return Connector(URL.parse(rabbitmq.url()), reconnect_max=1.0)


@pytest.fixture(scope="module")
def process(rabbitmq: RabbitMQ, connector: Connector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with AgentProcess(tmp_path_factory.mktemp("root")) as process:
        process.configure("[messaging]\nreconnect_max = 1\n")
        process.plugin("danger", DANGER, descriptor(rabbitmq.url(), QUEUE))
        process.plugin("other", DANGER, descriptor(rabbitmq.url(), f"{QUEUE}-other"))
        process.start()
        yield process
    for queue in (QUEUE, f"{QUEUE}-other"):
        rabbitmq.delete_queue(queue)


@pytest.fixture
def agent(connector: Connector, process: AgentProcess) -> Iterator[Agent]:
    with Agent(connector, QUEUE, wait=60) as agent:
        yield until_it_answers(agent, process.tail())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def held(rabbitmq: RabbitMQ) -> int:
    """What the broker still keeps of the agent's requests."""
    return rabbitmq.count(QUEUE)


def test_what_takes_long_is_acknowledged_while_it_runs_and_outlives_its_agent(
    rabbitmq: RabbitMQ, process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    call = threads.submit(agent.Probe().until, str(tmp_path / "go"))
    eventually(lambda: open_in(process) == 1)  # only then the other: one worker runs what comes first
    waits = threads.submit(agent.Probe().note, str(tmp_path / "trace"), "waits")
    eventually(lambda: open_in(process) == 2)
    eventually(lambda: held(rabbitmq) == 0)
    assert not call.done()
    process.kill()
    process.start()
    (tmp_path / "go").touch()
    assert call.result(30) == str(tmp_path / "go")
    assert waits.result(30) == "waits"
    assert runs(tmp_path / "trace") == {"waits": 1}


def test_what_was_begun_twice_is_not_begun_again(
    process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    call = threads.submit(agent.Danger().stay, str(trace), "begun")
    for times in (1, 2):
        eventually(lambda times=times: runs(trace)["begun"] == times)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        process.kill()
        process.start()
    with pytest.raises(Interrupted, match=r"Danger\.stay"):
        call.result(30)
    assert runs(trace) == {"begun": 2}


@pytest.mark.parametrize(("method", "most"), [("die", 2), ("reboot", 1)])
def test_a_method_that_ends_its_agent_cannot_do_so_for_ever(  # noqa: PLR0917 - five of these are fixtures
    process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path, method: str, most: int
) -> None:
    trace = tmp_path / "trace"
    call = threads.submit(getattr(agent.Danger(), method), str(trace))
    for _ in range(most):
        died(process)
        restarted(process)
    with pytest.raises(Interrupted, match=rf"Danger\.{method}"):
        call.result(30)
    assert agent.Probe().echo("it serves others") == "it serves others"
    assert runs(trace) == {method: most}


def test_one_that_has_ended_is_answered_again_after_a_restart(
    rabbitmq: RabbitMQ, process: AgentProcess, connector: Connector, agent: Agent, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    with Mailbox(connector) as mailbox:
        asked = {**mailbox.request(str(trace), "single"), "routing": [None, QUEUE], "data": "mine"}
        asked["request"] = {"classname": "Danger", "method": "single", "args": [str(trace)]}
        send(mailbox, asked)
        assert end(mailbox)["result"]["retval"] == "once"
        eventually(lambda: counted_in(process, f"state = 'done' AND sn = '{asked['sn']}'") == 1)
        eventually(lambda: held(rabbitmq) == 0)
        process.kill()
        process.start()
        for again in ({"again": True}, {}):  # it is known, whether its caller says that it asks again or not
            send(mailbox, {**asked, **again})
            heard = end(mailbox)
            assert (heard["sn"], heard["data"], heard["result"]["retval"]) == (asked["sn"], "mine", "once")
        send(mailbox, {**asked, "data": "another's", "again": True})
        rejected = end(mailbox)
        assert (rejected["status"], rejected["code"]) == ("rejected", "sn.conflict")
    assert runs(trace) == {"single": 1}


def test_two_hundred_that_wait_survive_a_kill(
    process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = threads.submit(agent.Probe().until, str(tmp_path / "go"))
    eventually(lambda: open_in(process) == 1)
    for n in range(200):
        agent(wait=0).Probe().note(str(trace), f"n{n}")
    agent.flush(30)
    eventually(lambda: open_in(process) == 201)
    process.kill()
    process.start()
    (tmp_path / "go").touch()
    assert first.result(30)
    eventually(lambda: len(runs(trace)) == 200, 30)
    eventually(lambda: open_in(process) == 0)
    assert set(runs(trace).values()) == {1}


def send(mailbox: Mailbox, document: dict[str, Any]) -> None:
    mailbox.send(QUEUE, json.dumps(document).encode())


def end(mailbox: Mailbox) -> dict[str, Any]:
    """Wait for the reply that ends a request."""
    while True:
        reply = mailbox.receive()
        if "result" in reply or reply.get("status") == "rejected":
            return reply
