"""When an action is due: once, on an interval, or as a line of a crontab says.

Two clocks count. Intervals follow the *steady* one, which nobody can set and which goes on while the machine sleeps;
cron lines follow the *wall* clock in the machine's time zone, by APScheduler's triggers. APScheduler's own scheduler
knows the wall clock alone: an interval would stop when somebody sets the clock back.

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

__all__ = ["Cron", "Every", "Moment", "Schedule", "moment", "schedule_of"]

log = logging.getLogger(__name__)

_MOST_SPLAY = 600.0  # seconds, unless an action says more
_SPLAY = 0.1  # of the time between two runs
_SET = timedelta(hours=3)  # a clock that jumps by more was wrong before
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
    """When one action is due, from its making on. ``text`` says it for people."""

    text: str

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
    return Every(action.interval, action.splay, now)


class Every:
    """Due ``splay`` seconds from now at most, and then again and again after ``interval`` seconds (None: once)."""

    def __init__(self, interval: float | None, splay: float | None, now: Moment) -> None:
        self.text = "once" if interval is None else f"every {timedelta(seconds=interval)}"
        self._interval = interval
        self._due: float | None = now.steady + _spread(interval or 0.0, splay)

    def left(self, now: Moment) -> float | None:
        return None if self._due is None else self._due - now.steady

    def ran(self, now: Moment) -> None:
        if self._due is None or self._interval is None:
            self._due = None
        else:
            missed = max(0.0, now.steady - self._due) // self._interval
            self._due += (missed + 1) * self._interval


class Cron:
    """Due when the wall clock fits a line of a crontab; up to ``splay`` seconds later, always by the same time.

    A day on which the clocks are put forward has a run that falls into the missing hour an hour later; on one on which
    they are put back, what falls into the hour that comes twice is due once, unless the line says every hour.
    """

    def __init__(self, line: str, splay: float | None, now: Moment, zone: tzinfo) -> None:
        crontab = parse_crontab(line)
        self.text = f"cron {line}"
        self._hourly = crontab.hourly
        self._zone = zone
        self._triggers = _triggers(crontab, zone)
        first = self._after(now.wall)
        # As far apart as the next two runs are: no more than that, or some would be left out.
        period = (self._after(first + _INSTANT) - first).total_seconds()
        self._offset = timedelta(seconds=_spread(period, None if splay is None else min(splay, period)))
        self._seen = now.wall - _INSTANT  # what the clock had to show until then is done
        self._due = first
        self._last: datetime | None = None  # the due time of the last run
        self._skew = _skew(now)

    def left(self, now: Moment) -> float:
        wall, skew = now.wall - self._offset, _skew(now)
        jump, self._skew = skew - self._skew, skew
        if jump > _SET or self._seen - wall > _SET:
            self._seen, self._last = wall - _INSTANT, None
        self._due = self._after(self._seen + _INSTANT)
        while not self._hourly and self._last is not None and self._shown(self._due) <= self._shown(self._last):
            self._due = self._after(self._due + _INSTANT)  # the second time that the clocks show this
        if self._due > wall:
            self._seen = max(self._seen, wall)
        return (self._due - wall).total_seconds()

    def ran(self, now: Moment) -> None:
        self._last = self._due
        self._seen = max(self._seen, self._due, now.wall - self._offset)

    def _after(self, start: datetime) -> datetime:
        found = [trigger.get_next_fire_time(None, start.astimezone(self._zone)) for trigger in self._triggers]
        earliest: datetime = min(one.astimezone(UTC) for one in found if one is not None)
        return earliest

    def _shown(self, when: datetime) -> datetime:
        """Return what a clock on the wall shows, which on one day of the year it does twice."""
        return when.astimezone(self._zone).replace(tzinfo=None)


def _spread(period: float, splay: float | None) -> float:
    """Choose the seconds by which this agent is later than others."""
    return SystemRandom().uniform(0, min(period * _SPLAY, _MOST_SPLAY) if splay is None else splay)


def _triggers(crontab: Crontab, zone: tzinfo) -> list[Any]:
    from apscheduler.triggers.cron import CronTrigger

    def trigger(days: tuple[int, ...], weekdays: tuple[int, ...]) -> Any:
        fields = {"minute": crontab.minutes, "hour": crontab.hours, "day": days, "month": crontab.months}
        return CronTrigger(
            **{name: ",".join(map(str, numbers)) for name, numbers in fields.items()},
            day_of_week=",".join(_WEEKDAYS[day] for day in weekdays),  # by name: it counts them from Monday
            timezone=zone,
        )

    if crontab.either:
        return [trigger(crontab.days, tuple(range(7))), trigger(tuple(range(1, 32)), crontab.weekdays)]
    return [trigger(crontab.days, crontab.weekdays)]


def _skew(now: Moment) -> timedelta:
    return timedelta(seconds=now.wall.timestamp() - now.steady)


def _zone() -> tzinfo:
    from tzlocal import get_localzone

    try:
        return get_localzone()
    except Exception as wrong:  # noqa: BLE001 - a machine's time zone may be set in many wrong ways
        log.warning("the time zone of this machine is unknown (%s); cron lines are read as UTC", wrong)
        return UTC
