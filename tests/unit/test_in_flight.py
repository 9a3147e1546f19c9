"""The registry: which serial numbers an agent knows, and what it says when one comes again."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from gofer.messaging.adapter import Delivery
from gofer.messaging.document import decode_request, encode
from gofer.rmi.request import QUEUED, RUNNING, Received, digest_of
from gofer.rmi.server.in_flight import Registry
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Something to serve requests with: each test has a registry of its own."""
    with served(tmp_path_factory.mktemp("kennel")) as serving:
        yield serving


def received(serving: Served, document: dict[str, Any] | None = None, tag: object = 1, **more: Any) -> Received:
    document = document or request("Dog", "echo", **more)
    body = encode(document)
    return Received(decode_request(body), Delivery(1, body, False, None, tag), serving.consumer.channel, 0.0)


def arrived(registry: Registry, one: Received) -> str:
    """Tell in a word what a request is that arrives."""
    found = registry.arrive(one)
    if isinstance(found, bytes):
        return "answered"
    return "new" if found is one else "conflict" if found is None else "in flight"


def test_a_new_request_is_new_and_then_known(serving: Served) -> None:
    registry, document = Registry(), request("Dog", "echo")
    first, again = received(serving, document, "first"), received(serving, document, "second")
    assert arrived(registry, first) == "new"
    assert registry.in_flight() == [first]

    assert registry.arrive(again) is first
    assert (first.delivery.tag, again.delivery.tag) == ("second", "first")
    assert registry.in_flight() == [first]


def test_an_ended_one_is_answered_with_its_result(serving: Served) -> None:
    registry, document = Registry(), request("Dog", "echo")
    first = received(serving, document)
    registry.arrive(first)
    registry.end(first, b'{"retval":1}')
    assert registry.in_flight() == []
    assert registry.arrive(received(serving, document)) == b'{"retval":1}'


def test_another_request_of_the_same_number_is_a_conflict(serving: Served) -> None:
    registry, document = Registry(), request("Dog", "echo")
    other = {**document, "data": "other"}
    first = received(serving, document)
    registry.arrive(first)
    assert arrived(registry, received(serving, other)) == "conflict"
    registry.end(first, b"{}")
    assert arrived(registry, received(serving, other)) == "conflict"
    assert arrived(registry, received(serving, document)) == "answered"


def test_a_forgotten_one_is_new_again(serving: Served) -> None:
    registry, document = Registry(), request("Dog", "echo")
    first = received(serving, document)
    registry.arrive(first)
    registry.forget(received(serving, document))  # not the one that is known: nothing happens
    assert registry.in_flight() == [first]
    registry.forget(first)
    assert arrived(registry, received(serving, document)) == "new"


def test_each_step_is_taken_once(serving: Served) -> None:
    registry = Registry()
    one, two = received(serving), received(serving)
    for request_ in (one, two):
        registry.arrive(request_)
        assert registry.queue(request_)
    assert registry.start(one)
    assert not registry.start(one)
    assert one.state == RUNNING
    assert not registry.answer(one, waiting=True)
    assert not registry.forget(one, waiting=True)
    assert registry.answer(one)
    assert not registry.answer(one)
    assert two.state == QUEUED
    assert registry.answer(two, waiting=True)
    assert not registry.start(two)
    assert not registry.queue(two)


def test_requests_without_a_number_are_never_the_same(serving: Served) -> None:
    registry, document = Registry(), request("Dog", "echo", sn=None)
    first, second = received(serving, document), received(serving, document)
    assert first.sn is None
    assert first.key != second.key
    assert arrived(registry, first) == "new"
    registry.end(first, b"{}")
    assert arrived(registry, second) == "new"
    assert len(registry) == 0


def test_the_oldest_ended_ones_go_first_by_number(serving: Served) -> None:
    registry = Registry(max_entries=3)
    documents = [request("Dog", "echo") for _ in range(5)]
    for document in documents:
        one = received(serving, document)
        registry.arrive(one)
        registry.end(one, b"{}")
    assert len(registry) == 3
    known = [arrived(registry, received(serving, document)) for document in documents]
    assert known == ["new", "new", *["answered"] * 3]


def test_and_by_size(serving: Served) -> None:
    registry = Registry(max_bytes=1000)
    for _ in range(10):
        one = received(serving)
        registry.arrive(one)
        registry.end(one, b"x" * 200)
    assert len(registry) == 4
    huge = received(serving)
    registry.arrive(huge)
    registry.end(huge, b"x" * 5000)
    assert len(registry) == 0


def test_and_by_age(serving: Served) -> None:
    registry, document = Registry(max_age=1.0), request("Dog", "echo")
    one = received(serving, document)
    registry.arrive(one)
    registry.end(one, b"{}")
    assert arrived(registry, received(serving, document)) == "answered"
    eventually(lambda: arrived(registry, received(serving, document)) == "new", 5.0)


def test_2000_ended_requests_take_less_than_half_a_megabyte(serving: Served) -> None:
    registry = Registry()
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(2000):
            one = received(serving)
            registry.arrive(one)
            registry.end(one, b'{"retval":"hello"}')
        del one
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(registry) == 2000
    assert size < 500_000, f"{size} bytes, {size / 2000:.0f} each"


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
