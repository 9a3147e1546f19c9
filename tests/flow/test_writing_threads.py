"""Threads that publish on one connection: those that may write by themselves, the main one, and the I/O thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from gofer.messaging.adapter import DeclareQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from support.company import declare
from support.connections import declaring
from support.localbroker import LocalBroker
from support.waiting import eventually

QUEUE = Address("", "q")


def in_a_thread(work: Callable[[], object]) -> None:
    """Run something in a thread that is not the main one, to its end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


def test_each_thread_keeps_its_order_and_each_message_is_confirmed_once(link: ThreadConnection) -> None:
    taken: dict[int, list[int]] = {number: [] for number in range(5)}
    told: list[Outcome] = []

    def take(delivery: Delivery) -> None:
        thread, number = map(int, delivery.body.split())
        taken[thread].append(number)
        link.accept(delivery)

    link.subscribe(Subscription("q", 50, take, declaring(DeclareQueue("q"))), 10)

    def publish(thread: int) -> None:
        for number in range(200):
            deadline = time.monotonic() + 30
            body = b"%d %d" % (thread, number)
            link.publish(QUEUE, body, deadline=deadline, settled=lambda outcome, _: told.append(outcome))
            if number % 20 == 0:  # the connection becomes idle: the next message finds the I/O thread asleep
                link.wait(lambda: not link.core.unconfirmed, deadline)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    publish(0)
    for thread in threads:
        thread.join(60)
    eventually(lambda: sum(map(len, taken.values())) == 1000 and len(told) == 1000)
    assert set(told) == {Outcome.CONFIRMED}
    assert all(numbers == list(range(200)) for numbers in taken.values())


def test_a_single_message_of_a_thread_does_not_wake_the_io_thread(
    link: ThreadConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(link, "q")
    told: list[Outcome] = []
    woken: list[int] = []

    def publish() -> None:
        deadline = time.monotonic() + 30
        link.publish(QUEUE, b"x", deadline=deadline, settled=lambda outcome, _: told.append(outcome))

    def quiet() -> bool:
        return not link.core.unconfirmed and link._asleep and not link._commands

    eventually(quiet)
    monkeypatch.setattr(link._wakeup, "set", lambda: woken.append(1))
    in_a_thread(publish)
    eventually(lambda: told == [Outcome.CONFIRMED])
    assert woken == []


def test_a_single_message_of_the_main_thread_does_not_wake_the_io_thread(
    link: ThreadConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(link, "q")
    told: list[Outcome] = []
    woken: list[int] = []
    monkeypatch.setattr(link._wakeup, "set", lambda: woken.append(1))
    for number in range(1, 101):
        eventually(lambda: not link.core.unconfirmed and link._asleep and not link._commands)
        link.publish_nowait(QUEUE, b"x", settled=lambda outcome, _: told.append(outcome))
        eventually(lambda number=number: len(told) == number)  # type: ignore[misc] # mypy infers no lambda's default
    assert set(told) == {Outcome.CONFIRMED}
    assert woken == []


def test_a_main_thread_that_never_comes_back_from_writing_costs_one_connection(link: ThreadConnection) -> None:
    declare(link, "q")
    told: list[Outcome] = []
    openings = link.core.openings
    eventually(lambda: link._asleep and not link._commands)
    assert link._turn_lock.acquire(timeout=10)
    link._steps = [True]  # as if an interrupt had struck it between two steps
    link.publish_nowait(QUEUE, b"x", settled=lambda outcome, _: told.append(outcome))
    eventually(lambda: told)
    declare(link, "q")
    assert link.core.openings == openings + 1


def test_a_callback_in_the_thread_that_writes_cannot_wait_and_may_publish(link: ThreadConnection) -> None:
    declare(link, "q")
    told: list[object] = []

    def settled(outcome: Outcome, _: str) -> None:
        told.append(outcome)
        try:
            link.wait(lambda: False, time.monotonic() + 10)
        except RuntimeError as cannot:
            told.append(str(cannot)[:11])
        link.publish_nowait(QUEUE, b"y", settled=lambda outcome, _: told.append(outcome))

    eventually(lambda: link._asleep and not link._commands)
    in_a_thread(lambda: link.publish_nowait(Address("", "x" * 256), b"x", settled=settled))
    eventually(lambda: told == [Outcome.REFUSED, "cannot wait", Outcome.CONFIRMED])


def test_a_connection_that_is_cut_under_a_thread_that_writes_comes_back(
    link: ThreadConnection, broker: LocalBroker
) -> None:
    declare(link, "q")
    told: list[Outcome] = []
    for _ in range(10):
        broker.kill()
        broker.start()

        def publish() -> None:
            deadline = time.monotonic() + 30
            link.publish(QUEUE, b"x", deadline=deadline, settled=lambda outcome, _: told.append(outcome))

        before = len(told)
        in_a_thread(publish)
        eventually(lambda before=before: len(told) > before)  # type: ignore[misc] # mypy infers no lambda's default
    declare(link, "q")
    in_a_thread(publish)
    eventually(lambda: told[-1] is Outcome.CONFIRMED)


def test_a_thread_that_waits_to_wake_the_io_thread_holds_nothing_that_others_need(link: ThreadConnection) -> None:
    declare(link, "q")
    eventually(lambda: link._asleep and not link._commands)
    thread = threading.Thread(target=link.publish_nowait, args=(QUEUE, b"x" * 10_000_000))  # more than a socket takes
    with link._wakeup._lock:  # as while a signal handler runs in the main thread, and calls
        thread.start()
        eventually(lambda: link.core.unconfirmed)
        declare(link, "another")
    thread.join(30)
    assert not thread.is_alive()
    eventually(lambda: not link.core.unconfirmed)
