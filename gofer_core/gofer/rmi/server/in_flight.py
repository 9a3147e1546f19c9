"""The requests in flight, by serial number, and the last that have ended: so that no request is run a second time."""

from __future__ import annotations

import threading
import time
from collections import deque
from math import inf

from gofer.rmi.request import ANSWERING, BROKER, ENDED, QUEUED, RECEIVED, RUNNING, WRITING, Received

__all__ = ["Registry"]

_CLOCK_START = time.monotonic()


class Registry:
    """All states of all requests of one agent change here, under one lock. Any thread; nothing waits.

    An ended request is remembered with its result for ``max_age`` seconds, but no more than ``max_entries`` and
    ``max_bytes`` of them; the oldest go first. A request without a serial number is never recognised.
    """

    def __init__(self, *, max_entries: int = 10_000, max_bytes: int = 16 * 1024 * 1024, max_age: float = 600.0) -> None:
        self.lock = threading.Lock()
        #: When a request ended last, by time.monotonic().
        self.ended_at = 0.0
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._in_flight: dict[str, Received] = {}  # in the order of their arrival
        self._overdue: dict[str, Received] = {}
        # Thousands of these stay in memory, so each is one bytes object (when, digest, result) under the hash of its
        # number: a fifth of what objects with attributes take. Hashes are salted: nobody outside can make two collide.
        self._ended: dict[int, bytes] = {}
        self._order: deque[int] = deque()
        self._bytes = 0

    def arrive(self, request: Received) -> Received | bytes | None:
        """Enter a request that was delivered, and tell what it is.

        Returns:
            The request itself: it is new. The known one: it is in flight, and the new delivery stands for it from now
            on. The delivery and the channel of ``request`` have been put into the one known, and ``request`` holds
            those that it had until now, to be settled by the caller. ``asked_again`` of the one known is true when its
            result is to be sent once more: it was published again after its end. Bytes: it has ended, and this is its
            result. None: another request has this serial number.
        """
        with self.lock:
            known = self._in_flight.get(request.key)
            if known is not None:
                if known.digest != request.digest:
                    return None
                published = request.document.again or request.delivery.redelivered is False
                known.delivery, request.delivery = request.delivery, known.delivery
                known.channel, request.channel = request.channel, known.channel
                # The result that is on its way may go to a queue that is gone.
                known.asked_again = known.asked_again or (known.state == ANSWERING and published)
                return known
            if request.sn is not None and hash(request.sn) in self._ended:
                self._shrink()
                ended = self._ended.get(hash(request.sn))
                if ended is not None:  # it is young enough
                    return ended[20:] if ended[4:20] == request.digest else None
            self._in_flight[request.key] = request
            return request

    def add(self, request: Received) -> bool:
        """Enter a request that came from the store; False: it is in flight already."""
        with self.lock:
            return self._in_flight.setdefault(request.key, request) is request

    # -- states --------------------------------------------------------------------------------------------------------

    def queue(self, request: Received) -> bool:
        """Note that a request waits for a worker; False: it was cancelled before."""
        with self.lock:
            if request.state == RECEIVED:
                request.state = QUEUED
            return request.state == QUEUED

    def start(self, request: Received) -> bool:
        """Note that a request runs; False: it was cancelled, or went back to the disk, while it waited."""
        with self.lock:
            if request.state > QUEUED:
                return False
            request.state = RUNNING
            return True

    def write(self, request: Received) -> bool:
        """Note that a request is being written to the store; False: it has its result, or is written already.

        What ends while nobody writes it must not be written afterwards: it would run again after a restart.
        """
        with self.lock:
            if request.kept != BROKER or request.state >= ANSWERING:
                return False
            request.kept = WRITING
            request.keep_at = inf
            return True

    def answer(self, request: Received, *, waiting: bool = False) -> bool:
        """Note that a request has its result; False: it has one already.

        Args:
            waiting: only if it has not started.
        """
        with self.lock:
            if request.state > (QUEUED if waiting else RUNNING):
                return False
            request.state = ANSWERING
            return True

    def end(self, request: Received, result: bytes | None) -> None:
        """Remember how a request has ended. ``result`` is its encoded result; None: it is only forgotten.

        From now on the delivery of ``request`` does not change any more.
        """
        digest = request.digest if result is not None and request.sn is not None else b""
        with self.lock:
            request.state = ENDED
            now = self.ended_at = time.monotonic()
            if self._in_flight.get(request.key) is request:
                del self._in_flight[request.key]
            if result is None or request.sn is None or hash(request.sn) in self._ended:
                return
            entry = int(now - _CLOCK_START).to_bytes(4, "big") + digest + result
            self._ended[hash(request.sn)] = entry
            self._order.append(hash(request.sn))
            self._bytes += len(entry)
            if len(self._order) > self._max_entries or self._bytes > self._max_bytes:
                self._shrink()

    def forget(self, request: Received, *, waiting: bool = False) -> bool:
        """Drop a request in flight: it was rejected, released, or is on the disk alone. Tell whether it was dropped.

        Args:
            waiting: only if it has not started.
        """
        with self.lock:
            if waiting and request.state > QUEUED:
                return False
            request.state = ENDED
            if self._in_flight.get(request.key) is request:
                del self._in_flight[request.key]
            return True

    def unlearn(self, sn: str) -> None:
        """Forget how a request has ended: it shall run again."""
        with self.lock:
            entry = self._ended.pop(hash(sn), None)
            if entry is not None:
                self._order.remove(hash(sn))
                self._bytes -= len(entry)

    def expire(self, request: Received) -> bool:
        """Note that the method of a request takes too long; False: it has just returned."""
        with self.lock:
            request.overdue = not request.returned
            if request.overdue:
                self._overdue[request.key] = request
            return request.overdue

    def returned(self, request: Received) -> None:
        """Note that the method of a request has ended."""
        with self.lock:
            request.returned = True
            request.overdue = False
            self._overdue.pop(request.key, None)

    def tidy(self) -> None:
        """Forget the ended requests that are too old."""
        if self._ended:
            with self.lock:
                self._shrink()

    # -- looking -------------------------------------------------------------------------------------------------------

    def in_flight(self) -> list[Received]:
        """Return the requests in flight, the oldest first."""
        return list(self._in_flight.values())

    def overdue(self) -> list[Received]:
        """Return the requests whose callers have been answered, and whose methods go on for longer than they may."""
        return list(self._overdue.values())

    def get(self, sn: str) -> Received | None:
        """Return the request in flight with that serial number, if there is one."""
        return self._in_flight.get(sn)

    def get_overdue(self, sn: str) -> Received | None:
        """Return the overdue request with that serial number, if there is one."""
        return self._overdue.get(sn)

    def has_ended(self, sn: str) -> bool:
        """Tell whether the request with that serial number has ended, and is remembered."""
        return hash(sn) in self._ended

    def __len__(self) -> int:
        """Return how many ended requests are remembered."""
        return len(self._ended)

    def _shrink(self) -> None:
        oldest = time.monotonic() - _CLOCK_START - self._max_age
        while self._order:
            entry = self._ended[self._order[0]]
            if (
                len(self._order) <= self._max_entries
                and self._bytes <= self._max_bytes
                and int.from_bytes(entry[:4], "big") >= oldest - 1
            ):
                return
            del self._ended[self._order.popleft()]
            self._bytes -= len(entry)
