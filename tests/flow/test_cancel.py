"""Admin.cancel: what waits, what runs, what has not come yet; and its caller always hears an end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Cancelled, InvalidOperator, NotFound, RequestTimeout
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import descriptor, runs
from support.waiting import eventually

PLUGIN = '''
import asyncio, os, time
from gofer.agent.rmi import Context
from gofer.decorators import remote


class Job:
    @remote
    def echo(self, value):
        return value

    @remote
    def stay(self, path, text, how="return", limit=30):
        """Stay until cancelled; leave a line at the start."""
        with open(path, "a") as file:
            file.write(text + "\\n")
        end = time.monotonic() + limit
        while not Context.current().cancelled():
            if time.monotonic() > end:
                return "never cancelled"
            time.sleep(0.005)
        if how == "raise":
            raise ValueError("cleaned up")
        return None if how == "nothing" else "cleaned up"

    @remote
    async def stay_later(self, path, text, how="return", limit=30):
        with open(path, "a") as file:
            file.write(text + "\\n")
        end = time.monotonic() + limit
        while not Context.current().cancelled() and time.monotonic() < end:
            await asyncio.sleep(0.005)
        return None if how == "nothing" else "cleaned up"
'''


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def goferd(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("root")) as process:
        process.plugin("job", PLUGIN, descriptor(broker.url, "job"))
        late = f"[main]\nenabled = 1\nlatency = 20\n[messaging]\nurl = {broker.url}\n[model]\nqueue = late\n"
        process.plugin("late", PLUGIN, late)
        yield process.start()


@pytest.fixture
def agent(broker: LocalBroker, goferd: AgentProcess) -> Iterator[Agent]:
    """The plugin with one worker."""
    with Agent(broker.url, "job", wait=30) as agent:
        eventually(lambda: answers(agent))
        yield agent


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def answers(agent: Agent) -> bool:
    """Whether the agent is at its queue: ready, it may still be on its way there."""
    try:
        return bool(agent(wait=2).Admin().hello())
    except (NotFound, RequestTimeout):
        return False


def stay(threads: ThreadPoolExecutor, agent: Agent, trace: Path, text: str, **more: Any) -> Future[Any]:
    """Have a job that ends when it is cancelled, with its name as data."""
    return threads.submit(agent(data={"group": text}).Job().stay, str(trace), text, **more)


def cancel(agent: Agent, *groups: str) -> list[str]:
    """Cancel the jobs of these names; return which were."""
    found: list[str] = agent.Admin().cancel(criteria={"or": [{"match": {"group": group}} for group in groups]})
    return found


def test_what_waits_is_dropped_and_what_runs_is_reported(
    agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    running = stay(threads, agent, trace, "r")
    eventually(lambda: runs(trace)["r"] == 1)
    waiting = [stay(threads, agent, trace, "w") for _ in range(4)]
    assert agent.Admin().echo("all sent") == "all sent"
    found: list[str] = []
    eventually(lambda: found.extend(cancel(agent, "w")) or len(found) == 4)
    for one in waiting:
        with pytest.raises(Cancelled, match="before it was started"):
            one.result(30)
    assert len(cancel(agent, "r")) == 1
    assert running.result(30) == "cleaned up"
    assert runs(trace) == {"r": 1}
    assert cancel(agent, "w", "r") == []  # nothing left
    assert agent.Job().echo("free again") == "free again"


def test_a_method_that_raises_when_it_is_cancelled_was_cancelled(
    agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    running = stay(threads, agent, tmp_path / "trace", "x", how="raise")
    eventually(lambda: cancel(agent, "x"))
    with pytest.raises(Cancelled):
        running.result(30)


@pytest.mark.parametrize("method", ["stay", "stay_later"])
@pytest.mark.parametrize("how", ["return", "nothing"])
def test_a_value_returned_by_a_cancelled_method_is_its_callers(
    agent: Agent, threads: ThreadPoolExecutor, method: str, how: str, tmp_path: Path
) -> None:
    """So it was in gofer 2.12. Without a value nothing would tell its caller that the method stopped short."""
    running = threads.submit(agent(data={"group": how}).Job()[method], str(tmp_path / "trace"), "x", how=how)
    eventually(lambda: runs(tmp_path / "trace"))
    assert len(cancel(agent, how)) == 1
    if how == "return":
        assert running.result(30) == "cleaned up"
    else:
        with pytest.raises(Cancelled, match="its method has returned without a value"):
            running.result(30)


def test_by_number_however_it_is_passed(agent: Agent, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    first = agent(wait=0).Job().stay(str(trace), "first")
    sns = [agent(wait=0).Job().stay(str(trace), f"n{n}") for n in range(2)]
    agent.flush(10)
    eventually(lambda: runs(trace)["first"] == 1)
    assert agent.Admin().cancel(sn=sns[0]) == [sns[0]]
    assert agent.Admin().cancel(sns[1]) == [sns[1]]
    assert agent.Admin().cancel(sns[1]) == []  # as gofer 2.12 answers
    assert agent.Admin().cancel(first) == [first]
    assert agent.Job().echo("done") == "done"
    assert runs(trace) == {"first": 1}


def test_in_the_latency_window(broker: LocalBroker, goferd: AgentProcess, tmp_path: Path) -> None:
    with Agent(broker.url, "late", wait=60) as agent, ThreadPoolExecutor(1) as threads:
        eventually(lambda: answers(agent))
        delayed = stay(threads, agent, tmp_path / "trace", "d")
        start = time.monotonic()
        eventually(lambda: cancel(agent, "d"))
        with pytest.raises(Cancelled):
            delayed.result(30)
        assert time.monotonic() - start < 18  # of 20
        assert not (tmp_path / "trace").exists()


def test_what_has_not_come_yet_is_cancelled_when_it_comes(
    agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    trigger = agent(trigger=1).Job().stay(str(tmp_path / "trace"), "later")
    assert agent.Admin().cancel(sn=trigger.sn) == []
    with pytest.raises(Cancelled):
        trigger()
    assert not (tmp_path / "trace").exists()


def test_wrong_criteria_cancel_nothing_and_say_why(agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    running = stay(threads, agent, trace, "r")
    eventually(lambda: runs(trace)["r"] == 1)
    with pytest.raises(InvalidOperator, match="'nope' is not an operator"):
        agent.Admin().cancel(criteria={"or": [{"match": {"group": "r"}}, {"nope": 1}]})
    for empty in ({}, {"match": {}}, {"and": []}):
        with pytest.raises(ValueError, match="empty"):
            agent.Admin().cancel(criteria=empty)
    with pytest.raises(ValueError, match="not a serial number"):
        agent.Admin().cancel(sn="../../etc")
    assert agent.Admin().cancel() == []  # as gofer 2.12 answers
    assert agent.Admin().cancel(sn=str(uuid.uuid4())) == []
    assert not running.done()
    assert len(agent.Admin().cancel(criteria={"neq": "anything"})) == 1  # and not the cancellation itself
    assert running.result(30) == "cleaned up"
