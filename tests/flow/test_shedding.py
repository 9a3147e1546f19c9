"""Requests that wait, and of which the ledger alone has all: run, cancelled, told and answered as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import InvalidOperator
from gofer.rmi.shedding import BARE, LIGHT, WHOLE
from support import kennel
from support.receiving import Served, request, served
from support.waiting import eventually

LARGE = "y" * 3000


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    """No body stays in memory, and all is written at once."""
    with served(tmp_path, threads=1, memory=0, patience=0.0) as serving:
        yield serving


def waiting(serving: Served, *data: Any) -> list[dict[str, Any]]:
    """Send requests that wait behind one that runs, until they are written."""
    first = request("Dog", "wait", "first")
    serving.caller.send(first)
    assert kennel.gate.entered.acquire(timeout=30)
    documents = [request("Dog", "echo", [n, LARGE], data=one) for n, one in enumerate(data)]
    for document in documents:
        serving.caller.send(document)
    eventually(lambda: [shed(serving, one) for one in documents].count(WHOLE) == 0)
    return [first, *documents]


def shed(serving: Served, document: dict[str, Any]) -> int:
    known = serving.registry.get(document["sn"])
    return WHOLE if known is None else known.shed


def test_they_run_with_all_that_they_came_with(serving: Served) -> None:
    _, small, large = waiting(serving, {"small": 1}, {"large": LARGE})
    assert (shed(serving, small), shed(serving, large)) == (LIGHT, BARE)
    kennel.gate.open.set()
    for n, (document, data) in enumerate([(small, {"small": 1}), (large, {"large": LARGE})]):
        end = serving.caller.end(document["sn"])
        assert end["result"] == {"retval": [n, LARGE]}
        assert end["data"] == data


def test_they_are_cancelled_by_what_is_on_the_disk_and_their_callers_get_it_back(serving: Served) -> None:
    data = [{"n": n, "large": LARGE} if n % 2 else {"n": n} for n in range(60)]
    first, *documents = waiting(serving, *data)
    meant = serving.inspection.cancel_those({"or": [{"match": {"n": n}} for n in (1, 2, 3, 50, 51)]})
    assert meant == [documents[n]["sn"] for n in (1, 2, 3, 50, 51)]
    for n in (1, 2, 3, 50, 51):
        end = serving.caller.end(documents[n]["sn"])
        assert end["result"]["xclass"] == "Cancelled"
        assert end["data"] == data[n]
    assert serving.inspection.cancel(documents[5]["sn"])
    assert serving.caller.end(documents[5]["sn"])["data"] == data[5]
    with pytest.raises(InvalidOperator):
        serving.inspection.cancel_those({"nope": 1})
    kennel.gate.open.set()
    for n, document in enumerate(documents):
        end = serving.caller.end(document["sn"])
        assert ("retval" in end["result"]) == (n not in (1, 2, 3, 5, 50, 51))
        assert end["data"] == data[n]
    assert len(kennel.ran()) == 1 + 54
    serving.idle()
    assert first["sn"] not in {entry.sn for entry in serving.inspection.listing().entries}


def test_they_are_told_without_what_is_on_the_disk(serving: Served) -> None:
    waiting(serving, {"small": 1}, {"large": LARGE})
    entries = serving.inspection.listing(states=["waiting"]).entries
    assert [(one.target, one.data, one.data_on_disk) for one in entries] == [
        ("Dog.echo", {"small": 1}, False), ("Dog.echo", None, True),
    ]  # fmt: skip


def test_when_the_disk_cannot_be_read_the_rest_is_cancelled_and_that_is_said(serving: Served) -> None:
    _, small, large = waiting(serving, {"n": 1}, {"n": 1, "large": LARGE})
    serving.store.stop()
    with pytest.raises(RuntimeError, match="1 are cancelled; the data of 1 more"):
        serving.inspection.cancel_those({"match": {"n": 1}})
    assert serving.caller.end(small["sn"])["result"]["xclass"] == "Cancelled"
    assert serving.inspection.cancel(large["sn"])  # by its number, it can be
    end = serving.caller.end(large["sn"])
    assert (end["result"]["xclass"], end["data"]) == ("Cancelled", None)


def test_what_cannot_be_read_again_is_not_run_and_its_caller_hears_why(serving: Served) -> None:
    _, document = waiting(serving, None)
    serving.store.call(lambda file: file.execute("UPDATE requests SET body = x'00' WHERE key = ?", (document["sn"],)))
    kennel.gate.open.set()
    end = serving.caller.end(document["sn"])
    assert (end["status"], end["code"]) == ("rejected", "ledger.unavailable")
    assert kennel.ran() == ["first"]
