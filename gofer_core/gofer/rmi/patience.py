"""What a broker holds for an agent, and when that takes too long."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from gofer.rmi.clock import Clock, Timer
from gofer.rmi.request import Received

__all__ = ["Held"]

_SWEEP = 0.25  # seconds between two looks at what takes long
_CROWD = 50  # requests held by the broker that are many


class Held:
    """The requests of an agent that have not ended, and which of them their broker holds. Any thread.

    Args:
        patience: seconds after which a request is due; at once, where many wait and will for longer than that: those
            behind them (Admin may be among these) need room.
        most: of more requests than this, none gets due.
        due: called with those that are, which count as held no more. It must not wait: none of them ends meanwhile.
    """

    def __init__(self, clock: Clock, patience: float, most: int, due: Callable[[list[Received]], None]) -> None:
        self._clock = clock
        self._patience = patience
        self._most = most
        self._due = due
        self._lock = threading.RLock()  # held while ``due`` is called: no request ends in between
        self._held: dict[Received, None] = {}  # the oldest first
        self._open: set[Received] = set()
        self._timer: Timer | None = None
        self._moved = 0.0  # when the last one ended, or the first of those that are open came
        self._pace = 0.0  # seconds from one end to the next, about

    def enter(self, request: Received) -> None:
        """Hear of a request that has come. One that was cancelled meanwhile has left already."""
        with self._lock:
            if request.has_ended:
                return
            if not self._open:
                self._moved = request.arrived
            self._open.add(request)

    def hold(self, request: Received) -> None:
        """Hear that its broker holds a request."""
        with self._lock:
            if request.has_ended:
                return
            self._held[request] = None
            wait = len(self._held) * max(self._pace, request.arrived - self._moved)
            crowded = len(self._held) >= _CROWD and wait > self._patience
            if self._timer is None:
                self._timer = self._clock.call_after(self._patience, self._sweep)
        if crowded:
            self._look(math.inf)

    def hold_on(self, request: Received) -> None:
        """Hear that its broker has to go on holding a request that was due. It is due again at the next look."""
        with self._lock:
            if not request.has_ended:
                self._held = {request: None, **self._held}  # first in the line
                if self._timer is None:
                    self._timer = self._clock.call_after(_SWEEP, self._sweep)

    def take(self, request: Received) -> None:
        """Hear that a request is held elsewhere."""
        with self._lock:
            self._held.pop(request, None)

    def leave(self, request: Received) -> None:
        """Hear that a request has ended."""
        with self._lock:
            self._held.pop(request, None)
            if request in self._open:
                self._open.remove(request)
                now = time.monotonic()
                self._pace += 0.2 * (now - self._moved - self._pace)
                self._moved = now

    def open(self) -> list[Received]:
        """Return the requests that have not ended, in no order."""
        with self._lock:
            return list(self._open)

    def _sweep(self) -> None:
        self._look(time.monotonic() - self._patience)
        with self._lock:
            self._timer = self._clock.call_after(_SWEEP, self._sweep) if self._held else None

    def _look(self, latest: float) -> None:
        due: list[Received] = []
        with self._lock:
            room = self._most - (len(self._open) - len(self._held))
            for request in self._held:
                if request.arrived > latest or len(due) >= room:
                    break
                due.append(request)
            for request in due:
                del self._held[request]
            if due:
                self._due(due)
