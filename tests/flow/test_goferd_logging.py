"""goferd goes on, and goes on logging, whatever becomes of its log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.waiting import eventually

#: A plugin that takes the logging of the process for its own, when it is imported and when it is called.
GREEDY = """
import logging.config

from gofer.decorators import remote

logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}})


@remote
def mute():
    logging.disable()
"""

#: A plugin that says a lot when it is imported: more than a pipe holds.
CHATTY = """
import logging

for n in range(300):
    logging.getLogger(__name__).warning("%d %s", n, "x" * 1000)
"""


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


@pytest.fixture
def goferd(root: Path, broker: LocalBroker) -> Iterator[AgentProcess]:
    """One with the probe, not started."""
    with AgentProcess(root) as process:
        process.plugin("probe", PROBE, descriptor(broker.url, "probe"))
        yield process


@pytest.fixture
def agent(broker: LocalBroker) -> Iterator[Agent]:
    with Agent(broker.url, "probe", wait=30) as agent:
        yield agent


def test_a_plugin_that_takes_all_logging_is_named_and_the_lines_go_on(
    goferd: AgentProcess, broker: LocalBroker, agent: Agent
) -> None:
    goferd.plugin("greedy", GREEDY, descriptor(broker.url, "greedy"))
    goferd.start()
    sn = until_it_answers(agent)(wait=0).Probe().echo("x")
    agent.flush(10)
    eventually(lambda: sn in goferd.tail())
    (told,) = [line for line in goferd.tail().splitlines() if "logging of the whole process" in line]
    assert " WARNING gofer.agent.main: plugin greedy, while it was loaded, has changed the logging" in told
    assert "loggers of gofer were disabled" in told


@contextmanager
def with_stderr(stderr: int) -> Iterator[None]:
    """A goferd whose standard error is somebody's descriptor, as long as its queue is served."""
    command = [sys.executable, "-m", "gofer.agent.main"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr) as child:
        try:
            yield
            assert child.poll() is None
        finally:
            child.terminate()
            assert child.wait(20) == 0


def test_a_reader_of_its_lines_that_has_stopped_holds_up_nothing(
    goferd: AgentProcess, agent: Agent, broker: LocalBroker
) -> None:
    goferd.plugin("chatty", CHATTY, descriptor(broker.url, "chatty"))
    read, write = os.pipe()
    try:
        with with_stderr(write):
            assert until_it_answers(agent).Probe().echo("x") == "x"
    finally:
        os.close(read)
        os.close(write)


def test_a_reader_of_its_lines_that_has_gone_away_holds_up_nothing(goferd: AgentProcess, agent: Agent) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with with_stderr(write):
            assert until_it_answers(agent).Probe().echo("x") == "x"
    finally:
        os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, which Linux has")
def test_a_disk_that_is_full_from_the_beginning_holds_up_nothing_and_is_reported_once(
    goferd: AgentProcess, agent: Agent, root: Path
) -> None:
    (root / "var/log/gofer/agent").symlink_to("/dev/full")
    goferd.configure("[logging]\nlog-file = agent\n")
    goferd.start()
    for n in range(20):
        assert until_it_answers(agent).Probe().echo(n) == n
    goferd.stop()
    assert goferd.log.read_text() == (
        f"goferd: log file {root}/var/log/gofer/agent: No space left on device; "
        "lines are lost until it can be written to\n"
    )
