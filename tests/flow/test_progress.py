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
import time

from gofer.agent.rmi import Context
from gofer.decorators import fork, remote


def steps(count, report, pause=time.sleep):
    progress = Context.current().progress
    progress.total = count
    for n in range(1, count + 1):
        progress.completed = n
        progress.details = f"step {n}"
        if report:
            progress.report()
        pause(0.12)  # longer than two reports are apart


class Steps:
    @remote
    def direct(self, count, report):
        steps(count, report)

    @remote
    @fork
    def forked(self, count, report):
        steps(count, report)

    @remote
    async def coroutine(self, count, report):
        steps(count, report)
"""


@pytest.mark.parametrize("report", [True, False])
@pytest.mark.parametrize("model", ["direct", "forked", "coroutine"])
def test_what_is_set_together_is_one_report(root: Path, model: str, report: bool) -> None:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        process.plugin("steps", STEPS, descriptor(broker.url, "steps"))
        process.start()
        heard: list[dict[str, Any]] = []
        with Agent(broker.url, "steps", wait=30) as agent:
            until_it_answers(agent, process.tail())
            agent(progress=heard.append).Steps()[model](10, report)
        told = [(one["completed"], one["details"]) for one in heard]
        together = [(n, f"step {n}") for n in range(1, 11)]
        assert [one for one in told if one in together] == together
        assert len(told) <= 12  # with each step in two it is twenty; a busy machine may come between the two of a step
