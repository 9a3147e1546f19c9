"""The store's file: written in order, on the disk before anybody hears of it; and what happens when it cannot be."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gofer.rmi.store import Database, Unavailable, requests, schema
from support.waiting import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    store = Database(tmp_path, lambda: None)
    yield store
    store.stop()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that failed is tried again soon."""
    monkeypatch.setattr("gofer.rmi.store.database._PAUSE", 0.5)


def record(key: str, body: bytes = b"{}", plugin: str = "dog") -> requests.Record:
    return requests.Record(key, plugin, body, None, b"0123456789abcdef")


OPEN = (requests.QUEUED, requests.RUNNING, requests.ANSWERING)


def rows(store: Database, plugin: str = "dog") -> list[tuple[str, str, int, bytes | None]]:
    """The requests that have not ended: their numbers, states, tries and results that were not taken."""
    found = store.call(partial(requests.rows, plugin, OPEN, 0, 1000))
    return [(row.sn, row.state, row.tries, row.result) for row in found]


def claimed(sn: str, *, once: bool = False, tries: int = 0) -> Any:
    return partial(requests.claim, record(sn)._replace(tries=tries), once=once, again=False)


def test_nothing_is_there_before_it_is_needed(store: Database, tmp_path: Path) -> None:
    assert not store.exists()
    assert list(tmp_path.iterdir()) == []
    assert "gofer-store" not in [thread.name for thread in threading.enumerate()]
    store.call(partial(requests.take, [record("a")]))
    assert store.exists()
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_requests_come_back_in_their_order_with_what_became_of_them(store: Database, tmp_path: Path) -> None:
    for n in range(60):
        store.post(partial(requests.take, [record(f"k{n}")]))
    store.post(partial(requests.take, [record("other", plugin="cat")]))
    store.post(claimed("k1"))
    for _ in range(2):
        store.post(claimed("k2"))
    store.post(partial(requests.settle, "k2", b"done"))
    store.post(partial(requests.settle, "k3", b"done"))
    store.post(partial(requests.keep, record("k4"), b"unsent", requests.ANSWERING, None))
    store.post(partial(requests.remove, "k5"))
    assert rows(store)[:4] == [
        ("k0", "queued", 0, None), ("k1", "running", 1, None), ("k4", "answering", 0, b"unsent"),
        ("k6", "queued", 0, None),
    ]  # fmt: skip
    mine = {"k0", "k8"}
    assert store.call(partial(requests.count, "dog")) == 55
    some = ("k7", "k8", "k1", "none")
    assert [row.sn for row in store.call(partial(requests.pull_these, some, mine))] == ["k7"]
    assert store.call(partial(requests.pull_these, some, mine)) == []
    assert [row.sn for row in store.call(partial(requests.pull, "dog", 3, 1000, mine))] == ["k6", "k9", "k10"]
    assert [row.sn for row in store.call(partial(requests.pull, "dog", 100, 5, mine))] == [
        "k11",
        "k12",
        "k13",
    ]  # two bytes each
    assert mine == {"k0", *(f"k{n}" for n in range(6, 14))}
    store.stop()

    again = Database(tmp_path, lambda: None)
    # Each may have run in the process that is gone: that is one try.
    assert rows(again)[:3] == [("k0", "queued", 1, None), ("k1", "queued", 1, None), ("k4", "answering", 0, b"unsent")]
    assert rows(again, "cat") == [("other", "queued", 1, None)]
    known = again.call(partial(requests.find, "k2"))
    assert known is not None
    assert (known.state, known.tries, known.result, known.body) == ("done", 2, b"done", b"")  # it ran twice: kept a day
    assert again.call(partial(requests.find, "k3")) is None
    again.stop()


def test_a_second_try_is_the_last_and_one_that_runs_once_has_one(store: Database, tmp_path: Path) -> None:
    store.call(claimed("second", tries=1))
    assert store.call(claimed("once", once=True)) is None
    before = store.call(claimed("once", once=True))
    assert before is not None
    assert (before.tries, before.result) == (1, None)
    store.stop()
    again = Database(tmp_path, lambda: None)
    assert rows(again) == [("second", "running", 2, None), ("once", "running", 1, None)]  # neither is queued again
    assert again.call(partial(requests.count, "dog")) == 0
    again.stop()


@pytest.mark.parametrize("once", [False, True])
def test_a_claim_whose_run_never_began_is_no_run_but_not_for_ever(tmp_path: Path, once: bool) -> None:
    """After kills between the two; after a reboot nobody knows."""
    boot = schema.boot()
    assert boot

    def claim_in_a_process_of_its_own(*, begin: bool, boot: bytes | None = boot) -> tuple[str, int]:
        store = Database(tmp_path, lambda: None)
        store.call(partial(requests.take, [record("sn")]))  # it opens the file, and recovers
        found = store.call(partial(requests.find, "sn"))
        assert found is not None
        if found.state == requests.QUEUED:
            work = partial(requests.claim, record("sn"), once=once, again=False, boot=boot)
            assert store.call(work) is None
            if begin:
                store.mark(partial(requests.begin, "sn"))
        store.stop()
        return found.state, found.tries

    claim_in_a_process_of_its_own(begin=False)
    assert claim_in_a_process_of_its_own(begin=False) == ("queued", 1)
    assert claim_in_a_process_of_its_own(begin=False) == ("queued", 2)
    assert claim_in_a_process_of_its_own(begin=True) == ("queued", 3)
    assert claim_in_a_process_of_its_own(begin=False) == ("running", 4)

    for folder in tmp_path.iterdir():
        folder.unlink()
    for tries in range(5):
        assert claim_in_a_process_of_its_own(begin=False) == ("queued", tries)
    assert claim_in_a_process_of_its_own(begin=False) == ("running", 5)

    for folder in tmp_path.iterdir():
        folder.unlink()
    claim_in_a_process_of_its_own(begin=False, boot=b"another")
    assert claim_in_a_process_of_its_own(begin=False, boot=b"another") == ("running" if once else "queued", 1)
    assert claim_in_a_process_of_its_own(begin=False, boot=b"another") == ("running", 1 if once else 2)


def test_a_beginning_that_cannot_be_marked_is_said(store: Database) -> None:
    with pytest.raises(Unavailable, match="not open"):
        store.mark(partial(requests.begin, "sn"))
    store.call(claimed("sn"))
    with pytest.raises(Unavailable, match="no such table"):
        store.mark(lambda file: file.execute("UPDATE absent SET x = 1"))
    assert [row[0] for row in rows(store)] == ["sn"]


def test_what_is_older_than_a_day_is_forgotten(store: Database) -> None:
    store.call(claimed("old", tries=1))
    store.call(partial(requests.settle, "old", b"done"))
    store.call(partial(requests.take, [record("open")]))
    store.call(partial(requests.bury, "dog", "never", None))
    store.call(partial(requests.bury, "dog", "never", "ops"))
    store.call(lambda file: file.execute("UPDATE requests SET updated = updated - 86401 WHERE state <> 'cancelled'"))
    buried = store.call(partial(requests.buried, "dog"))
    assert [(sn, owner) for sn, owner, left in buried if 86_000 < left <= 86_400] == [("never", None), ("never", "ops")]
    store.call(lambda file: file.execute("UPDATE requests SET updated = updated - 86401 WHERE state = 'cancelled'"))
    store.call(requests.clean)
    assert store.call(lambda file: file.execute("SELECT sn FROM requests").fetchall()) == [("open",)]


def test_a_killed_process_has_on_disk_what_it_was_told_is_there(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from functools import partial
        from pathlib import Path
        from gofer.rmi.store import Database, requests
        store = Database(Path(sys.argv[1]), lambda: None)
        for n in range(1000):
            done = lambda _, failed, n=n: os.write(1, b"%d\\n" % n)
            store.post(partial(requests.take, [requests.Record(f"k{n}", "dog", b"{}", None, b"")]), done)
        import time; time.sleep(30)
    """)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(700)]
        child.kill()
        told += [int(line) for line in child.stdout.read().split()]
    assert told == list(range(len(told)))
    store = Database(tmp_path, lambda: None)
    assert len(store.call(partial(requests.rows, "dog", OPEN, 0, 2000))) >= len(told)
    store.stop()


@pytest.mark.parametrize("how", ["garbage", "page", "nothing"])
def test_a_corrupt_file_is_set_aside_and_said(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    before = Database(tmp_path, lambda: None)
    for n in range(300):
        before.post(partial(requests.take, [record(f"k{n}", b"x" * 500)]))
    before.stop()
    content = before.path.read_bytes()
    bad = {
        "garbage": b"no database at all" * 100,
        "page": content[:8192] + os.urandom(16384) + content[24576:],
        "nothing": b"",  # what some file systems leave of it after a power failure
    }[how]
    before.path.write_bytes(bad)

    store = Database(tmp_path, lambda: None)
    assert rows(store) == []
    store.call(partial(requests.take, [record("new")]))
    assert rows(store) == [("new", "queued", 0, None)]
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("ledger-corrupt-") and path.suffix == ".db"]
    assert [path.read_bytes() for path in aside] == [bad]
    assert "is corrupt" in caplog.text
    assert aside[0].name in caplog.text
    assert store.error is None
    store.stop()


@pytest.mark.usefixtures("short_pause")
def test_a_locked_file_fails_what_is_asked_and_is_tried_again(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store.call(partial(requests.take, [record("a")]))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    for _ in range(20):
        with pytest.raises(Unavailable, match="locked"):
            store.call(partial(requests.take, [record("b")]))
    assert time.monotonic() - start < 20  # not each one waits
    store.post(partial(requests.settle, "a", b""), kept=True)
    assert caplog.text.count("cannot be used") == 1
    other.execute("ROLLBACK")
    other.close()

    eventually(lambda: store.error is None, 10)
    assert rows(store) == []  # what was to be kept was done; nobody had been told that b is there
    assert "can be used again" in caplog.text


@pytest.mark.parametrize("in_time", [True, False])
def test_what_could_not_be_written_is_tried_once_more_at_the_end(
    store: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, in_time: bool
) -> None:
    monkeypatch.setattr("gofer.rmi.store.database._PAUSE", 60.0)
    store.call(partial(requests.take, [record("a")]))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.post(partial(requests.settle, "a", b""), kept=True)
    with pytest.raises(Unavailable, match="locked"):
        store.call(partial(requests.take, [record("b")]))
    if in_time:
        other.execute("ROLLBACK")
    store.stop()
    other.close()
    assert ("1 entries could not be written before the end" in caplog.text) is not in_time
    again = Database(store.path.parent, lambda: None)
    assert [row[0] for row in rows(again)] == ([] if in_time else ["a"])
    again.stop()


def test_what_nobody_waits_for_any_more_is_not_done(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer.rmi.store.database._WAIT", 1)
    held = threading.Event()
    store.post(lambda file: held.wait(30))
    with pytest.raises(Unavailable, match=r"has not answered within 1 s$"):
        store.call(partial(requests.take, [record("late")]))
    held.set()
    assert rows(store) == []


def test_what_has_begun_may_still_be_done(store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer.rmi.store.database._WAIT", 1)
    held = threading.Event()

    def slow(file: sqlite3.Connection) -> None:
        requests.take([record("late")], file)
        held.wait(30)

    with pytest.raises(Unavailable, match="may still be done"):
        store.call(slow)
    held.set()
    assert [row[0] for row in rows(store)] == ["late"]


def test_an_entry_that_cannot_be_written_costs_no_other(store: Database, caplog: pytest.LogCaptureFixture) -> None:
    held, told = threading.Event(), []
    store.post(lambda file: held.wait(10))  # what comes meanwhile is one group
    store.post(partial(requests.take, [record("a")]))
    store.post(partial(requests.settle, "\ud800", b""), lambda value, failed: told.append(str(failed)), kept=True)
    store.post(partial(requests.take, [record("b")]))
    held.set()
    assert [row[0] for row in rows(store)] == ["a", "b"]
    (why,) = told
    assert "cannot be written: UnicodeEncodeError" in why
    assert store.error is None
    assert caplog.text.count("one entry cannot be written") == 1  # it is not tried for ever


def test_what_only_the_store_has_can_be_dropped(store: Database) -> None:
    for sn in ("here", "away", "tried"):
        store.call(partial(requests.take, [record(sn)]))
    store.call(claimed("tried"))
    store.call(claimed("tried"))
    store.call(partial(requests.keep, record("unsent"), b"result", requests.ANSWERING, None))

    def away(sn: str, plugin: str) -> bool:
        assert plugin == "dog"
        return sn != "here"

    names = ("here", "away", "tried", "unsent", "none")
    assert [store.call(partial(requests.drop, sn, away)) for sn in names] == [False, True, True, True, False]
    assert [row[0] for row in rows(store)] == ["here"]
    found = store.call(partial(requests.find, "tried"))
    assert found is not None  # sent once more, it does not run once more
    assert (found.state, found.tries) == ("done", 2)


OF_VERSION_2 = """
    CREATE TABLE requests (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, plugin TEXT NOT NULL, body BLOB NOT NULL, identity TEXT,
        digest BLOB NOT NULL, arrived REAL NOT NULL, runs INTEGER NOT NULL, state INTEGER NOT NULL, result BLOB,
        ended REAL, reason TEXT
    );
    CREATE INDEX requests_of ON requests (plugin, state, number);
    CREATE TABLE tombstones (plugin TEXT NOT NULL, key TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (plugin, key));
    CREATE TABLE nonces (nonce BLOB PRIMARY KEY, expires REAL NOT NULL) WITHOUT ROWID;
    PRAGMA user_version = 2;
"""


def of_before(folder: Path) -> None:
    """Write a ledger and its second file as gofer did before version 3."""
    file = sqlite3.connect(folder / "ledger.db", isolation_level=None)
    file.executescript(OF_VERSION_2)
    now = time.time()
    # What waits; was noted and has begun; was noted and has not; and each way that a request ends.
    for n, (key, runs, state) in enumerate(
        [("waits", 0, 0), ("begun", 1, 0), ("noted", 1, 0), ("unsent", 0, 1), ("ended", 1, 2), ("nobody", 0, 3),
         ("interrupted", 1, 4)]
    ):  # fmt: skip
        values = (n + 1, key, "dog", f"body of {key}".encode(), "ops", b"d" * 16, now, runs, state)
        file.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)", values)
    file.execute("UPDATE requests SET result = x'7b7d', ended = arrived, reason = 'why' WHERE state > 0")
    for key in ("never", "never\nops", "never\n"):
        file.execute("INSERT INTO tombstones VALUES ('dog', ?, ?)", (key, now + 1000))
    realm = b"r" * 8
    for nonce in (realm + b"n" * 16, realm, b"lost"):
        file.execute("INSERT INTO nonces VALUES (?, ?)", (nonce, now + 1000))
    file.close()
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    notes = [b"n" + hashlib.sha256(key).digest()[:16] for key in (b"begun", b"noted")]
    begun = b"b" + hashlib.sha256(b"begun").digest()[:16]
    (folder / "begun").write_bytes(boot + b"".join([*notes, begun]))


def test_a_ledger_of_before_is_moved_over_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    of_before(tmp_path)
    for _ in range(2):
        store = Database(tmp_path, lambda: None)
        assert rows(store) == [
            ("waits", "queued", 1, None), ("begun", "running", 2, None), ("noted", "queued", 1, None),
            ("unsent", "answering", 0, b"{}"),
        ]  # fmt: skip
        ended = [(sn, store.call(partial(requests.find, sn))) for sn in ("ended", "nobody", "interrupted")]
        assert [(sn, row and (row.state, row.result, row.reason)) for sn, row in ended] == [
            ("ended", ("done", b"{}", "why")), ("nobody", ("undeliverable", b"{}", "why")),
            ("interrupted", ("interrupted", b"{}", "why")),
        ]  # fmt: skip
        waits = store.call(partial(requests.find, "waits"))
        assert waits is not None
        assert (waits.body, waits.identity, waits.digest) == (b"body of waits", "ops", b"d" * 16)
        buried = store.call(partial(requests.buried, "dog"))
        assert sorted((sn, owner or "") for sn, owner, _ in buried) == [("never", ""), ("never", ""), ("never", "ops")]
        nonces = store.call(
            lambda file: file.execute("SELECT authenticator, nonce FROM nonces ORDER BY 1, 2").fetchall()
        )
        assert nonces == [(b"lost", b""), (b"r" * 8, b""), (b"r" * 8, b"n" * 16)]
        assert not (tmp_path / "begun").exists()
        store.stop()
    assert caplog.text.count("written by an earlier version") == 1


def test_a_ledger_that_cannot_be_moved_over_is_as_it_was(tmp_path: Path) -> None:
    of_before(tmp_path)
    file = sqlite3.connect(tmp_path / "ledger.db")
    file.execute("DROP TABLE tombstones")  # which makes a step of it fail
    file.close()
    store = Database(tmp_path, lambda: None)
    with pytest.raises(Unavailable, match="tombstones"):
        store.call(partial(requests.count, "dog"))
    store.stop()
    file = sqlite3.connect(tmp_path / "ledger.db")
    assert file.execute("SELECT count(*) FROM requests WHERE runs > 0").fetchone() == (4,)
    assert file.execute("PRAGMA user_version").fetchone() == (2,)
    file.close()
    assert (tmp_path / "begun").exists()


@pytest.mark.parametrize(
    "step", ["os.chmod", "gofer.rmi.store.schema.prepare", "pathlib.Path.rename", "gofer.rmi.store.database.sync"]
)
def test_a_file_whose_maker_was_killed_is_not_a_corrupt_one(
    tmp_path: Path, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What an agent finds then would else have it refuse all that was signed up to a minute later."""
    module, _, name = step.rpartition(".")
    killed = f"""
import os, pkgutil
from pathlib import Path
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.window import Window
from gofer.rmi.store import Database
setattr(pkgutil.resolve_name({module!r}), {name!r}, lambda *_: os._exit(9))
Database(Path({str(tmp_path)!r}), lambda: None).call(lambda file: None)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    assert list(tmp_path.iterdir())  # it had begun
    store = Database(tmp_path, lambda: None)
    assert store.call(partial(requests.load, record("a"))) is None
    assert store.call(partial(requests.find, "a")) is not None
    assert {path.name for path in tmp_path.iterdir()} <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
    store.stop()
    assert not caplog.records


def test_a_ledger_that_was_deleted_does_not_come_back(store: Database, tmp_path: Path) -> None:
    """Of one that was in use when its agent was killed there is more than one file."""
    killed = f"""
import os, sys
from functools import partial
from pathlib import Path
from gofer.rmi.store import Database, requests
store = Database(Path({str(tmp_path)!r}), lambda: None)
store.call(partial(requests.take, [requests.Record("gone", "dog", b"", None, b"")]))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    assert (tmp_path / "ledger.db-wal").exists()
    (tmp_path / "ledger.db").unlink()
    assert rows(store) == []


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs a file system of its own, which may be made here",
)
def test_a_ledger_that_did_not_fit_on_the_disk_is_made_when_there_is_room(tmp_path: Path) -> None:
    """What of it did fit is no corrupt one, after which all that was signed up to a minute later would be refused."""
    code = textwrap.dedent("""
        from functools import partial
        from pathlib import Path
        from gofer.rmi.store import Database, Unavailable, database, requests
        database._PAUSE = 0.0
        take, most = partial(requests.take, [requests.Record("a", "dog", b"", None, b"")]), 64
        for free in range(most):
            rest = Path("rest")
            rest.write_bytes(bytes(4096 * (most - free)))
            store = Database(Path("."), lambda: None)
            try:
                store.call(take)
                full = "no"
            except Unavailable:
                full = "yes"
            rest.unlink()
            store.call(take)
            store.stop()
            print(full, *sorted(path.name for path in Path(".").iterdir()))
            store.path.unlink()
    """)
    where = 'mount -t tmpfs -o size=256k none "$0" && cd "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", where, tmp_path, sys.executable, "-c", code],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert set(done.stdout.splitlines()) == {"yes ledger.db", "no ledger.db"}, done.stderr


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    content = (tmp_path / "ledger.db").read_bytes()
    store = Database(tmp_path, lambda: None)
    with pytest.raises(Unavailable, match="later version"):
        store.call(partial(requests.take, [record("a")]))
    store.stop()
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_read_only_file_is_said_to_be_so(tmp_path: Path) -> None:
    before = Database(tmp_path, lambda: None)
    before.call(partial(requests.take, [record("a")]))
    before.stop()
    before.path.chmod(0o444)
    tmp_path.chmod(0o555)
    code = textwrap.dedent("""
        import os, sqlite3
        from functools import partial
        from pathlib import Path
        from gofer.rmi.store import Database, Unavailable, requests, schema
        if os.geteuid() == 0:
            os.setuid(65534)  # to root nothing is read-only
        store = Database(Path("."), lambda: None)
        try:
            store.call(partial(requests.take, [requests.Record("b", "dog", b"", None, b"")]))
        except Unavailable as failed:
            print(failed)
        store.stop()
    """)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
    finally:
        tmp_path.chmod(0o755)
    assert "cannot be used" in done.stdout, done.stderr
    assert not [path for path in tmp_path.iterdir() if "corrupt" in path.name]


def test_after_stop_everything_is_refused_and_the_thread_has_ended(store: Database) -> None:
    store.call(partial(requests.take, [record("a")]))
    store.stop()
    assert "gofer-store" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(Unavailable, match="stopping"):
        store.call(partial(requests.take, [record("b")]))


@pytest.mark.slow
def test_the_time_in_which_a_process_stands_still_does_not_count(tmp_path: Path) -> None:
    """It is stopped in the middle of a write, for longer than anybody waits for one."""
    code = """
        import sys, time
        from pathlib import Path
        from gofer.rmi.store import database

        database._WAIT = 2
        place = Path(sys.argv[1])
        store = database.Database(place, lambda: None)

        def work(connection):
            (place / "begun").touch()
            while not (place / "go").exists():
                time.sleep(0.001)
            time.sleep(0.2)
            return "written"

        print(store.call(work))
        store.stop()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        eventually((tmp_path / "begun").exists)
        child.send_signal(signal.SIGSTOP)
        threading.Event().wait(2.5)
        (tmp_path / "go").touch()
        child.send_signal(signal.SIGCONT)
        assert child.communicate(timeout=40) == (b"written\n", b"")
    finally:
        child.kill()
        child.communicate()
