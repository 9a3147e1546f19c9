"""Cancelling requests: those that wait, those that run, and those that have not come yet."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gofer.errors import Cancelled, DocumentError
from gofer.messaging.document import shown
from gofer.rmi import criteria as told
from gofer.rmi import records
from gofer.rmi.book import Book
from gofer.rmi.clock import Clock
from gofer.rmi.later import Later
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.records import DAY
from gofer.rmi.request import ENDED, Received
from gofer.rmi.shedding import BARE, decode, restore

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Cancelling", "cancel"]

log = logging.getLogger(__name__)

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_PATIENCE = 1.0  # seconds that an answer waits for the disk
_CHUNK = 20  # requests whose data are read from the disk at a time
_PENDING = 50  # answers on their way, of which more are not made
_PAUSE = 0.02  # seconds until there may be fewer of these


class Cancelling:
    """Cancels the requests of an agent, each plugin's on its own. Any thread; nothing here waits, but for ``restore``.

    What was cancelled is cancelled after a restart of the agent too, if there is a ledger.

    A serial number that is not known is remembered for ``max_age`` seconds, at most ``max_entries`` of them (the oldest
    go first): its request is cancelled when it comes.
    """

    def __init__(
        self,
        book: Book,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        *,
        max_entries: int = 10_000,
        max_age: float = DAY,
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._clock = clock
        self._max_entries = max_entries
        self._max_age = max_age
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, str], float] = {}

    def by_number(self, plugin: Any, sn: str) -> Later:
        """Cancel the request of a plugin with a serial number; that number comes later, in a list, if there is one.

        Raises:
            ValueError: this can be no request's serial number.
        """
        if not isinstance(sn, str) or _SN.fullmatch(sn) is None:
            raise ValueError(f"{shown(str(sn))} is not a serial number")
        while True:
            request = self._book.get(sn)
            if request is not None:
                return self._kept([sn] if request.plugin is plugin and self._cancel(request) else [])
            overdue = self._book.get_overdue(sn)
            if overdue is not None:
                return self._kept([sn] if overdue.plugin is plugin and overdue.cancel() else [])
            if self._book.has_ended(sn):
                return self._kept([])
            self._expect(plugin.name, sn)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self._book.get(sn) is None:
                return self._kept([], remembered=True)

    def by_criteria(self, plugin: Any, criteria: Mapping[str, Any], *, besides: str | None = None) -> Later:
        """Cancel the requests of a plugin whose data meet criteria, but the one with the number ``besides``.

        Their serial numbers come later: a list in the order in which the requests came. RuntimeError comes instead when
        the data of some stand in a ledger that cannot be read; those in memory are cancelled all the same.

        Raises:
            InvalidOperator, ValueError: the criteria are none.
        """
        told.check(criteria)
        found: dict[str, bool] = {}
        meant: list[Received] = []
        absent: list[Received] = []
        for request in (*self._book.working(), *self._book.overdue()):
            if request.plugin is not plugin or request.sn is None or request.sn == besides:
                continue
            shed, data = request.shed, request.data
            if BARE in (shed, request.shed):  # data may come and go meanwhile
                absent.append(request)
                found[request.sn] = False
            elif told.matches(criteria, data):
                found[request.sn] = False
                meant.append(request)
        # Those that wait come first: the end of one that runs would let the next of them start.
        running = [request for request in meant if request.has_started]
        for request in meant:
            if request not in running:
                found[request.key] = self._cancel(request)

        def end() -> Later:
            for request in running:
                found[request.key] = self._cancel(request)
            return self._kept([sn for sn, cancelled in found.items() if cancelled])

        if not absent or self._ledger is None:
            return end()
        later = Later()
        self._read(absent, criteria, found, later, end)
        return later

    def restore(self, name: str) -> None:
        """Read from the ledger what was cancelled of a plugin before this process began. Waits for the disk."""
        if self._ledger is None or not self._ledger.exists():
            return
        try:
            found = self._ledger.call(records.buried(name))
        except Unavailable as failed:
            log.error("plugin %s: what was cancelled before cannot be read: %s", name, failed)
            return
        for sn, left in found:
            self._remember(name, sn, left)

    def awaits(self, plugin: Any, sn: str | None) -> bool:
        """Tell whether a request that has just come was cancelled before."""
        if sn is None or not self._expected:
            return False
        with self._lock:
            until = self._expected.get((plugin.name, sn))
        return until is not None and until > time.monotonic()

    def _read(
        self,
        absent: list[Received],
        criteria: Mapping[str, Any],
        found: dict[str, bool],
        later: Later,
        end: Callable[[], Later],
    ) -> None:
        """Go on with requests whose data stand in the ledger, a few at a time, as fast as they can be answered."""
        receiver = absent[0].receiver
        if receiver.outgoing.pending > _PENDING:
            receiver.clock.call_after(_PAUSE, lambda: self._read(absent, criteria, found, later, end))
            return
        chunk, rest = absent[:_CHUNK], absent[_CHUNK:]

        def work(file: sqlite3.Connection) -> list[tuple[Received, bytes]]:
            bodies = [(request, records.load(request.key)(file)) for request in chunk]
            return [(one, body) for one, body in bodies if body and _meets(criteria, body)]

        def done(meant: list[tuple[Received, bytes]] | None, failed: Unavailable | None) -> None:
            if failed is not None:
                end()
                text = (
                    f"{sum(found.values())} are cancelled; the data of {len(absent)} more stand on the disk: {failed}"
                )
                later.end(None, RuntimeError(text))
                return
            for request, body in meant or ():
                if request.shed == BARE and not request.has_started:
                    restore(request, body)
                found[request.key] = self._cancel(request)
            if rest:
                self._read(rest, criteria, found, later, end)
            else:
                end().then(later.end)

        assert self._ledger is not None  # noqa: S101 - asked before
        self._ledger.post(work, done)

    def _kept(self, found: list[str], *, remembered: bool = False) -> Later:
        """Tell what was cancelled when that is on the disk; or after a second, if that takes longer."""
        later = Later()
        if self._ledger is None or not (found or remembered):
            later.end(found)
        else:
            timer = None if self._clock is None else self._clock.call_after(_PATIENCE, lambda: later.end(found))

            def done(_: object, failed: Unavailable | None) -> None:
                if timer is not None:
                    timer.cancel()
                later.end(found)

            self._ledger.post(lambda file: None, done)
        return later

    def _cancel(self, request: Received) -> bool:
        if not cancel(request):
            return False
        if self._ledger is not None and request.sn is not None:
            self._ledger.post(records.bury(request.plugin.name, request.sn), kept=True)
        return True

    def _expect(self, name: str, sn: str) -> None:
        self._remember(name, sn, self._max_age)
        if self._ledger is not None:
            self._ledger.post(records.bury(name, sn), kept=True)

    def _remember(self, name: str, sn: str, seconds: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._expected.pop((name, sn), None)
            self._expected[name, sn] = now + seconds
            while len(self._expected) > self._max_entries or next(iter(self._expected.values())) <= now:
                del self._expected[next(iter(self._expected))]


def cancel(request: Received) -> bool:
    """Cancel one request; tell whether there was something to cancel.

    One that has not started is ended here, and never starts. One that runs is told; it ends when its method does.
    """
    if request.overdue:
        return request.cancel()
    if request.state == ENDED:
        return False
    if request.start():
        request.cancelled.set()
        receiver = request.receiver
        end = Cancelled("cancelled before it was started")
        receiver.custody.recall(request, lambda: receiver.execution.fail(request, end))
        return True
    return request.cancel()


def _meets(criteria: Mapping[str, Any], body: bytes) -> bool:
    try:
        return told.matches(criteria, decode(body).data)
    except DocumentError:
        return False
