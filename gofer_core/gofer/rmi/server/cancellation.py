"""Cancelling requests: those that run, those that wait in memory or on the disk, and those that have not come yet."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gofer.errors import DocumentError, NotAuthorized
from gofer.messaging.document import shown
from gofer.rmi import criteria as conditions
from gofer.rmi.clock import Clock
from gofer.rmi.request import QUEUED, Received
from gofer.rmi.server.answering import Answering
from gofer.rmi.server.backlog import Backlogs, decode
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.execution import Pending
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.serial import SerialThread
from gofer.rmi.server.tombstones import Owner, Tombstones
from gofer.rmi.store import Database, Unavailable, requests

__all__ = ["Cancellation", "joined"]

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
        answering: Answering,
        tombstones: Tombstones,
        clock: Clock,
        find: Callable[[str], Channel | None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._backlogs = backlogs
        self._answering = answering
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
        while True:
            request = self._registry.get(sn) or self._registry.get_overdue(sn)
            if request is not None:
                mine = request.plugin is plugin
                if mine and owner is not None and request.identity != owner.identity and not request.overdue:
                    raise NotAuthorized(f"request {sn} was not signed by you; [main] admin names who may cancel it")
                return self._written([sn] if mine and self._cancel(request) else [])
            if self._registry.has_ended(sn):
                return self._written([])
            channel = self._find(plugin.name)
            if channel is not None and channel.backlog.count:
                return self._of_row(channel, sn, owner)
            self._tombstones.expect(plugin.name, sn, owner)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self._registry.get(sn) is None:
                return self._written([], remembered=True)

    def by_criteria(
        self, plugin: Any, criteria: Mapping[str, Any], *, besides: str | None = None, owner: Owner | None = None
    ) -> Pending:
        """Cancel the requests of a plugin whose data meet criteria, but the one with the number ``besides``.

        Their serial numbers come later: a list in the order in which the requests came. RuntimeError comes instead when
        those on the disk cannot be read; those in memory are cancelled all the same.

        Raises:
            InvalidOperator, ValueError: the criteria are none, or too much.
            RuntimeError: too many others wait to be asked.
        """
        conditions.check(criteria)
        if self._thread.waiting >= _MOST_CRITERIA:
            raise RuntimeError(f"{_MOST_CRITERIA} other criteria are being looked at; try again later")
        return self._on_thread(lambda: self._by_criteria(plugin, criteria, besides, owner))

    def _on_thread(self, work: Callable[[], Pending]) -> Pending:
        answer = Pending()

        def job() -> None:
            try:
                _pass_on(work(), answer)
            except Exception as failed:  # noqa: BLE001 - told to who waits for it
                answer.set_exception(failed)

        self._thread.put(job)
        return answer

    # -- in the thread for this ----------------------------------------------------------------------------------------

    def _by_criteria(
        self, plugin: Any, criteria: Mapping[str, Any], besides: str | None, owner: Owner | None
    ) -> Pending:
        # First those on the disk, and then those that wait: the end of one that runs would let the next of them start.
        channel = self._find(plugin.name)
        on_disk: list[str] = []
        failed: Unavailable | None = None
        try:
            if channel is not None and channel.backlog.count:
                on_disk = self._rows_by_criteria(channel, criteria, owner)
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
        return self._written([*(request.sn for request in met if request.sn in cancelled), *on_disk])

    def _rows_by_criteria(self, channel: Channel, criteria: Mapping[str, Any], owner: Owner | None) -> list[str]:
        """Cancel the requests on the disk whose data meet criteria, as fast as they can be answered."""
        found: list[str] = []
        after = 0
        while True:
            rows = self._store.call(partial(requests.rows, channel.service.name, [requests.QUEUED], after, _CHUNK))
            if not rows:
                return found
            after = rows[-1].number
            for row in rows:
                if (owner is None or row.identity == owner.identity) and _meets(criteria, row.body):
                    found += self._cancel_row(channel, row.sn)
            while channel.publisher.pending > _UNSETTLED:
                time.sleep(_PAUSE)

    def _of_row(self, channel: Channel, sn: str, owner: Owner | None) -> Pending:
        """Cancel a request that may be on the disk; when it is not, it is cancelled when it comes."""

        def work() -> Pending:
            try:
                row = self._store.call(partial(requests.find, sn))
            except Unavailable:
                row = None
            waits = row is not None and row.state == requests.QUEUED and row.plugin == channel.service.name
            if row is not None and waits and owner is not None and row.identity != owner.identity:
                raise NotAuthorized(f"request {sn} was not signed by you; [main] admin names who may cancel it")
            found = self._cancel_row(channel, sn) if waits else []
            request = self._registry.get(sn)
            if not found and request is not None and self._cancel(request):
                found = [sn]
            if found:
                return self._written(found)
            self._tombstones.expect(channel.service.name, sn, owner)
            return self._written([], remembered=True)

        return self._on_thread(work)

    def _cancel_row(self, channel: Channel, sn: str) -> list[str]:
        request = self._backlogs.pull_one(sn, channel)
        if request is None:  # it was pulled by another thread meanwhile
            request = self._registry.get(sn)
        return [sn] if request is not None and self._cancel(request) else []

    # -- any thread ----------------------------------------------------------------------------------------------------

    def _cancel(self, request: Received) -> bool:
        if not self._answering.cancel(request):
            return False
        if request.sn is not None:
            self._tombstones.write(request.plugin.name, request.sn)
        return True

    def _written(self, found: Sequence[str | None], *, remembered: bool = False) -> Pending:
        """Tell what was cancelled when that is on the disk; or after a second, if that takes longer."""
        answer = Pending()
        if not (found or remembered):
            answer.set_result([])
            return answer

        def end() -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(list(found))

        once = _Once(end)
        timer = self._clock.call_after(_PATIENCE, once)

        def done(_: object, failed: Unavailable | None) -> None:
            timer.cancel()
            once()

        self._store.post(lambda file: None, done)
        return answer


class _Once:
    """Calls a function the first time. Any thread."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._functions = [function]

    def __call__(self) -> None:
        try:
            function = self._functions.pop()
        except IndexError:
            return
        function()


def joined(parts: Sequence[Pending]) -> Pending:
    """Return what has one list after the other of several, as soon as all are there; or the first error."""
    whole = Pending()
    found: list[Any] = []

    def go_on(left: Sequence[Pending]) -> None:
        def add(done: Any) -> None:
            raised = done.exception()
            if raised is not None:
                whole.set_exception(raised)
                return
            found.extend(done.result())
            go_on(left[1:])

        if left:
            left[0].add_done_callback(add)
        else:
            whole.set_result(found)

    go_on(parts)
    return whole


def _pass_on(source: Pending, target: Pending) -> None:
    def done(ended: Any) -> None:
        raised = ended.exception()
        if raised is not None:
            target.set_exception(raised)
        else:
            target.set_result(ended.result())

    source.add_done_callback(done)


def _meets(criteria: Mapping[str, Any], body: bytes) -> bool:
    try:
        return conditions.matches(criteria, decode(body).data)
    except DocumentError:
        return False
