"""The service manager's watchdog: fed as long as the agent hears its broker, or knows that it does not."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor
from support.waiting import eventually

#: A method that has the thread that reads the broker wait for a file, as no code should.
HANG = """
@remote
def hang(path):
    import threading
    from gofer.messaging.pool import pool

    never = threading.Event()

    def wait():
        while not os.path.exists(path):
            never.wait(0.05)

    for connection in list(pool._connections.values()):
        connection.call_soon(wait)
"""
#: Seconds of the watchdog; it is fed twice as often.
WATCHDOG = 1.0


class WatchedAgent(AgentProcess):
    """A goferd that has a watchdog. What it tells its service manager is kept."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, environ={"WATCHDOG_USEC": str(round(WATCHDOG * 1e6))})
        self._notices: socket.socket | None = None

    def _is_ready(self, notices: socket.socket, process: subprocess.Popen[bytes]) -> bool:
        self._notices = notices.dup()
        return super()._is_ready(notices, process)

    def notified(self) -> list[str]:
        """Return what it has told since the last look."""
        assert self._notices is not None
        self._notices.setblocking(False)
        told = []
        with suppress(BlockingIOError):
            while True:
                told.append(self._notices.recv(4096).decode())
        return told

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._notices is not None:
            self._notices.close()


@contextmanager
def watched(root: Path, url: str) -> Iterator[WatchedAgent]:
    with WatchedAgent(root) as goferd:
        goferd.configure("[messaging]\nprobe_interval = 0.4\nreconnect_max = 0.5\n")
        goferd.plugin("probe", PROBE + HANG, descriptor(f"{url}\n        heartbeat = 1", "watched"))
        goferd.start()
        yield goferd


@pytest.fixture
def goferd(root: Path, broker: LocalBroker) -> Iterator[WatchedAgent]:
    with watched(root, broker.url) as goferd:
        yield goferd


@pytest.fixture
def caller(broker: LocalBroker) -> Iterator[Agent]:
    with Agent(Connector(URL.parse(broker.url), reconnect_max=0.5), "watched", wait=30) as agent:
        yield agent


def until_fed(goferd: WatchedAgent, times: int) -> None:
    """Wait until it has said so many times that it works."""
    fed: list[str] = []

    def look() -> bool:
        fed.extend(notice for notice in goferd.notified() if notice == "WATCHDOG=1")
        return len(fed) >= times

    eventually(look, what=goferd.tail())


def starves(goferd: WatchedAgent) -> bool:
    """Tell whether the watchdog would strike now: it was not fed for its whole time, and some more."""
    goferd.notified()
    until = time.monotonic() + 2 * WATCHDOG
    eventually(lambda: time.monotonic() >= until)
    return "WATCHDOG=1" not in goferd.notified()


@pytest.mark.slow
def test_an_agent_that_does_not_read_its_broker_any_more_starves_it(
    goferd: WatchedAgent, caller: Agent, tmp_path: Path
) -> None:
    until_it_answers(caller)
    until_fed(goferd, 4)
    caller(wait=0)["probe"].hang(str(tmp_path / "go on"))
    caller.flush(10)
    eventually(lambda: "the watchdog is not fed" in goferd.tail(), what=goferd.tail())
    assert starves(goferd)
    assert goferd.tail(500).count("the watchdog is not fed") == 1
    (tmp_path / "go on").touch()
    until_fed(goferd, 4)
    until_it_answers(caller)


@pytest.mark.slow
def test_an_agent_that_has_lost_its_broker_feeds_it(goferd: WatchedAgent, caller: Agent, broker: LocalBroker) -> None:
    until_it_answers(caller)
    broker.freeze()
    try:
        eventually(lambda: "connection lost" in goferd.tail(), what=goferd.tail())
        goferd.notified()
        until_fed(goferd, 8)
    finally:
        broker.thaw()
    broker.kill()
    goferd.notified()
    until_fed(goferd, 8)
    broker.start()
    until_it_answers(caller)
    assert "the watchdog is not fed" not in goferd.tail(500)


@pytest.mark.slow
def test_an_agent_whose_broker_was_never_there_feeds_it(root: Path) -> None:
    with watched(root, f"local://{root}/nobody.sock") as goferd:
        until_fed(goferd, 8)


@pytest.mark.slow
def test_an_agent_whose_workers_are_all_busy_feeds_it(goferd: WatchedAgent, caller: Agent, tmp_path: Path) -> None:
    until_it_answers(caller)
    for _ in range(300):
        caller(wait=0).Probe().until(str(tmp_path / "go on"))
    caller.flush(10)
    goferd.notified()
    until_fed(goferd, 8)
    (tmp_path / "go on").touch()
    until_it_answers(caller)
    assert "the watchdog is not fed" not in goferd.tail(500)
