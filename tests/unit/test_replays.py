"""What an agent remembers of signatures."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.rmi.clock import Clock
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.replays import Proof, Replays, Seen
from support.waiting import eventually


def proof(number: int, age: float = 0.0, signer: str = "ops", good_for: float = 1000.0) -> Proof:
    return Proof(number.to_bytes(16, "big"), time.time() + good_for - age, signer=signer, good_for=good_for)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path, lambda: None)
    yield ledger
    ledger.stop()


def written(ledger: Ledger) -> int:
    count: int = ledger.call(lambda file: file.execute("SELECT count(*) FROM nonces").fetchone()[0])
    return count


def restored(ledger: Ledger, most: int = 100_000) -> Replays:
    """What a process that comes after this one has."""
    written(ledger)  # and all that was posted before
    replays = Replays(ledger, most=most)
    replays.restore()
    return replays


def test_a_signature_is_known_the_second_time() -> None:
    replays = Replays()
    assert [replays.note(proof(n)) for n in (1, 2, 1, 2, 3)] == [
        Seen.NEVER, Seen.NEVER, Seen.BEFORE, Seen.BEFORE, Seen.NEVER,
    ]  # fmt: skip


def test_one_that_was_given_back_passes_once_more(ledger: Ledger) -> None:
    replays = Replays(ledger)
    one = proof(1)
    replays.note(one)
    replays.forget(one)
    replays.forget(None)
    assert len(restored(ledger)) == 0
    assert [replays.note(one), replays.note(one)] == [Seen.NEVER, Seen.BEFORE]
    assert len(restored(ledger)) == 1


def test_nothing_is_written_before_a_signature_is_seen(ledger: Ledger) -> None:
    Replays(ledger).restore()
    assert not ledger.exists()


def test_what_a_process_before_this_one_saw_is_told_apart_once(ledger: Ledger) -> None:
    first = Replays(ledger)
    first.note(proof(1))
    second = restored(ledger)  # the first was killed: it has closed nothing
    assert [second.note(proof(n)) for n in (1, 1, 2)] == [Seen.EARLIER, Seen.BEFORE, Seen.NEVER]
    third = restored(ledger)
    assert [third.note(proof(n)) for n in (1, 2, 3)] == [Seen.EARLIER, Seen.EARLIER, Seen.NEVER]


def test_what_is_too_old_is_forgotten(ledger: Ledger) -> None:
    replays = Replays(ledger)
    replays.note(proof(1, age=2000))
    replays.note(proof(2))
    again = restored(ledger)
    assert again.note(proof(2)) is Seen.EARLIER
    assert len(again) == written(ledger) == 1


def test_when_there_are_too_many_the_oldest_go_and_nothing_older_passes(ledger: Ledger) -> None:
    replays = Replays(ledger, most=100)
    for n in range(1000):
        assert replays.note(proof(n, age=500 - n / 10)) is Seen.NEVER
    assert len(replays) == 100
    assert replays.note(proof(5, age=500 - 5 / 10)) is Seen.FORGOTTEN  # and not let pass for that
    assert replays.note(proof(5000, age=500)) is Seen.FORGOTTEN  # never seen, but who knows
    assert replays.note(proof(999, age=500 - 99.9)) is Seen.BEFORE
    assert replays.note(proof(5001)) is Seen.NEVER
    assert written(ledger) <= 250
    again = restored(ledger, most=100)
    assert len(again) == 100
    assert again.note(proof(5, age=500 - 5 / 10)) is Seen.FORGOTTEN  # nor after a restart
    assert len(restored(ledger, most=100)) == 100


def test_who_signs_much_makes_nobody_else_forgotten(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Each has a mark of its own, and another one for each age limit: that of days says nothing of that of an hour."""
    replays = Replays(ledger, most=100)
    for n in range(20):
        assert replays.note(proof(n, age=900, signer="quiet")) is Seen.NEVER
    for n in range(100, 2000):
        assert replays.note(proof(n, signer="loud", good_for=7 * 86400.0)) is Seen.NEVER
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "'loud' has signed more requests than are remembered" in caplog.text
    assert "ago is refused" in caplog.text
    for one in (replays, restored(ledger, most=100)):
        assert one.note(proof(100, age=1, signer="loud", good_for=7 * 86400.0)) is Seen.FORGOTTEN
        assert one.note(proof(5, age=900, signer="quiet")) in (Seen.BEFORE, Seen.EARLIER)
        assert (
            one.note(proof(time.monotonic_ns(), age=950, signer="quiet")) is Seen.NEVER
        )  # signed long ago, and genuine
        assert one.note(proof(time.monotonic_ns(), signer="short", good_for=60.0)) is Seen.NEVER


def corrupt(ledger: Ledger) -> None:
    """Have the file be found corrupt while it is used."""
    damage = [sqlite3.DatabaseError("database disk image is malformed")]
    damage[0].sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def look(file: sqlite3.Connection) -> None:
        if damage:
            raise damage.pop()

    ledger.call(look)


def test_a_file_that_becomes_corrupt_costs_nothing_that_is_in_memory(ledger: Ledger) -> None:
    replays = restored(ledger)
    for n in range(50):
        replays.note(proof(n))
    corrupt(ledger)
    again = restored(ledger)
    assert {again.note(proof(n)) for n in range(50)} == {Seen.EARLIER}
    assert again.note(proof(100)) is Seen.NEVER


def test_what_was_signed_before_a_ledger_was_found_corrupt_at_the_start_does_not_pass(ledger: Ledger) -> None:
    first = Replays(ledger)
    first.note(proof(1))
    written(ledger)
    second = Replays(ledger)
    corrupt(ledger)
    second.restore()
    assert second.note(proof(1)) is Seen.LOST
    assert second.note(proof(2, age=900)) is Seen.LOST  # who knows
    assert second.note(proof(3, age=-310)) is Seen.NEVER  # signed after that, whatever its signer's clock says


def test_a_file_that_cannot_be_read_at_the_start_is_not_taken_for_an_empty_one(ledger: Ledger) -> None:
    Replays(ledger).note(proof(1))
    written(ledger)
    ledger.stop()
    aside = ledger.path.with_name("aside.db")
    ledger.path.rename(aside)
    ledger.path.mkdir()  # in its place
    again = Ledger(ledger.path.parent, lambda: None)
    replays = Replays(again)
    with pytest.raises(Unavailable):
        replays.restore()
    ledger.path.rmdir()
    aside.rename(ledger.path)

    def reads() -> bool:
        try:
            replays.restore()
        except Unavailable:
            return False
        return True

    eventually(reads)
    assert replays.note(proof(1)) is Seen.EARLIER
    again.stop()


def test_a_request_is_acknowledged_when_its_signature_is_on_the_disk(ledger: Ledger) -> None:
    """Whatever the power takes with it is then still the broker's: a copy is its second try at most."""
    replays = Replays(ledger)
    gate = threading.Event()
    told: list[int] = []
    ledger.post(lambda file: gate.wait(10))
    for n in range(3):
        assert replays.note(proof(n)) is Seen.NEVER  # which waits for nothing
        replays.secured(proof(n), lambda n=n: told.append(n))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    replays.secured(None, lambda: told.append(99))
    replays.secured(proof(77), lambda: told.append(100))  # written long ago, or never seen
    assert told == [99, 100]
    gate.set()
    eventually(lambda: told == [99, 100, 0, 1, 2])
    assert written(ledger) == 3


def test_a_ledger_that_cannot_be_used_is_told_and_memory_serves(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.path.mkdir()  # in its place
    told: list[int] = []
    with caplog.at_level(logging.ERROR):
        replays = Replays(ledger)
        for n in (1, 2):
            assert replays.note(proof(n)) is Seen.NEVER
            replays.secured(proof(n), lambda n=n: told.append(n))  # type: ignore[misc]  # as above
        assert replays.note(proof(1)) is Seen.BEFORE
        eventually(lambda: told == [1, 2])
        replays.secured(proof(1), lambda: told.append(3))
        assert told == [1, 2, 3]
    eventually(lambda: "cannot be told" in caplog.text)
    assert caplog.text.count("signed requests sent again after a restart cannot be told") == 1
    ledger.path.rmdir()

    def writes_again() -> bool:
        replays.note(proof(time.monotonic_ns()))
        return ledger.error is None and ledger.exists() and written(ledger) >= 3

    eventually(writes_again)  # what was seen meanwhile, too
    assert {Seen.EARLIER} == {restored(ledger).note(proof(n)) for n in (1, 2)}


def test_many_signatures_share_a_commit(ledger: Ledger) -> None:
    clock = Clock()
    clock.start()
    try:
        replays = Replays(ledger, clock)
        told: list[int] = []
        posted = threading.Semaphore(0)
        put = replays._put
        replays._put = lambda file: (put(file), posted.release())[0]  # type: ignore[method-assign]  # to count
        for n in range(500):
            replays.note(proof(n))
            replays.secured(proof(n), lambda n=n: told.append(n))  # type: ignore[misc]  # as above
        eventually(lambda: len(told) == 500)
        commits = 0
        while posted.acquire(blocking=False):
            commits += 1
        assert commits < 100
        assert written(ledger) == 500
        replays.note(proof(500))
        replays.secured(proof(500), lambda: told.append(500))
        replays.flush(10)
        assert told[-1] == 500
    finally:
        clock.stop()


def test_an_agent_that_stops_says_so_to_whoever_waits(ledger: Ledger) -> None:
    replays = Replays(ledger)
    replays.note(proof(1))
    ledger.stop()
    told: list[int] = []
    assert replays.note(proof(2)) is Seen.NEVER
    replays.secured(proof(2), lambda: told.append(2))
    assert told == [2]
