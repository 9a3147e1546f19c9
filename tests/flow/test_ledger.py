"""Accepted means held: agents that are killed, reboots, files that cannot be used, and thousands that wait."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Cancelled, Interrupted
from support.danger import DANGER, counted_in, died, ledger_of, open_in, restarted, served
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import descriptor, runs
from support.waiting import eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


def memory_of(process: AgentProcess) -> int:
    """Its resident memory, in bytes."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_quick_calls_touch_no_disk_and_an_idle_agent_is_small(broker: LocalBroker, root: Path) -> None:
    with served(broker, root, "quick", threads=2) as (process, agent):
        slowest = 0.0
        for n in range(300):
            start = time.monotonic()
            assert agent.Probe().echo(n) == n
            slowest = max(slowest, time.monotonic() - start)
        assert not ledger_of(process).parent.exists() or slowest > 0.8  # which is not quick, then
        assert memory_of(process) <= 34 * 1024 * 1024


def test_what_takes_long_is_written_down_and_acknowledged(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    """More than a prefetch window waits behind one worker: all are acknowledged, so Admin still answers."""
    release = tmp_path / "release"
    with served(broker, root, "long") as (process, agent), ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.Probe().note, str(tmp_path / "first"), "first", until=str(release))
        eventually(lambda: runs(tmp_path / "first"))
        for n in range(600):
            agent(wait=0).Probe().note(str(tmp_path / "trace"), f"n{n}")
        agent.flush(30)
        start = time.monotonic()
        assert agent.Admin().echo("reached") == "reached"
        assert time.monotonic() - start < 25  # of 30
        assert ledger_of(process).exists()
        release.touch()
        assert first.result(30) == "first"
        eventually(lambda: len(runs(tmp_path / "trace")) == 600, 30)
        eventually(lambda: open_in(process) == 0)
    assert set(runs(tmp_path / "trace").values()) == {1}


def test_a_method_that_kills_its_agent_runs_twice_at_most(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "deadly") as (process, agent), ThreadPoolExecutor(1) as threads:
        call = threads.submit(agent.Danger().die, str(tmp_path / "trace"))
        for _ in range(2):
            died(process)
            restarted(process)
        with pytest.raises(Interrupted, match=r"Danger\.die"):
            call.result(20)
        assert agent.Probe().echo("up") == "up", process.tail()
        assert runs(tmp_path / "trace") == {"die": 2}


def test_once_is_once(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "once") as (process, agent), ThreadPoolExecutor(1) as threads:
        call = threads.submit(agent.Danger().reboot, str(tmp_path / "trace"))
        died(process)
        process.start()
        with pytest.raises(Interrupted, match=r"Danger\.reboot"):
            call.result(20)
        assert runs(tmp_path / "trace") == {"reboot": 1}
        assert agent.Danger().single(str(tmp_path / "single")) == "once"
        assert runs(tmp_path / "single") == {"single": 1}


def test_what_waits_and_must_run_once_is_run_after_a_kill(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    """It comes from the ledger before the agent has its queue for itself again."""
    with served(broker, root, "waiting-once") as (process, agent), ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent.Probe().until, str(tmp_path / "go"))
        eventually(lambda: open_in(process) == 1)
        waiting = agent(wait=0).Danger().single(str(tmp_path / "single"))
        agent.flush(10)
        eventually(lambda: open_in(process) == 2, what=waiting)
        process.kill()
        (tmp_path / "go").touch()
        process.start()
        eventually(lambda: runs(tmp_path / "single") == {"single": 1}, what=process.tail())
        assert running.result(30)


def test_once_has_its_queue_for_itself(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "alone") as (_, agent), AgentProcess(tmp_path / "second") as second:
        second.plugin("danger", DANGER, descriptor(broker.url, "alone"))
        second.start()
        eventually(lambda: "alone" in second.tail() and "no requests from queue" in second.tail())
        assert agent.Probe().echo(1) == 1


def test_a_finished_one_is_answered_again_after_a_restart(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    """Its result is in the ledger; its caller, who says that it asks again, hears that and causes no second run."""
    with served(broker, root, "again") as (process, agent):
        trigger = agent(trigger=1).Danger().single(str(tmp_path / "trace"))
        assert trigger() == "once"
        sn = trigger.sn
        eventually(lambda: open_in(process) == 0)
        file = sqlite3.connect(ledger_of(process))
        kept = file.execute("SELECT sn, once, result FROM requests WHERE state = 'done'").fetchall()
        file.close()
    assert [(key, once) for key, once, _ in kept] == [(sn, 1)]
    assert b"once" in kept[0][2]


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    chance = random.Random(20261122)
    kills, workers = 6, 4
    with served(broker, root, "random", threads=workers) as (process, agent), ThreadPoolExecutor(40) as threads:
        calls: dict[str, Future[Any]] = {}
        names = iter(range(10_000))

        def more(count: int) -> None:
            for _ in range(count):
                name = f"n{next(names)}"
                calls[name] = threads.submit(
                    agent.Probe().note, str(tmp_path / "trace"), name, chance.choice([0, 0.05, 0.2, 1.5])
                )

        for _ in range(kills):
            more(12)
            time.sleep(chance.uniform(0.1, 2.0))  # when it is killed is the point
            process.kill()
            process.start()
        outcomes: Counter[str] = Counter()
        for name, call in calls.items():
            try:
                assert call.result(60) == name
                outcomes["value"] += 1
            except Interrupted:
                outcomes["interrupted"] += 1
        assert sum(outcomes.values()) == len(calls)
        assert outcomes["interrupted"] <= kills * workers
        counted = runs(tmp_path / "trace")
        assert set(counted) == set(calls)
        assert max(counted.values()) <= 2
        assert agent.Probe().echo("up") == "up"


def test_cancelled_stays_cancelled_after_a_kill(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with served(broker, root, "cancelled") as (process, agent), ThreadPoolExecutor(4) as threads:
        running = threads.submit(agent(data="running").Danger().stay, str(trace), "running")
        eventually(lambda: runs(trace)["running"] == 1)  # only then the other: one worker runs what comes first
        waiting = threads.submit(agent(data="waiting").Danger().stay, str(trace), "waiting")
        later = agent(trigger=1).Danger().stay(str(trace), "later")
        assert agent.Admin().cancel(sn=later.sn) == []
        eventually(lambda: ledger_of(process).exists() and open_in(process) == 2)
        process.kill()
        process.start()
        eventually(lambda: runs(trace)["running"] == 2)
        assert len(agent.Admin().cancel(criteria={"in": ["running", "waiting"]})) == 2
        for call in (running, waiting):
            with pytest.raises(Cancelled):
                call.result(20)
        with pytest.raises(Cancelled):
            later()
        assert runs(trace) == {"running": 2}


@pytest.mark.slow
def test_5000_slow_requests_wait_and_admin_answers_at_once(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    """What they carry, 150 MB, is on the disk; those that run in the end have their arguments again."""
    with served(broker, root, "many") as (process, agent), ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent(wait=120, data="first").Danger().stay, str(tmp_path / "first"), "first")
        eventually(lambda: runs(tmp_path / "first")["first"] == 1)
        for n in range(5000):
            keep = n % 100 == 0
            data = {"keep": keep, "ballast": "y" * 30_000}
            agent(wait=0, data=data).Danger().sized(str(tmp_path / "trace"), "x" * n)
            if n % 500 == 499:
                agent.flush(60)
                eventually(lambda: open_in(process) >= n - 1000, 60)  # noqa: B023 - asked at once; the queue takes 128 MiB
        assert agent.Admin().echo("here") == "here"  # behind all of them in the broker's queue
        eventually(lambda: open_in(process) >= 5000, 60)
        assert agent.Admin().echo("here") == "here"
        assert memory_of(process) < 130 * 1024 * 1024
        cancelled = agent.Admin().cancel(criteria={"match": {"keep": False}})
        assert len(cancelled) == 4950
        assert memory_of(process) < 130 * 1024 * 1024
        assert len(agent.Admin().cancel(criteria={"eq": "first"})) == 1
        with pytest.raises(Cancelled):
            first.result(30)
        eventually(lambda: len(runs(tmp_path / "trace")) == 50, 30)
    assert set(runs(tmp_path / "trace")) == {str(n) for n in range(0, 5000, 100)}


def test_an_explicit_ttl_is_written_down_at_once(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    """The broker would drop it with its agent's death, though it was accepted."""
    with served(broker, root, "ttl") as (process, agent), ThreadPoolExecutor(1) as threads:
        blocking = threads.submit(agent.Probe().note, str(tmp_path / "first"), "first", until=str(tmp_path / "go"))
        eventually(lambda: runs(tmp_path / "first"))
        for ttl in (1, 3, 9):  # the first within which it is accepted
            text, over = f"kept-{ttl}", time.monotonic() + ttl
            kept = agent(wait=0, ttl=ttl).Probe().note(str(tmp_path / "trace"), text)
            agent.flush(10)
            noted = partial(counted_in, process, f"state IN ('queued', 'running') AND sn = '{kept}'")
            eventually(lambda: noted() or time.monotonic() > over)  # noqa: B023 - asked at once
            if time.monotonic() < over:
                break
        assert noted() == 1
        process.kill()
        eventually(lambda: time.monotonic() > over)
        (tmp_path / "go").touch()
        process.start()
        eventually(lambda: runs(tmp_path / "trace")[text] == 1)
        assert blocking.result(20)
