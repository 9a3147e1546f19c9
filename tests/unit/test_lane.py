"""Jobs one after another, beside the thread that reads; what takes too long is left to itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from gofer.rmi.clock import Clock
from gofer.rmi.lane import Lane, Outcome
from support.waiting import eventually


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


@pytest.fixture
def lane(clock: Clock) -> Iterator[Lane]:
    lane = Lane("lane", clock, limit=0.1, most=2)
    yield lane
    lane.stop()


def test_jobs_are_done_in_their_order_whatever_one_raises(lane: Lane, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def job(number: int) -> None:
        done.append(number)
        if number % 10 == 3:
            raise SystemExit(number)

    for n in range(200):
        lane.put(lambda n=n: job(n))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    eventually(lambda: not lane.busy)
    assert done == list(range(200))
    assert caplog.text.count("a job failed") == 20


def test_work_that_takes_too_long_is_told_once_and_the_next_begin_meanwhile(lane: Lane) -> None:
    gate, events = threading.Event(), list[object]()

    def slow() -> None:
        events.append(lane.limited(lambda: gate.wait(30), lambda: events.append("late")))

    def quick() -> None:
        events.append(lane.limited(lambda: events.append("quick"), lambda: events.append("never")))

    lane.put(slow)
    lane.put(quick)
    eventually(lambda: len(events) == 3)
    assert events == ["late", "quick", Outcome.DONE]
    gate.set()
    eventually(lambda: len(events) == 4)
    assert events[3] is Outcome.LATE
    lane.put(quick)
    eventually(lambda: len(events) == 6)
    assert events[4:] == ["quick", Outcome.DONE]


def test_no_more_work_is_begun_than_may_hang_at_a_time(lane: Lane) -> None:
    gate, outcomes, late = threading.Event(), list[Outcome](), list[int]()

    def job(number: int) -> None:
        outcomes.append(lane.limited(lambda: gate.wait(30), lambda: late.append(number)))

    for n in range(6):
        lane.put(lambda n=n: job(n))  # type: ignore[misc]  # as above
    eventually(lambda: len(outcomes) == 4)
    assert (outcomes, late) == ([Outcome.FULL] * 4, [0, 1])
    assert sum(thread.name == "lane" for thread in threading.enumerate()) <= 3
    gate.set()
    eventually(lambda: len(outcomes) == 6)
    assert outcomes[4:] == [Outcome.LATE] * 2
    lane.put(lambda: job(6))
    eventually(lambda: outcomes[6:] == [Outcome.DONE])


def test_what_work_raises_goes_to_its_job(lane: Lane) -> None:
    raised: list[BaseException] = []

    def job() -> None:
        try:
            lane.limited(lambda: 1 // 0, lambda: None)
        except ZeroDivisionError as error:
            raised.append(error)

    lane.put(job)
    eventually(lambda: raised)


def test_many_threads_lose_no_job(lane: Lane) -> None:
    done: list[tuple[int, int]] = []

    def put(thread: int) -> None:
        for n in range(300):
            lane.put(lambda n=n: done.append((thread, n)))  # type: ignore[misc]  # as above

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    eventually(lambda: len(done) == 1200)
    for thread in range(4):
        assert [n for of, n in done if of == thread] == list(range(300))
