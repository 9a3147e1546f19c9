"""Cancelling: what is remembered of requests that have not come yet, and who wins when both happen at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.messaging.adapter import Delivery
from gofer.messaging.document import decode_request, encode
from gofer.rmi.book import Book
from gofer.rmi.cancelling import Cancelling, Owner
from gofer.rmi.request import Received
from support import kennel
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, threads=1) as serving:
        yield serving


def test_numbers_that_are_awaited_are_bounded_and_forgotten(serving: Served) -> None:
    plugin = serving.plugin
    cancelling = Cancelling(Book(), max_entries=3, max_age=0.5)
    for n in range(5):
        assert cancelling.by_number(plugin, f"sn{n}").wait(30) == []
    assert [cancelling.awaits(plugin, f"sn{n}") for n in range(5)] == [False, False, True, True, True]
    eventually(lambda: not cancelling.awaits(plugin, "sn4"), 5.0)


def test_whoever_sends_many_pushes_out_none_of_anothers(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    plugin, ops, low = serving.plugin, Owner("ops"), Owner("low")
    cancelling = Cancelling(Book(), max_entries=3, max_age=60.0)
    assert cancelling.by_number(plugin, "mine", owner=ops).wait(30) == []
    for n in range(10):
        assert cancelling.by_number(plugin, f"flush{n}", owner=low).wait(30) == []
    assert cancelling.awaits(plugin, "mine", "ops")
    assert [cancelling.awaits(plugin, f"flush{n}", "low") for n in range(7, 10)] == [False, True, True]
    assert "too many cancellations" in caplog.text


@pytest.mark.parametrize("sn", ["", "../x", "a b", "x" * 129, 5, None])
def test_what_is_no_serial_number_is_refused(serving: Served, sn: object) -> None:
    with pytest.raises(ValueError, match="is not a serial number"):
        Cancelling(Book()).by_number(serving.plugin, sn)  # type: ignore[arg-type]  # as it may come over the wire


def test_another_plugins_requests_are_not_touched(serving: Served) -> None:
    book = Book()
    document = request("Dog", "echo", data="mine")
    one = Received(decode_request(encode(document)), Delivery(1, b"", False, None, 1), serving.consumer)
    book.arrive(one)
    cancelling = Cancelling(book)

    class Other:
        name = "other"

    assert cancelling.by_number(Other(), document["sn"]).wait(5) == []
    assert cancelling.by_criteria(Other(), {"eq": "mine"}).wait(5) == []
    assert not one.cancelled.is_set()


def test_a_request_is_either_cancelled_or_run(serving: Served) -> None:
    """Whoever comes first: a caller that hears Cancelled of a waiting request can rely on it."""
    cancelling = Cancelling(serving.registry)
    kennel.gate.open.set()
    documents = [request("Dog", "echo", n, data="race") for n in range(300)]
    stop = threading.Event()
    cancelled: list[str] = []

    def disturb() -> None:
        while not stop.is_set():
            for sn in [str(document["sn"]) for document in documents[::3]]:
                known = serving.registry.get(sn)
                if known is not None and known.state == "queued":
                    cancelled.extend(cancelling.by_number(serving.plugin, sn).wait(30))

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
