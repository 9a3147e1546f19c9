"""When to try again."""

from __future__ import annotations

import random

import pytest
from gofer.messaging.backoff import Backoff


def waits(count: int) -> list[float]:
    backoff = Backoff(30.0)
    found = []
    for _ in range(count):
        backoff.failed(1000.0)
        found.append(backoff.due - 1000.0)
    return found


def test_waits_are_spread_and_grow_up_to_a_ceiling() -> None:
    many = [waits(12) for _ in range(200)]
    for n in range(12):
        most = min(30.0, 0.25 * 2**n)
        assert 0 <= min(one[n] for one in many) < 0.1 * most
        assert 0.9 * most < max(one[n] for one in many) <= most


@pytest.mark.parametrize("failures", [0, 2, 5, 9])
def test_a_pause_is_anything_between_nothing_and_its_limit_equally_often(failures: int) -> None:
    """Full jitter. A tenth is missed by so much once in a thousand million runs."""
    most, tenths = min(30.0, 0.25 * 2**failures), [0] * 10
    for _ in range(5000):
        backoff = Backoff(30.0)
        backoff.failures = failures
        backoff.failed(0.0)
        tenths[min(9, int(10 * backoff.due / most))] += 1
    assert all(0.07 * 5000 < count < 0.13 * 5000 for count in tenths), tenths


@pytest.mark.parametrize(("first", "growth"), [(5.0, 4.0), (1.0, 1.0), (100.0, 2.0)])
def test_the_first_limit_and_its_growth_may_be_chosen(first: float, growth: float) -> None:
    many = [Backoff(30.0, first, growth) for _ in range(300)]
    for n in range(6):
        most = min(30.0, first * growth**n)
        for one in many:
            one.failed(1000.0)
        pauses = [one.due - 1000.0 for one in many]
        assert 0 <= min(pauses) < 0.1 * most
        assert 0.9 * most < max(pauses) <= most


def test_a_program_that_seeds_does_not_bring_its_fleet_back_together() -> None:
    random.seed(7)
    first = waits(20)
    random.seed(7)
    before = random.getstate()
    assert waits(20) != first
    assert random.getstate() == before


def test_it_is_due_after_its_wait_at_once_when_hurried_and_starts_anew_when_reset() -> None:
    backoff = Backoff(30.0)
    for _ in range(5):
        backoff.failed(1000.0)
    assert 1000.0 <= backoff.due <= 1004.0
    backoff.hurry()
    assert (backoff.due, backoff.failures) == (0.0, 5)
    backoff.reset()
    assert (backoff.due, backoff.failures) == (0.0, 0)
