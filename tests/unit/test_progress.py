"""Progress: ten reports a second at most, and always the last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gofer.rmi.clock import Clock
from gofer.rmi.progress import INTERVAL, Progress
from support.waiting import eventually


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    clock.start()
    yield clock
    clock.stop()


class Ear:
    """Hears reports, with the time of each."""

    def __init__(self, clock: Clock) -> None:
        self.heard: list[tuple[Any, Any, Any]] = []
        self.times: list[float] = []
        self.progress = Progress(clock, self)

    def __call__(self) -> None:
        progress = self.progress
        self.times.append(time.monotonic())
        self.heard.append((progress.total, progress.completed, progress.details))


@pytest.fixture
def ear(clock: Clock) -> Ear:
    return Ear(clock)


def test_completed_and_details_report_and_total_does_not(ear: Ear) -> None:
    ear.progress.total = 3
    assert ear.heard == []
    ear.progress.completed += 1
    eventually(lambda: ear.heard == [(3, 1, {})])
    ear.progress.details = {"k": [1]}
    eventually(lambda: ear.heard[1:] == [(3, 1, {"k": [1]})])


def test_fast_reports_are_ten_a_second_and_the_last_comes_by_itself(ear: Ear) -> None:
    end = time.monotonic() + 0.55
    n = 0
    while time.monotonic() < end:
        n += 1
        ear.progress.completed = n
    eventually(lambda: ear.heard[-1][1] == n)
    assert 4 <= len(ear.heard) <= 8
    gaps = [after - before for before, after in zip(ear.times, ear.times[1:], strict=False)]
    assert min(gaps) >= INTERVAL * 0.9
    assert [completed for _, completed, _ in ear.heard] == sorted(completed for _, completed, _ in ear.heard)


def test_finish_sends_what_was_held_back_and_nothing_follows(ear: Ear) -> None:
    for n in range(5):
        ear.progress.completed = n
    ear.progress.finish()
    assert ear.heard[-1] == (0, 4, {})
    heard = len(ear.heard)
    ear.progress.completed = 5
    ear.progress.report()
    ear.progress.finish()
    assert not threading.Event().wait(INTERVAL * 1.5)
    assert len(ear.heard) == heard


def test_finish_sends_nothing_when_all_is_reported(ear: Ear) -> None:
    ear.progress.completed = 1
    ear.progress.report()
    ear.progress.finish()
    assert len(ear.heard) == 1


def test_report_forces(ear: Ear) -> None:
    for _ in range(5):
        ear.progress.report()
    assert len(ear.heard) == 5


@pytest.mark.parametrize("value", [{1}, b"x", object(), float("nan"), {1: 2}, [object()]])
@pytest.mark.parametrize("name", ["total", "completed", "details"])
def test_only_plain_values_are_taken(ear: Ear, name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"progress\.{name}"):
        setattr(ear.progress, name, value)
    assert ear.heard == []


def test_details_changed_in_place_are_checked_when_reported(ear: Ear) -> None:
    ear.progress.details["more"] = 1
    ear.progress.report()
    assert ear.heard == [(0, 0, {"more": 1})]
    ear.progress.details["more"] = {1}
    with pytest.raises(TypeError, match=r"progress\.details"):
        ear.progress.report()


def test_nobody_listens(clock: Clock) -> None:
    progress = Progress(clock, None)
    progress.completed = 1
    progress.report()
    progress.finish()
    with pytest.raises(TypeError):
        progress.details = {1}
