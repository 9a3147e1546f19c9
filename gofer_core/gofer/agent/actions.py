"""The actions of one plugin: what it does by itself, again and again, on its own workers."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from gofer.agent.failures import one_line
from gofer.rmi.api import API, Target
from gofer.rmi.clock import Timer
from gofer.rmi.model.coroutines import Loop
from gofer.rmi.server.workers import Workers

if TYPE_CHECKING:
    from gofer.agent.schedules import Moment, Schedule

__all__ = ["Actions", "Actor"]

log = logging.getLogger(__name__)

_LOOK = 60.0  # seconds between two looks at the clocks: somebody may set them, and the machine may sleep
_PREDECESSOR = 0.2  # seconds between two looks at whether the old code has ended


class Alarm(Protocol):
    """What calls a function later: :class:`gofer.rmi.clock.Clock`."""

    def call_after(self, delay: float, function: Callable[[], object]) -> Timer:
        """Call a function in ``delay`` seconds."""


class Actor(Protocol):
    """A plugin, as its actions see it."""

    @property
    def name(self) -> str:
        """The plugin's name."""

    @property
    def api(self) -> API:
        """Where its actions are."""

    @property
    def workers(self) -> Workers:
        """The threads that run them."""

    @property
    def loop(self) -> Loop:
        """Where its ``async def`` actions run."""

    def entered(self) -> AbstractContextManager[object]:
        """Return what is entered around what the plugin's code does."""


class Actions:
    """Runs the actions of a plugin at their times. Any thread; nothing here waits.

    Each runs on the plugin's workers (``async def``: on its event loop), as soon as one is free, and never beside
    itself. One that raises is logged, and runs again at its next time.
    """

    def __init__(self, plugin: Actor, clock: Alarm, now: Callable[[], Moment] | None = None) -> None:
        """Keep the plugin. Nothing is imported or planned before ``start``."""
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
        targets = self._plugin.api.actions
        if not targets:
            return
        from gofer.agent.schedules import moment

        now = self._now or moment
        older = {} if previous is None else {one.target.name: one for one in previous._all}
        for target in targets:
            action = _Action(self._plugin, self._clock, now, target)
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

    def __init__(self, plugin: Actor, clock: Alarm, now: Callable[[], Moment], target: Target) -> None:
        from gofer.agent.schedules import schedule_of

        mark = target.mark.action
        assert mark is not None  # noqa: S101 - that is what makes it an action
        self.target = target
        self.beside = target.holds_no_thread
        self._plugin = plugin
        self._clock = clock
        self._now = now
        self._lock = threading.Condition(threading.Lock())  # notified when a run ends
        self._schedule: Schedule = schedule_of(mark, now())
        self._state = "waiting"
        self._stopped = False
        self._timer: Timer | None = None
        self._before: _Action | None = None
        self._runs = self._failures = 0
        self._began: datetime | None = None
        self._at = 0.0  # the same, as time.monotonic() has it
        self._last: dict[str, Any] | None = None

    def succeed(self, before: _Action) -> None:
        """Go on where the same action of the old code was. To be called before the first look."""
        if before.target.mark.action != self.target.mark.action:
            return
        mark = self.target.mark.action
        recurs = mark is not None and (mark.interval, mark.cron) != (None, None)
        same = before.target.function is self.target.function  # the reload has failed, and this is the old code
        with before._lock:
            self._runs, self._failures, self._last = before._runs, before._failures, before._last
            if before._state == "running":
                self._before = before
                if recurs or same:
                    before._schedule.ran(self._now())
            if recurs or same:  # else it runs once in the life of new code
                self._schedule = before._schedule

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
            self._began, self._at = datetime.now(UTC), time.monotonic()
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
        seconds = time.monotonic() - self._at
        error = None if raised is None else one_line(raised)[0]
        with self._lock:
            self._runs += 1
            self._failures += raised is not None
            self._last = {
                "began": _iso(self._began),
                "seconds": round(seconds, 3),
                "outcome": "done" if raised is None else "failed",
                "error": error,
            }
            self._state = "waiting"
            self._lock.notify_all()
            if not self._stopped:
                self._schedule.ran(self._now())
        self.look()
        if raised is None:
            log.debug("plugin %s: action %s ended after %.3f s", self._plugin.name, self.target.name, seconds)
        else:
            text = "plugin %s: action %s failed after %.3f s"
            log.error(text, self._plugin.name, self.target.name, seconds, exc_info=raised)

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
            now = self._now()
            left = self._schedule.left(now) if self._state == "waiting" and not self._stopped else None
            return {
                "name": self.target.name,
                "schedule": self._schedule.text,
                "state": "stopped" if self._stopped and self._state != "running" else self._state,
                "runs": self._runs,
                "failures": self._failures,
                "began": _iso(self._began) if self._state == "running" else None,
                "last": self._last,
                "next": None if left is None else _iso(now.wall + timedelta(seconds=max(0.0, left))),
            }


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
