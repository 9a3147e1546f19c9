"""An agent that cannot read its ledger when it starts: what it would have to know is not taken for not there."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Cancelled
from gofer.messaging.auth import sign
from support.calls import Mailbox
from support.danger import ledger_of
from support.probe import runs
from support.signing import QUEUE, Serving, hmac_scheme, serving
from support.waiting import eventually


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path, hmac_scheme(tmp_path)) as one:
        yield one


@pytest.fixture
def mailbox(served: Serving) -> Iterator[Mailbox]:
    with Mailbox(served.connector) as mailbox:
        yield mailbox


def written(served: Serving, mailbox: Mailbox, trace: Path, text: str) -> bytes:
    document = {**mailbox.request(str(trace), text), "routing": [None, QUEUE]}
    return sign(json.dumps(document).encode(), served.scheme.named("ops"))


def answer(mailbox: Mailbox) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mailbox.receive()["message"])
    return found


def ended(mailbox: Mailbox) -> dict[str, Any]:
    while True:
        found = answer(mailbox)
        if "result" in found or found["status"] == "rejected":
            return found


def rejection(mailbox: Mailbox) -> dict[str, Any]:
    """Wait for a rejection; a result may come twice before it."""
    while (found := ended(mailbox)).get("status") != "rejected":
        pass
    return found


@pytest.mark.slow
def test_neither_copies_nor_cancelled_requests_run(served: Serving, mailbox: Mailbox, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    copy = written(served, mailbox, trace, "once")
    mailbox.send(QUEUE, copy)
    assert ended(mailbox)["result"] == {"retval": "once"}
    with served.agent(wait=60) as agent, ThreadPoolExecutor(2) as threads:
        trigger = agent(trigger=1).Probe().note(str(trace), "cancelled")
        assert agent.Admin().cancel(trigger.sn) == []
        served.process.stop()  # what it has answered is then acknowledged, and not delivered again
        file = sqlite3.connect(ledger_of(served.process), isolation_level=None)
        file.execute("BEGIN IMMEDIATE")
        try:
            served.process.start()
            mailbox.send(QUEUE, copy)
            cancelled = threads.submit(trigger)
            fresh = threads.submit(agent.Probe().note, str(trace), "fresh")
            eventually(
                lambda: "takes no requests until the ledger can be read" in served.log, what=served.process.tail()
            )
            assert "is locked" in served.log
            assert runs(trace) == {"once": 1}
        finally:
            file.execute("ROLLBACK")
            file.close()
        assert fresh.result(60) == "fresh"
        with pytest.raises(Cancelled):
            cancelled.result(60)
        rejected = rejection(mailbox)
        assert (rejected["code"], rejected["details"]) == ("security.replayed", "sent before with this signature")
        assert runs(trace) == {"once": 1, "fresh": 1}
        assert "requests are taken now" in served.log


def has_tables(ledger: Path) -> bool:
    if not ledger.exists():
        return False
    with contextlib.closing(sqlite3.connect(ledger)) as file:
        return bool(file.execute("SELECT 1 FROM sqlite_master WHERE name = 'nonces'").fetchall())


def test_it_stops_as_ever_while_it_waits_for_its_ledger(served: Serving, mailbox: Mailbox, tmp_path: Path) -> None:
    # Not while the ledger is made: one that is half made is none that cannot be read.
    eventually(lambda: has_tables(ledger_of(served.process)))
    served.process.kill()
    file = sqlite3.connect(ledger_of(served.process), isolation_level=None)
    file.execute("BEGIN IMMEDIATE")
    try:
        served.process.start()
        eventually(lambda: "takes no requests until the ledger can be read" in served.log)
        mailbox.send(QUEUE, written(served, mailbox, tmp_path / "trace", "later"))
        assert served.process.stop() == 0
    finally:
        file.execute("ROLLBACK")
        file.close()
    served.process.start()
    assert ended(mailbox)["result"] == {"retval": "later"}


def test_copies_do_not_pass_where_the_ledger_was_found_corrupt(
    served: Serving, mailbox: Mailbox, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    copy = written(served, mailbox, trace, "once")
    mailbox.send(QUEUE, copy)
    assert ended(mailbox)["result"] == {"retval": "once"}
    served.process.stop()  # as above
    ledger_of(served.process).write_bytes(b"this is no database" * 1000)
    for end in ("-wal", "-shm"):
        Path(f"{ledger_of(served.process)}{end}").unlink(missing_ok=True)
    served.process.start()
    mailbox.send(QUEUE, copy)
    rejected = rejection(mailbox)
    assert rejected["code"] == "security.replayed"
    assert "ledger was found corrupt" in rejected["details"]
    assert runs(trace) == {"once": 1}

    # Nor after one more start, which finds nothing corrupt.
    served.process.stop()
    served.process.start()
    mailbox.send(QUEUE, copy)
    assert rejection(mailbox)["code"] == "security.replayed"
    assert runs(trace) == {"once": 1}


def test_a_ledger_of_a_later_gofer_is_left_alone_and_waited_for(served: Serving, tmp_path: Path) -> None:
    """After a step back over a change of the ledger, nothing is run that the ledger may know about."""
    trace = tmp_path / "trace"
    with served.agent(wait=60) as agent, ThreadPoolExecutor(1) as threads:
        agent(wait=60, ttl=600).Probe().note(str(trace), "before")
        served.process.stop()
        ledger = ledger_of(served.process)
        ours = versioned(ledger, 99)
        content = ledger.read_bytes()
        served.process.start()
        waiting = threads.submit(agent.Probe().note, str(trace), "after")
        eventually(lambda: "takes no requests until the ledger can be read" in served.log, what=served.process.tail())
        assert "written by a later version of gofer (99" in served.log
        served.process.stop()
        assert runs(trace) == {"before": 1}
        assert ledger.read_bytes() == content
        assert versioned(ledger, ours) == 99
        served.process.start()
        assert waiting.result(60) == "after"
    assert runs(trace) == {"before": 1, "after": 1}


def versioned(ledger: Path, version: int) -> int:
    """Give a ledger another version, and return the one that it had."""
    with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as file:
        (before,) = file.execute("PRAGMA user_version").fetchone()
        file.execute(f"PRAGMA user_version = {version}")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return int(before)
