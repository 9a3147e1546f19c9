"""What an agent that was killed had noted, and not begun, is told from what it had begun."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.rmi import beginnings, records
from gofer.rmi.beginnings import Beginnings
from gofer.rmi.ledger import Ledger, Unavailable

FULL = """
import resource, sys
from pathlib import Path
from gofer.rmi import beginnings, records
from gofer.rmi.ledger import Ledger, Unavailable

folder = Path(sys.argv[1])
ledger, begun = Ledger(folder, lambda: None), beginnings.Beginnings(folder / "begun")
for key in ("one", "two"):
    record = records.Record(key, "p", b"body", None, b"d" * 16)
    ledger.call(begun.noting(records.note(record), key))
size = (folder / "begun").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
begun.begins("one")
print(beginnings.Beginnings(folder / "begun").spared("two"))
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path, lambda: None)
    yield ledger
    ledger.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "begun"


def note(ledger: Ledger, begun: Beginnings, key: str) -> None:
    ledger.call(begun.noting(records.note(records.Record(key, "p", b"body", None, b"d" * 16)), key))


def test_only_a_first_run_that_was_noted_and_has_not_begun_is_spared(ledger: Ledger, path: Path) -> None:
    begun = Beginnings(path)
    for key in ("noted", "begun", "twice"):
        note(ledger, begun, key)
    begun.begins("begun")
    begun.begins("twice")
    note(ledger, begun, "twice")

    after = Beginnings(path)

    assert {key: after.spared(key) for key in ("noted", "begun", "twice", "never seen")} == {
        "noted": True,
        "begun": False,
        "twice": False,
        "never seen": False,
    }


def test_it_is_so_over_many_ends(ledger: Ledger, path: Path) -> None:
    for number in range(5):
        begun = Beginnings(path)
        note(ledger, begun, f"noted {number}")
        note(ledger, begun, f"begun {number}")
        begun.begins(f"begun {number}")

    after = Beginnings(path)

    assert [after.spared(f"noted {number}") for number in range(5)] == [True] * 5
    assert [after.spared(f"begun {number}") for number in range(5)] == [False] * 5


def test_what_kills_agents_before_it_begins_is_spared_twice(ledger: Ledger, path: Path) -> None:
    told = []
    for _ in range(4):
        note(ledger, Beginnings(path), "deadly")
        told.append(Beginnings(path).spared("deadly"))
        ledger.call(records.unnote("deadly"))

    assert told == [True, True, False, False]


def test_after_a_reboot_all_that_was_noted_counts_as_begun(
    ledger: Ledger, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(ledger, Beginnings(path), "noted")
    (tmp_path / "boot").write_text("another boot\n")
    monkeypatch.setattr(beginnings, "_BOOT", tmp_path / "boot")  # nobody reboots for a test

    after = Beginnings(path)

    assert not after.spared("noted")
    note(ledger, after, "later")
    assert Beginnings(path).spared("later")
    assert not Beginnings(path).spared("noted")


@pytest.mark.parametrize("what", ["gone", "empty", "cut", "a directory"])
def test_what_the_file_does_not_tell_counts_as_begun(ledger: Ledger, path: Path, what: str) -> None:
    note(ledger, Beginnings(path), "noted")
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif what == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    if what == "a directory":
        path.mkdir()

    after = Beginnings(path)

    assert not after.spared("noted")
    note(ledger, after, "another")  # goes on, with the file or without
    after.begins("another")


def test_the_file_stays_small(ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "_MOST", 1000)
    begun = Beginnings(path)
    note(ledger, begun, "waits")
    for number in range(200):
        note(ledger, begun, f"n{number}")
        begun.begins(f"n{number}")

    assert path.stat().st_size < 1200
    assert Beginnings(path).spared("waits")


def test_when_a_beginning_cannot_be_written_nothing_is_spared_any_more(tmp_path: Path) -> None:
    """The run has begun, and the file would say that it has not: so it says nothing."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.stdout, done.stderr) == ("False\n", "")
    assert (tmp_path / "begun").stat().st_size == 0


def test_when_not_even_that_is_possible_the_run_must_not_begin(ledger: Ledger, path: Path) -> None:
    begun = Beginnings(path)
    note(ledger, begun, "noted")
    path.unlink()
    path.mkdir()

    with pytest.raises(Unavailable, match="begun"):
        begun.begins("noted")
