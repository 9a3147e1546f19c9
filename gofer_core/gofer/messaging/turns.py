"""The turns in which a link is driven: wait, read, hand out; and what an event loop has to know to take them."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

from gofer.messaging.adapter.base import Adapter
from gofer.messaging.carrier import Carrier
from gofer.messaging.doorbell import Doorbell
from gofer.messaging.errands import Errands

__all__ = ["Turns"]


class Turns:
    """Takes the turns of one link. Only whoever pumps is in here."""

    def __init__(self, carrier: Carrier, errands: Errands) -> None:
        self._carrier = carrier
        self._errands = errands

    @property
    def bell(self) -> Doorbell:
        """What rings when the link has something to do."""
        return self._carrier.bell

    def on_down(self, callback: Callable[[], None]) -> None:
        """Have something done when a connection is given up, before its descriptor is closed. Any thread calls it."""
        self._carrier.on_down = callback

    def fileno(self) -> int:
        """Return the connection's descriptor; -1 when there is none, or when it is not to be looked at now."""
        adapter = self._carrier.adapter
        return -1 if adapter is None or self._carrier.away else adapter.fileno()

    @property
    def busy(self) -> bool:
        """Whether the next turn has something to do without waiting."""
        carrier = self._carrier
        if carrier.todo or carrier.away:
            return bool(carrier.todo)
        return bool(carrier.queue) or (carrier.adapter is not None and carrier.adapter.pending)

    @property
    def due(self) -> float:
        """When the next turn is due, if nothing is read and nobody rings before (``time.monotonic()``)."""
        carrier = self._carrier
        if carrier.away:
            return math.inf
        if carrier.adapter is None:
            return self._errands.due
        return min(carrier.tick_at, self._errands.due, carrier.flush_at or math.inf)

    @property
    def writing(self) -> bool:
        """Whether output waits for the socket to take it."""
        adapter = self._carrier.adapter
        return adapter is not None and adapter.unwritten > 0 and self._carrier.flush_at <= monotonic()

    def take(self, timeout: float) -> None:
        """Take one turn of at most so many seconds: handle what was read, or wait and read. Only the pumper."""
        carrier = self._carrier
        if carrier.queue:
            carrier.drain()
        if carrier.todo:
            carrier.handle()
            return
        if carrier.away:
            carrier.bell.wait_alone(timeout)
            return
        now, due = monotonic(), self._errands.due
        if now >= due:
            self._errands.begin()
        elif (adapter := carrier.adapter) is None:
            carrier.bell.wait_alone(min(timeout, due - now))
        else:
            self._wait_and_read(adapter, now, min(timeout, due - now))
            carrier.handle()

    def _wait_and_read(self, adapter: Adapter, now: float, timeout: float) -> None:
        carrier = self._carrier
        with carrier.lock:
            if adapter is not carrier.adapter or carrier.away:
                return
            until = min(now + timeout, carrier.tick_at)
            writing = bool(adapter.unwritten)
            if writing and carrier.flush_at > now:
                until, writing = min(until, carrier.flush_at), False
            elif writing:
                carrier.steady(adapter, lambda: carrier.flush(adapter))
                writing = bool(adapter.unwritten)
            else:
                carrier.flush_at = 0.0  # an errand has written it all: there is nothing left to be due
            pending = adapter.pending
        if not pending:
            carrier.bell.wait(until - now, writing=writing)
        with carrier.lock:
            if adapter is carrier.adapter and not carrier.away:
                carrier.steady(adapter, lambda: carrier.read(adapter))
