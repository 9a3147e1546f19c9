"""Reply queues on a broker whose queues do not expire: nothing is left of a caller, however it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import BrokerJ
from support.goferd import AgentProcess
from support.probe import PROBE, descriptor
from support.waiting import eventually

QUEUE = "probe-of-callers"

CALLER = """
import sys
from gofer.proxy import Agent

with Agent(sys.argv[1], sys.argv[2], wait=60) as agent:
    print(agent.Probe().echo("called"), flush=True)
    sys.stdin.readline()
"""


def reply_queues(broker: BrokerJ) -> set[str]:
    return {queue["name"] for queue in broker.queues() if len(queue["name"]) == 36}


@pytest.fixture
def agent(brokerj: BrokerJ, root: Path) -> Iterator[AgentProcess]:
    with AgentProcess(root) as process:
        process.plugin("probe", PROBE, descriptor(brokerj.url(adapter="amqp"), QUEUE, more="expiration = 60"))
        yield process.start()
    brokerj.api("DELETE", f"/queue/default/default/{QUEUE}")


@pytest.mark.parametrize("end", ["closed", "killed"])
@pytest.mark.parametrize("adapter", ["amqp", "proton", "qpid"])
def test_nothing_is_left_of_a_caller(brokerj: BrokerJ, agent: AgentProcess, adapter: str, end: str) -> None:
    before = reply_queues(brokerj)
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, brokerj.url(adapter=adapter), QUEUE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert caller.stdout is not None
        assert caller.stdin is not None
        with caller.stdout, caller.stdin:
            assert caller.stdout.readline() == "called\n", agent.tail()
            assert len(reply_queues(brokerj) - before) == 1
            if end == "killed":
                caller.kill()
            else:
                caller.stdin.write("\n")
                caller.stdin.flush()
            caller.wait(30)
    finally:
        caller.kill()
        caller.wait()
    eventually(lambda: not reply_queues(brokerj) - before)


def test_an_agents_queue_that_cannot_expire_is_reported(agent: AgentProcess, brokerj: BrokerJ) -> None:
    eventually(lambda: "the queue does not expire: this broker cannot do that" in agent.tail(), what=agent.tail())
    assert QUEUE in {queue["name"] for queue in brokerj.queues()}
