"""The record of runs: a command that is killed, and a file or a disk that is damaged; and nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from gofer.card import Card
from gofer.fleet import Fleet
from gofer.fleet.state import StateError
from gofer.testing.emulator import Emulator, Script
from support import forkserver
from support.fleets import gofer, sent
from support.forkserver import GOFER
from support.localbroker import LocalBroker
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("fleet-record")


@contextmanager
def emulated(broker: LocalBroker, prefix: str, count: int, runs: Path, latency: str = "0.02") -> Iterator[None]:
    """Have machines, in a process of their own, which writes down what it runs. They are known by their addresses."""
    (runs.parent / "machines.ini").write_text("".join(f"[{prefix}-{n:05}]\n" for n in range(count)))
    assert gofer("add", str(runs.parent / "machines.ini")).returncode == 0
    emulator = forkserver.Popen(
        [GOFER, "emulate", "-n", str(count), "--prefix", prefix, "--latency", latency, "--runs", str(runs)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert emulator.stdout is not None
        assert emulator.stdout.readline() == "ready\n"
        yield
    finally:
        emulator.send_signal(signal.SIGINT)
        emulator.communicate()


def targets(state: Path) -> list[tuple[str, str]]:
    """The serial numbers and outcomes of the latest run."""
    with closing(sqlite3.connect(f"file:{state}/runs.db?mode=ro", uri=True)) as file:
        return file.execute("SELECT sn, outcome FROM targets WHERE run = (SELECT max(number) FROM runs)").fetchall()


# -- a command that is killed ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_command_that_is_killed_is_taken_up_and_nothing_runs_twice(
    state: Path, broker: LocalBroker, tmp_path: Path
) -> None:
    """One run of 2,000 machines, and twenty commands that are killed at random."""
    seed = random.randrange(1 << 30)
    with emulated(broker, "killed", 2000, tmp_path / "runs"):
        arguments = ["call", "all", "Emulated.work", "1", "--no-ask", "--batch", "40"]
        for at in sorted(random.Random(seed).sample(range(1, 1900), 20)):
            command = forkserver.Popen(
                [GOFER, "fleet", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            eventually(partial(_is_so_far, state, at, command))
            command.send_signal(signal.SIGKILL)
            command.wait()
            arguments = ["resume", "last"]
        resumed = gofer("resume", "last")
        assert resumed.returncode == 0, (seed, resumed)
        outcomes = targets(state)
        ran = Counter((tmp_path / "runs").read_text().split())
    assert Counter(outcome for _, outcome in outcomes) == {"value": 2000}, seed
    assert [ran[sn] for sn, _ in outcomes] == [1] * 2000, seed
    assert len(ran) == 2000, seed


def _is_so_far(state: Path, at: int, command: subprocess.Popen[bytes]) -> bool:
    return sent(state) > at or command.poll() is not None


def test_what_a_killed_command_has_sent_is_collected_though_the_run_stops(state: Path, broker: LocalBroker) -> None:
    """Its outcomes count: no machine is called untouched to which a request was sent."""

    async def go() -> None:
        async with Emulator(broker.url, 10, Script(groups=("left",)), prefix="left") as emulator:
            for agent in emulator.agents[:3]:
                agent.kind = "failing"
            async with Fleet(broker.url, wait=20) as fleet:
                fleet.add(agent.card() for agent in emulator.agents)
                run = fleet.where("group=left")(stop_after=2, batch=1).Emulated().work(1)
                row = fleet.record.run(run.id)
                fleet.record.write(row.number, sent=range(5))  # and then it was killed
                summary = await fleet.resume(run.id)
                assert [one.kind for one in summary.outcomes] == ["exception"] * 3 + ["value"] * 2 + ["untouched"] * 5
                assert str(summary.stopped).endswith("failures of 10 machines; allowed: fewer than 2")
                again = await fleet.resume(run.id)  # the budget is used up
                assert again.counts == summary.counts
                more = await fleet.resume(run.id, stop_after=4)
                assert more.counts == {"exception": 3, "value": 7}
            assert set(emulator.runs.values()) == {1}

    asyncio.run(go())


def test_whoever_cancels_a_run_ends_it_as_a_whole(state: Path, broker: LocalBroker, tmp_path: Path) -> None:
    with emulated(broker, "whole", 10, tmp_path / "runs", latency="60"):
        call = [GOFER, "fleet", "call", "all", "Emulated.work", "--no-ask", "--batch", "3"]
        command = forkserver.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        eventually(lambda: sent(state) == 3)
        eventually(lambda: len((tmp_path / "runs").read_text().split()) == 3)
        assert gofer("cancel").stdout == "3 machines asked to cancel\n"
        out, err = command.communicate(timeout=60)
        assert (command.returncode, "was stopped: cancelled" in err) == (3, True), (out, err)
        assert out.endswith(": 3 cancelled, 7 untouched\n")
        assert gofer("status", "last").stdout.startswith("run ")


def test_a_run_is_cancelled_in_the_pause_between_two_waves(state: Path, broker: LocalBroker, tmp_path: Path) -> None:
    with emulated(broker, "pause", 10, tmp_path / "runs"):
        call = [GOFER, "fleet", "call", "all", "Emulated.work", "--no-ask", "--ramp", "2,100%", "--soak", "1h"]
        command = forkserver.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        eventually(lambda: Counter(outcome for _, outcome in targets(state))["value"] == 2)
        assert gofer("cancel").stdout == "0 machines asked to cancel\n"
        out, err = command.communicate(timeout=60)
        assert (command.returncode, "was stopped: cancelled" in err) == (3, True), (out, err)
        assert out.endswith(": 8 untouched, 2 value\n")
        assert len((tmp_path / "runs").read_text().split()) == 2


def test_a_run_that_its_own_process_stops_in_the_pause_ends(state: Path, broker: LocalBroker) -> None:
    async def go() -> None:
        async with Emulator(broker.url, 4, prefix="own"), Fleet(broker.url, wait=20) as fleet:
            await fleet.ask("name=own-*", wait=30, jitter=0.0, expected=[f"own-{n:05}" for n in range(4)])
            run = fleet.where("name=own-*")(ramp="1,100%", soak=3600, health="Emulated.well").Emulated().work(1)
            async for outcome in run:
                if outcome.kind == "value":
                    assert await run.cancel() == 0
            assert run.counts == {"value": 1, "untouched": 3}
            assert run.stopped == "cancelled"

    asyncio.run(asyncio.wait_for(go(), 60))


# -- a file that is damaged, and a disk that is full -------------------------------------------------------------------


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _scribble(file: Path) -> None:
    chance = random.Random(5)
    with file.open("r+b") as opened:
        for at in range(0, file.stat().st_size, 512):
            opened.seek(at)
            opened.write(chance.randbytes(64))


def _replace(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def _renumber(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version = 7")


def _make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_truncate, _scribble, _replace, _renumber, _make_directory])
def test_a_damaged_record_is_reported_and_nothing_is_sent(
    state: Path, broker: LocalBroker, damage: Callable[[Path], None]
) -> None:
    async def go() -> None:
        async with Emulator(broker.url, 5, Script(), prefix="damaged") as emulator:
            async with Fleet(broker.url, wait=10) as fleet:
                fleet.add([Card(name=agent.name, address=agent.name) for agent in emulator.agents])
                fleet.where().Emulated().work("x" * 10_000)  # nothing is sent yet
            assert [name for name in os.listdir(state) if name.startswith("runs.db")] == ["runs.db"]
            damage(state / "runs.db")
            with pytest.raises(StateError, match=r"runs\.db: (cannot be used: |was made by another version of gofer)"):
                async with Fleet(broker.url) as fleet:
                    await fleet.resume("last")
            assert not emulator.runs

    asyncio.run(go())
    for command in (["resume"], ["status", "last"], ["watch"], ["call", "all", "Emulated.work", "1", "--no-ask"]):
        told = gofer(*command)
        assert (told.returncode, "/runs.db: " in told.stderr, "Traceback" in told.stderr) == (2, True, False), told


def test_only_a_damaged_file_is_to_be_moved_away(state: Path, broker: LocalBroker) -> None:
    state.mkdir(parents=True, mode=0o700)
    (state / "fleet.db").write_text("no database at all\n" * 100)
    told = gofer("ls", "--no-ask")
    says = f"gofer fleet: {state}/fleet.db: cannot be used: file is not a database"
    says += "; move the file away, and gofer makes a new one\n"
    assert (told.returncode, told.stderr) == (2, says)
    (state / "fleet.db").unlink()
    (state / "fleet.db").symlink_to(state / "missing" / "fleet.db")
    told = gofer("ls", "--no-ask")
    assert (told.returncode, told.stderr) == (
        2,
        f"gofer fleet: {state}/fleet.db: cannot be used: No such file or directory\n",
    )


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_disk_that_takes_nothing_is_reported_and_nothing_is_sent(state: Path, broker: LocalBroker, what: str) -> None:
    async def go() -> None:
        async with Emulator(broker.url, 5, Script(), prefix="disk") as emulator, Fleet(broker.url, wait=10) as fleet:
            fleet.add([Card(name=agent.name, address=agent.name) for agent in emulator.agents])
            if what == "full":
                fleet.record._file.execute("PRAGMA max_page_count = 1")  # as a full disk answers
                with pytest.raises(StateError, match=r"runs.db: cannot be used: database or disk is full$"):
                    await fleet.where().Emulated().work("x" * 100_000)
            else:
                run = fleet.where().Emulated().work(1)
                fleet.record._file.execute("PRAGMA query_only = 1")  # as a disk that was remounted answers
                with pytest.raises(StateError, match=r"runs.db: cannot be used: attempt to write a readonly database$"):
                    await run
            assert not emulator.runs

    asyncio.run(go())


@pytest.mark.parametrize("damage", ["full", _truncate, _scribble])
def test_damage_in_the_middle_of_a_run_is_reported_and_nothing_runs_twice(
    state: Path, broker: LocalBroker, tmp_path: Path, damage: str | Callable[[Path], None]
) -> None:
    """The command ends and says why, at the latest when the run is taken up; what was sent is not sent anew."""
    count = 200

    with emulated(broker, "middle", count, tmp_path / "runs"):
        call = [GOFER, "fleet", "call", "all", "Emulated.work", "x" * 1000, "--no-ask", "--batch", "4"]
        if damage == "full":  # for the command: its files may have so many kilobytes
            call = ["bash", "-c", 'ulimit -f 400; exec "$@"', "bash", *call]
        command = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            if callable(damage):
                eventually(lambda: sent(state) > count // 4 or command.poll() is not None)
                damage(state / "runs.db")
            _, told = command.communicate(timeout=120)
        finally:
            command.kill()
            command.communicate()
        if damage == "full":
            assert (command.returncode, "/runs.db: cannot be used: " in told) == (2, True), told
            assert "Traceback" not in told
            assert re.search(r"; run (\S+) has not ended; to go on .*: gofer fleet resume \1$", told), told
        resumed = gofer("resume", "last")
        ran = Counter((tmp_path / "runs").read_text().split())
    assert max(ran.values()) == 1
    if damage == "full":
        assert (resumed.returncode, len(ran)) == (0, count), resumed
    elif resumed.returncode == 2:
        assert "/runs.db: cannot be used: " in resumed.stderr
    else:  # all that it needed was in SQLite's log, which mends the file
        assert (resumed.returncode, len(ran)) == (0, count), resumed


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_sum_is_the_fleet_where_some_are_frozen_gone_and_old(state: Path, broker: LocalBroker) -> None:
    """5 % of 1,000 each: the command ends when it said, and each machine has an outcome."""

    async def go() -> None:
        script = Script(frozen=0.05, gone=0.05, groups=("many",), seed=7)
        old = Script(groups=("many",), version="2.10")
        async with (
            Emulator(broker.url, 950, script, prefix="many") as many,
            Emulator(broker.url, 50, old, prefix="old") as few,
            Fleet(broker.url, wait=20) as fleet,
        ):
            fleet.add(agent.card() for agent in many.agents + few.agents)
            summary = await fleet.where("group=many").Emulated().work(1)
            frozen, gone = script.kinds(950).count("frozen"), script.kinds(950).count("gone")
            assert summary.counts == {"value": 1000 - frozen - gone, "unreachable": frozen + gone}
            assert sum(summary.counts.values()) == summary.total == len(summary.outcomes) == 1000
            assert {one.kind for one in summary.outcomes if one.name.startswith("old-")} == {"value"}

    asyncio.run(go())


@pytest.mark.slow
def test_a_ramp_stops_at_its_budget_and_names_what_it_has_not_touched(state: Path, broker: LocalBroker) -> None:
    """5 % of 1,000 fail; the run stops at 2 %. The same again, for the machines do the same."""

    async def go() -> list[list[str]]:
        untouched = []
        script = Script(fail=0.05, seed=3, groups=("ramp",))
        async with Emulator(broker.url, 1000, script, prefix="ramp") as emulator, Fleet(broker.url, wait=20) as fleet:
            fleet.add(agent.card() for agent in emulator.agents)
            for _ in range(2):
                meant = fleet.where("group=ramp")(ramp="1,10%,100%", stop_after="2%", batch="1")
                summary = await meant.Emulated().work(1)
                assert summary.counts["exception"] == 20
                assert summary.stopped == "20 failures of 1000 machines; allowed: fewer than 2%"
                untouched.append([one.name for one in summary.outcomes if one.kind == "untouched"])
                assert summary.counts["value"] + 20 + len(untouched[-1]) == 1000
        return untouched

    first, second = asyncio.run(go())
    assert first == second
    assert len(first) > 300
