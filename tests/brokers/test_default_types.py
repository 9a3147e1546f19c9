"""A virtual host whose queues are quorum queues unless somebody says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.reloads import manage
from support.waiting import eventually


@pytest.fixture
def vhost(rabbitmq: RabbitMQ, root: Path) -> Iterator[str]:
    name = f"quorum-{root.parent.name}"
    rabbitmq.ctl("add_vhost", name, "--default-queue-type", "quorum")
    rabbitmq.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    yield name
    rabbitmq.delete_vhost(name)


@pytest.fixture
def goferd(rabbitmq: RabbitMQ, vhost: str, root: Path) -> Iterator[AgentProcess]:
    """Two plugins on one connection, not started; what goes with the first is deleted when it is unloaded."""
    with AgentProcess(root) as process:
        for name in ("first", "second"):
            process.plugin(name, PROBE, descriptor(rabbitmq.url(vhost=vhost), name, more="managed = 2"))
        yield process


def connector(rabbitmq: RabbitMQ, vhost: str) -> Connector:
    return Connector(URL.parse(rabbitmq.url(vhost=vhost)))


def test_queues_are_classic_all_the_same(rabbitmq: RabbitMQ, vhost: str, goferd: AgentProcess) -> None:
    goferd.start()
    with Agent(connector(rabbitmq, vhost), "first", wait=20) as agent:
        until_it_answers(agent, goferd.tail())
        found = {queue["name"]: queue["type"] for queue in rabbitmq.queues(vhost)}
    assert {"first", "second"} < set(found)
    assert len(found) == 4  # and the one for replies, and the agent's own
    assert set(found.values()) == {"classic"}


@pytest.mark.parametrize("declared", ["classic", "by another", "quorum"])
def test_unloading_a_plugin_costs_no_other_its_connection(
    rabbitmq: RabbitMQ, vhost: str, goferd: AgentProcess, tmp_path: Path, declared: str
) -> None:
    """Declared ``by another``: who left the type to the virtual host. ``quorum``: so says the descriptor."""
    if declared == "by another":
        rabbitmq.api("PUT", f"/queues/{vhost}/first", {"durable": True, "arguments": {"x-queue-type": "quorum"}})
    elif declared == "quorum":
        more = "managed = 2\n        type = quorum"
        goferd.descriptor("first", descriptor(rabbitmq.url(vhost=vhost), "first", more=more))
    goferd.start()
    with (
        Agent(connector(rabbitmq, vhost), "first", wait=20) as first,
        Agent(connector(rabbitmq, vhost), "second", wait=40) as second,
        ThreadPoolExecutor(1) as threads,
    ):
        for agent in (first, second):
            until_it_answers(agent, goferd.tail())
        until = tmp_path / "go"
        call = threads.submit(second.Probe().note, str(tmp_path / "trace"), "began", 0, str(until))
        eventually((tmp_path / "trace").exists)

        manage(goferd.root, do="unload", which="first")

        until.touch()
        assert call.result(30) == "began"
    log = goferd.tail(200)
    assert "connection lost" not in log
    if declared == "classic":
        assert "queue 'first' deleted" in log
    elif declared == "quorum":
        assert "queue 'first' is left, empty: brokers cannot delete a quorum queue on condition that" in log
    else:
        assert "queue 'first' is used as it is: " in log
        assert "queue 'first' is left, empty: " in log
    names = [queue["name"] for queue in rabbitmq.queues(vhost)]
    assert ("first" in names) is (declared != "classic")
