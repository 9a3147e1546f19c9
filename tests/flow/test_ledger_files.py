"""Ledgers that cannot be used: said in one line, refusing only what needs them, and used again when they can be."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from gofer.errors import Cancelled, Interrupted, Rejected
from gofer.proxy import Agent
from gofer.rmi.store import requests
from support import kennel, receiving
from support.baddisk import BadDisk
from support.danger import DANGER, counted_in, died, ledger_of, open_in, served, there
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import descriptor, runs
from support.receiving import request
from support.waiting import eventually

#: To root nothing is read-only, unless it has let go of what makes that so.
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


def asked(agent: Agent, path: Path) -> str:
    """Ask for what needs the ledger; return the code of the rejection."""
    try:
        agent.Danger().single(str(path))
    except Rejected as rejected:
        return rejected.code
    return "done"


def said(process: AgentProcess) -> int:
    """Count the lines in the log that say that the ledger cannot be used; those of refused requests say so, too."""
    lines = process.log.read_text().splitlines()
    return sum("cannot be used" in line and "gofer.rmi.requests: " not in line for line in lines)


def refuses_what_needs_it(process: AgentProcess, agent: Agent, folder: Path) -> None:
    """What needs the ledger is rejected, with the reason, and does not run; all else goes on; the log has one line."""
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(agent.Probe().note, str(folder / "slow"), "slow", 2.0)
        for n in range(3):
            with pytest.raises(Rejected, match="cannot record") as caught:
                agent.Danger().single(str(folder / f"refused-{n}"))
            assert caught.value.code == "ledger.unavailable"
            assert "cannot be used" in str(caught.value.details)
            assert not (folder / f"refused-{n}").exists()
            assert agent.Probe().echo("quick") == "quick"
        assert slow.result(30) == "slow"  # the broker goes on holding it
    assert said(process) == 1
    assert "quick calls continue" in process.log.read_text()


def is_used_again(process: AgentProcess, agent: Agent, folder: Path) -> None:
    eventually(lambda: asked(agent, folder / "again") == "done", 30)
    assert runs(folder / "again") == {"single": 1}
    assert "can be used again" in process.log.read_text()
    assert said(process) == 1


def runs_long(process: AgentProcess, agent: Agent, folder: Path, threads: ThreadPoolExecutor) -> Future[str]:
    """Start a call that runs until ``go`` is there, and wait until the ledger has it."""
    call = threads.submit(agent.Probe().note, str(folder / "slow"), "slow", until=str(folder / "go"))
    eventually(lambda: counted_in(process, "state = 'running'") == 1)
    return call


def cannot_record_the_next(process: AgentProcess, agent: Agent, folder: Path) -> None:
    """Have the ledger locked when the running call ends and the next one, which runs only once, is to start."""
    agent(wait=0, ttl=600, reply="nowhere").Danger().single(str(folder / "single"))
    eventually(lambda: counted_in(process, "state = 'queued'") == 1)
    with closing(sqlite3.connect(ledger_of(process), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        (folder / "go").touch()
        eventually(lambda: "cannot be used" in process.log.read_text())


@pytest.mark.slow
def test_a_locked_file(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "locked", threads=2) as (process, agent):
        assert asked(agent, tmp_path / "first") == "done"
        file = sqlite3.connect(ledger_of(process), isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        refuses_what_needs_it(process, agent, tmp_path)
        file.execute("ROLLBACK")
        file.close()
        is_used_again(process, agent, tmp_path)


def test_a_full_disk(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "full", threads=2) as (process, agent):
        assert asked(agent, tmp_path / "first") == "done"
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        # No file may grow beyond the log's size; the ledger is larger than that.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, before[1]))
        eventually(lambda: asked(agent, tmp_path / "second") == "ledger.unavailable")
        refuses_what_needs_it(process, agent, tmp_path)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        is_used_again(process, agent, tmp_path)


def test_a_cancel_that_a_full_disk_cannot_keep_says_so(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "cancels", threads=2) as (process, agent):
        assert asked(agent, tmp_path / "first") == "done"
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, before[1]))
        eventually(lambda: asked(agent, tmp_path / "second") == "ledger.unavailable")
        now, later = (agent(trigger=1).Probe().note(str(tmp_path / "note"), text) for text in ("now", "later"))
        says = r"is in memory; .* unless the agent ends before: the ledger .* cannot be used"
        for call in (now, later):
            with pytest.raises(RuntimeError, match=says):
                agent.Admin().cancel(sn=call.sn)
        with pytest.raises(Cancelled):
            now()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        is_used_again(process, agent, tmp_path)
        eventually(lambda: counted_in(process, "state = 'cancelled'") == 2)
        process.kill()
        process.start()
        eventually(lambda: there(agent))
        with pytest.raises(Cancelled):
            later()
        assert not (tmp_path / "note").exists()


@pytest.mark.slow
def test_what_may_have_run_before_is_not_said_to_be_rejected(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    disk = BadDisk(tmp_path, "ledger")
    with served(broker, root, "before", wrapper=disk.wrapper) as (process, agent), ThreadPoolExecutor(1) as threads:
        assert asked(agent, tmp_path / "first") == "done"
        killer = threads.submit(agent.Danger().kill, str(tmp_path / "kill"))
        died(process)
        disk.fail()
        process.start()
        with pytest.raises(Interrupted, match=r"may have been started before, .* cannot be used"):
            killer.result(60)
        assert runs(tmp_path / "kill") == {"kill": 1}


@pytest.mark.slow
def test_nobody_hears_a_rejection_of_what_may_run_after_a_kill(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    disk = BadDisk(tmp_path, "ledger")
    with served(broker, root, "kills", wrapper=disk.wrapper) as (process, agent), ThreadPoolExecutor(1) as threads:
        assert asked(agent, tmp_path / "first") == "done"
        eventually(lambda: counted_in(process, "state = 'done'") == 1)  # so that the next write is that of the call
        disk.fail()
        call = threads.submit(asked, agent, tmp_path / "single")
        eventually(lambda: "cannot be used" in process.log.read_text())
        assert asked(agent, tmp_path / "other") == "ledger.unavailable"  # nothing of it was written
        assert agent.Admin().hello()  # the other one is acknowledged then
        process.kill()
        disk.heal()
        process.start()
        assert call.result(60) == "done"
        assert runs(tmp_path / "single") == {"single": 1}
        assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_a_disk_has_failed_to_sync_neither_runs_after_its_rejection_nor_again(
    broker: LocalBroker, root: Path, tmp_path: Path
) -> None:
    disk = BadDisk(tmp_path, "ledger")
    with served(broker, root, "syncs", threads=2, wrapper=disk.wrapper) as (process, agent):
        assert asked(agent, tmp_path / "first") == "done"
        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(agent.Probe().note, str(tmp_path / "slow"), "slow", until=str(tmp_path / "go"))
            eventually((tmp_path / "slow").exists)
            disk.fail()
            refused = threads.submit(asked, agent, tmp_path / "refused")
            eventually(lambda: "cannot be used" in process.log.read_text())
            agent(wait=0, ttl=600).Probe().note(str(tmp_path / "refused"), "posted")
            agent.flush(30)
            # Its broker goes on holding it, and the agent tries to take it over: at each try two syncs fail. (To look
            # into the ledger now would change what SQLite finds there when it opens it anew.)
            eventually(lambda: disk.failures() >= 6)
            (tmp_path / "go").touch()
            assert slow.result(30) == "slow"
            disk.heal()
            assert refused.result(30) == "ledger.unavailable"
        is_used_again(process, agent, tmp_path)
        eventually(lambda: open_in(process) == 0)
        process.stop()
        process.start()
        eventually(lambda: there(agent))
        assert runs(tmp_path / "slow") == {"slow": 1}
        assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_what_a_disk_has_failed_to_take_over_does_not_run_after_another_rejection(
    broker: LocalBroker, root: Path, tmp_path: Path
) -> None:
    disk = BadDisk(tmp_path, "ledger")
    with served(broker, root, "others", wrapper=disk.wrapper) as (process, agent):
        with ThreadPoolExecutor(2) as threads:
            slow = runs_long(process, agent, tmp_path, threads)
            disk.fail()
            refused = threads.submit(agent.Danger().counted, str(tmp_path / "refused"), "one")
            eventually(lambda: "cannot be used" in process.log.read_text())  # it has waited for a second
            (tmp_path / "go").touch()
            with pytest.raises(Rejected, match=r"arguments\.invalid"):
                refused.result(30)
            disk.heal()
            assert slow.result(30) == "slow"
        process.stop()
        process.plugin("danger", DANGER.replace("count: int", "count: str"), descriptor(broker.url, "others"))
        process.start()
        eventually(lambda: there(agent))
        assert asked(agent, tmp_path / "next") == "done"  # behind all that the ledger had
        assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_rejection_that_nobody_takes_loses_no_request(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "untaken") as (process, agent), ThreadPoolExecutor(1) as threads:
        slow = runs_long(process, agent, tmp_path, threads)
        cannot_record_the_next(process, agent, tmp_path)
        assert slow.result(30) == "slow"
        eventually(lambda: open_in(process) == 0)  # it is to be rejected, and so out of the ledger
        process.stop()
        assert not (tmp_path / "single").exists()
        process.start()
        eventually(lambda: runs(tmp_path / "single") == {"single": 1})


@pytest.mark.slow
def test_nothing_is_taken_out_of_the_ledger_to_be_rejected_when_the_agent_has_stopped(
    broker: LocalBroker, root: Path, tmp_path: Path
) -> None:
    with served(broker, root, "stops") as (process, agent), ThreadPoolExecutor(1) as threads:
        process.configure("[main]\nshutdown_timeout = 0.1\n")
        process.stop()
        process.start()
        slow = runs_long(process, agent, tmp_path, threads)
        cannot_record_the_next(process, agent, tmp_path)
        process.stop()  # it tries to write once more
        assert not (tmp_path / "single").exists()
        process.start()
        assert slow.result(30) == "slow"
        eventually(lambda: runs(tmp_path / "single") == {"single": 1})


def test_a_place_where_something_else_is(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    place = root / "var/lib/gofer/ledger"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file where a directory should be")
    with served(broker, root, "place", threads=2) as (process, agent):
        refuses_what_needs_it(process, agent, tmp_path)
        assert "is not a directory" in process.log.read_text()
        place.unlink()
        is_used_again(process, agent, tmp_path)


def test_a_directory_that_is_read_only(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    place = root / "var/lib/gofer/ledger"
    wrapper = AS_ANYBODY if os.geteuid() == 0 else ()
    with served(broker, root, "read-only", threads=2, wrapper=wrapper) as (process, agent):
        place.mkdir(mode=0o500)
        try:
            refuses_what_needs_it(process, agent, tmp_path)
            assert "not writable" in process.log.read_text()
        finally:
            place.chmod(0o700)
        is_used_again(process, agent, tmp_path)


def test_a_corrupt_file_is_set_aside(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with served(broker, root, "corrupt") as (process, agent):
        assert asked(agent, tmp_path / "one") == "done"
        process.kill()
        ledger_of(process).write_bytes(b"this is no database" * 1000)
        for end in ("-wal", "-shm"):
            Path(f"{ledger_of(process)}{end}").unlink(missing_ok=True)
        process.start()
        eventually(lambda: there(agent))
        assert [path.read_bytes()[:19] for path in aside(process)] == [b"this is no database"]
        assert asked(agent, tmp_path / "two") == "done"
        assert process.log.read_text().count("is corrupt") == 1


def test_a_file_that_becomes_corrupt_costs_nothing_that_is_in_memory(tmp_path: Path) -> None:
    """What is still known is written into the new file: killed then, the agent has lost nothing."""
    with receiving.served(tmp_path, threads=1, patience=0.0) as serving:
        documents = [request("Dog", "wait" if n == 0 else "echo", n) for n in range(6)]
        for document in documents:
            serving.caller.send(document)
        rows = partial(requests.rows, "kennel", [requests.QUEUED, requests.RUNNING], 0, 100)
        eventually(lambda: len(serving.store.call(rows)) == 6)
        damage = [sqlite3.DatabaseError("database disk image is malformed")]
        damage[0].sqlite_errorcode = sqlite3.SQLITE_CORRUPT

        def look(file: sqlite3.Connection) -> int:
            if damage:
                raise damage.pop()
            return len(rows(file))

        assert serving.store.call(look) == 0  # in the new file
        eventually(lambda: len(serving.store.call(rows)) == 6)
        assert len(list(tmp_path.glob("ledger-corrupt-*.db"))) == 1
        kennel.gate.open.set()
        for n, document in enumerate(documents):
            assert serving.caller.end(document["sn"])["result"] == {"retval": n}
        eventually(lambda: serving.store.call(rows) == [])


def aside(process: AgentProcess) -> list[Path]:
    """The files that were set aside."""
    return list(ledger_of(process).parent.glob("ledger-corrupt-*.db"))
