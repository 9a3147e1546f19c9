"""What an agent remembers of signatures."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
from gofer.rmi.server.nonces import Nonce, Nonces, Seen
from gofer.rmi.store import Database, Unavailable
from support.waiting import eventually


def nonce(number: int, age: float = 0.0, signer: str = "ops", good_for: float = 1000.0) -> Nonce:
    return Nonce(number.to_bytes(16, "big"), time.time() + good_for - age, signer=signer, good_for=good_for)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    store = Database(tmp_path, lambda: None)
    yield store
    store.stop()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that failed is tried again soon."""
    monkeypatch.setattr("gofer.rmi.store.database._PAUSE", 0.2)


def written(store: Database) -> int:
    count: int = store.call(lambda file: file.execute("SELECT count(*) FROM nonces").fetchone()[0])
    return count


def restored(store: Database, most: int = 100_000) -> Nonces:
    """What a process that comes after this one has."""
    written(store)  # and all that was posted before
    nonces = Nonces(store, most=most)
    nonces.restore()
    return nonces


def test_a_signature_is_known_the_second_time() -> None:
    nonces = Nonces()
    assert [nonces.note(nonce(n)) for n in (1, 2, 1, 2, 3)] == [
        Seen.NEVER, Seen.NEVER, Seen.BEFORE, Seen.BEFORE, Seen.NEVER,
    ]  # fmt: skip


def test_one_that_was_given_back_passes_once_more(store: Database) -> None:
    nonces = Nonces(store)
    one = nonce(1)
    nonces.note(one)
    nonces.forget(one)
    nonces.forget(None)
    assert len(restored(store)) == 0
    assert [nonces.note(one), nonces.note(one)] == [Seen.NEVER, Seen.BEFORE]
    assert len(restored(store)) == 1


def test_nothing_is_written_before_a_signature_is_seen(store: Database) -> None:
    Nonces(store).restore()
    assert not store.exists()


def test_what_a_process_before_this_one_saw_is_distinguished_once(store: Database) -> None:
    first = Nonces(store)
    first.note(nonce(1))
    second = restored(store)  # the first was killed: it has closed nothing
    assert [second.note(nonce(n)) for n in (1, 1, 2)] == [Seen.EARLIER, Seen.BEFORE, Seen.NEVER]
    third = restored(store)
    assert [third.note(nonce(n)) for n in (1, 2, 3)] == [Seen.EARLIER, Seen.EARLIER, Seen.NEVER]


def test_what_is_too_old_is_forgotten(store: Database) -> None:
    nonces = Nonces(store)
    nonces.note(nonce(1, age=2000))
    nonces.note(nonce(2))
    again = restored(store)
    assert again.note(nonce(2)) is Seen.EARLIER
    assert len(again) == written(store) == 1


def test_when_there_are_too_many_the_oldest_go_and_nothing_older_passes(store: Database) -> None:
    nonces = Nonces(store, most=100)
    for n in range(1000):
        assert nonces.note(nonce(n, age=500 - n / 10)) is Seen.NEVER
    assert len(nonces) == 100
    assert nonces.note(nonce(5, age=500 - 5 / 10)) is Seen.FORGOTTEN  # and not let pass for that
    assert nonces.note(nonce(5000, age=500)) is Seen.FORGOTTEN  # never seen, but who knows
    assert nonces.note(nonce(999, age=500 - 99.9)) is Seen.BEFORE
    assert nonces.note(nonce(5001)) is Seen.NEVER
    assert written(store) <= 250
    again = restored(store, most=100)
    assert len(again) == 100
    assert again.note(nonce(5, age=500 - 5 / 10)) is Seen.FORGOTTEN  # nor after a restart
    assert len(restored(store, most=100)) == 100


def test_who_signs_much_makes_nobody_else_forgotten(store: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Each has a mark of its own, and another one for each age limit: that of days says nothing of that of an hour."""
    nonces = Nonces(store, most=100)
    for n in range(20):
        assert nonces.note(nonce(n, age=900, signer="quiet")) is Seen.NEVER
    for n in range(100, 2000):
        assert nonces.note(nonce(n, signer="loud", good_for=7 * 86400.0)) is Seen.NEVER
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'loud' has signed more requests than are remembered" in caplog.text
    assert "ago is refused" in caplog.text
    for one in (nonces, restored(store, most=100)):
        assert one.note(nonce(100, age=600, signer="loud", good_for=7 * 86400.0)) is Seen.FORGOTTEN
        assert one.note(nonce(5, age=900, signer="quiet")) in (Seen.BEFORE, Seen.EARLIER)
        assert (
            one.note(nonce(time.monotonic_ns(), age=950, signer="quiet")) is Seen.NEVER
        )  # signed long ago, and genuine
        assert one.note(nonce(time.monotonic_ns(), signer="short", good_for=60.0)) is Seen.NEVER


def corrupt(store: Database) -> None:
    """Have the file be found corrupt while it is used."""
    damage = [sqlite3.DatabaseError("database disk image is malformed")]
    damage[0].sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def look(file: sqlite3.Connection) -> None:
        if damage:
            raise damage.pop()

    store.call(look)


def test_a_file_that_becomes_corrupt_costs_nothing_that_is_in_memory(store: Database) -> None:
    nonces = restored(store)
    for n in range(50):
        nonces.note(nonce(n))
    corrupt(store)
    again = restored(store)
    assert {again.note(nonce(n)) for n in range(50)} == {Seen.EARLIER}
    assert again.note(nonce(100)) is Seen.NEVER


def test_what_was_signed_before_a_ledger_was_found_corrupt_at_the_start_does_not_pass(store: Database) -> None:
    first = Nonces(store)
    first.note(nonce(1))
    written(store)
    second = Nonces(store)
    corrupt(store)
    second.restore()
    assert second.note(nonce(1)) is Seen.LOST
    assert second.note(nonce(2, age=900)) is Seen.LOST  # who knows
    assert second.note(nonce(3, age=-310)) is Seen.NEVER  # signed after that, whatever its signer's clock says


@pytest.mark.usefixtures("short_pause")
def test_a_file_that_cannot_be_read_at_the_start_is_not_taken_for_an_empty_one(store: Database) -> None:
    Nonces(store).note(nonce(1))
    written(store)
    store.stop()
    aside = store.path.with_name("aside.db")
    store.path.rename(aside)
    store.path.mkdir()  # in its place
    again = Database(store.path.parent, lambda: None)
    nonces = Nonces(again)
    with pytest.raises(Unavailable):
        nonces.restore()
    store.path.rmdir()
    aside.rename(store.path)

    def reads() -> bool:
        try:
            nonces.restore()
        except Unavailable:
            return False
        return True

    eventually(reads)
    assert nonces.note(nonce(1)) is Seen.EARLIER
    again.stop()


def test_a_request_is_acknowledged_when_its_signature_is_on_the_disk(store: Database) -> None:
    """Whatever the power takes with it is then still the broker's: a copy is its second try at most."""
    nonces = Nonces(store)
    gate = threading.Event()
    told: list[int] = []
    store.post(lambda file: gate.wait(10))
    for n in range(3):
        assert nonces.note(nonce(n)) is Seen.NEVER  # which waits for nothing
        nonces.secured(nonce(n), told.extend, n)
    nonces.secured(None, told.extend, 99)
    nonces.secured(nonce(77), told.extend, 100)  # written long ago, or never seen
    assert told == [99, 100]
    gate.set()
    eventually(lambda: told == [99, 100, 0, 1, 2])
    assert written(store) == 3


@pytest.mark.usefixtures("short_pause")
def test_a_ledger_that_cannot_be_used_is_reported_and_memory_serves(
    store: Database, caplog: pytest.LogCaptureFixture
) -> None:
    store.path.mkdir()  # in its place
    told: list[int] = []
    with caplog.at_level(logging.ERROR):
        nonces = Nonces(store)
        for n in (1, 2):
            assert nonces.note(nonce(n)) is Seen.NEVER
            nonces.secured(nonce(n), told.extend, n)
        assert nonces.note(nonce(1)) is Seen.BEFORE
        eventually(lambda: told == [1, 2])
        nonces.secured(nonce(1), told.extend, 3)
        assert told == [1, 2, 3]
    eventually(lambda: "cannot be recognised" in caplog.text)
    assert caplog.text.count("copies of signed requests cannot be recognised after a restart") == 1
    store.path.rmdir()

    def writes_again() -> bool:
        nonces.note(nonce(time.monotonic_ns()))
        return store.error is None and store.exists() and written(store) >= 3

    eventually(writes_again)  # what was seen meanwhile, too
    assert {Seen.EARLIER} == {restored(store).note(nonce(n)) for n in (1, 2)}


def test_many_signatures_share_a_commit_and_what_waits_for_it_goes_on_together(store: Database) -> None:
    nonces = Nonces(store)
    told: list[int] = []
    groups: list[list[int]] = []
    statements: list[str] = []
    store.call(lambda file: file.set_trace_callback(statements.append))
    for n in range(500):
        nonces.note(nonce(n))
        nonces.secured(nonce(n), groups.append, n)
    eventually(lambda: sum(map(len, groups)) == 500)
    assert [n for group in groups for n in group] == [*range(500)]
    assert len(groups) < 100
    assert statements.count("COMMIT") < 100
    assert written(store) == 500
    nonces.note(nonce(500))
    nonces.secured(nonce(500), told.extend, 500)
    nonces.flush(10)
    assert told[-1] == 500


def test_nothing_waits_for_a_ledger_that_does_not_answer(store: Database, caplog: pytest.LogCaptureFixture) -> None:
    nonces, held, told = Nonces(store), threading.Event(), list[int]()
    assert nonces.look(time.monotonic()) == inf  # nobody waits for it
    store.post(lambda file: held.wait(30))
    nonces.note(nonce(1))
    nonces.secured(nonce(1), told.extend, 1)
    now = time.monotonic() + 3600  # the process stood still: that is one second
    looks = 0
    while (now := nonces.look(now)) < inf:
        looks += 1
        assert told == []
    assert (looks, told) == (4, [1])
    nonces.note(nonce(2))
    nonces.secured(nonce(2), told.extend, 2)  # it still hangs
    assert told == [1, 2]
    assert caplog.text.count("cannot be recognised after a restart: the ledger has not answered for 5 s") == 1
    held.set()
    eventually(lambda: written(store) == 2)
    assert {Seen.EARLIER} == {restored(store).note(nonce(n)) for n in (1, 2)}


def test_an_agent_that_stops_says_so_to_whoever_waits(store: Database) -> None:
    nonces = Nonces(store)
    nonces.note(nonce(1))
    store.stop()
    told: list[int] = []
    assert nonces.note(nonce(2)) is Seen.NEVER
    nonces.secured(nonce(2), told.extend, 2)
    assert told == [2]
