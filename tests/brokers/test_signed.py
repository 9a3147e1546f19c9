"""Signed calls over RabbitMQ: what the broker delivers again is no copy, and a copy is not run."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.adapter import DeleteQueue
from gofer.messaging.auth import sign
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from support.brokers.rabbitmq import RabbitMQ
from support.calls import Mailbox, linked
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

QUEUE = "signed-probe"


@pytest.fixture
def signer(tmp_path: Path) -> HmacAuthenticator:
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text(f"ops {b64encode(b'k' * 32).decode()}\n")
    return HmacAuthenticator(keys)


@pytest.fixture
def process(rabbitmq: RabbitMQ, signer: HmacAuthenticator, root: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    url = rabbitmq.url()
    with AgentProcess(root) as process:
        text = descriptor(url, QUEUE, threads=4, more=f"\n        [hmac]\n        keys = {tmp_path / 'keys'}")
        process.plugin("probe", PROBE, text.replace("[messaging]\n", "[messaging]\n        authenticator = hmac\n"))
        yield process.start()
    with linked(url) as link:
        link.ask(DeleteQueue(QUEUE))


@pytest.fixture
def agent(rabbitmq: RabbitMQ, process: AgentProcess, signer: HmacAuthenticator) -> Iterator[Agent]:
    with Agent(rabbitmq.url(), QUEUE, wait=60, authenticator=signer) as agent:
        yield until_it_answers(agent, process.tail())


def test_an_agent_that_is_killed_loses_no_signed_request(agent: Agent, process: AgentProcess, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(agent.Probe().note, str(trace), f"n{n}", 0.7) for n in range(12)]
        eventually(lambda: len(runs(trace)) >= 4)
        process.kill()
        process.start()
        assert sorted(call.result(60) for call in calls) == sorted(f"n{n}" for n in range(12))
    counted = runs(trace)
    assert len(counted) == 12
    assert set(counted.values()) <= {1, 2}


def test_a_copy_is_rejected(
    rabbitmq: RabbitMQ, agent: Agent, process: AgentProcess, signer: HmacAuthenticator, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    assert agent.Probe().echo(1) == 1
    with Mailbox(Connector(URL.parse(rabbitmq.url()))) as mailbox:
        body = sign(json.dumps({**mailbox.request(str(trace), "ran"), "routing": [None, QUEUE]}).encode(), signer)
        mailbox.send(QUEUE, body)
        while "result" not in json.loads(mailbox.receive()["message"]):
            pass
        for kill in (False, True):
            # A result may be at its caller long before the broker has confirmed it, and only then it is acknowledged.
            eventually(lambda: _held(rabbitmq) == 0)
            if kill:
                process.kill()
                process.start()
            mailbox.send(QUEUE, body)
            rejected = json.loads(mailbox.receive()["message"])
            assert (rejected["status"], rejected["code"]) == ("rejected", "security.replayed")
    assert runs(trace) == {"ran": 1}


def _held(rabbitmq: RabbitMQ) -> int:
    """Count what the broker still keeps of the agent's requests."""
    return rabbitmq.count(QUEUE)
