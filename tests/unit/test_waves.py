"""Waves of a run: numbers and shares, when a run stops, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from gofer.errors import ConfigError
from gofer.fleet import Waves
from gofer.fleet.waves import Amount, Window, sizes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [("5", 100, 5), ("10%", 100, 10), ("1%", 40, 1), ("0.5%", 1000, 5), ("33%", 10, 4), ("100%", 7, 7), ("7%", 100, 7)],
)
def test_a_share_is_rounded_up(text: str, total: int, count: int) -> None:
    assert Amount.parse(text, "limit").of(total) == count


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "101%", "10 %%", "1e3", "%"])
def test_what_is_no_amount_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"limit is .*; allowed: a number like 5, or a share like 10%"):
        Waves.of({"limit": text})


@pytest.mark.parametrize(
    ("ramp", "total", "ends"),
    [
        ("1,10%,100%", 1000, [1, 100, 1000]),
        ("1,10%,100%", 5, [1, 5]),
        ("1", 3, [1, 3]),
        ("5,100%", 3, [3]),
        ("", 3, [3]),
        ("50%", 0, [0]),
    ],
)
def test_the_ends_of_waves(ramp: str, total: int, ends: list[int]) -> None:
    assert Waves.of({"ramp": ramp}).ends(total) == ends


def test_a_ramp_that_falls_is_refused() -> None:
    with pytest.raises(ConfigError, match="ramp: 5 of 100 machines are 5, after 50; each step has more"):
        Waves.of({"ramp": "50%,5"}).ends(100)


@pytest.mark.parametrize(
    ("waves", "counts", "stops"),
    [
        ({"stop_after": "2"}, {"exception": 1}, False),
        ({"stop_after": "2"}, {"exception": 1, "refused": 1}, True),
        ({"stop_after": "2%"}, {"interrupted": 19}, False),
        ({"stop_after": "2%"}, {"interrupted": 20}, True),
        ({"stop_after": "0"}, {"value": 5}, False),
        ({"stop_after": "0"}, {"exception": 1}, True),
        ({"stop_after": "1"}, {"unreachable": 9}, False),
        ({"max_unreachable": "9"}, {"unreachable": 9}, True),
        ({}, {"exception": 1000}, False),
    ],
)
def test_when_a_run_stops(waves: dict[str, Any], counts: dict[str, int], *, stops: bool) -> None:
    assert (Waves.of(waves).stops(counts, 1000) is not None) == stops


@given(st.lists(st.integers(1, 100), max_size=5), st.integers(0, 5000))
def test_all_machines_are_in_one_wave(steps: list[int], total: int) -> None:
    waves = Waves.of({"ramp": [f"{step}%" for step in sorted(steps)]})
    ends = waves.ends(total)
    assert sum(sizes(ends)) == total
    assert all(size > 0 for size in sizes(ends)) or total == 0
    assert Waves.of(waves.text()) == waves


def test_the_window_shrinks_while_the_broker_is_late_and_grows_again() -> None:
    window = Window(256)
    window.taken(0.5)
    assert window.size == 256
    sizes_ = []
    for _ in range(6):
        window.taken(5.0)
        sizes_.append(window.size)
    assert sizes_ == [128, 64, 32, 16, 16, 16]
    for _ in range(8):
        window.taken(0.01)
    assert window.size == 256
    window.blocked()
    assert window.size == 16


@given(st.integers(1, 10_000), st.lists(st.one_of(st.floats(0, 100), st.none()), max_size=60))
def test_the_window_stays_within_its_bounds(most: int, seen: list[float | None]) -> None:
    window = Window(most)
    for seconds in seen:
        if seconds is None:
            window.blocked()
        else:
            window.taken(seconds)
        assert 1 <= window.size <= most
    for _ in range(8):
        window.taken(0.0)
    assert window.size == most
