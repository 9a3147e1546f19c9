"""The end of a process whose requests are on their way still. ``tests/fresh`` runs the same by the other Pythons."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.echo import EchoAgent
from support.exits import (
    Leaving,
    brokers,
    daemon_threads_end_silently,
    nothing_is_lost_at_the_end,
    what_was_lost_is_told_at_the_end,
)
from support.waiting import eventually


@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_what_nobody_waits_for_gets_there_though_the_process_ends(tmp_path: Path, door: str) -> None:
    nothing_is_lost_at_the_end(tmp_path, door=door)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_what_no_broker_takes_in_time_is_reported_on_stderr(tmp_path: Path, door: str) -> None:
    what_was_lost_is_told_at_the_end(tmp_path, door=door)


def test_what_nobody_waits_for_gets_there_though_its_event_loop_has_ended(tmp_path: Path) -> None:
    with brokers(tmp_path, "slow") as (slow,), Leaving(slow.url, door="aio") as caller:
        slow.freeze()
        caller.send(slow.url, 6, 1_000_000)
        caller.order("end")
        caller.hears("ended")
        start = time.monotonic()
        eventually(lambda: time.monotonic() - start > 2)  # whatever looks around has done so
        slow.thaw()
        with EchoAgent(slow.url, "sink") as sink:
            eventually(lambda: len(sink.seen) == 7)
        caller.close_stdin()
        assert caller.ended() == (0, "")


@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_daemon_threads_that_wait_for_results_say_nothing_when_the_process_ends(tmp_path: Path, door: str) -> None:
    daemon_threads_end_silently(tmp_path, door=door)


@pytest.mark.slow
def test_a_daemon_thread_that_the_end_waits_for_is_held_up_once_and_not_for_each_call(tmp_path: Path) -> None:
    program = """
import atexit, sys, threading
ending, called, failures = threading.Event(), threading.Event(), []
def end():
    ending.set()
    thread.join()
    print(len(failures), *set(failures))
atexit.register(end)  # called last
from gofer.errors import GoferError
from gofer.proxy import Agent
def work():
    agent, left = Agent(sys.argv[1], "echo", wait=300), 30
    while left:
        try:
            agent.Dog().bark("x")
            called.set()
        except GoferError as failure:
            failures.append(type(failure).__name__)
        left -= ending.is_set()
thread = threading.Thread(target=work, daemon=True)
thread.start()
called.wait()
"""
    with brokers(tmp_path, "one") as (broker,), EchoAgent(broker.url, "echo"):
        command = [sys.executable, "-c", program, broker.url]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    count, *kinds = ended.stdout.split()
    assert int(count) >= 29  # ten seconds for each would be five minutes
    assert kinds == ["ConnectionLost"]
    assert ended.stderr == ""
