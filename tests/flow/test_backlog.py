"""More requests than memory holds: most wait on the disk, and are run, cancelled, listed and answered as any other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import InvalidOperator
from gofer.rmi.server.reply_encoder import Refusal
from gofer.rmi.store import requests
from support import kennel
from support.receiving import QUEUE, Served, request, served
from support.waiting import eventually

LARGE = "y" * 3000


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    """Two that wait stay in memory, and all is written at once."""
    with served(tmp_path, threads=1, window=2, patience=0.0) as serving:
        yield serving


def waiting(serving: Served, *data: Any) -> list[dict[str, Any]]:
    """Send requests that wait behind one that runs, until all but two are on the disk alone."""
    first = request("Dog", "wait", "first")
    serving.caller.send(first)
    assert kennel.gate.entered.acquire(timeout=30)
    documents = [request("Dog", "echo", [n, LARGE], data=one) for n, one in enumerate(data)]
    for document in documents:
        serving.caller.send(document)
    eventually(lambda: serving.consumer.channel.backlog.count == len(documents) - 2)
    return [first, *documents]


def test_they_run_in_their_order_with_all_that_they_came_with(serving: Served) -> None:
    _, *documents = waiting(serving, *({"n": n} for n in range(50)))
    assert len(serving.registry.in_flight()) == 3  # one that runs, and two that wait
    kennel.gate.open.set()
    for n, document in enumerate(documents):
        end = serving.caller.end(document["sn"])
        assert end["result"] == {"retval": [n, LARGE]}
        assert end["data"] == {"n": n}
        assert serving.caller.words(document["sn"]) == ["accepted", "started", "result"]
    serving.idle()
    assert kennel.ran() == ["first", *([n, LARGE] for n in range(50))]
    assert serving.counted == {"accepted": 51, "done": 51}


def test_what_comes_behind_them_runs_behind_them(serving: Served) -> None:
    _, *documents = waiting(serving, *range(20))
    kennel.gate.open.set()
    late = [request("Dog", "echo", f"late{n}") for n in range(100)]
    for document in late:
        serving.caller.send(document)
    for document in (*documents, *late):
        serving.caller.end(document["sn"])
    ran = [one if isinstance(one, str) else one[0] for one in kennel.ran()]
    assert ran == ["first", *range(20), *(f"late{n}" for n in range(100))]


def test_they_are_cancelled_by_what_is_on_the_disk_and_their_callers_get_it_back(serving: Served) -> None:
    data = [{"n": n, "large": LARGE} if n % 2 else {"n": n} for n in range(60)]
    _, *documents = waiting(serving, *data)
    meant = serving.requests.cancel_those({"or": [{"match": {"n": n}} for n in (1, 2, 3, 50, 51)]})
    assert meant == [documents[n]["sn"] for n in (1, 2, 3, 50, 51)]
    for n in (1, 2, 3, 50, 51):
        end = serving.caller.end(documents[n]["sn"])
        assert end["result"]["xclass"] == "Cancelled"
        assert end["data"] == data[n]
    assert serving.requests.cancel(documents[5]["sn"])
    assert serving.caller.end(documents[5]["sn"])["data"] == data[5]
    assert not serving.requests.cancel(documents[5]["sn"])
    with pytest.raises(InvalidOperator):
        serving.requests.cancel_those({"nope": 1})
    kennel.gate.open.set()
    for n, document in enumerate(documents):
        end = serving.caller.end(document["sn"])
        assert ("retval" in end["result"]) == (n not in (1, 2, 3, 5, 50, 51))
        assert end["data"] == data[n]
    assert len(kennel.ran()) == 1 + 54
    serving.idle()
    assert serving.requests.listing().entries == []


def test_they_are_listed(serving: Served) -> None:
    documents = waiting(serving, *({"n": n} for n in range(10)))
    listing = serving.requests.listing()
    assert listing.total == 11
    assert [(one.sn, one.state) for one in listing.entries] == [
        (document["sn"], "waiting" if n else "running") for n, document in enumerate(documents)
    ]
    assert [one.data for one in listing.entries[1:]] == [{"n": n} for n in range(10)]


def test_a_caller_that_asks_again_is_answered_once(serving: Served) -> None:
    _, *documents = waiting(serving, *range(10))
    serving.caller.send({**documents[7], "again": True})
    serving.seen("repeated", 1)
    conflict = {**documents[8], "data": "another"}
    serving.caller.send(conflict)
    eventually(lambda: [one for one in serving.caller.heard(conflict["sn"]) if one.get("code") == "sn.conflict"])
    kennel.gate.open.set()
    for document in documents:
        eventually(lambda sn=document["sn"]: "result" in serving.caller.words(sn))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    serving.idle()
    assert [one[0] for one in kennel.ran()[1:]] == list(range(10))
    assert serving.caller.words(documents[7]["sn"]).count("result") == 1


def test_when_the_disk_cannot_be_read_the_rest_is_cancelled_and_that_is_said(serving: Served) -> None:
    _, here, _, away, _ = waiting(serving, {"n": 1}, {"n": 2}, {"n": 1, "large": LARGE}, None)
    serving.store.stop()
    with pytest.raises(RuntimeError, match="1 are cancelled; those in the ledger cannot be read"):
        serving.requests.cancel_those({"match": {"n": 1}})
    assert serving.caller.end(here["sn"])["result"]["xclass"] == "Cancelled"
    assert serving.caller.words(away["sn"]) == ["accepted"]
    with pytest.raises(RuntimeError, match=r"is in memory; .* those that wait in the ledger cannot be read"):
        serving.requests.cancel(away["sn"])
    both = serving.requests.by_number(serving.plugin, away["sn"])
    criteria = serving.requests.by_criteria(serving.plugin, {"match": {"n": 2}}, after=both)
    assert criteria.exception(30) is not None
    assert both.exception(30) is not None


@pytest.mark.parametrize("how", ["criteria", "number"])
def test_what_a_disk_reads_for_nobody_any_more_still_runs(
    serving: Served, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    _, *documents = waiting(serving, *range(8))
    read, goes_on = requests.pull_these, threading.Event()

    def hang(*given: Any) -> Any:
        goes_on.wait()
        return read(*given)

    monkeypatch.setattr(requests, "pull_these", hang)
    monkeypatch.setattr("gofer.rmi.store.database._WAIT", 1)
    cancel = serving.requests.cancel_those if how == "criteria" else serving.requests.cancel
    with pytest.raises(RuntimeError, match=r"in the ledger cannot be read: .* within 1 s"):
        cancel({"in": [5, 6]} if how == "criteria" else documents[5]["sn"])
    goes_on.set()
    kennel.gate.open.set()
    for n, document in enumerate(documents):
        assert serving.caller.end(document["sn"])["result"] == {"retval": [n, LARGE]}
    serving.idle()


def test_a_cancel_takes_what_was_read_beside_an_entry_that_cannot_be_written(
    serving: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, *documents = waiting(serving, *range(8))
    find, store, once = requests.find, serving.store, iter([True])

    def faulty(file: Any) -> None:
        raise ValueError("not a word of SQLite")

    def join(file: Any) -> None:
        eventually(lambda: store._waiting)  # for the rows: they are read together with this
        store.post(faulty)

    def found(*given: Any) -> Any:
        if next(once, False):
            store.post(join)
        return find(*given)

    monkeypatch.setattr(requests, "find", found)
    serving.requests.cancel(documents[5]["sn"])
    assert serving.caller.end(documents[5]["sn"])["result"]["xclass"] == "Cancelled"


def test_what_nobody_heard_rejected_waits_for_its_plugin_again(tmp_path: Path) -> None:
    with served(tmp_path, threads=1, patience=0.0, give_up=60.0) as serving:
        serving.caller.send(request("Dog", "wait", "first"))
        assert kennel.gate.entered.acquire(timeout=30)
        document = request("Dog", "echo", "second", replyto="nobody reads it yet")
        serving.caller.send(document)
        eventually(lambda: serving.consumer.channel.backlog.window)
        serving.consumer.leave(Refusal("plugin.unloaded", "the plugin is being unloaded"))
        kennel.gate.open.set()
        serving.consumer.stop(2.0)
        serving.caller.listen("nobody reads it yet")
        again = serving.another()
        again.recover()
        again.start(QUEUE, 10.0)
        assert serving.caller.end(document["sn"])["result"] == {"retval": "second"}
        again.stop(5.0)


def test_what_cannot_be_read_again_stays_and_costs_no_other(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    _, *documents = waiting(serving, *range(8))
    bad, last = documents[5], documents[7]
    serving.store.call(lambda file: file.execute("UPDATE requests SET body = x'00' WHERE sn = ?", (bad["sn"],)))
    kennel.gate.open.set()
    assert serving.caller.end(last["sn"])["result"] == {"retval": [7, LARGE]}
    assert [one[0] for one in kennel.ran()[1:]] == [0, 1, 2, 3, 4, 6, 7]
    assert "cannot be read, and stays there" in caplog.text


def test_they_are_given_back_to_the_disk_and_taken_up_again(tmp_path: Path) -> None:
    with served(tmp_path, threads=1, window=2, patience=0.0) as serving:
        _, *documents = waiting(serving, *range(20))
        serving.consumer.stop(0.1)
        kennel.gate.open.set()
    with served(tmp_path, threads=1, window=2, patience=0.0) as after:
        for n, document in enumerate(documents):
            assert after.caller.end(document["sn"])["result"] == {"retval": [n, LARGE]}
        assert [one[0] for one in kennel.ran()] == list(range(20))
        after.idle()
        assert after.requests.listing().entries == []


def test_what_ends_while_it_is_about_to_be_written_is_not_written(tmp_path: Path) -> None:
    """The sweep decides to write a request, and it ends before that: it would run again after a restart."""
    with served(tmp_path, threads=1, patience=30.0) as serving:
        document = request("Dog", "wait", "last")
        serving.caller.send(document)
        assert kennel.gate.entered.acquire(timeout=30)
        (late,) = serving.registry.in_flight()
        kennel.gate.open.set()
        serving.caller.end(document["sn"])
        serving.idle()
        serving.persistence.take_over([late])
        serving.persistence.look_up(late, lambda row, failed: None)
        assert serving.store.call(partial(requests.find, document["sn"])) is None
