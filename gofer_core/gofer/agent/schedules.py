"""When an action is due: once, on an interval, or as a line of a crontab says.

Two clocks count. Intervals follow the *steady* one, which nobody can set and which goes on while the machine sleeps;
cron lines follow the *wall* clock in the machine's time zone. APScheduler's triggers do the arithmetic; they are
imported with the first schedule that needs one, and its scheduler is not used.

A schedule is used by one thread at a time. What was missed (asleep, or busy with the run before) is made up by one run.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta, tzinfo
from random import SystemRandom
from typing import Any, NamedTuple, Protocol

from gofer.crontab import Crontab, parse_crontab
from gofer.decorators import Action

__all__ = ["Cron", "Every", "Moment", "Once", "Schedule", "moment", "schedule_of"]

log = logging.getLogger(__name__)

_MOST_SPLAY = 600.0  # seconds, unless an action says more
_SPLAY = 0.1  # of the time between two runs
_SET = 3 * 3600.0  # seconds: a clock that jumps by more was wrong before
_INSTANT = timedelta(microseconds=1)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Moment(NamedTuple):
    """One moment on both clocks: ``steady`` in seconds since no matter what, ``wall`` with a time zone."""

    steady: float
    wall: datetime


def moment() -> Moment:
    """Return this moment."""
    return Moment(time.clock_gettime(time.CLOCK_BOOTTIME), datetime.now(UTC))


class Schedule(Protocol):
    """When one action is due, from its making on."""

    @property
    def text(self) -> str:
        """What it says, for people."""

    def left(self, now: Moment) -> float | None:
        """Return the seconds until it is due, 0 or less when it is; None: never again.

        Holds as long as nobody sets the clock: to be asked again after a minute.
        """

    def ran(self, now: Moment) -> None:
        """Hear that a run of what was due has ended: the next one is later than now."""


def schedule_of(action: Action, now: Moment, zone: tzinfo | None = None) -> Schedule:
    """Make the schedule that an action's mark says.

    Args:
        zone: that of cron lines; by default the machine's.
    """
    if action.cron is not None:
        return Cron(action.cron, action.splay, now, zone or _zone())
    if action.interval is not None:
        return Every(action.interval, action.splay, now)
    return Once(action.splay or 0.0, now)


class Once:
    """Due one time, ``splay`` seconds from now at most."""

    def __init__(self, splay: float, now: Moment) -> None:
        self._due: float | None = now.steady + SystemRandom().uniform(0, splay)

    @property
    def text(self) -> str:
        return "once"

    def left(self, now: Moment) -> float | None:
        return None if self._due is None else self._due - now.steady

    def ran(self, now: Moment) -> None:
        self._due = None


class Every:
    """Due ``splay`` seconds from now at most, and then again and again at the same distance."""

    def __init__(self, interval: float, splay: float | None, now: Moment) -> None:
        from apscheduler.triggers.interval import IntervalTrigger

        most = min(interval * _SPLAY, _MOST_SPLAY) if splay is None else splay
        first = _steady(now) + timedelta(seconds=SystemRandom().uniform(0, most))
        self._interval = interval
        self._trigger = IntervalTrigger(seconds=interval, start_date=first, timezone=UTC)
        self._due = first

    @property
    def text(self) -> str:
        return f"every {timedelta(seconds=self._interval)}"

    def left(self, now: Moment) -> float:
        return (self._due - _steady(now)).total_seconds()

    def ran(self, now: Moment) -> None:
        self._due = self._trigger.get_next_fire_time(None, max(self._due, _steady(now)) + _INSTANT)


class Cron:
    """Due when the wall clock fits a line of a crontab; up to ``splay`` seconds later, always by the same time.

    A day on which the clocks are put forward has a run that falls into the missing hour an hour later; on one on which
    they are put back, what falls into the hour that comes twice is due once, unless the line says every hour.
    """

    def __init__(self, line: str, splay: float | None, now: Moment, zone: tzinfo) -> None:
        crontab = parse_crontab(line)
        self._line = line
        self._hourly = crontab.hourly
        self._zone = zone
        self._triggers = _triggers(crontab, zone)
        self._last: datetime | None = None
        self._due = self._after(now.wall)
        # As far apart as the next two runs are: no more than that, or some would be left out.
        period = (self._after(self._due + _INSTANT) - self._due).total_seconds()
        most = min(period * _SPLAY, _MOST_SPLAY) if splay is None else min(splay, period)
        self._offset = timedelta(seconds=SystemRandom().uniform(0, most))
        self._skew = _skew(now)

    @property
    def text(self) -> str:
        return f"cron {self._line}"

    def left(self, now: Moment) -> float:
        set_by = _skew(now) - self._skew
        if abs(set_by) > 1:
            self._skew = _skew(now)
            # Set back, or so far forward that it was wrong before: begin anew. What was merely skipped is made up.
            if set_by < 0 or set_by > _SET:
                self._plan(now)
        return (self._due + self._offset - now.wall).total_seconds()

    def ran(self, now: Moment) -> None:
        self._last = self._due
        self._plan(now)

    def _plan(self, now: Moment) -> None:
        last = self._last
        if last is not None and (last - now.wall).total_seconds() > _SET:
            last = self._last = None
        if last is None:
            self._due = self._after(now.wall)
            return
        due = self._after(max(now.wall - self._offset, last + _INSTANT))
        while not self._hourly and self._shown(due) <= self._shown(last):
            due = self._after(due + _INSTANT)  # the second time that the clocks show this
        self._due = due

    def _after(self, start: datetime) -> datetime:
        found = [trigger.get_next_fire_time(None, start.astimezone(self._zone)) for trigger in self._triggers]
        earliest: datetime = min(one.astimezone(UTC) for one in found if one is not None)
        return earliest

    def _shown(self, when: datetime) -> datetime:
        """Return what a clock on the wall shows, which on one day of the year it does twice."""
        return when.astimezone(self._zone).replace(tzinfo=None)


def _triggers(crontab: Crontab, zone: tzinfo) -> list[Any]:
    from apscheduler.triggers.cron import CronTrigger

    def trigger(days: tuple[int, ...], weekdays: tuple[int, ...]) -> Any:
        return CronTrigger(
            minute=_list(crontab.minutes),
            hour=_list(crontab.hours),
            day=_list(days),
            month=_list(crontab.months),
            day_of_week=",".join(_WEEKDAYS[day] for day in weekdays),  # by name: it counts them from Monday
            timezone=zone,
        )

    if crontab.either:
        return [trigger(crontab.days, tuple(range(7))), trigger(tuple(range(1, 32)), crontab.weekdays)]
    return [trigger(crontab.days, crontab.weekdays)]


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _steady(now: Moment) -> datetime:
    """Put the steady clock on the calendar, as triggers know nothing else."""
    return datetime.fromtimestamp(now.steady, UTC)


def _skew(now: Moment) -> float:
    return now.wall.timestamp() - now.steady


def _zone() -> tzinfo:
    from tzlocal import get_localzone

    try:
        return get_localzone()
    except Exception as wrong:  # noqa: BLE001 - a machine's time zone may be set in many wrong ways
        log.warning("the time zone of this machine cannot be told (%s); cron lines are read as UTC", wrong)
        return UTC
