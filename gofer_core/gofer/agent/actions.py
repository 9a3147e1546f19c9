"""The actions of one plugin: what it does by itself, again and again, on its own workers."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from gofer.agent.failures import one_line
from gofer.agent.schedules import Moment, Schedule, moment, schedule_of
from gofer.rmi.api import Target
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.server.service import PluginCode

__all__ = ["Actions"]

log = logging.getLogger(__name__)

_LOOK = 60.0  # seconds between two looks at the clocks: somebody may set them, and the machine may sleep
_PREDECESSOR = 0.2  # seconds between two looks at whether the old code has ended


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
