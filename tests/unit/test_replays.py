"""What an agent remembers of signatures."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from gofer.rmi.replays import Proof, Replays, Seen


def proof(number: int, age: float = 0.0) -> Proof:
    return Proof(number.to_bytes(16, "big"), time.time() + 1000 - age)


def test_a_signature_is_known_the_second_time() -> None:
    replays = Replays()
    assert [replays.note(proof(n)) for n in (1, 2, 1, 2, 3)] == [
        Seen.NEVER, Seen.NEVER, Seen.BEFORE, Seen.BEFORE, Seen.NEVER,
    ]  # fmt: skip


def test_one_that_was_given_back_passes_once_more() -> None:
    replays = Replays()
    one = proof(1)
    replays.note(one)
    replays.forget(one)
    replays.forget(None)
    assert [replays.note(one), replays.note(one)] == [Seen.NEVER, Seen.BEFORE]


def test_what_a_process_before_this_one_saw_is_told_apart_once(tmp_path: Path) -> None:
    file = tmp_path / "signatures"
    first = Replays(file)
    first.note(proof(1))
    second = Replays(file)  # the first was killed: it has closed nothing
    assert [second.note(proof(n)) for n in (1, 1, 2)] == [Seen.EARLIER, Seen.BEFORE, Seen.NEVER]
    second.close()
    first.close()
    assert file.stat().st_mode & 0o777 == 0o600
    third = Replays(file)
    assert [third.note(proof(n)) for n in (1, 2, 3)] == [Seen.EARLIER, Seen.EARLIER, Seen.NEVER]
    third.close()


def test_what_is_too_old_is_forgotten_and_a_torn_end_is_read_over(tmp_path: Path) -> None:
    file = tmp_path / "signatures"
    replays = Replays(file)
    replays.note(proof(1, age=2000))
    replays.note(proof(2))
    replays.close()
    with file.open("ab") as end:
        end.write(b"torn")
    again = Replays(file)
    assert again.note(proof(2)) is Seen.EARLIER
    assert len(again) == 1
    again.close()
    assert file.stat().st_size == 24


def test_when_there_are_too_many_the_oldest_go_and_nothing_older_passes(tmp_path: Path) -> None:
    replays = Replays(tmp_path / "signatures", most=100)
    for n in range(1000):
        assert replays.note(proof(n, age=500 - n / 10)) is Seen.NEVER
    assert len(replays) == 100
    assert replays.note(proof(5, age=500 - 5 / 10)) is Seen.BEFORE  # forgotten, and not let pass for that
    assert replays.note(proof(5000, age=500)) is Seen.BEFORE  # never seen, but who knows
    assert replays.note(proof(999, age=500 - 99.9)) is Seen.BEFORE
    assert replays.note(proof(5001)) is Seen.NEVER
    replays.close()
    assert (tmp_path / "signatures").stat().st_size <= 24 * 201


def test_a_file_that_cannot_be_used_is_told_and_memory_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "signatures"
    folder.mkdir()  # in its place
    with caplog.at_level(logging.ERROR):
        replays = Replays(folder)
        assert [replays.note(proof(1)), replays.note(proof(1))] == [Seen.NEVER, Seen.BEFORE]
    assert "cannot be used" in caplog.text
    replays.close()


def test_a_full_disk_is_told_and_memory_serves(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "signatures"
    replays = Replays(file)
    replays.note(proof(1))
    full = os.open("/dev/full", os.O_WRONLY)
    assert replays._descriptor is not None
    os.dup2(full, replays._descriptor)
    os.close(full)
    with caplog.at_level(logging.ERROR):
        assert [replays.note(proof(n)) for n in (2, 2, 3)] == [Seen.NEVER, Seen.BEFORE, Seen.NEVER]
    assert "No space left" in caplog.text
    replays.close()
