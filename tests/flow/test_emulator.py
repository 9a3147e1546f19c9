"""Emulated agents: they do what the script says, the same way each time, and leave nothing behind."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.aio import Agent
from gofer.errors import ConfigError, NotFound
from gofer.fleet import Fleet
from gofer.testing.emulator import Emulator, Script
from support.forkserver import GOFER
from support.localbroker import LocalBroker
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("emulator")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("emulator") / "broker.sock")) as broker:
        yield broker


async def kinds(broker: LocalBroker, script: Script, prefix: str, directory: Path, calls: int = 1) -> list[str]:
    """Call 40 agents some times, and return the outcomes by agent and call, and how often agents crashed."""
    async with (
        Emulator(broker.url, 40, script, prefix=prefix) as emulator,
        Fleet(broker.url, directory=directory, wait=60) as fleet,
    ):
        fleet.add(agent.card() for agent in emulator.agents)
        found = []
        for _ in range(calls):
            summary = await fleet.where(f"name={prefix}-*").Emulated().work(1)
            found += [one.kind for one in summary.outcomes]
        assert max(emulator.runs.values()) == 1
        assert emulator.crashes == Counter(found)["interrupted"]
        await asyncio.to_thread(eventually, lambda: emulator.up == 40)
        return found


def test_agents_crash_come_back_and_say_what_was_interrupted(broker: LocalBroker, tmp_path: Path) -> None:
    script = Script(crash=0.2, down=(0.0, 0.1), latency=(0.0, 0.05), seed=5)
    found = asyncio.run(kinds(broker, script, "crash", tmp_path, 3))
    assert set(found) == {"value", "interrupted"}
    assert 0 < found.count("interrupted") < 60
    assert found == asyncio.run(kinds(broker, script, "crash", tmp_path, 3))
    other = Script(crash=0.2, down=(0.0, 0.1), seed=6)
    assert found != asyncio.run(kinds(broker, other, "crash", tmp_path, 3))


def test_an_agent_that_is_told_to_crash_twice_crashes_once(broker: LocalBroker) -> None:
    async def go() -> None:
        async with Emulator(broker.url, 1, prefix="twice") as emulator:
            (agent,) = emulator.agents
            agent.crash(0.2)
            agent.crash(0.0)
            assert emulator.crashes == 1
            async with Agent(broker.url, "twice-00000", wait=60) as caller:
                assert (await caller.Any().thing(3))["args"] == [3]
            agent.crash(60.0)
        agent.crash()  # it has been stopped

    asyncio.run(go())


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ({"fail": 0.6, "gone": 0.5}, "are more than all"),
        ({"crash": 1.5}, "crash is 1.5; allowed: 0 to 1"),
        ({"frozen": -0.1}, r"frozen is -0.1; allowed: 0 to 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(script: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Emulator("local://", 10, Script(**script))


def emulate(*arguments: str, files: tuple[int, int]) -> subprocess.Popen[str]:
    """Start ``gofer emulate`` with a soft and a hard limit of open files."""
    command = ["prlimit", f"--nofile={files[0]}:{files[1]}", GOFER, "emulate", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_too_few_open_files_are_told_before_anything_starts(broker: LocalBroker) -> None:
    process = emulate("-u", broker.url, "-n", "500", files=(200, 300))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "500 agents need 600 open files, and this process may have 300. Allowed here: 200 agents." in err
    assert "prlimit --pid $$ --nofile=600" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_raises_its_limit_says_ready_and_takes_its_queues_along(broker: LocalBroker, number: signal.Signals) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = emulate("-u", broker.url, "-n", "40", "--prefix", f"ready-{number}", files=(120, hard))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        soft = subprocess.run(
            ["prlimit", "--pid", str(process.pid), "--nofile", "--output=SOFT", "--noheadings"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(soft.stdout) == hard
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")

    async def call() -> None:
        async with Agent(broker.url, f"ready-{number}-00007", wait=60) as agent:
            with pytest.raises(NotFound):
                await agent.Any().thing()

    asyncio.run(call())
