"""Plugins that are loaded again and unloaded while they are called through RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from gofer.errors import Rejected
from gofer.messaging.adapter import DeleteQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.plugins import describe, install
from support.presence import until_it_answers
from support.reloads import Storm, manage
from support.waiting import eventually

PLUGIN = """
from gofer.decorators import remote

@remote
def hello():
    return "hello"
"""


@pytest.fixture
def url(rabbitmq: RabbitMQ, root: Path) -> Iterator[str]:
    """A virtual host of the test's own."""
    name = f"reload-{root.parent.name}"
    rabbitmq.api("PUT", f"/vhosts/{name}")
    rabbitmq.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    yield rabbitmq.url(vhost=name)
    rabbitmq.api("DELETE", f"/vhosts/{name}")


def queues(rabbitmq: RabbitMQ, url: str) -> list[str]:
    """The agent's queues; others have a uuid in their names: those for replies, and the agent's for its probes."""
    return [str(one["name"]) for one in rabbitmq.queues(url.rpartition("/")[2]) if len(str(one["name"])) < 30]


def consumers(rabbitmq: RabbitMQ, url: str) -> int:
    """Return how many consumers the agent's queues have."""
    found = rabbitmq.queues(url.rpartition("/")[2])
    return sum(one.get("consumers", 0) for one in found if len(str(one["name"])) < 30)


def test_of_a_thousand_calls_in_flight_each_has_one_outcome(
    rabbitmq: RabbitMQ, root: Path, tmp_path: Path, url: str
) -> None:
    storm = Storm(root, tmp_path, url)

    storm.run()

    storm.check()
    assert queues(rabbitmq, url) == []


@pytest.mark.parametrize(
    "model",
    ["", "exclusive=1\n", "expiration=60\n", "type=quorum\n"],
    ids=["usual", "exclusive", "expiring", "quorum"],
)
def test_an_unloaded_plugins_queue_is_emptied_and_deleted(
    rabbitmq: RabbitMQ, root: Path, tmp_path: Path, url: str, model: str
) -> None:
    left = ["plain"] if "quorum" in model else []  # which no broker deletes only if it is empty
    install(tmp_path, "plain", PLUGIN)
    describe(root, "plain", f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=plain\n{model}")
    with AgentProcess(root, path=(tmp_path,)) as goferd, Agent(url, "plain", wait=20) as agent:
        goferd.start()
        until_it_answers(agent, goferd.tail())

        manage(root, do="unload", which="plain")

        assert queues(rabbitmq, url) == left, goferd.tail()
        assert ("queue 'plain' is left, empty: " in goferd.tail()) is bool(left)
        assert "connection lost" not in goferd.tail()


@pytest.mark.parametrize(
    "model",
    ["", "expiration=60\n", "expiration=60\n# gofer 2\n"],
    ids=["usual", "expiring", "expiring of gofer 2"],
)
def test_what_waits_there_is_rejected_first(
    rabbitmq: RabbitMQ, root: Path, tmp_path: Path, url: str, model: str
) -> None:
    if "gofer 2" in model:
        theirs = {"durable": True, "auto_delete": True, "arguments": {"x-expires": 60000}}
        rabbitmq.api("PUT", f"/queues/{url.rpartition('/')[2]}/plain", theirs)
    install(tmp_path, "plain", PLUGIN)
    main = "[main]\nenabled=1\nlatency=0.5\n"
    describe(root, "plain", f"{main}[messaging]\nurl={url}\n[model]\nqueue=plain\nprefetch=1\n{model}")
    outcomes: list[Any] = []
    with AgentProcess(root, path=(tmp_path,)) as goferd, Agent(url, "plain", wait=20) as agent:
        goferd.start()
        until_it_answers(agent, goferd.tail())
        with ThreadPoolExecutor(6) as threads:
            calls = [threads.submit(agent.plain.hello) for _ in range(6)]
            eventually(lambda: [one["target"] for one in manage(root, do="requests")["entries"]] == ["plain.hello"])
            manage(root, do="unload", which="plain")
            outcomes = [one.exception(20) or one.result() for one in calls]

    assert outcomes.count("hello") >= 1
    rejected = [one for one in outcomes if one != "hello"]
    assert rejected
    assert {type(one) for one in rejected} == {Rejected}
    assert {one.code for one in rejected} == {"plugin.unloaded"}
    assert queues(rabbitmq, url) == []


def test_a_queue_that_another_agent_reads_is_left_to_that(
    rabbitmq: RabbitMQ, root: Path, tmp_path: Path, url: str
) -> None:
    install(tmp_path, "plain", PLUGIN)
    text = f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=plain\n"
    with (
        AgentProcess(root, path=(tmp_path,)) as goferd,
        AgentProcess(tmp_path / "other", path=(tmp_path,)) as other,
        Agent(url, "plain", wait=20) as agent,
    ):
        describe(root, "plain", text)
        describe(other.root, "plain", text)
        goferd.start()
        other.start()
        eventually(lambda: consumers(rabbitmq, url) == 2)

        manage(root, do="unload", which="plain")

        assert "queue 'plain' stays as it is: " in goferd.tail()
        assert "connection lost" not in goferd.tail()
        assert agent.plain.hello() == "hello"


def test_a_queue_that_was_deleted_is_there_and_served_again(
    rabbitmq: RabbitMQ, root: Path, tmp_path: Path, url: str
) -> None:
    install(tmp_path, "plain", PLUGIN)
    describe(root, "plain", f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=amq.direct/plain\n")
    with AgentProcess(root, path=(tmp_path,)) as goferd, Agent(url, "amq.direct/plain", wait=20) as agent:
        goferd.start()
        until_it_answers(agent, goferd.tail())

        link = pool.acquire(Connector.of(url))
        link.ask(DeleteQueue("plain"))
        pool.release(link)

        eventually(lambda: "no requests from queue 'plain'" in goferd.tail())
        assert until_it_answers(agent, goferd.tail()).plain.hello() == "hello"


def test_eighty_reloads_leave_nothing_behind(root: Path, tmp_path: Path, url: str) -> None:
    install(tmp_path, "plain", PLUGIN)
    describe(root, "plain", f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=plain\n")
    with AgentProcess(root, path=(tmp_path,)) as goferd, Agent(url, "plain", wait=20) as agent:
        goferd.start()
        until_it_answers(agent, goferd.tail())
        process = psutil.Process(goferd.pid)
        early = threads = 0
        for number in range(1, 81):
            manage(root, do="reload", which="plain")
            if number % 20 == 0:
                assert agent.plain.hello() == "hello"
            if number == 20:
                early, threads = process.memory_info().rss, process.num_threads()

        assert process.memory_info().rss - early < 3 * 1024 * 1024
        assert process.num_threads() <= threads + 1  # the one that has just answered management may still be there
        manage(root, do="unload", which="plain")
