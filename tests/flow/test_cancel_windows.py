"""Admin.cancel in each moment of a request's life, by criteria of any shape, whatever runs it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Cancelled
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from gofer.rmi.server.logins import Logins
from support import kennel
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.receiving import request, served
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("cancel-windows")  # one process makes what is shared

JOB = """
import asyncio
import os
import time

from gofer.agent.rmi import Context
from gofer.decorators import fork, remote

while os.path.exists({gate!r}):
    time.sleep(0.005)


def stay(path):
    with open(path, "a") as file:
        file.write("ran\\n")
    while not Context.current().cancelled():
        time.sleep(0.005)
    return "cleaned up"


class Job:
    @remote
    def direct(self, path):
        return stay(path)

    @remote
    @fork
    def forked(self, path):
        return stay(path)

    @remote
    async def coroutine(self, path):
        with open(path, "a") as file:
            file.write("ran\\n")
        while not Context.current().cancelled():
            await asyncio.sleep(0.005)
        return "cleaned up"
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def agent(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One worker."""
    with AgentProcess(tmp_path_factory.mktemp("agent")) as process:
        process.plugin("job", JOB.format(gate=""), descriptor(broker.url, "job"))
        process.start()
        with Agent(broker.url, "job", wait=30) as agent:
            yield until_it_answers(agent, process.tail())


def begin(threads: ThreadPoolExecutor, agent: Agent, model: str, trace: Path, data: Any) -> Future[Any]:
    return threads.submit(getattr(agent(data=data).Job(), model), str(trace))


NIGHTS = [{"group": "night", "task": {"n": n, "tags": ["a", n]}} for n in range(3)]
DAY = {"group": "day", "task": {"n": 1}}


@pytest.mark.parametrize("model", ["direct", "forked", "coroutine"])
def test_what_runs_is_reported_whatever_runs_it(agent: Agent, model: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with ThreadPoolExecutor(1) as threads:
        running = begin(threads, agent, model, trace, model)
        eventually(lambda: runs(trace)["ran"] == 1)
        assert len(agent.Admin().cancel(criteria={"eq": model})) == 1
        if model == "forked":
            with pytest.raises(Cancelled, match="its process was killed"):
                running.result(30)
        else:
            assert running.result(30) == "cleaned up"
    assert runs(trace) == {"ran": 1}


@pytest.mark.parametrize(
    ("criteria", "met"),
    [
        ({"match": {"group": "night", "task": {"n": 1}}}, [NIGHTS[1]]),
        ({"match": {"task": {"tags": ["a", 2]}}}, [NIGHTS[2]]),
        ({"and": [{"match": {"group": "night"}}, {"or": [{"match": {"task": {"n": 0}}}, {"eq": NIGHTS[2]}]}]}, [0, 2]),
        ({"or": [{"and": [{"match": {"group": "day"}}, {"neq": 5}]}, {"in": [NIGHTS[1], "x"]}]}, [DAY, NIGHTS[1]]),
        ({"match": {"group": "night"}, "neq": NIGHTS[0]}, [1, 2]),
        ({"gt": 4}, [5]),
        ({"lt": "x"}, ["text"]),
    ],
)
def test_criteria_may_be_nested(agent: Agent, criteria: dict[str, Any], met: list[Any], tmp_path: Path) -> None:
    """Of requests that wait behind one that runs, those are cancelled whose data meet the criteria."""
    wanted = [NIGHTS[one] if one in (0, 1, 2) else one for one in met]
    everything = [*NIGHTS, DAY, 5, "text", None]
    trace = tmp_path / "trace"
    quiet = agent(wait=0)
    first = quiet(data=["first"]).Job().direct(str(trace))
    sent = [(quiet(data=data).Job().direct(str(trace)), data) for data in everything]
    agent.flush(20)
    eventually(lambda: runs(trace)["ran"] == 1)
    assert agent.Admin().echo("all are in the queue") == "all are in the queue"
    assert agent.Admin().cancel(criteria=criteria) == [sn for sn, data in sent if data in wanted]
    left = [sn for sn, data in sent if data not in wanted]
    assert agent.Admin().cancel(criteria={"neq": "nothing"}) == [first, *left]
    eventually(lambda: agent.Admin().cancel(criteria={"neq": "nothing"}) == [])
    assert runs(trace) == {"ran": 1}


def test_listeners_of_replies_hear_it_too(agent: Agent, broker: LocalBroker, tmp_path: Path) -> None:
    """Of what runs and of what waits: one end each."""
    trace, ends = tmp_path / "trace", queue.SimpleQueue[Any]()
    with ReplyConsumer("cancelled", broker.url).start(lambda reply: ends.put(reply) if reply.done else None):
        sent = {agent(reply="cancelled", data=data).Job().direct(str(trace)) for data in ("runs", "waits")}
        eventually(lambda: runs(trace)["ran"] == 1)
        assert agent.Admin().echo("both are in the queue") == "both are in the queue"
        assert set(agent.Admin().cancel(criteria={"in": ["runs", "waits"]})) == sent
        heard = [ends.get(timeout=20) for _ in sent]
    assert {one.sn for one in heard} == sent
    ran, waited = sorted(heard, key=lambda one: one.data)
    assert (ran.data, ran.retval) == ("runs", "cleaned up")
    with pytest.raises(Cancelled):
        waited.throw()


def test_while_the_helper_of_forked_calls_is_starting(broker: LocalBroker, tmp_path: Path) -> None:
    """What was cancelled meanwhile is never run."""
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    (tmp_path / "agent").mkdir()
    with AgentProcess(tmp_path / "agent") as process, ThreadPoolExecutor(1) as threads:
        process.plugin("job", JOB.format(gate=str(gate)), descriptor(broker.url, "starting"))
        process.start()
        gate.touch()  # from now on importing the plugin takes until it is gone
        with Agent(broker.url, "starting", wait=30) as agent:
            until_it_answers(agent, process.tail())
            call = begin(threads, agent, "forked", trace, "soon")
            eventually(lambda: agent.Admin().cancel(criteria={"eq": "soon"}))
            gate.unlink()
            with pytest.raises(Cancelled):
                call.result(20)
            assert not trace.exists()


@pytest.mark.parametrize("right", [True, False])
def test_while_a_password_is_checked(tmp_path: Path, right: bool) -> None:
    asking, answer = threading.Event(), threading.Event()

    def pam(user: str, password: bytes, service: str) -> bool:
        asking.set()
        assert answer.wait(20)
        return right

    with served(tmp_path, logins=Logins("login", check=pam)) as serving:
        asked = request("Dog", "reboot", pam={"user": "root", "password": "x"})
        serving.caller.send(asked)
        assert asking.wait(10)
        (found,) = serving.registry.in_flight()
        assert serving.lifecycle.cancel(found)
        answer.set()
        assert serving.caller.end(asked["sn"])["result"]["xclass"] == "Cancelled"
        assert kennel.ran() == []
        serving.idle()
