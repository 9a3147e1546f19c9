"""Cancelling requests: those that wait, those that run, and those that have not come yet."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from gofer.errors import Cancelled
from gofer.messaging.document import shown
from gofer.rmi import criteria as told
from gofer.rmi import records
from gofer.rmi.book import Book
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.records import DAY
from gofer.rmi.request import ENDED, Received

__all__ = ["Cancelling", "cancel"]

log = logging.getLogger(__name__)

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")


class Cancelling:
    """Cancels the requests of an agent, each plugin's on its own. Any thread; nothing here waits.

    What was cancelled is cancelled after a restart of the agent too, if there is a ledger.

    A serial number that is not known is remembered for ``max_age`` seconds, at most ``max_entries`` of them (the oldest
    go first): its request is cancelled when it comes.
    """

    def __init__(
        self, book: Book, ledger: Ledger | None = None, *, max_entries: int = 10_000, max_age: float = DAY
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._max_entries = max_entries
        self._max_age = max_age
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, str], float] = {}

    def by_number(self, plugin: Any, sn: str) -> list[str]:
        """Cancel the request of a plugin with a serial number; return that number if there is such a one.

        Raises:
            ValueError: this can be no request's serial number.
        """
        if not isinstance(sn, str) or _SN.fullmatch(sn) is None:
            raise ValueError(f"{shown(str(sn))} is not a serial number")
        while True:
            request = self._book.get(sn)
            if request is not None:
                return [sn] if request.plugin is plugin and self._cancel(request) else []
            if self._book.has_ended(sn):
                return []
            self._expect(plugin.name, sn)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self._book.get(sn) is None:
                return []

    def by_criteria(self, plugin: Any, criteria: Mapping[str, Any], *, besides: str | None = None) -> list[str]:
        """Cancel the requests of a plugin whose data meet criteria, but the one with the number ``besides``.

        Returns:
            Their serial numbers, in the order in which they came.

        Raises:
            InvalidOperator, ValueError: the criteria are none.
        """
        told.check(criteria)
        return [
            request.sn
            for request in self._book.working()
            if request.plugin is plugin
            and request.sn is not None
            and request.sn != besides
            and told.matches(criteria, request.data)
            and self._cancel(request)
        ]

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

    def _cancel(self, request: Received) -> bool:
        if not cancel(request):
            return False
        if self._ledger is not None and request.sn is not None:
            self._ledger.post(records.bury(request.plugin.name, request.sn), kept=True)
        return True

    def awaits(self, plugin: Any, sn: str | None) -> bool:
        """Tell whether a request that has just come was cancelled before."""
        if sn is None or not self._expected:
            return False
        with self._lock:
            until = self._expected.get((plugin.name, sn))
        return until is not None and until > time.monotonic()

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
    if request.state == ENDED:
        return False
    if request.start():
        request.cancelled.set()
        request.receiver.execution.fail(request, Cancelled("cancelled before it was started"))
        return True
    return request.cancel()
