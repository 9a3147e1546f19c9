"""Jobs one after another, beside the thread that reads; what takes too long is left to itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from gofer.rmi.server.serial import Outcome, SerialThread
from support.waiting import eventually


@pytest.fixture
def serial() -> Iterator[SerialThread]:
    serial = SerialThread("serial", limit=0.1, most=2)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            serial.look(time.monotonic())

    looking = threading.Thread(target=look)
    looking.start()
    yield serial
    serial.stop()
    ended.set()
    looking.join()


def test_jobs_are_done_in_their_order_whatever_one_raises(
    serial: SerialThread, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def job(number: int) -> None:
        done.append(number)
        if number % 10 == 3:
            raise SystemExit(number)

    for n in range(200):
        serial.put(lambda n=n: job(n))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    eventually(lambda: not serial.busy)
    assert done == list(range(200))
    assert caplog.text.count("a job failed") == 20


def test_work_that_takes_too_long_is_reported_once_and_the_next_begin_meanwhile(serial: SerialThread) -> None:
    gate, events = threading.Event(), list[object]()

    def slow() -> None:
        events.append(serial.limited(lambda: gate.wait(30), lambda: events.append("late")))

    def quick() -> None:
        events.append(serial.limited(lambda: events.append("quick"), lambda: events.append("never")))

    serial.put(slow)
    serial.put(quick)
    eventually(lambda: len(events) == 3)
    assert events == ["late", "quick", Outcome.DONE]
    gate.set()
    eventually(lambda: len(events) == 4)
    assert events[3] is Outcome.LATE
    serial.put(quick)
    eventually(lambda: len(events) == 6)
    assert events[4:] == ["quick", Outcome.DONE]


def test_no_more_work_is_begun_than_may_hang_at_a_time(serial: SerialThread) -> None:
    gate, outcomes, late = threading.Event(), list[Outcome](), list[int]()

    def job(number: int) -> None:
        outcomes.append(serial.limited(lambda: gate.wait(30), lambda: late.append(number)))

    for n in range(6):
        serial.put(lambda n=n: job(n))  # type: ignore[misc]  # as above
    eventually(lambda: len(outcomes) == 4)
    assert (outcomes, late) == ([Outcome.FULL] * 4, [0, 1])
    assert sum(thread.name == "serial" for thread in threading.enumerate()) <= 3
    gate.set()
    eventually(lambda: len(outcomes) == 6)
    assert outcomes[4:] == [Outcome.LATE] * 2
    serial.put(lambda: job(6))
    eventually(lambda: outcomes[6:] == [Outcome.DONE])


def test_what_work_raises_goes_to_its_job(serial: SerialThread) -> None:
    raised: list[BaseException] = []

    def job() -> None:
        try:
            serial.limited(lambda: 1 // 0, lambda: None)
        except ZeroDivisionError as error:
            raised.append(error)

    serial.put(job)
    eventually(lambda: raised)


def test_many_threads_lose_no_job(serial: SerialThread) -> None:
    done: list[tuple[int, int]] = []

    def put(thread: int) -> None:
        for n in range(300):
            serial.put(lambda n=n: done.append((thread, n)))  # type: ignore[misc]  # as above

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    eventually(lambda: len(done) == 1200)
    for thread in range(4):
        assert [n for of, n in done if of == thread] == list(range(300))
