"""What a broker holds, and when the agent takes it over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from gofer.messaging.adapter import Delivery
from gofer.messaging.document import decode_request, encode
from gofer.rmi.clock import Clock
from gofer.rmi.patience import Held
from gofer.rmi.request import Received
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served")) as serving:
        yield serving


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


def received(serving: Served) -> Received:
    body = encode(request("Dog", "echo"))
    return Received(decode_request(body), Delivery(1, body, False, None, 1), serving.consumer)


def test_what_has_waited_for_long_enough_is_due_once_and_in_order(serving: Served, clock: Clock) -> None:
    due: list[Received] = []
    held = Held(clock, 0.1, 100, due.extend)
    requests = [received(serving) for _ in range(5)]
    for one in requests:
        held.enter(one)
        held.hold(one)
    held.leave(requests[1])
    held.take(requests[2])
    assert due == []
    eventually(lambda: len(due) == 3)
    assert due == [requests[0], requests[3], requests[4]]
    assert set(held.open()) == {*requests} - {requests[1]}
    held.hold_on(requests[3])
    eventually(lambda: len(due) == 4)
    assert due[3] is requests[3]


def test_of_too_many_the_broker_holds_the_rest(serving: Served, clock: Clock) -> None:
    due: list[Received] = []
    held = Held(clock, 0.0, 3, due.extend)
    requests = [received(serving) for _ in range(5)]
    for one in requests:
        held.enter(one)
        held.hold(one)
    eventually(lambda: len(due) == 3)
    held.leave(requests[0])
    eventually(lambda: len(due) == 4)
    assert due == requests[:4]


def test_none_ends_while_it_is_being_handed_over(serving: Served, clock: Clock) -> None:
    """Else its end could be written down before it is itself, and it would come back after a restart."""
    order: list[str] = []
    entered, enough = threading.Event(), threading.Event()

    def write(_: list[Received]) -> None:
        entered.set()
        enough.wait(10)
        order.append("written")

    held = Held(clock, 0.0, 100, write)
    one = received(serving)
    held.enter(one)
    held.hold(one)
    assert entered.wait(10)
    ending = threading.Thread(target=lambda: (held.leave(one), order.append("ended")))
    ending.start()
    time.sleep(0.05)  # for it to be wrong, if it can be
    enough.set()
    ending.join(10)
    assert order == ["written", "ended"]
    assert held.open() == []
