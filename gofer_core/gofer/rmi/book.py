"""What an agent remembers of serial numbers, so that no request is run a second time."""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from typing import NamedTuple

from gofer.rmi.request import DONE, ENDED, Received

__all__ = ["Arrival", "Book", "Known"]

_CLOCK_START = time.monotonic()


class Known(enum.Enum):
    """What a request that arrives is to its agent."""

    NEW = "new"
    ADOPTED = "adopted"  # it is queued, running or being answered: the new delivery stands for it from now on
    ANSWERED = "answered"  # it has ended; its result is at hand
    CONFLICT = "conflict"  # another request has this serial number


class Arrival(NamedTuple):
    """The answer of :meth:`Book.arrive`. ``result`` is set for ANSWERED, ``previous`` for ADOPTED."""

    known: Known
    result: bytes | None = None
    previous: Received | None = None


class Book:
    """The requests of one agent by serial number, those in work and the last that have ended. Any thread.

    An ended one is remembered with its result for ``max_age`` seconds, but no more than ``max_entries`` and
    ``max_bytes`` of them; the oldest go first. A request without a serial number is never recognised.
    """

    def __init__(self, *, max_entries: int = 10_000, max_bytes: int = 16 * 1024 * 1024, max_age: float = 600.0) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.Lock()
        self._working: dict[str, Received] = {}
        self._overdue: dict[str, Received] = {}
        # Thousands of these stay in memory, so each is one bytes object (when, digest, result) under the hash of its
        # number: a fifth of what objects with attributes take. Hashes are salted: nobody outside can make two collide.
        self._ended: dict[int, bytes] = {}
        self._order: deque[int] = deque()
        self._bytes = 0

    def arrive(self, request: Received) -> Arrival:
        """Note a request that was delivered, and tell what it is.

        ADOPTED: the delivery and receiver of ``request`` have been put into the one known, and ``previous`` holds those
        that it had until now, to be settled by the caller. ``asked_again`` of the one known is true when its result is
        to be sent once more, for it was published again after its end.
        """
        published = request.document.again or request.delivery.redelivered is False
        with self._lock:
            known = self._working.get(request.key)
            if known is not None:
                if known.digest != request.digest:
                    return Arrival(Known.CONFLICT)
                known.delivery, request.delivery = request.delivery, known.delivery
                known.receiver, request.receiver = request.receiver, known.receiver
                # Its caller asks again, and the result that is on its way may go where nobody is any more.
                known.asked_again = known.asked_again or (known.state == ENDED and published)
                return Arrival(Known.ADOPTED, previous=request)
            ended = self._lookup(request)
            if ended is not None:
                if ended[4:20] != request.digest:
                    return Arrival(Known.CONFLICT)
                return Arrival(Known.ANSWERED, result=ended[20:])
            self._working[request.key] = request
            return Arrival(Known.NEW)

    def forget(self, request: Received) -> None:
        """Drop a request in work: it was refused, or given back to its broker."""
        with self._lock:
            if self._working.get(request.key) is request:
                del self._working[request.key]

    def end(self, request: Received, result: bytes | None) -> None:
        """Turn a request in work into an ended one. ``result`` is its encoded result; None: it is only forgotten.

        From now on the delivery of ``request`` does not change any more.
        """
        with self._lock:
            request.state = DONE
            if self._working.get(request.key) is request:
                del self._working[request.key]
            if result is None or request.sn is None:
                return
            key = hash(request.sn)
            if key in self._ended:
                return
            entry = int(time.monotonic() - _CLOCK_START).to_bytes(4, "big") + request.digest + result
            self._ended[key] = entry
            self._order.append(key)
            self._bytes += len(entry)
            self._shrink()

    def unlearn(self, sn: str) -> None:
        """Forget how a request has ended: it shall run again."""
        with self._lock:
            entry = self._ended.pop(hash(sn), None)
            if entry is not None:
                self._order.remove(hash(sn))
                self._bytes -= len(entry)

    def expired(self, request: Received) -> bool:
        """Note one whose method takes too long; False: that has just returned."""
        with self._lock:
            request.overdue = not request.returned
            if request.overdue:
                self._overdue[request.key] = request
            return request.overdue

    def returned(self, request: Received) -> None:
        """Hear that the method of a request has ended."""
        with self._lock:
            request.returned = True
            request.overdue = False
            self._overdue.pop(request.key, None)

    def overdue(self) -> list[Received]:
        """Return the requests whose callers have been answered, and whose methods go on for longer than they may."""
        with self._lock:
            return list(self._overdue.values())

    def get_overdue(self, sn: str) -> Received | None:
        """Return the overdue request with that serial number, if there is one."""
        return self._overdue.get(sn)

    def get(self, sn: str) -> Received | None:
        """Return the request with that serial number that is queued, running or being answered, if there is one."""
        return self._working.get(sn)

    def has_ended(self, sn: str) -> bool:
        """Tell whether the request with that serial number has ended, and is remembered."""
        return hash(sn) in self._ended

    def working(self) -> list[Received]:
        """Return the requests that are queued, running or being answered."""
        with self._lock:
            return list(self._working.values())

    def __len__(self) -> int:
        """Return how many ended requests are remembered."""
        return len(self._ended)

    def _lookup(self, request: Received) -> bytes | None:
        if request.sn is None:
            return None
        self._shrink()
        return self._ended.get(hash(request.sn))

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
