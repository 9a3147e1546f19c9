"""The clock: functions called later, by one thread, in order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from gofer.rmi.clock import Clock
from support.waiting import eventually


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


def test_functions_are_called_in_the_order_of_their_times(clock: Clock) -> None:
    called: list[str] = []
    now = time.monotonic()
    clock.call_at(now + 0.15, lambda: called.append("third"))
    clock.call_at(now + 0.05, lambda: called.append("first"))
    clock.call_at(now + 0.10, lambda: called.append("second"))
    eventually(lambda: len(called) == 3)
    assert called == ["first", "second", "third"]
    assert time.monotonic() >= now + 0.15


def test_functions_of_one_time_are_called_in_the_order_of_asking(clock: Clock) -> None:
    called: list[int] = []
    when = time.monotonic() + 0.05
    for n in range(100):
        clock.call_at(when, lambda n=n: called.append(n))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    eventually(lambda: len(called) == 100)
    assert called == list(range(100))


def test_an_earlier_function_shortens_the_sleep(clock: Clock) -> None:
    clock.call_after(60, lambda: None)
    called = threading.Event()
    clock.call_after(0.02, called.set)
    assert called.wait(30)


def test_a_cancelled_function_is_not_called(clock: Clock) -> None:
    called: list[str] = []
    timer = clock.call_after(0.05, lambda: called.append("cancelled"))
    clock.call_after(0.1, lambda: called.append("kept"))
    timer.cancel()
    timer.cancel()
    eventually(lambda: called)
    assert called == ["kept"]


def test_a_function_that_raises_is_logged_and_the_clock_goes_on(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()
    clock.call_after(0.0, lambda: 1 // 0)
    clock.call_after(0.01, called.set)
    assert called.wait(30)
    assert "ZeroDivisionError" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_was_asked_for_before_the_start_is_called() -> None:
    clock, called = Clock(), threading.Event()
    clock.call_after(0.0, called.set)
    clock.start()
    assert called.wait(30)
    clock.stop()


def test_stop_ends_the_thread_and_calls_nothing_more() -> None:
    clock, called = Clock("stopped-clock"), threading.Event()
    clock.start()
    clock.call_after(0.05, called.set)
    clock.stop()
    clock.stop()
    clock.call_after(0.0, called.set)
    assert "stopped-clock" not in [thread.name for thread in threading.enumerate()]
    assert not called.wait(0.1)
    with pytest.raises(RuntimeError):
        clock.start()


def test_a_function_may_stop_its_clock() -> None:
    clock, stopped = Clock(), threading.Event()
    clock.start()

    def stop() -> None:
        clock.stop()
        stopped.set()

    clock.call_after(0.0, stop)
    assert stopped.wait(30)
    clock.stop()


def test_cancelled_timers_whose_time_is_far_away_leave_nothing_behind(clock: Clock) -> None:
    """A caller may ask for any time, and its call may end at once."""
    called = threading.Event()
    for _ in range(10):
        clock.call_after(3600, lambda: None)
    for n in range(10_000):
        clock.call_after(1e6 + n, lambda: None).cancel()
    assert len(clock._scheduler.queue) <= 500
    clock.call_after(0.01, called.set)
    assert called.wait(30)


def test_a_thread_that_computes_does_not_hold_up_each_function_that_is_due(clock: Clock) -> None:
    """Were the interpreter handed over after each of them, it would come back 5 ms later: after 10 s for all."""
    ended = threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(1000))

    computing = threading.Thread(target=compute)
    computing.start()
    try:
        called = threading.Event()
        when = time.monotonic() + 0.05
        for _ in range(2000):
            clock.call_at(when, lambda: None)
        clock.call_at(when, called.set)
        assert called.wait(5)
    finally:
        ended.set()
        computing.join()


@pytest.mark.parametrize("seconds", [1e10, 1e19, 1e300])
def test_a_time_that_no_lock_can_wait_for_stops_nothing(clock: Clock, seconds: float) -> None:
    clock.call_after(seconds, lambda: None)
    called = threading.Event()
    clock.call_after(0.01, called.set)
    assert called.wait(30)


def test_many_cancelled_timers_leave_nothing_behind(clock: Clock) -> None:
    for _ in range(10_000):
        clock.call_after(0.05, lambda: None).cancel()
    eventually(clock._scheduler.empty)
