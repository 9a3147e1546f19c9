"""The ledger's file: written in order, on the disk before anybody hears of it; and what happens when it cannot be."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.rmi import records
from gofer.rmi.ledger import Ledger, Unavailable
from support.waiting import eventually


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path, lambda: None)
    yield ledger
    ledger.stop()


def record(key: str, body: bytes = b"{}", plugin: str = "dog") -> records.Record:
    return records.Record(key, plugin, body, None, b"0123456789abcdef")


def keys(ledger: Ledger, plugin: str = "dog") -> list[tuple[str, int, bytes | None]]:
    """The requests that have not ended: their keys, runs and unsent results."""
    return [(row.key, row.runs, row.result) for _, row in ledger.call(records.open_rows(plugin, 0, 1000))]


def test_nothing_is_there_before_it_is_needed(ledger: Ledger, tmp_path: Path) -> None:
    assert not ledger.exists()
    assert list(tmp_path.iterdir()) == []
    assert "gofer-ledger" not in [thread.name for thread in threading.enumerate()]
    ledger.call(records.take(record("a")))
    assert ledger.exists()
    assert ledger.path.stat().st_mode & 0o777 == 0o600


def test_requests_come_back_in_their_order_with_what_became_of_them(ledger: Ledger, tmp_path: Path) -> None:
    for n in range(60):
        ledger.post(records.take(record(f"k{n}")))
    ledger.post(records.take(record("other", plugin="cat")))
    ledger.post(records.note(record("k1")))
    ledger.post(records.note(record("k2")))
    ledger.post(records.end("k2", b"done"))
    ledger.post(records.end("k3", b"done"))
    ledger.post(records.keep(record("k4"), b"unsent", records.UNSENT))
    ledger.post(records.remove("k5"))
    ledger.stop()

    again = Ledger(tmp_path, lambda: None)
    found = keys(again)
    assert found[:4] == [("k0", 0, None), ("k1", 1, None), ("k4", 0, b"unsent"), ("k6", 0, None)]
    assert [key for key, _, _ in found[3:]] == [f"k{n}" for n in range(6, 60)]
    assert keys(again, "cat") == [("other", 0, None)]
    assert again.call(records.find("k2")) == (b"0123456789abcdef", b"done", 1)  # its run was noted
    assert again.call(records.find("k3")) is None
    again.stop()


def test_what_is_older_than_a_day_is_forgotten(ledger: Ledger) -> None:
    ledger.call(records.note(record("old")))
    ledger.call(records.end("old", b"done"))
    ledger.call(records.take(record("open")))
    ledger.call(records.bury("dog", "never"))
    ledger.call(lambda file: file.execute("UPDATE requests SET ended = ended - 86401, arrived = arrived - 86401"))
    assert [key for key, left in ledger.call(records.buried("dog")) if 86_000 < left <= 86_400] == ["never"]
    ledger.call(lambda file: file.execute("UPDATE tombstones SET until = until - 86401"))
    ledger.call(records.clean)
    assert ledger.call(records.find("old")) is None
    assert ledger.call(lambda file: file.execute("SELECT count(*) FROM tombstones").fetchone()[0]) == 0
    assert [key for key, _, _ in keys(ledger)] == ["open"]  # what has not ended never goes


def test_a_killed_process_has_on_disk_what_it_was_told_is_there(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from gofer.rmi import records
        from gofer.rmi.ledger import Ledger
        ledger = Ledger(Path(sys.argv[1]), lambda: None)
        for n in range(1000):
            done = lambda _, failed, n=n: os.write(1, b"%d\\n" % n)
            ledger.post(records.take(records.Record(f"k{n}", "dog", b"{}", None, b"")), done)
        import time; time.sleep(30)
    """)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(700)]
        child.kill()
        told += [int(line) for line in child.stdout.read().split()]
    assert told == list(range(len(told)))
    ledger = Ledger(tmp_path, lambda: None)
    assert len(ledger.call(records.open_rows("dog", 0, 2000))) >= len(told)
    ledger.stop()


@pytest.mark.parametrize("how", ["garbage", "page", "nothing"])
def test_a_corrupt_file_is_set_aside_and_said(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    before = Ledger(tmp_path, lambda: None)
    for n in range(300):
        before.post(records.take(record(f"k{n}", b"x" * 500)))
    before.stop()
    content = before.path.read_bytes()
    bad = {
        "garbage": b"no database at all" * 100,
        "page": content[:8192] + os.urandom(16384) + content[24576:],
        "nothing": b"",  # what some file systems leave of it after a power failure
    }[how]
    before.path.write_bytes(bad)

    ledger = Ledger(tmp_path, lambda: None)
    assert keys(ledger) == []
    ledger.call(records.take(record("new")))
    assert keys(ledger) == [("new", 0, None)]
    aside = [path for path in tmp_path.iterdir() if path.name.startswith("ledger-corrupt-") and path.suffix == ".db"]
    assert [path.read_bytes() for path in aside] == [bad]
    assert "is corrupt" in caplog.text
    assert aside[0].name in caplog.text
    assert ledger.error is None
    ledger.stop()


def test_a_locked_file_fails_what_is_asked_and_is_tried_again(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    ledger.call(records.take(record("a")))
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    for _ in range(20):
        with pytest.raises(Unavailable, match="locked"):
            ledger.call(records.take(record("b")))
    assert time.monotonic() - start < 20  # not each one waits
    ledger.post(records.end("a", b""), kept=True)
    assert caplog.text.count("cannot be used") == 1
    other.execute("ROLLBACK")
    other.close()

    eventually(lambda: ledger.error is None, 10)
    assert keys(ledger) == []  # what was to be kept was done; nobody had been told that b is there
    assert "can be used again" in caplog.text


def test_an_entry_that_cannot_be_written_costs_no_other(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    held, told = threading.Event(), []
    ledger.post(lambda file: held.wait(10))  # what comes meanwhile is one group
    ledger.post(records.take(record("a")))
    ledger.post(records.end("\ud800", b""), lambda value, failed: told.append(str(failed)), kept=True)
    ledger.post(records.take(record("b")))
    held.set()
    assert keys(ledger) == [("a", 0, None), ("b", 0, None)]
    (why,) = told
    assert "cannot be written: UnicodeEncodeError" in why
    assert ledger.error is None
    assert caplog.text.count("one entry cannot be written") == 1  # it is not tried for ever


def test_what_only_the_ledger_has_can_be_dropped(ledger: Ledger) -> None:
    for key in ("here", "away", "noted"):
        ledger.call(records.take(record(key)))
    ledger.call(records.note(record("noted")))
    ledger.call(records.keep(record("unsent"), b"result", records.UNSENT))

    def away(key: str, plugin: str) -> bool:
        assert plugin == "dog"
        return key != "here"

    assert [ledger.call(records.drop(key, away)) for key in ("here", "away", "noted", "unsent", "none")] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert keys(ledger) == [("here", 0, None)]
    found = ledger.call(records.find("noted", begun=True))
    assert found is not None  # sent once more, it does not run once more
    assert found.runs == 1


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    content = (tmp_path / "ledger.db").read_bytes()
    ledger = Ledger(tmp_path, lambda: None)
    with pytest.raises(Unavailable, match="later version"):
        ledger.call(records.take(record("a")))
    ledger.stop()
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_read_only_file_is_said_to_be_so(tmp_path: Path) -> None:
    before = Ledger(tmp_path, lambda: None)
    before.call(records.take(record("a")))
    before.stop()
    before.path.chmod(0o444)
    tmp_path.chmod(0o555)
    code = textwrap.dedent("""
        import os, sqlite3
        from pathlib import Path
        from gofer.rmi import records
        from gofer.rmi.ledger import Ledger, Unavailable
        if os.geteuid() == 0:
            os.setuid(65534)  # to root nothing is read-only
        ledger = Ledger(Path("."), lambda: None)
        try:
            ledger.call(records.take(records.Record("b", "dog", b"", None, b"")))
        except Unavailable as failed:
            print(failed)
        ledger.stop()
    """)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=30
        )
    finally:
        tmp_path.chmod(0o755)
    assert "cannot be used" in done.stdout, done.stderr
    assert not [path for path in tmp_path.iterdir() if "corrupt" in path.name]


def test_after_stop_everything_is_refused_and_the_thread_has_ended(ledger: Ledger) -> None:
    ledger.call(records.take(record("a")))
    ledger.stop()
    assert "gofer-ledger" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(Unavailable, match="stopping"):
        ledger.call(records.take(record("b")))


def test_the_time_in_which_a_process_stands_still_does_not_count(tmp_path: Path) -> None:
    """It is stopped in the middle of a write, for longer than anybody waits for one."""
    code = """
        import sys, time
        from pathlib import Path
        from gofer.rmi import ledger

        ledger._WAIT = 3
        place = Path(sys.argv[1])
        book = ledger.Ledger(place, lambda: None)

        def work(connection):
            (place / "begun").touch()
            while not (place / "go").exists():
                time.sleep(0.001)
            time.sleep(0.2)
            return "written"

        print(book.call(work))
        book.stop()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        eventually((tmp_path / "begun").exists)
        child.send_signal(signal.SIGSTOP)
        threading.Event().wait(4.0)
        (tmp_path / "go").touch()
        child.send_signal(signal.SIGCONT)
        assert child.communicate(timeout=40) == (b"written\n", b"")
    finally:
        child.kill()
        child.communicate()
