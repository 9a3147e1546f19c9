"""Cancelling: what is remembered of requests that have not come yet, and who wins when both happen at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.messaging.adapter import Delivery
from gofer.messaging.document import decode_request, encode
from gofer.rmi.request import QUEUED, Received
from gofer.rmi.server.early_cancels import Owner, Tombstones
from gofer.rmi.store import Database
from support import kennel
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, threads=1) as serving:
        yield serving


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "store").mkdir()
    store = Database(tmp_path / "store", lambda: None)
    yield store
    store.stop()


def test_they_are_bounded_and_forgotten(store: Database) -> None:
    tombstones = Tombstones(store, max_entries=3, max_age=0.5)
    for n in range(5):
        tombstones.expect("dog", f"sn{n}", None)
    assert [tombstones.has("dog", f"sn{n}", None) for n in range(5)] == [False, False, True, True, True]
    assert not tombstones.has("cat", "sn4", None)
    eventually(lambda: not tombstones.has("dog", "sn4", None), 5.0)


def test_they_are_there_after_a_restart(store: Database) -> None:
    Tombstones(store).expect("dog", "anybodys", None)
    Tombstones(store).expect("dog", "mine", Owner("ops"))
    Tombstones(store).expect("dog", "nobodys", Owner(None))
    assert store.call(lambda file: True)
    again = Tombstones(store)
    again.restore("dog")
    assert [again.has("dog", sn, "ops") for sn in ("anybodys", "mine", "nobodys")] == [True, True, False]
    assert [again.has("dog", sn, None) for sn in ("anybodys", "mine", "nobodys")] == [True, False, True]


def test_whoever_sends_many_pushes_out_none_of_anothers(store: Database, caplog: pytest.LogCaptureFixture) -> None:
    tombstones = Tombstones(store, max_entries=3, max_age=60.0)
    tombstones.expect("dog", "mine", Owner("ops"))
    for n in range(10):
        tombstones.expect("dog", f"flush{n}", Owner("low"))
    assert tombstones.has("dog", "mine", "ops")
    assert [tombstones.has("dog", f"flush{n}", "low") for n in range(7, 10)] == [False, True, True]
    assert "too many cancellations" in caplog.text


@pytest.mark.parametrize("sn", ["", "../x", "a b", "x" * 129, 5, None])
def test_what_is_no_serial_number_is_refused(serving: Served, sn: object) -> None:
    with pytest.raises(ValueError, match="is not a serial number"):
        serving.requests.by_number(serving.plugin, sn)  # type: ignore[arg-type]  # as it may come over the wire


def test_a_number_that_a_hanging_disk_may_not_keep_is_an_error(serving: Served) -> None:
    go_on = threading.Event()
    serving.store.post(lambda file: go_on.wait(60))
    try:
        answer = serving.requests.by_number(serving.plugin, "not-known")
        with pytest.raises(RuntimeError, match=r"no such request is in memory; .*: the ledger has not answered within"):
            answer.result(30)
    finally:
        go_on.set()


def test_and_the_error_tells_of_those_that_were_cancelled_with_it(serving: Served) -> None:
    go_on, document = threading.Event(), request("Dog", "wait", data="mine")
    serving.caller.send(document)
    assert kennel.gate.entered.acquire(timeout=30)
    serving.store.post(lambda file: go_on.wait(60))
    try:
        number = serving.requests.by_number(serving.plugin, "not-known")
        answer = serving.requests.by_criteria(serving.plugin, {"eq": "mine"}, after=number)
        with pytest.raises(RuntimeError, match=r"^1 that meet the criteria are cancelled; no such request"):
            answer.result(30)
    finally:
        go_on.set()
        kennel.gate.open.set()
    serving.caller.end(document["sn"])


def test_another_plugins_requests_are_not_touched(serving: Served) -> None:
    document = request("Dog", "echo", data="mine")
    channel = serving.consumer.channel
    one = Received(decode_request(encode(document)), Delivery(1, b"", False, None, 1), channel, 0.0)
    serving.registry.arrive(one)

    class Other:
        name = "other"

    assert serving.requests.by_number(Other(), document["sn"]).result(5) == []
    assert serving.requests.by_criteria(Other(), {"eq": "mine"}).result(5) == []
    assert not one.cancelled


def test_a_request_is_either_cancelled_or_run(serving: Served) -> None:
    """Whoever comes first: a caller that hears Cancelled of a waiting request can rely on it."""
    kennel.gate.open.set()
    documents = [request("Dog", "echo", n, data="race") for n in range(300)]
    stop = threading.Event()
    cancelled: list[str] = []

    def disturb() -> None:
        while not stop.is_set():
            for sn in [str(document["sn"]) for document in documents[::3]]:
                known = serving.registry.get(sn)
                if known is not None and known.state == QUEUED:
                    cancelled.extend(serving.requests.by_number(serving.plugin, sn).result(30))

    disturber = threading.Thread(target=disturb)
    disturber.start()
    for document in documents:
        serving.caller.send(document)
    ends = [serving.caller.end(document["sn"]) for document in documents]
    stop.set()
    disturber.join()

    values = [end["result"]["retval"] for end in ends if "retval" in end["result"]]
    before = [end for end in ends if end["result"].get("xargs") == ["cancelled before it was started"]]
    ran = set(kennel.ran())
    assert set(values) <= ran
    assert ran.isdisjoint(n for n, end in enumerate(ends) if end in before)
    assert len(kennel.ran()) + len(before) == len(documents)
    assert {end["sn"] for end in before} <= set(cancelled)
