"""Unloading a plugin, or stopping an agent, waits for no result that cannot be delivered, and loses none."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from gofer.root import Root
from gofer.tools.agent_client import ask
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import answers, until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

# What waits for a result that nobody takes waits longer than any test does.
PATIENT = "[main]\nshutdown_timeout = 10m\n"


class Site:
    """A goferd with the probe."""

    def __init__(self, root: Path, broker: LocalBroker, process: AgentProcess, agent: Agent) -> None:
        self.root = root
        self.broker = broker
        self.process = process
        self.agent = agent

    def manage(self, do: str, **fields: Any) -> Any:
        return ask(Root(self.root), {"do": do, **fields}, host=None, port=None, wait=50)

    def states(self) -> list[str]:
        return [one["state"] for one in self.manage("requests")["entries"]]

    def undeliverable(self, *things: str) -> None:
        """Have results that go where nobody is."""
        for thing in things:
            self.agent(reply="nowhere").Probe().echo(thing)
        eventually(lambda: self.states() == ["answering"] * len(things))

    def told(self, text: str) -> str:
        (line,) = [line for line in self.process.tail().splitlines() if text in line]
        return line


@pytest.fixture
def site(root: Path) -> Iterator[Site]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        process.configure(PATIENT)
        process.plugin("probe", PROBE, descriptor(broker.url, "probe", threads=4))
        process.start()
        with Agent(broker.url, "probe", wait=30) as agent:
            yield Site(root, broker, process, until_it_answers(agent, process.tail()))


def test_unloading_waits_for_no_result_that_nobody_takes_and_says_why(site: Site) -> None:
    site.undeliverable("one", "two")
    site.manage("unload", which="probe")

    line = site.told("plugin probe: unloaded; ")
    assert " WARNING " in line
    assert "2 results undelivered (for 'nowhere': \"there is no queue 'nowhere'\")" in line
    assert "go on" not in line
    assert set(site.states()) <= {"answering", "undeliverable"}

    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with ReplyConsumer("nowhere", site.broker.url).start(lambda reply: heard.put(reply) if reply.done else None):
        assert {heard.get(timeout=30).retval for _ in range(2)} == {"one", "two"}
    eventually(lambda: site.states() == [])


def test_what_runs_is_named_when_its_plugin_is_unloaded(site: Site, tmp_path: Path) -> None:
    site.process.stop()
    site.process.configure("[main]\nshutdown_timeout = 0.2\n")
    site.process.start()
    trace, go = tmp_path / "trace", tmp_path / "go"
    site.undeliverable("one")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(site.agent.Probe().note, str(trace), "begun", until=str(go))
        eventually(lambda: runs(trace))
        site.manage("unload", which="probe")
        assert "unloaded; 1 of its calls continue: Probe.note" in site.process.tail()
        assert "unloaded; 1 results undelivered" in site.process.tail()
        go.touch()
        assert running.result(30) == "begun"


def test_reloading_waits_for_none_either(site: Site) -> None:
    site.undeliverable("one")
    assert site.manage("reload", which="probe")["state"] == "running"
    assert site.agent.Probe().echo("here") == "here"

    site.process.descriptor("probe", descriptor(site.broker.url, "elsewhere"))
    assert site.manage("reload", which="probe")["state"] == "running"
    with Agent(site.broker.url, "elsewhere", wait=30) as agent:
        until_it_answers(agent)
        assert agent.Probe().echo("there") == "there"


@pytest.mark.slow
def test_an_agent_stops_while_its_broker_is_gone_and_answers_when_both_are_back(site: Site, tmp_path: Path) -> None:
    trace, go = tmp_path / "trace", tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(site.agent.Probe().note, str(trace), "ran", until=str(go))
        eventually(lambda: runs(trace))
        eventually((site.root / "var/lib/gofer/ledger/ledger.db").exists)  # it has taken its second
        site.broker.stop()
        go.touch()
        eventually(lambda: site.states() == ["answering"])
        assert site.process.stop() == 0
        site.broker.start()
        site.process.start()
        eventually(lambda: answers(site.agent))
        assert call.result(60) == "ran"
    assert runs(trace) == {"ran": 1}
