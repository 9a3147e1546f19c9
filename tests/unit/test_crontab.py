"""What lines of a crontab mean."""

from __future__ import annotations

import re
from typing import Any

import pytest
from gofer.crontab import Crontab, parse_crontab

ALL = {
    "minutes": tuple(range(60)),
    "hours": tuple(range(24)),
    "days": tuple(range(1, 32)),
    "months": tuple(range(1, 13)),
    "weekdays": tuple(range(7)),
}


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("* * * * *", {"hourly": True}),
        ("0 4 * * *", {"minutes": (0,), "hours": (4,)}),
        ("*/20 8-10 * * *", {"minutes": (0, 20, 40), "hours": (8, 9, 10)}),
        ("5/25 */6 * * *", {"minutes": (5, 30, 55), "hours": (0, 6, 12, 18)}),
        ("10-20/5,59 0 * * *", {"minutes": (10, 15, 20, 59), "hours": (0,)}),
        ("0 0 1,15 jan-Mar *", {"minutes": (0,), "hours": (0,), "days": (1, 15), "months": (1, 2, 3)}),
        ("0 0 * * 0", {"minutes": (0,), "hours": (0,), "weekdays": (0,)}),
        ("0 0 * * 7", {"minutes": (0,), "hours": (0,), "weekdays": (0,)}),
        ("0 0 * * 1-5", {"minutes": (0,), "hours": (0,), "weekdays": (1, 2, 3, 4, 5)}),
        ("0 0 * * fri-sun", {"minutes": (0,), "hours": (0,), "weekdays": (0, 5, 6)}),
        ("0 0 13 * fri", {"minutes": (0,), "hours": (0,), "days": (13,), "weekdays": (5,), "either": True}),
        ("0 0 29 2 *", {"minutes": (0,), "hours": (0,), "days": (29,), "months": (2,)}),
        (
            "0 0 31 2 mon",
            {"minutes": (0,), "hours": (0,), "days": (31,), "months": (2,), "weekdays": (1,), "either": True},
        ),
    ],
)
def test_a_line_is_read_as_cron_reads_it(line: str, means: dict[str, Any]) -> None:
    assert parse_crontab(line) == Crontab(**{**ALL, "either": False, "hourly": False, **means})


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "has not five fields"),
        ("@daily", "has not five fields"),
        ("* * * * * *", "has not five fields"),
        ("60 * * * *", "minute is '60': '60' is not in 0-59"),
        ("* 24 * * *", "hour is '24': '24' is not in 0-23"),
        ("* * 0 * *", "day of month is '0': '0' is not in 1-31"),
        ("* * * 13 *", "month is '13': '13' is not in 1-12, jan-dec"),
        ("* * * * 8", "day of week is '8': '8' is not in 0-7, sun-sat"),
        ("* * * * mo", "day of week is 'mo': 'mo' is not in"),
        ("*/0 * * * *", "minute is '*/0': '*/0' means no value at all"),
        ("30-20 * * * *", "'30-20' means no value at all"),
        ("1,,2 * * * *", "minute is '1,,2'; allowed: *, 0-59, ranges"),
        ("** * * * *", "minute is '**'; allowed"),
        ("-1 * * * *", "minute is '-1'; allowed"),
        ("\u0661 * * * *", "allowed"),
        ("1" * 5000 + " * * * *", "is not in 0-59"),
        ("0 0 31 2,4 *", "says a day that does not exist in its months"),
    ],
)
def test_what_is_no_line_is_reported_with_its_field(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        parse_crontab(line)
