"""One thread that looks, again and again, for what is due: statuses, time limits, takeovers, latency, retries."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf

from gofer.errors import ExecutionTimeout
from gofer.rmi.request import ANSWERING, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.dispatch import way_out
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.statuses import Statuses
from gofer.rmi.server.window import Window

__all__ = ["Sweep"]

log = logging.getLogger(__name__)

_INTERVAL = 0.025  # seconds between two looks, while requests come
_LINGER = 1.0  # seconds after the last request in which it goes on so: waking a thread costs more than a look
_GLANCE = 0.25  # seconds between two looks, at most, while something is in flight
_OVERDUE = 5.0  # seconds that a method has to end when it was told that it takes too long, before the log says so


@dataclass(eq=False)
class Sweep:
    """Looks for what is due often while there is something to see, and at the time that it knows of. Any thread.

    Args:
        channels: whose requests they are, as they are now.
        begin: sends a request to the workers that was held back.
        end: ends a request by an exception.
    """

    registry: Registry
    persistence: Persistence
    window: Window
    statuses: Statuses
    channels: Iterable[Channel]
    begin: Callable[[Received], object]
    end: Callable[[Received, BaseException], object]

    def __post_init__(self) -> None:
        self._wakeup = threading.Event()
        self._asleep = False
        self._last = 0.0
        self._stopped = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def nudge(self, now: float) -> None:
        """Have it look soon: something has come."""
        self._last = now
        if self._asleep:
            self._wakeup.set()
        elif self._thread is None:
            self._start()

    def stop(self) -> None:
        """End the thread. May be repeated."""
        self._stopped = True
        self._wakeup.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="gofer-sweep", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            now = time.monotonic()
            due = self._see(now)
            if now - self._last < _LINGER:
                self._wakeup.wait(_INTERVAL)
            else:
                # First this, then one more look: what comes before that is seen, what comes after wakes it.
                self._asleep = True
                due = min(due, self._see(time.monotonic()))
                self._wakeup.wait(max(0.0, min(due - time.monotonic(), 3600.0)))
                self._asleep = False
            self._wakeup.clear()

    def _see(self, now: float) -> float:
        try:
            return self.look(now)
        except Exception:
            log.exception("looking for what is due failed")
            return now + _LINGER

    # -- in its thread ------------------------------------------------------------------------------------------------

    def look(self, now: float) -> float:
        """Do what is due: statuses, time limits, takeovers, latency, retries. Returns when to look again."""
        due = inf
        taken: list[Received] = []
        in_flight = self.registry.in_flight()
        crowded = self.persistence.is_crowded(in_flight, now)
        for request in in_flight:
            if crowded and request.keep_at < inf:
                request.keep_at = request.due = now
            if request.due <= now:
                self._look_at(request, now, taken)
            due = min(due, request.due)
        if taken:
            self.persistence.take_over(taken)
        for request in self.registry.overdue():
            if request.due <= now:
                request.due = inf
                text = "%s %s %s. It is still running. %s"
                log.warning(text, request.sn, request.channel.service.name, request.late, way_out(request))
            due = min(due, request.due)
        for channel in list(self.channels):
            due = min(due, channel.publisher.look(now), channel.asking.look(now), channel.admin.look(now))
            if channel.backlog.count:
                self.window.pull(channel)
            if in_flight or channel.backlog.count or channel.publisher.pending:
                due = min(due, now + _GLANCE)  # something may be due that was not when this has looked
        self.registry.tidy()
        return min(due, self.persistence.look(now))

    def _look_at(self, request: Received, now: float, taken: list[Received]) -> None:
        if request.tell_at <= now:
            request.tell_at = inf
            self.statuses.tell(request)
        if request.begin_at <= now:
            request.begin_at = inf
            self.begin(request)
        if request.keep_at <= now:
            request.keep_at = inf
            if request.state < ANSWERING:
                taken.append(request)
        if request.expires_at <= now:
            request.expires_at = inf
            self._expire(request)
        with self.registry.lock:
            due = min(request.tell_at, request.begin_at, request.keep_at, request.expires_at)
            request.due = now + _OVERDUE if request.overdue else due

    def _expire(self, request: Received) -> None:
        # In this process nothing can stop a method: it is told, and its caller is. One in a process of its own ends.
        if request.state >= ANSWERING:
            return
        stop = request.on_expire
        end = "it may still run" if stop is None else "its process is being ended"
        # First: a method that is told may return before its caller is.
        request.late = f"{request.target}() took longer than {request.limit:g} s; {end}"
        request.cancelled = True
        if stop is not None:
            stop()
        self.registry.expire(request)
        self.end(request, ExecutionTimeout(request.late))
