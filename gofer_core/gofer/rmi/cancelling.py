"""Cancelling requests: those that wait, those that run, and those that have not come yet."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gofer.errors import Cancelled, DocumentError, NotAuthorized
from gofer.limit import LimitedLog
from gofer.messaging.document import shown
from gofer.rmi import criteria as told
from gofer.rmi import records
from gofer.rmi.book import Book
from gofer.rmi.clock import Clock
from gofer.rmi.lane import Lane
from gofer.rmi.later import Later
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.records import DAY
from gofer.rmi.request import ENDED, Received
from gofer.rmi.shedding import BARE, decode, restore

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Cancelling", "Owner", "cancel"]

log = logging.getLogger(__name__)

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_PATIENCE = 1.0  # seconds that an answer waits for the disk
_CHUNK = 20  # requests whose data are read from the disk at a time
_PENDING = 50  # answers on their way, of which more are not made
_PAUSE = 0.02  # seconds until there may be fewer of these
_MOST_CRITERIA = 20  # that wait to be asked of all requests
_TRIM = 1000  # cancellations written down between two looks at how many there are


class Owner(NamedTuple):
    """Whose requests may be cancelled: those that this identity has signed."""

    identity: str | None


class Cancelling:
    """Cancels the requests of an agent, each plugin's on its own. Any thread; nothing here waits, but for ``restore``.

    Criteria are asked of all requests by a thread of this one's own: with thousands of requests that takes a while.
    ``owner`` says whose requests are meant; None: everybody's.

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
        self._expected: dict[tuple[str, str, Owner | None], float] = {}
        self._complain = LimitedLog(log)
        self._written = 0
        self._lane = None if clock is None else Lane("gofer-cancel", clock)
        if ledger is not None:
            ledger.lost.append(self._rewrite)

    def stop(self) -> None:
        """Have the thread end when it has done what it was asked for."""
        if self._lane is not None:
            self._lane.stop()

    def by_number(self, plugin: Any, sn: str, *, owner: Owner | None = None) -> Later:
        """Cancel the request of a plugin with a serial number; that number comes later, in a list, if there is one.

        Raises:
            ValueError: this can be no request's serial number.
            NotAuthorized: it is that of another owner's request.
        """
        if not isinstance(sn, str) or _SN.fullmatch(sn) is None:
            raise ValueError(f"{shown(str(sn))} is not a serial number")
        while True:
            request = self._book.get(sn)
            if request is not None:
                if request.plugin is plugin and owner is not None and request.identity != owner.identity:
                    raise NotAuthorized(f"request {sn} was not signed by you; [main] admin names who may cancel it")
                return self._kept([sn] if request.plugin is plugin and self._cancel(request) else [])
            overdue = self._book.get_overdue(sn)
            if overdue is not None:
                return self._kept([sn] if overdue.plugin is plugin and overdue.cancel() else [])
            if self._book.has_ended(sn):
                return self._kept([])
            self._expect(plugin.name, sn, owner)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self._book.get(sn) is None:
                return self._kept([], remembered=True)

    def by_criteria(
        self, plugin: Any, criteria: Mapping[str, Any], *, besides: str | None = None, owner: Owner | None = None
    ) -> Later:
        """Cancel the requests of a plugin whose data meet criteria, but the one with the number ``besides``.

        Their serial numbers come later: a list in the order in which the requests came. RuntimeError comes instead when
        the data of some stand in a ledger that cannot be read; those in memory are cancelled all the same.

        Raises:
            InvalidOperator, ValueError: the criteria are none, or too much.
            RuntimeError: too many others wait to be asked.
        """
        told.check(criteria)
        later = Later()

        def work() -> None:
            try:
                self._by_criteria(plugin, criteria, besides, owner, later)
            except Exception as failed:  # noqa: BLE001 - told to who waits for it
                later.end(None, failed)

        if self._lane is None:
            work()
        elif self._lane.waiting >= _MOST_CRITERIA:
            raise RuntimeError(f"{_MOST_CRITERIA} other criteria are being looked at; try again later")
        else:
            self._lane.put(work)
        return later

    def _by_criteria(
        self, plugin: Any, criteria: Mapping[str, Any], besides: str | None, owner: Owner | None, later: Later
    ) -> None:
        found: dict[str, bool] = {}
        meant: list[Received] = []
        absent: list[Received] = []
        for request in (*self._book.working(), *self._book.overdue()):
            if request.plugin is not plugin or request.sn is None or request.sn == besides:
                continue
            if owner is not None and request.identity != owner.identity:
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
            end().then(later.end)
        else:
            self._read(absent, criteria, found, later, end)

    def restore(self, name: str) -> None:
        """Read from the ledger what was cancelled of a plugin before this process began. Waits for the disk.

        Raises:
            Unavailable: it cannot be read now; until it is, no request of the plugin may be taken.
        """
        if self._ledger is None or not self._ledger.exists():
            return
        found = self._ledger.call(records.buried(name))
        for key, left in found:
            sn, signed, identity = key.partition("\n")
            self._remember(name, sn, Owner(identity or None) if signed else None, left)

    def awaits(self, plugin: Any, sn: str | None, identity: str | None = None) -> bool:
        """Tell whether a request that has just come was cancelled before, by whoever may cancel it."""
        if sn is None or not self._expected:
            return False
        with self._lock:
            found = [self._expected.get((plugin.name, sn, owner)) for owner in (None, Owner(identity))]
        now = time.monotonic()
        return any(until is not None and until > now for until in found)

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

        def work(file: sqlite3.Connection) -> list[tuple[Received, bytes | None]]:
            return [(request, records.load(request.key)(file)) for request in chunk]

        def done(bodies: list[tuple[Received, bytes | None]] | None, failed: Unavailable | None) -> None:
            if self._lane is None:
                go_on(bodies, failed)
            else:
                self._lane.put(lambda: go_on(bodies, failed))  # the ledger's thread has other things to do

        def go_on(bodies: list[tuple[Received, bytes | None]] | None, failed: Unavailable | None) -> None:
            if failed is not None:
                end()
                text = (
                    f"{sum(found.values())} are cancelled; the data of {len(absent)} more stand on the disk: {failed}"
                )
                later.end(None, RuntimeError(text))
                return
            for request, body in bodies or ():
                if not body or not _meets(criteria, body):
                    continue
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
            self._bury(request.plugin.name, request.sn)
        return True

    def _expect(self, name: str, sn: str, owner: Owner | None) -> None:
        self._remember(name, sn, owner, self._max_age)
        self._bury(name, sn if owner is None else f"{sn}\n{owner.identity or ''}")

    def _bury(self, name: str, key: str) -> None:
        if self._ledger is None:
            return
        self._ledger.post(records.bury(name, key), kept=True)
        self._written += 1
        if self._written >= _TRIM:
            self._written = 0
            self._ledger.post(records.trim(2 * self._max_entries))

    def _rewrite(self) -> None:
        """Write down again what is known of a file that was corrupt."""
        with self._lock:
            expected = list(self._expected)
        for name, sn, owner in expected:
            self._bury(name, sn if owner is None else f"{sn}\n{owner.identity or ''}")

    def _remember(self, name: str, sn: str, owner: Owner | None, seconds: float) -> None:
        with self._lock:
            now = time.monotonic()
            self._expected.pop((name, sn, owner), None)
            self._expected[name, sn, owner] = now + seconds
            while next(iter(self._expected.values())) <= now:
                del self._expected[next(iter(self._expected))]
            if len(self._expected) > self._max_entries:
                self._drop_oldest_of_most()

    def _drop_oldest_of_most(self) -> None:
        """Drop a cancellation of the one who has sent most of them: nobody can push out those of others."""
        counts = Counter((name, owner) for name, _, owner in self._expected)
        most = counts.most_common(1)[0][0]
        oldest = next(key for key in self._expected if (key[0], key[2]) == most)
        del self._expected[oldest]
        text = "plugin %s: too many cancellations of requests that have not come; the one of %s by %s is forgotten"
        self._complain(logging.WARNING, text, oldest[0], shown(oldest[1]), shown(str(most[1] and most[1].identity)))


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
