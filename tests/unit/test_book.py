"""The book: which serial numbers an agent knows, and what it says when one comes again."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gofer.messaging.adapter import Delivery
from gofer.messaging.document import decode_request, encode
from gofer.rmi.book import Book, Known
from gofer.rmi.request import Received, digest_of
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Any:
    with served(tmp_path) as serving:
        yield serving


def received(serving: Served, document: dict[str, Any] | None = None, tag: object = 1, **more: Any) -> Received:
    document = document or request("Dog", "echo", **more)
    body = encode(document)
    return Received(decode_request(body), Delivery(1, body, False, None, tag), serving.consumer)


def test_a_new_request_is_new_and_then_known(serving: Served) -> None:
    book, document = Book(), request("Dog", "echo")
    first, again = received(serving, document, "first"), received(serving, document, "second")
    assert book.arrive(first).known is Known.NEW
    assert book.working() == [first]

    arrival = book.arrive(again)
    assert arrival.known is Known.ADOPTED
    assert arrival.previous is not None
    assert (first.delivery.tag, arrival.previous.delivery.tag) == ("second", "first")
    assert book.working() == [first]


def test_an_ended_one_is_answered_with_its_result(serving: Served) -> None:
    book, document = Book(), request("Dog", "echo")
    first = received(serving, document)
    book.arrive(first)
    book.end(first, b'{"retval":1}')
    assert book.working() == []
    assert book.arrive(received(serving, document)) == (Known.ANSWERED, b'{"retval":1}', None)


def test_another_request_of_the_same_number_is_a_conflict(serving: Served) -> None:
    book, document = Book(), request("Dog", "echo")
    other = {**document, "data": "other"}
    first = received(serving, document)
    book.arrive(first)
    assert book.arrive(received(serving, other)).known is Known.CONFLICT
    book.end(first, b"{}")
    assert book.arrive(received(serving, other)).known is Known.CONFLICT
    assert book.arrive(received(serving, document)).known is Known.ANSWERED


def test_a_forgotten_one_is_new_again(serving: Served) -> None:
    book, document = Book(), request("Dog", "echo")
    first = received(serving, document)
    book.arrive(first)
    book.forget(received(serving, document))  # not the one that is known: nothing happens
    assert book.working() == [first]
    book.forget(first)
    assert book.arrive(received(serving, document)).known is Known.NEW


def test_requests_without_a_number_are_never_the_same(serving: Served) -> None:
    book, document = Book(), request("Dog", "echo", sn=None)
    first, second = received(serving, document), received(serving, document)
    assert first.sn is None
    assert first.key != second.key
    assert book.arrive(first).known is Known.NEW
    book.end(first, b"{}")
    assert book.arrive(second).known is Known.NEW
    assert len(book) == 0


def test_the_oldest_ended_ones_go_first_by_number(serving: Served) -> None:
    book = Book(max_entries=3)
    documents = [request("Dog", "echo") for _ in range(5)]
    for document in documents:
        one = received(serving, document)
        book.arrive(one)
        book.end(one, b"{}")
    assert len(book) == 3
    known = [book.arrive(received(serving, document)).known for document in documents]
    assert known == [Known.NEW, Known.NEW, *[Known.ANSWERED] * 3]


def test_and_by_size(serving: Served) -> None:
    book = Book(max_bytes=1000)
    for _ in range(10):
        one = received(serving)
        book.arrive(one)
        book.end(one, b"x" * 200)
    assert len(book) == 4
    huge = received(serving)
    book.arrive(huge)
    book.end(huge, b"x" * 5000)
    assert len(book) == 0


def test_and_by_age(serving: Served) -> None:
    book, document = Book(max_age=1.0), request("Dog", "echo")
    one = received(serving, document)
    book.arrive(one)
    book.end(one, b"{}")
    assert book.arrive(received(serving, document)).known is Known.ANSWERED
    eventually(lambda: book.arrive(received(serving, document)).known is Known.NEW, 5.0)


def test_8000_ended_requests_take_less_than_two_megabytes(serving: Served) -> None:
    book = Book()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(8000):
            one = received(serving)
            book.arrive(one)
            book.end(one, b'{"retval":"hello"}')
        del one
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(book) == 8000
    assert size < 2_000_000, f"{size} bytes, {size / 8000:.0f} each"


# -- when two documents are the same request -----------------------------------------------------------------------


def digest(document: dict[str, Any]) -> bytes:
    return digest_of(decode_request(encode(document)))


def test_publishing_again_does_not_change_the_digest() -> None:
    document = request("Dog", "echo", 1, data={"a": [1]})
    assert digest(document) == digest({**document, "again": True}) == digest({**document, "wait": 3.0})


@pytest.mark.parametrize(
    "change",
    [
        {"data": 2},
        {"replyto": "other"},
        {"routing": [None, "other"]},
        {"secret": "x"},
        {"pam": {"user": "root", "password": "x"}},
        {"request": {"classname": "Dog", "method": "echo", "args": [2]}},
        {"request": {"classname": "Dog", "method": "echo", "args": [1], "kws": {"value": 1}}},
        {"request": {"classname": "Dog", "method": "echo", "args": [1], "cntr": [[], {}]}},
    ],
)
def test_anything_else_does(change: dict[str, Any]) -> None:
    document = request("Dog", "echo", 1)
    assert digest(document) != digest({**document, **change})


def test_documents_that_only_the_original_writes_have_a_digest_too() -> None:
    odd = msgspec.structs.replace(
        decode_request(encode(request("Dog", "echo"))), data={"surrogate": "\ud800", "nan": float("nan")}
    )
    assert digest_of(odd) == digest_of(odd)
    assert digest_of(odd) != digest_of(msgspec.structs.replace(odd, data={"surrogate": "\ud801"}))
