"""Methods that go on for longer than they may are seen by those who look after an agent; ``async def`` goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import ExecutionTimeout
from gofer.proxy import Agent
from gofer.root import Root
from gofer.tools.agent_client import ask
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import runs
from support.waiting import eventually

KENNEL = """
import asyncio
import os
import time

from gofer.agent.plugin import Plugin
from gofer.decorators import action, fork, remote

swept = []


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")


class Dog:
    @remote
    def hang(self, path, go):
        note(path, "begun")
        while not os.path.exists(go):
            time.sleep(0.005)
        note(path, "returned")

    @remote
    async def hang_later(self, path):
        note(path, "begun")
        try:
            await asyncio.Event().wait()
        finally:
            note(path, "ended")

    @remote
    @fork
    def hang_forked(self, path):
        note(path, "begun")
        time.sleep(600)

    @remote
    async def bark(self, words="woof"):
        await asyncio.sleep(0.01)
        return words

    @remote(secret="bone")
    async def fetch(self):
        return "ball"

    @remote
    def swept(self):
        return len(swept)

    @remote
    async def swept_by_now(self):
        return len(swept)

    @action(seconds=0.05)
    async def sweep(self):
        swept.append(1)
"""

MEADOW = """
from gofer.decorators import remote

class Sheep:
    @remote
    async def bleat(self):
        return "baa"

    @remote
    def graze(self):
        return "grass"
"""


class Yard:
    """A goferd with one plugin of one thread, and who looks after it."""

    def __init__(self, process: AgentProcess, agent: Agent) -> None:
        self.process = process
        self.agent = agent

    def listed(self, **how: Any) -> list[dict[str, Any]]:
        found = ask(Root(self.process.root), {"do": "requests", **how}, host=None, port=None, wait=30)["entries"]
        assert isinstance(found, list)
        return found

    def overdue(self) -> list[dict[str, Any]]:
        return self.listed(states=["overdue"])

    def mgt(self, *arguments: str) -> str:
        done = gofer("mgt", *arguments, environ={"GOFER_ROOT": str(self.process.root)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hang(self, method: str, *args: str) -> str:
        """Have a method hang until its caller is told; return its serial number."""
        trigger = self.agent(trigger=1, timeout=0.3).Dog()[method](*args)
        with pytest.raises(ExecutionTimeout):
            trigger()
        return str(trigger.sn)


@pytest.fixture
def yard(root: Path) -> Iterator[Yard]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        text = "[main]\nenabled = 1\nthreads = 1\n{}\n[messaging]\nurl = {}\n[model]\nqueue = {}\n"
        process.configure("[main]\nshutdown_timeout = 1\n")
        process.plugin("kennel", KENNEL, text.format("forward = meadow", broker.url, "kennel"))
        process.plugin("meadow", MEADOW, text.format("accept = kennel", broker.url, "meadow"))
        process.start()
        with Agent(broker.url, "kennel", wait=30) as agent:
            yield Yard(process, until_it_answers(agent, process.tail()))


@pytest.mark.slow
def test_one_that_holds_a_thread_is_listed_and_named_until_it_returns(yard: Yard, tmp_path: Path) -> None:
    trace, go = tmp_path / "trace", tmp_path / "go"
    sn = yard.hang("hang", str(trace), str(go))

    (entry,) = yard.overdue()
    assert (entry["sn"], entry["plugin"], entry["target"], entry["state"]) == (sn, "kennel", "Dog.hang", "overdue")
    assert entry["seconds"] >= 0.3
    assert "Dog.hang() took longer than 0.3 s" in entry["reason"]
    assert "restart of goferd" in entry["reason"]
    assert "@fork" in entry["reason"]
    assert [one["sn"] for one in yard.listed()] == [sn]
    (line,) = yard.mgt("--requests", "--state", "overdue").splitlines()[1:]
    assert line.split()[:4] == [sn, "kennel", "overdue", "Dog.hang"]
    shown = yard.mgt("--show")
    assert "workers: 1 of 1 busy" in shown
    assert "overdue Dog.hang for " in shown
    assert sn in shown

    assert yard.mgt("--cancel", sn) == f"{sn}\n"
    assert [one["sn"] for one in yard.overdue()] == [sn]  # told so; it does not look
    eventually(lambda: "It is still running." in yard.process.tail())
    (told,) = [line for line in yard.process.tail().splitlines() if "It is still running." in line]
    assert " WARNING " in told
    assert f"{sn} kennel Dog.hang() took longer than 0.3 s; it may still run." in told

    yard.mgt("--unload", "kennel")
    assert "plugin kennel: unloaded; 1 of its calls continue: Dog.hang" in yard.process.tail()
    assert [one["sn"] for one in yard.overdue()] == [sn]
    go.touch()
    eventually(lambda: not yard.listed())
    assert runs(trace) == {"begun": 1, "returned": 1}
    assert "overdue" not in yard.mgt("--show")


@pytest.mark.parametrize("who", ["mgt", "caller", "criteria"])
def test_a_coroutine_is_ended_by_cancelling_it(yard: Yard, tmp_path: Path, who: str) -> None:
    trace = tmp_path / "trace"
    trigger = yard.agent(trigger=1, timeout=0.3, data={"job": 7}).Dog().hang_later(str(trace))
    with pytest.raises(ExecutionTimeout):
        trigger()
    (entry,) = yard.overdue()
    assert entry["sn"] == trigger.sn
    assert f"gofer agent cancel {trigger.sn}" in entry["reason"]
    assert runs(trace) == {"begun": 1}  # its caller's timeout alone ends nothing
    if who == "mgt":
        assert yard.mgt("--cancel", trigger.sn) == f"{trigger.sn}\n"
    elif who == "caller":
        assert yard.agent.Admin().cancel(trigger.sn) == [trigger.sn]
    else:
        assert yard.agent.Admin().cancel(criteria={"match": {"job": 7}}) == [trigger.sn]
    eventually(lambda: not yard.listed())
    assert runs(trace) == {"begun": 1, "ended": 1}
    assert yard.agent.Admin().cancel(trigger.sn) == []


def test_one_in_a_process_of_its_own_ends_by_itself(yard: Yard, tmp_path: Path) -> None:
    yard.hang("hang_forked", str(tmp_path / "trace"))
    eventually(lambda: not yard.listed())


def test_async_methods_do_not_wait_for_a_busy_thread(yard: Yard, tmp_path: Path) -> None:
    trace, go = tmp_path / "trace", tmp_path / "go"
    with ThreadPoolExecutor(4) as threads:
        hung = threads.submit(yard.agent.Dog().hang, str(trace), str(go))
        try:
            eventually(lambda: runs(trace)["begun"] == 1)
            waiting = [threads.submit(yard.agent.Dog().swept), threads.submit(yard.agent.Sheep().graze)]
            eventually(lambda: len(yard.listed(states=["waiting"])) == 2)

            assert yard.agent.Dog().bark("here") == "here"
            assert yard.agent(secret="bone").Dog().fetch() == "ball"
            assert yard.agent.Sheep().bleat() == "baa"  # of the plugin that it forwards to
            before = yard.agent.Dog().swept_by_now()
            eventually(lambda: yard.agent.Dog().swept_by_now() > before)  # and so do actions
            assert not any(one.done() for one in [hung, *waiting])
        finally:
            go.touch()
        hung.result(30)
        assert waiting[1].result(30) == "grass"
        assert waiting[0].result(30) > 0


def test_what_is_waiting_goes_on_in_the_new_code_when_its_plugin_is_loaded_again(yard: Yard, tmp_path: Path) -> None:
    assert yard.agent.Dog().bark() == "woof"
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(yard.agent.Dog().bark, str(n)) for n in range(200)]
        yard.mgt("--reload", "kennel")
        calls += [threads.submit(yard.agent.Dog().bark, str(n)) for n in range(200)]
        assert [one.result(30) for one in calls] == [str(n) for n in range(200)] * 2
