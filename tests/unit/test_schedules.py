"""When actions are due, on clocks that are set by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from gofer.agent.actions import Cron, Every, Moment, Schedule, schedule_of
from gofer.crontab import parse_crontab
from gofer.decorators import Action
from hypothesis import given
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")


class Clocks:
    """A steady clock and one on the wall."""

    def __init__(self, wall: str, steady: float = 1000.0) -> None:
        self.wall = datetime.fromisoformat(wall).replace(tzinfo=BERLIN).astimezone(UTC)
        self.steady = steady

    @property
    def now(self) -> Moment:
        return Moment(self.steady, self.wall)

    def go(self, seconds: float) -> Moment:
        self.steady += seconds
        return self.set(seconds)

    def set(self, seconds: float) -> Moment:
        self.wall += timedelta(seconds=seconds)
        return self.now

    @property
    def shown(self) -> str:
        return f"{self.wall.astimezone(BERLIN):%m-%d %H:%M}"

    def runs(self, schedule: Schedule, number: int, takes: float = 0) -> list[str]:
        """Wait for the next runs, and tell what the wall clock shows when each begins."""
        shown = []
        for _ in range(number):
            left = schedule.left(self.now)
            assert left is not None
            self.go(max(0.0, left))
            shown.append(self.shown)
            schedule.ran(self.go(takes))
        return shown


def cron(line: str, clocks: Clocks, splay: float | None = 0) -> Cron:
    return Cron(line, splay, clocks.now, BERLIN)


def test_an_action_without_a_time_is_due_once() -> None:
    clocks = Clocks("2026-06-01 12:00")
    once = schedule_of(Action(), clocks.now)
    assert once.left(clocks.now) == 0
    assert once.left(clocks.go(7)) == -7
    once.ran(clocks.now)
    assert once.left(clocks.go(1e9)) is None


def test_one_that_is_due_once_may_be_spread() -> None:
    clocks = Clocks("2026-06-01 12:00")
    lefts = [Every(None, 50, clocks.now).left(clocks.now) or 0 for _ in range(200)]
    assert 0 <= min(lefts) < 10
    assert 40 < max(lefts) <= 50


class TestIntervals:
    def test_it_is_due_soon_and_then_at_one_distance(self) -> None:
        clocks = Clocks("2026-06-01 12:00")
        every = Every(600, None, clocks.now)
        first = every.left(clocks.now)
        assert 0 <= first <= 60
        every.ran(clocks.go(first))
        assert every.left(clocks.now) == pytest.approx(600, abs=0.001)
        every.ran(clocks.go(600 + 5))  # it took 5 seconds, or began so late
        assert every.left(clocks.now) == pytest.approx(595, abs=0.001)

    @pytest.mark.parametrize(
        ("interval", "splay", "most"), [(10, None, 1), (3600, None, 360), (604800, None, 600), (10, 4, 4), (10, 0, 0)]
    )
    def test_agents_are_spread(self, interval: float, splay: float | None, most: float) -> None:
        now = Clocks("2026-06-01 12:00").now
        firsts = [Every(interval, splay, now).left(now) for _ in range(200)]
        assert 0 <= min(firsts) <= most * 0.2
        assert most * 0.8 <= max(firsts) <= most

    def test_what_was_missed_is_made_up_by_one_run(self) -> None:
        clocks = Clocks("2026-06-01 12:00")
        every = Every(600, 0, clocks.now)
        every.ran(clocks.now)
        assert every.left(clocks.go(6010)) < 0  # asleep
        every.ran(clocks.now)
        assert every.left(clocks.now) == pytest.approx(590, abs=0.001)

    def test_one_that_takes_longer_than_its_interval_leaves_out_what_it_has_missed(self) -> None:
        clocks = Clocks("2026-06-01 12:00")
        assert clocks.runs(Every(600, 0, clocks.now), 3, takes=700) == ["06-01 12:00", "06-01 12:20", "06-01 12:40"]

    @pytest.mark.parametrize("by", [-1e7, 1e7])
    def test_setting_the_clock_changes_nothing(self, by: float) -> None:
        clocks = Clocks("2026-06-01 12:00")
        every = Every(600, 0, clocks.now)
        every.ran(clocks.now)
        assert every.left(clocks.set(by)) == pytest.approx(600, abs=0.001)

    def test_a_short_one_is_as_exact(self) -> None:
        clocks = Clocks("2026-06-01 12:00", steady=5_000_000.0)
        every = Every(0.05, 0, clocks.now)
        for _ in range(1000):
            every.ran(clocks.now)
            left = every.left(clocks.now)
            assert 0.04 < left < 0.06
            clocks.go(left)
        assert clocks.steady == pytest.approx(5_000_050, abs=0.01)


class TestCron:
    def test_it_is_due_when_the_wall_clock_fits(self) -> None:
        clocks = Clocks("2026-06-01 12:00:01")  # a Monday
        assert clocks.runs(cron("0 4 * * *", clocks), 2) == ["06-02 04:00", "06-03 04:00"]
        assert clocks.runs(cron("*/20 22 * * *", clocks), 4) == [
            "06-03 22:00",
            "06-03 22:20",
            "06-03 22:40",
            "06-04 22:00",
        ]

    def test_days_of_the_week_count_from_sunday(self) -> None:
        clocks = Clocks("2026-06-01 12:00")
        assert clocks.runs(cron("0 0 * * 0", clocks), 2) == ["06-07 00:00", "06-14 00:00"]
        assert clocks.runs(cron("0 0 * * 1-2", clocks), 3) == ["06-15 00:00", "06-16 00:00", "06-22 00:00"]

    def test_of_two_kinds_of_day_one_is_enough(self) -> None:
        clocks = Clocks("2026-06-01 12:00")
        assert clocks.runs(cron("0 0 5 * sun", clocks), 3) == ["06-05 00:00", "06-07 00:00", "06-14 00:00"]

    def test_agents_are_spread_and_each_keeps_its_place(self) -> None:
        clocks = Clocks("2026-06-01 12:00:00")
        lefts = [cron("0 13 * * *", clocks, None).left(clocks.now) - 3600 for _ in range(200)]
        assert 0 <= min(lefts) < 100
        assert 500 < max(lefts) <= 600
        minutely = [cron("* * * * *", clocks, None).left(clocks.now) for _ in range(200)]
        assert max(minutely) - min(minutely) <= 6
        one = cron("* * * * *", clocks, 3600)  # more than there is between two runs
        first = one.left(clocks.now)
        assert first <= 120
        one.ran(clocks.go(first))
        assert one.left(clocks.now) == pytest.approx(60, abs=0.001)
        one.ran(clocks.go(60 + 59))  # it took nearly until the next
        assert one.left(clocks.now) == pytest.approx(1, abs=0.001)

    def test_a_time_that_a_day_does_not_have_comes_an_hour_later(self) -> None:
        clocks = Clocks("2026-03-28 12:00")
        assert clocks.runs(cron("30 2 * * *", clocks), 3) == ["03-29 03:30", "03-30 02:30", "03-31 02:30"]

    def test_a_time_that_a_day_has_twice_counts_once(self) -> None:
        clocks = Clocks("2026-10-24 12:00")
        assert clocks.runs(cron("30 2 * * *", clocks), 2) == ["10-25 02:30", "10-26 02:30"]
        clocks = Clocks("2026-10-25 01:00")
        assert clocks.runs(cron("0,30 1-3 * * *", clocks), 6)[-3:] == ["10-25 02:30", "10-25 03:00", "10-25 03:30"]

    def test_but_every_hour_is_every_hour(self) -> None:
        clocks = Clocks("2026-10-25 01:45")
        assert clocks.runs(cron("*/30 * * * *", clocks), 5) == [
            "10-25 02:00",
            "10-25 02:30",
            "10-25 02:00",
            "10-25 02:30",
            "10-25 03:00",
        ]

    def test_what_was_missed_is_made_up_by_one_run(self) -> None:
        clocks = Clocks("2026-06-01 03:00")
        four = cron("0 4 * * *", clocks)
        clocks.go(3 * 86400)  # asleep
        assert clocks.runs(four, 2) == ["06-04 03:00", "06-04 04:00"]

    def test_a_clock_that_is_set_forward_a_little_skips_nothing(self) -> None:
        clocks = Clocks("2026-06-01 03:30")
        four = cron("0 4 * * *", clocks)
        assert four.left(clocks.set(3600)) < 0
        assert clocks.runs(four, 2) == ["06-01 04:30", "06-02 04:00"]

    def test_a_clock_that_was_wrong_before_makes_up_nothing(self) -> None:
        clocks = Clocks("1970-01-01 12:00")
        four = cron("0 4 * * *", clocks)
        clocks.set((date(2026, 6, 1) - date(1970, 1, 1)).days * 86400)
        assert clocks.runs(four, 2) == ["06-02 04:00", "06-03 04:00"]

    def test_a_clock_that_is_set_back_a_little_repeats_nothing(self) -> None:
        clocks = Clocks("2026-06-01 03:30")
        four = cron("0 4 * * *", clocks)
        assert clocks.runs(four, 1) == ["06-01 04:00"]
        clocks.set(-600)
        assert clocks.runs(four, 1) == ["06-02 04:00"]

    def test_a_clock_that_is_set_back_before_the_next_run_is_waited_for_as_it_is_now(self) -> None:
        clocks = Clocks("2026-06-02 03:30")
        four = cron("0 4 * * *", clocks)
        clocks.set(-86400)
        assert clocks.runs(four, 2) == ["06-01 04:00", "06-02 04:00"]

    def test_a_clock_that_was_years_ahead_does_not_end_it(self) -> None:
        clocks = Clocks("2036-06-01 03:30")
        four = cron("0 4 * * *", clocks)
        assert clocks.runs(four, 1) == ["06-01 04:00"]
        clocks.set(-3652 * 86400)
        assert clocks.runs(four, 2) == ["06-02 04:00", "06-03 04:00"]


def numbers(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda two: "{}-{}".format(*sorted(two)))
    several = st.lists(st.one_of(number, span), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), st.just("*/5"), several)


@given(
    st.tuples(numbers(0, 59), numbers(0, 23), numbers(1, 28), st.just("*"), numbers(0, 7)).map(" ".join),
    st.integers(0, 60 * 24 * 60),
)
def test_the_next_time_is_the_first_minute_that_fits(line: str, minutes: int) -> None:
    fields = parse_crontab(line)

    def fits(minute: int) -> bool:
        when = (clocks.wall + timedelta(minutes=minute)).astimezone(BERLIN)
        day, weekday = when.day in fields.days, when.isoweekday() % 7 in fields.weekdays
        days = day or weekday if fields.either else day and weekday
        return when.minute in fields.minutes and when.hour in fields.hours and days

    clocks = Clocks("2026-06-01 00:00")  # no clock is put forward or back in the next months
    clocks.go(60 * minutes)
    left, rest = divmod(cron(line, clocks).left(clocks.now), 60)
    assert rest == 0
    assert fits(int(left))
    assert not any(fits(minute) for minute in range(int(left)))


def test_schedules_say_what_they_are() -> None:
    now = Clocks("2026-06-01 12:00").now
    marks = [Action(), Action(600.0), Action(90061.5), Action(cron="0 4 * * *")]
    texts = [schedule_of(mark, now, BERLIN).text for mark in marks]
    assert texts == ["once", "every 0:10:00", "every 1 day, 1:01:01.500000", "cron 0 4 * * *"]
    assert schedule_of(Action(cron="0 4 * * *"), now).left(now) is not None  # in the machine's own zone
