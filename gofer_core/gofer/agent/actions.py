"""The actions of one plugin, which its own workers run again and again; and when each is due.

An action is due once, on an interval, or as a line of a crontab says. Two clocks count. Intervals follow the *steady*
one, which nobody can set and which goes on while the machine sleeps; cron lines follow the *wall* clock in the
machine's time zone, by APScheduler's triggers. APScheduler's own scheduler knows the wall clock alone: an interval
would stop when somebody sets the clock back.

A schedule is used by one thread at a time. What was missed (asleep, or busy with the run before) is made up by one run.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from random import SystemRandom
from typing import Any, NamedTuple, Protocol

from gofer.agent.failures import one_line
from gofer.crontab import Crontab, parse_crontab
from gofer.decorators import Action
from gofer.rmi.api import Target
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.server.service import PluginCode

__all__ = ["Actions", "Cron", "Every", "Moment", "Schedule", "moment", "schedule_of"]

log = logging.getLogger(__name__)

_MOST_SPLAY = 600.0  # seconds, unless an action says more
_SPLAY = 0.1  # of the time between two runs
_SET = timedelta(hours=3)  # a clock that jumps by more was wrong before
_INSTANT = timedelta(microseconds=1)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LOOK = 60.0  # seconds between two looks at the clocks: somebody may set them, and the machine may sleep
_PREDECESSOR = 0.2  # seconds between two looks at whether the old code has ended


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
        """Note that a run has ended: the next one is later than now."""


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


class Actions:
    """Runs the actions of a plugin at their times. Any thread; nothing here waits.

    Each runs on the plugin's workers (``async def``: on its event loop), as soon as one is free, and never beside
    itself. One that raises is logged, and runs again at its next time.
    """

    def __init__(self, plugin: PluginCode, clock: Clock, now: Callable[[], Moment] = moment) -> None:
        """Keep the plugin. Nothing is planned before ``start``."""
        self._plugin = plugin
        self._clock = clock
        self._now = now
        self._all: list[_Action] = []

    def start(self, previous: Actions | None = None) -> None:
        """Plan all that the plugin's API has, once. None at all costs nothing.

        Args:
            previous: those of the same plugin before its reload, stopped: what has the same name and times goes on
                where it was, with new code, and not before the old code's run has ended.
        """
        older = {} if previous is None else {one.target.name: one for one in previous._all}
        for target in self._plugin.api.actions:
            action = _Action(self._plugin, self._clock, self._now, target)
            if (before := older.get(target.name)) is not None:
                action.succeed(before)
            self._all.append(action)
        for action in self._all:
            action.look()

    def stop(self) -> None:
        """Begin no more runs, also not those that wait for a worker. What runs goes on. May be repeated."""
        for action in self._all:
            action.stop()

    def wait(self, timeout: float) -> bool:
        """Wait until none runs, at most ``timeout`` seconds; tell whether that is so."""
        deadline = time.monotonic() + timeout
        return all(action.wait(max(0.0, deadline - time.monotonic())) for action in self._all)

    def describe(self) -> list[dict[str, Any]]:
        """Tell all actions as JSON: name, schedule, state, counts, last run, next run (ISO 8601, UTC)."""
        return [action.describe() for action in self._all]


class _Action:
    """One action: waiting for its time, queued for a worker, running; or ended, when it is never due again."""

    def __init__(self, plugin: PluginCode, clock: Clock, now: Callable[[], Moment], target: Target) -> None:
        assert target.mark.action is not None  # noqa: S101 - that is what makes it an action
        self.target = target
        self.beside = target.holds_no_thread
        self._plugin = plugin
        self._clock = clock
        self._now = now
        self._lock = threading.Condition(threading.Lock())  # notified when a run ends
        self._schedule: Schedule = schedule_of(target.mark.action, now())
        self._state = "waiting"
        self._stopped = False
        self._timer: Timer | None = None
        self._before: _Action | None = None
        self._runs = self._failures = 0
        self._began = now()
        self._last: dict[str, Any] | None = None

    def succeed(self, before: _Action) -> None:
        """Go on where the same action of the old code was. To be called before the first look."""
        mark = self.target.mark.action
        if mark is None or before.target.mark.action != mark:
            return
        same = before.target.function is self.target.function  # the reload has failed, and this is the old code
        with before._lock:
            self._runs, self._failures, self._last = before._runs, before._failures, before._last
            if before._state == "running":
                self._before = before
            if same or mark.interval is not None or mark.cron is not None:  # else it runs once in the life of new code
                self._schedule = before._schedule
                if self._before is not None:
                    self._schedule.ran(self._now())

    def look(self) -> None:
        """See whether it is due: queue it then, and else look again later."""
        with self._lock:
            if self._stopped:
                return
            left = self._schedule.left(self._now())
            if left is None:
                self._state = "ended"
                return
            if left <= 0 and self._before is not None and self._before._state == "running":
                left = _PREDECESSOR
            if left > 0:
                self._timer = self._clock.call_after(min(left, _LOOK), self.look)
                return
            self._before = None
            self._state = "queued"
        self._plugin.workers.put(self)

    def run(self) -> None:
        """Run it once, as a worker's task."""
        with self._lock:
            if self._stopped:
                return
            self._state = "running"
            self._began = self._now()
        log.debug("plugin %s: action %s begins", self._plugin.name, self.target.name)
        try:
            with self._plugin.entered():
                value = self.target.invoke()
                if inspect.iscoroutine(value):
                    self._plugin.loop.run(value, lambda _, raised: self._ended(raised))
                    return
        except BaseException as raised:  # noqa: BLE001 - SystemExit, too: it is to run again, and its worker to live
            self._ended(raised)
        else:
            self._ended(None)

    def _ended(self, raised: BaseException | None) -> None:
        now = self._now()
        seconds = now.steady - self._began.steady
        with self._lock:
            self._runs += 1
            self._failures += raised is not None
            self._last = {
                "began": _iso(self._began.wall),
                "seconds": round(seconds, 3),
                "outcome": "done" if raised is None else "failed",
                "error": None if raised is None else one_line(raised)[0],
            }
            self._state = "waiting"
            self._lock.notify_all()
            if not self._stopped:
                self._schedule.ran(now)
        self.look()
        level, how = (logging.DEBUG, "ended") if raised is None else (logging.ERROR, "failed")
        text = "plugin %s: action %s %s after %.3f s"
        log.log(level, text, self._plugin.name, self.target.name, how, seconds, exc_info=raised)

    def stop(self) -> None:
        """Begin no more runs."""
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()

    def wait(self, timeout: float) -> bool:
        """Wait until it does not run; tell whether that is so."""
        with self._lock:
            return self._lock.wait_for(lambda: self._state != "running", timeout)

    def describe(self) -> dict[str, Any]:
        """Tell it as JSON."""
        with self._lock:
            now, running = self._now(), self._state == "running"
            left = self._schedule.left(now) if self._state == "waiting" and not self._stopped else None
            return {
                "name": self.target.name,
                "schedule": self._schedule.text,
                "state": "stopped" if self._stopped and not running else self._state,
                "runs": self._runs,
                "failures": self._failures,
                "began": _iso(self._began.wall) if running else None,
                "last": self._last,
                "next": None if left is None else _iso(now.wall + timedelta(seconds=max(0.0, left))),
            }


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
