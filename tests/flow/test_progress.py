"""Progress of real methods, as their callers hear it: what is set together is told together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor

STEPS = """
import os
import time

from gofer.agent.rmi import Context
from gofer.decorators import fork, remote
from gofer.rmi.progress import INTERVAL


def steps(count, report, heard):
    progress = Context.current().progress
    progress.total = count
    for n in range(1, count + 1):
        progress.completed = n
        progress.details = f"step {n}"
        if report:
            progress.report()
        while not os.path.exists(f"{heard}/{n}"):
            time.sleep(0.005)
        time.sleep(INTERVAL * 1.5)  # so the next one may be reported at once


class Steps:
    @remote
    def direct(self, *args):
        steps(*args)

    @remote
    @fork
    def forked(self, *args):
        steps(*args)

    @remote
    async def coroutine(self, *args):
        steps(*args)
"""


@pytest.mark.parametrize("report", [True, False])
@pytest.mark.parametrize("model", ["direct", "forked", "coroutine"])
def test_what_is_set_together_is_one_report(root: Path, tmp_path: Path, model: str, report: bool) -> None:
    heard: list[tuple[Any, Any]] = []
    together = [(n, f"step {n}") for n in range(1, 9)]

    def hear(one: dict[str, Any]) -> None:
        heard.append((one["completed"], one["details"]))
        if heard[-1] in together:
            (tmp_path / str(one["completed"])).touch()  # the method goes on to its next step

    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        process.plugin("steps", STEPS, descriptor(broker.url, "steps"))
        process.start()
        with Agent(broker.url, "steps", wait=30) as agent:
            until_it_answers(agent, process.tail())
            agent(progress=hear).Steps()[model](8, report, str(tmp_path))
    assert list(dict.fromkeys(one for one in heard if one in together)) == together
    # With each step in two all eight are reported half done; a busy machine may come between the two of some step.
    assert len([one for one in heard if one not in together]) < len(together)
