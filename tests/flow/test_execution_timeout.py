"""How long a method may run: the smallest of what it says itself, its plugin and its caller, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import ExecutionTimeout
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import runs
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("execution-timeout")  # one process makes what is shared

SLOW = """
import asyncio
import time

from gofer.agent.rmi import Context
from gofer.decorators import fork, remote


def note(path, text):
    with open(path, "a") as file:
        file.write(text + "\\n")


def stay(path):
    while not Context.current().cancelled():
        time.sleep(0.005)
    note(path, "told")


async def wait(path):
    while not Context.current().cancelled():
        await asyncio.sleep(0.005)
    note(path, "told")


class Brief:
    @remote(timeout=0.25)
    def direct(self, path):
        stay(path)

    @remote(timeout=0.25)
    @fork
    def forked(self, path):
        stay(path)

    @remote(timeout=0.25)
    async def coroutine(self, path):
        await wait(path)


class Patient:
    @remote
    @fork
    def ready(self):
        return True

    @remote(timeout=60)
    def direct(self, path):
        stay(path)

    @remote(timeout=60)
    @fork
    def forked(self, path):
        stay(path)

    @remote(timeout=60)
    async def coroutine(self, path):
        await wait(path)
"""


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Agent]]:
    """Two plugins of one module, by the time that each gives its methods."""
    with (
        LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker,
        AgentProcess(tmp_path_factory.mktemp("agent")) as process,
    ):
        text = "[main]\nenabled = 1\nthreads = 4\ntimeout = {}\n[messaging]\nurl = {}\n[model]\nqueue = {}\n"
        process.plugin("patient", SLOW, text.format("1m", broker.url, "patient"))
        process.plugin("hasty", SLOW, text.format("0.25", broker.url, "hasty"))
        process.start()
        with Agent(broker.url, "patient", wait=30) as patient, Agent(broker.url, "hasty", wait=30) as hasty:
            for agent in (patient, hasty):
                until_it_answers(agent, process.tail())
                eventually(lambda agent=agent: forks(agent))  # type: ignore[misc]  # a lambda's default has no type
            yield {"patient": patient, "hasty": hasty}


def forks(agent: Agent) -> bool:
    """Whether the process that forks is there: starting it may take longer than the methods have."""
    try:
        return bool(agent.Patient().ready())
    except ExecutionTimeout:
        return False


@pytest.mark.parametrize("model", ["direct", "forked", "coroutine"])
@pytest.mark.parametrize(
    ("which", "options"),
    [
        (("patient", "Brief"), {"timeout": 20}),
        (("hasty", "Patient"), {"timeout": "1m"}),
        (("patient", "Patient"), {"timeout": "0.25s"}),
    ],
    ids=["the method's", "the plugin's", "the caller's"],
)
def test_the_smallest_wins(
    agents: dict[str, Agent], which: tuple[str, str], options: dict[str, object], model: str, tmp_path: Path
) -> None:
    """Its caller hears it, and so does the method: ``cancelled()`` turns true. (A process of its own is ended.)"""
    trace = tmp_path / "trace"
    plugin, cls = which
    with pytest.raises(ExecutionTimeout, match=rf"{cls}\.{model}\(\) took longer than 0\.25 s"):
        agents[plugin](**options)[cls][model](str(trace))
    if model != "forked":  # that may end before it has begun
        eventually(lambda: runs(trace) == {"told": 1})


def test_the_caller_cannot_ask_for_more(agents: dict[str, Agent], tmp_path: Path) -> None:
    with pytest.raises(ExecutionTimeout, match=r"took longer than 0\.25 s"):
        agents["hasty"](timeout=60).Brief().direct(str(tmp_path / "trace"))
