"""The requests of an agent, for those who ask about them: listed, cancelled, retried and dropped."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from gofer.errors import DocumentError, NotAuthorized
from gofer.messaging.document import shown
from gofer.rmi import criteria as conditions
from gofer.rmi import request as states
from gofer.rmi.clock import Clock
from gofer.rmi.request import QUEUED, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.dispatch import Pending, way_out
from gofer.rmi.server.early_cancels import Owner, Tombstones
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.serial import SerialThread
from gofer.rmi.server.window import Window
from gofer.rmi.store import Database, Unavailable, requests

__all__ = [
    "ANSWERING", "INTERRUPTED", "OVERDUE", "STATES", "UNDELIVERABLE", "WAITING",
    "Administration", "Entry", "Listing",
]  # fmt: skip

#: States: it has not started; it runs; it still runs, though its caller was told that it takes too long; it has its
#: result, which no broker has taken yet; nobody took that, and it is kept for a day; it was started by an agent that
#: died, and its caller was told so.
WAITING, RUNNING, OVERDUE, ANSWERING = "waiting", "running", "overdue", "answering"
UNDELIVERABLE, INTERRUPTED = "undeliverable", "interrupted"
STATES = (WAITING, RUNNING, OVERDUE, ANSWERING, UNDELIVERABLE, INTERRUPTED)

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_ANSWER = 1.0  # seconds that an answer waits for the disk
_CHUNK = 20  # rows read at a time
_UNSETTLED = 50  # answers that are being sent, of which more are not made
_PAUSE = 0.02  # seconds until there may be fewer of these
_MOST_CRITERIA = 20  # that wait to be asked of all requests
_PATIENCE = 60.0  # seconds
_LATER = "no such request is in memory; one that comes later is cancelled then"

#: States in the store, and what is said of them.
_WAITS = {requests.QUEUED: WAITING, requests.RUNNING: WAITING, requests.ANSWERING: ANSWERING}
_KEPT = {requests.UNDELIVERABLE: UNDELIVERABLE, requests.INTERRUPTED: INTERRUPTED}
_OF = {states.RECEIVED: WAITING, states.QUEUED: WAITING, states.RUNNING: RUNNING, states.ANSWERING: ANSWERING}


class Entry(NamedTuple):
    """One request, in one of STATES since ``since`` (seconds since 1970), which is ``seconds`` ago.

    ``target`` is ``Class.method`` as it was sent, ``identity`` who signed it, ``replyto`` where its result goes (None:
    nobody waits), ``data`` what its caller put beside it. ``reason`` tells why a result was not taken, and what can be
    done about a method that is overdue. All values are plain JSON.
    """

    sn: str
    plugin: str
    state: str
    target: str
    replyto: str | None
    identity: str | None
    data: Any
    since: float
    seconds: float
    reason: str | None


class Listing(NamedTuple):
    """Requests. ``total``: how many there are, of which no more than was asked for are here. ``unavailable``: why those
    in the ledger are not among them."""

    entries: list[Entry]
    total: int
    unavailable: str | None


@dataclass(frozen=True, kw_only=True)
class Administration:
    """The requests of an agent. Any thread; but listing, retrying and dropping wait for the disk.

    ``by_number`` and ``by_criteria`` wait for nothing: a thread of this one's own looks at criteria, and at the disk.
    Each is for the requests of one plugin. ``owner`` says whose requests are meant; None: everybody's. A request that
    was cancelled stays so after a restart, if the disk can be written. A serial number that is not known is remembered
    for a day: its request is cancelled when it comes.

    Args:
        plugins: returns the plugins that run.
        find: returns the channel of a plugin, by its name; None: it is not at its queue.
    """

    registry: Registry
    store: Database
    window: Window
    lifecycle: Lifecycle
    tombstones: Tombstones
    clock: Clock
    plugins: Callable[[], Iterable[Any]]
    find: Callable[[str], Channel | None]
    _thread: SerialThread = field(default_factory=lambda: SerialThread("gofer-cancel"), init=False)

    def stop(self) -> None:
        """Have the thread end when it has done what it was asked for."""
        self._thread.stop()

    # -- cancelling: nothing waits ---------------------------------------------------------------------------------

    def by_number(self, plugin: Any, sn: str, *, owner: Owner | None = None) -> Pending:
        """Cancel the request of a plugin with a serial number; that number comes later, in a list, if there is one.

        RuntimeError comes instead when it is not in memory, and the disk cannot be read, or not remember the number.

        Raises:
            ValueError: this can be no request's serial number.
            NotAuthorized: it is that of another owner's request.
        """
        if not isinstance(sn, str) or _SN.fullmatch(sn) is None:
            raise ValueError(f"{shown(str(sn))} is not a serial number")
        answer = Pending()
        while True:
            request = self.registry.get(sn) or self.registry.get_overdue(sn)
            if request is not None:
                if request.plugin is not plugin:
                    self._answer(answer, [], written=False)
                elif owner is not None and request.identity != owner.identity:
                    raise _not_yours(sn)
                else:
                    cancelled = self._cancel(request)
                    self._answer(answer, [sn] if cancelled else [], written=cancelled)
                return answer
            channel = self.find(plugin.name)
            if self.registry.has_ended(sn):
                self._answer(answer, [], written=False)
                return answer
            if channel is not None and channel.backlog.count:
                self._thread.put(partial(self._do, answer, partial(self._on_disk, answer, channel, sn, owner)))
                return answer
            self.tombstones.expect(plugin.name, sn, owner)
            # It may have come between these steps, and found nothing then; looked up again, it is there.
            if self.registry.get(sn) is None:
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
            found = self._meeting(plugin, criteria, besides, owner)
            try:
                found = ([] if after is None else after.result(2 * _ANSWER)) + found
            except RuntimeError as failed:
                raise RuntimeError(f"{len(found)} that meet the criteria are cancelled; {failed}") from None
            self._answer(answer, found, written=bool(found))

        self._thread.put(partial(self._do, answer, work))
        return answer

    # -- cancelling: in the thread for this --------------------------------------------------------------------------

    @staticmethod
    def _do(answer: Pending, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as failed:  # noqa: BLE001 - told to who waits for it
            answer.set_exception(failed)

    def _meeting(self, plugin: Any, criteria: Mapping[str, Any], besides: str | None, owner: Owner | None) -> list[str]:
        """Cancel what meets criteria; return the numbers."""
        # First those on the disk, and then those that wait: the end of one that runs would let the next of them start.
        channel = self.find(plugin.name)
        on_disk: list[str] = []
        failed: Unavailable | None = None
        try:
            if channel is not None and channel.backlog.count:
                on_disk = self._rows_meeting(channel, criteria, owner)
        except Unavailable as unreadable:
            failed = unreadable
        met = [
            request
            for request in dict.fromkeys((*self.registry.in_flight(), *self.registry.overdue()))
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
        found, after = list[str](), 0
        while rows := self.store.call(partial(requests.rows, channel.service.name, [requests.QUEUED], after, _CHUNK)):
            after = rows[-1].number
            mine = (row for row in rows if owner is None or row.identity == owner.identity)
            meant = [row.sn for row in mine if _meets(criteria, row.body)]
            rows.clear()  # those that are meant are read again, and may be large
            found += self._cancel_rows(channel, meant)
            while channel.publisher.pending > _UNSETTLED:
                time.sleep(_PAUSE)
        return found

    def _on_disk(self, answer: Pending, channel: Channel, sn: str, owner: Owner | None) -> None:
        """Cancel a request that may be on the disk; when it is not, it is cancelled when it comes."""
        name = channel.service.name
        try:
            row = self.store.call(partial(requests.find, sn))
            waits = row is not None and row.state == requests.QUEUED and row.plugin == name
            if row is not None and waits and owner is not None and row.identity != owner.identity:
                raise _not_yours(sn)
            cancelled = self._cancel_rows(channel, [sn], pull=waits)
        except Unavailable as failed:
            self.tombstones.expect(name, sn, owner)
            raise RuntimeError(f"{_LATER}; those that wait in the ledger cannot be read: {failed}") from None
        if cancelled:
            self._answer(answer, [sn])
        else:
            self.tombstones.expect(name, sn, owner)
            self._answer(answer, [])

    def _cancel_rows(self, channel: Channel, sns: list[str], *, pull: bool = True) -> list[str]:
        pulled = {one.key: one for one in self.window.pull_these(channel, sns)} if pull and sns else {}
        # What was not pulled now was pulled by another thread meanwhile.
        found = ((sn, pulled.get(sn) or self.registry.get(sn)) for sn in sns)
        return [sn for sn, request in found if request is not None and self._cancel(request)]

    # -- any thread --------------------------------------------------------------------------------------------------

    def _cancel(self, request: Received) -> bool:
        if not self.lifecycle.cancel(request):
            return False
        if request.sn is not None:
            self.tombstones.write(request.plugin.name, request.sn)
        return True

    def _answer(self, answer: Pending, found: list[str], *, written: bool = True) -> None:
        """Tell what was cancelled when that is on the disk, or after a second.

        Where nothing was found, and the disk has not answered by then, RuntimeError comes.
        """

        def end(_: object = None, failed: Unavailable | None = None) -> None:
            with suppress(InvalidStateError):  # told already
                if failed is None or found:  # what was found has ended, or was told to
                    answer.set_result(found)
                else:
                    answer.set_exception(RuntimeError(f"{_LATER}, unless the agent ends before: {failed}"))

        if written:
            self.store.post(lambda file: None, end)
            silent = Unavailable(f"the ledger has not answered within {_ANSWER:g} s")
            self.clock.call_after(_ANSWER, partial(end, failed=silent))
        else:
            end()

    # -- for operators: these wait for the disk ----------------------------------------------------------------------

    def listing(self, plugin: str | None = None, *, states: Collection[str] = STATES, most: int = 1000) -> Listing:
        """Tell the requests of all plugins, or of one: first those that wait and run, in the order in which they came.

        Args:
            states: some of STATES.
            most: how many at most.

        Raises:
            ValueError: a state that there is none of.
        """
        wrong = sorted(set(states) - set(STATES))
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: no such state; there are: {', '.join(STATES)}")
        overdue = self.registry.overdue()
        in_memory = [
            one
            for one in (*(one for one in self.registry.in_flight() if not one.overdue), *overdue)
            if (_state_of(one) in states) and plugin in (None, one.channel.service.name)
        ]
        entries, total, unavailable = [_of_memory(one) for one in in_memory[:most]], len(in_memory), None
        if {*states} - {RUNNING, OVERDUE} and self.store.exists():
            try:
                for read in (
                    partial(requests.absent, plugin, _named(states, _WAITS), self._is_away, most - len(entries)),
                    partial(requests.kept, plugin, _named(states, _KEPT), most - len(entries)),
                ):
                    more, count = self.store.call(read)
                    entries = (entries + [_of_row(row) for row in more])[:most]
                    total += count
            except Unavailable as failed:
                unavailable = str(failed)
        return Listing(entries, total, unavailable)

    def cancel(self, sn: str) -> bool:
        """Cancel a request that waits or runs. One that has not come yet is cancelled when it comes, within a day.

        Returns:
            Whether there was something to cancel.

        Raises:
            ValueError: this can be no request's serial number.
            RuntimeError: it is not in memory, and the disk cannot be read, or not remember the number.
        """
        known = self.registry.get(sn) or self.registry.get_overdue(sn)
        answers = [self.by_number(one, sn) for one in (self.plugins() if known is None else [known.plugin])]
        failures = [failed for one in answers if (failed := one.exception(_PATIENCE)) is not None]
        found = any(one.result() for one in answers if one.exception() is None)
        if failures and not found:
            raise failures[0]
        return found

    def cancel_those(self, criteria: Mapping[str, Any], plugin: str | None = None) -> list[str]:
        """Cancel the requests of all plugins, or of one, whose data meet criteria; return their serial numbers.

        Raises:
            InvalidOperator, ValueError: the criteria are none.
            RuntimeError: those on the disk cannot be read; the text says how many are cancelled.
            TimeoutError: there are too many of these to be read within a minute; it goes on.
        """
        found: list[str] = []
        for one in self.plugins():
            if plugin in (None, one.name):
                found += self.by_criteria(one, criteria).result(_PATIENCE)
        return found

    def retry(self, sn: str) -> None:
        """Have an undeliverable result sent again, or an interrupted request run again, once; nobody is answered then.

        What belongs to a plugin that is not at its queue waits until that is there.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted.
            Unavailable: the ledger cannot be used; the text says why.
        """
        row = self.store.call(partial(requests.revive, sn)) if self.store.exists() else None
        if row is None:
            raise LookupError(self._why_not(sn))
        channel = self.find(row.plugin)
        if row.state == requests.QUEUED:
            self.registry.unlearn(sn)
        if channel is None:
            return
        waits = row.state == requests.QUEUED
        request = (
            next(iter(self.window.pull_these(channel, [sn])), None) if waits else self.window.take_up(row, channel)
        )
        if request is not None:
            self.lifecycle.resume(request, row)

    def drop(self, sn: str) -> None:
        """Drop an undeliverable result, an interrupted request, or one that waits for a plugin that is not loaded.

        The caller of what waits hears no more of it.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted, or waits for an unloaded plugin.
            Unavailable: the ledger cannot be used; the text says why.
        """
        if not (self.store.exists() and self.store.call(partial(requests.drop, sn, self._is_orphaned))):
            raise LookupError(self._why_not(sn))

    def _is_away(self, sn: str) -> bool:
        return self.registry.get(sn) is None

    def _is_orphaned(self, sn: str, plugin: str) -> bool:
        """Tell whether a request waits for its plugin, which is unloaded, or disabled."""
        return self.find(plugin) is None and self._is_away(sn)

    def _why_not(self, sn: str) -> str:
        known = self.registry.get(sn)
        what = "no such request is kept" if known is None else f"it is {_OF.get(known.state, 'ended')}"
        return (
            f"request {sn[:128]!r}: only what is undeliverable or interrupted can be retried, and only that, or what"
            f" waits for a plugin that is not loaded, can be dropped; {what}"
        )


def _not_yours(sn: str) -> NotAuthorized:
    return NotAuthorized(f"request {sn} was not signed by you; [main] admin names who may cancel it")


def _meets(criteria: Mapping[str, Any], body: bytes) -> bool:
    try:
        return conditions.matches(criteria, requests.decode(body).data)
    except DocumentError:
        return False


def _named(states: Collection[str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Translate states into those of the store."""
    return tuple(in_store for in_store, name in known.items() if name in states)


def _state_of(request: Received) -> str | None:
    """Return one of STATES; None: it is done."""
    return OVERDUE if request.overdue else _OF.get(request.state)


def _of_memory(request: Received) -> Entry:
    state = _state_of(request) or ANSWERING
    seconds = time.monotonic() - (request.arrived if state == WAITING or request.started is None else request.started)
    return Entry(
        request.key,
        request.channel.service.name,
        state,
        request.target,
        request.document.replyto,
        request.identity,
        request.data,
        time.time() - seconds,
        seconds,
        f"{request.late}. {way_out(request)}" if state == OVERDUE else None,
    )


def _of_row(row: requests.Row) -> Entry:
    try:
        document = requests.decode(row.body)
    except DocumentError:
        target, replyto, data = "?", None, None
    else:
        target = f"{document.request.classname}.{document.request.method}"
        replyto, data = document.replyto, document.data
    state = {**_WAITS, **_KEPT}[row.state]
    seconds = max(0.0, time.time() - row.updated)
    return Entry(row.sn, row.plugin, state, target, replyto, row.identity, data, row.updated, seconds, row.reason)
