"""Cancelling requests: those that run, those that wait in memory or on the disk, and those that have not come yet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any

from gofer.errors import DocumentError, NotAuthorized
from gofer.messaging.document import shown
from gofer.rmi import criteria as conditions
from gofer.rmi.clock import Clock
from gofer.rmi.request import QUEUED, Received
from gofer.rmi.server.backlog import Backlogs, decode
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.lifecycle import Lifecycle, Pending
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.serial import SerialThread
from gofer.rmi.server.tombstones import Owner, Tombstones
from gofer.rmi.store import Database, Unavailable, requests

__all__ = ["Cancellation"]

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_PATIENCE = 1.0  # seconds that an answer waits for the disk
_CHUNK = 20  # rows read at a time
_UNSETTLED = 50  # answers that are being sent, of which more are not made
_PAUSE = 0.02  # seconds until there may be fewer of these
_MOST_CRITERIA = 20  # that wait to be asked of all requests


class Cancellation:
    """Cancels the requests of an agent, each plugin's on its own. Any thread; nothing here waits.

    A thread of this one's own looks at criteria, and at the disk: with thousands of requests that takes a while.
    ``owner`` says whose requests are meant; None: everybody's. A request that was cancelled stays so after a restart. A
    serial number that is not known is remembered for a day: its request is cancelled when it comes.

    Args:
        find: returns the channel of a plugin, by its name; None: it is not at its queue.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        store: Database,
        backlogs: Backlogs,
        lifecycle: Lifecycle,
        tombstones: Tombstones,
        clock: Clock,
        find: Callable[[str], Channel | None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._backlogs = backlogs
        self._lifecycle = lifecycle
        self._tombstones = tombstones
        self._clock = clock
        self._find = find
        self._thread = SerialThread("gofer-cancel")

    def stop(self) -> None:
        """Have the thread end when it has done what it was asked for."""
        self._thread.stop()

    def by_number(self, plugin: Any, sn: str, *, owner: Owner | None = None) -> Pending:
        """Cancel the request of a plugin with a serial number; that number comes later, in a list, if there is one.

        Raises:
            ValueError: this can be no request's serial number.
            NotAuthorized: it is that of another owner's request.
        """
        if not isinstance(sn, str) or _SN.fullmatch(sn) is None:
            raise ValueError(f"{shown(str(sn))} is not a serial number")
        answer = Pending()
        while True:
            request = self._registry.get(sn) or self._registry.get_overdue(sn)
            if request is not None:
                if request.plugin is not plugin:
                    self._answer(answer, [], written=False)
                elif owner is not None and request.identity != owner.identity and not request.overdue:
                    raise _not_yours(sn)
                else:
                    cancelled = self._cancel(request)
                    self._answer(answer, [sn] if cancelled else [], written=cancelled)
                return answer
            channel = self._find(plugin.name)
            if self._registry.has_ended(sn):
                self._answer(answer, [], written=False)
                return answer
            if channel is not None and channel.backlog.count:
                self._thread.put(partial(self._do, answer, partial(self._on_disk, answer, channel, sn, owner)))
                return answer
            self._tombstones.expect(plugin.name, sn, owner)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self._registry.get(sn) is None:
                self._answer(answer, [])
                return answer

    def by_criteria(
        self,
        plugin: Any,
        criteria: Mapping[str, Any],
        *,
        besides: str | None = None,
        owner: Owner | None = None,
        after: Pending | None = None,
    ) -> Pending:
        """Cancel the requests of a plugin whose data meet criteria, but the one with the number ``besides``.

        Their serial numbers come later: a list in the order in which the requests came, behind those that ``after``
        has. RuntimeError comes instead when those on the disk cannot be read; those in memory are cancelled all the
        same.

        Raises:
            InvalidOperator, ValueError: the criteria are none, or too much.
            RuntimeError: too many others wait to be asked.
        """
        conditions.check(criteria)
        if self._thread.waiting >= _MOST_CRITERIA:
            raise RuntimeError(f"{_MOST_CRITERIA} other criteria are being looked at; try again later")
        answer = Pending()

        def work() -> None:
            before = [] if after is None else after.result(2 * _PATIENCE)
            found = before + self._meeting(plugin, criteria, besides, owner)
            self._answer(answer, found, written=bool(found))

        self._thread.put(partial(self._do, answer, work))
        return answer

    # -- in the thread for this ----------------------------------------------------------------------------------------

    @staticmethod
    def _do(answer: Pending, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as failed:  # noqa: BLE001 - told to who waits for it
            answer.set_exception(failed)

    def _meeting(self, plugin: Any, criteria: Mapping[str, Any], besides: str | None, owner: Owner | None) -> list[str]:
        """Cancel what meets criteria; return the numbers."""
        # First those on the disk, and then those that wait: the end of one that runs would let the next of them start.
        channel = self._find(plugin.name)
        on_disk: list[str] = []
        failed: Unavailable | None = None
        try:
            if channel is not None and channel.backlog.count:
                on_disk = self._rows_meeting(channel, criteria, owner)
        except Unavailable as unreadable:
            failed = unreadable
        met = [
            request
            for request in dict.fromkeys((*self._registry.in_flight(), *self._registry.overdue()))
            if request.plugin is plugin and request.sn is not None and request.sn not in (besides, *on_disk)
            if owner is None or request.identity == owner.identity
            if conditions.matches(criteria, request.data)
        ]
        cancelled = {request.sn for request in met if request.state <= QUEUED and self._cancel(request)}
        cancelled |= {request.sn for request in met if request.sn not in cancelled and self._cancel(request)}
        if failed is not None:
            raise RuntimeError(f"{len(cancelled)} are cancelled; those in the ledger cannot be read: {failed}")
        return [request.key for request in met if request.sn in cancelled] + on_disk

    def _rows_meeting(self, channel: Channel, criteria: Mapping[str, Any], owner: Owner | None) -> list[str]:
        """Cancel the requests on the disk whose data meet criteria, as fast as they can be answered."""
        found: list[str] = []
        after = 0
        while True:
            rows = self._store.call(partial(requests.rows, channel.service.name, [requests.QUEUED], after, _CHUNK))
            if not rows:
                return found
            after = rows[-1].number
            for row in rows:
                mine = owner is None or row.identity == owner.identity
                if mine and _meets(criteria, row.body) and self._cancel_row(channel, row.sn):
                    found.append(row.sn)
            while channel.publisher.pending > _UNSETTLED:
                time.sleep(_PAUSE)

    def _on_disk(self, answer: Pending, channel: Channel, sn: str, owner: Owner | None) -> None:
        """Cancel a request that may be on the disk; when it is not, it is cancelled when it comes."""
        name = channel.service.name
        try:
            row = self._store.call(partial(requests.find, sn))
        except Unavailable:
            row = None
        waits = row is not None and row.state == requests.QUEUED and row.plugin == name
        if row is not None and waits and owner is not None and row.identity != owner.identity:
            raise _not_yours(sn)
        if self._cancel_row(channel, sn, pull=waits):
            self._answer(answer, [sn])
        else:
            self._tombstones.expect(name, sn, owner)
            self._answer(answer, [])

    def _cancel_row(self, channel: Channel, sn: str, *, pull: bool = True) -> bool:
        request = self._backlogs.pull_one(sn, channel) if pull else None
        request = request or self._registry.get(sn)  # it was pulled by another thread meanwhile
        return request is not None and self._cancel(request)

    # -- any thread ----------------------------------------------------------------------------------------------------

    def _cancel(self, request: Received) -> bool:
        if not self._lifecycle.cancel(request):
            return False
        if request.sn is not None:
            self._tombstones.write(request.plugin.name, request.sn)
        return True

    def _answer(self, answer: Pending, found: list[str], *, written: bool = True) -> None:
        """Tell what was cancelled when that is on the disk; or after a second, if that takes longer."""

        def end(*_: object) -> None:
            with suppress(InvalidStateError):  # told already
                answer.set_result(found)

        if written:
            self._store.post(lambda file: None, end)
            self._clock.call_after(_PATIENCE, end)
        else:
            end()


def _not_yours(sn: str) -> NotAuthorized:
    return NotAuthorized(f"request {sn} was not signed by you; [main] admin names who may cancel it")


def _meets(criteria: Mapping[str, Any], body: bytes) -> bool:
    try:
        return conditions.matches(criteria, decode(body).data)
    except DocumentError:
        return False
