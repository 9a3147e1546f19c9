"""The histogram of ``gofer fleet --hist``: few lines that fit a terminal, and each number in one of them."""

from __future__ import annotations

import re

import pytest
from gofer.tools.fleet_output import histogram
from hypothesis import given
from hypothesis import strategies as st


def counts(lines: list[str]) -> list[int]:
    return [int(re.split(r" {2,}", line.strip())[1]) for line in lines]


@pytest.mark.parametrize(
    ("numbers", "names", "counted"),
    [
        ([], [], []),
        ([7, 7, 7], ["7"], [3]),
        ([0, 100], ["0 to 10", "100 to 110"], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ([1, 2, 3], ["1 to 1.2", "3 to 3.2"], [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
        ([-5, 5], ["-5 to -4", "5 to 6"], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ([10**9, 3 * 10**9], ["1e+09 to 1.2e+09", "3e+09 to 3.2e+09"], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_ranges_have_round_bounds(numbers: list[float], names: list[str], counted: list[int]) -> None:
    lines = histogram(numbers)
    assert counts(lines) == counted
    if names:
        assert [re.split(r" {2,}", lines[n].strip())[0] for n in (0, -1)][: len(names)] == names


@given(st.lists(st.integers(-(10**18), 10**18) | st.floats(-1e300, 1e300), min_size=1, max_size=200))
def test_each_number_is_counted_and_all_fits(numbers: list[float]) -> None:
    lines = histogram(numbers)
    assert sum(counts(lines)) == len(numbers)
    assert len(lines) <= 12
    assert max(map(len, lines)) < 80
