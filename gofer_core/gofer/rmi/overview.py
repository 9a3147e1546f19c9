"""What an agent has to do, told to those who look after it; and what they may do about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gofer.errors import DocumentError
from gofer.rmi import records
from gofer.rmi.book import Book
from gofer.rmi.cancelling import Cancelling
from gofer.rmi.execution import way_out
from gofer.rmi.keeping import HeldByLedger
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.request import ENDED, QUEUED, RUNNING, Received
from gofer.rmi.shedding import BARE, decode

if TYPE_CHECKING:
    from gofer.rmi.receiver import Receiver

__all__ = ["ANSWERING", "INTERRUPTED", "OVERDUE", "STATES", "UNDELIVERABLE", "WAITING", "Entry", "Listing", "Overview"]

#: What may be said of a request: it has not started; it runs; it has its result, which no broker has taken yet; nobody
#: took that, and it is kept for a day; it was begun by an agent that died, and its caller was told so; it still runs,
#: though its caller was told that it takes too long.
WAITING, UNDELIVERABLE, INTERRUPTED, ANSWERING = "waiting", "undeliverable", "interrupted", "answering"
OVERDUE = "overdue"
STATES = (WAITING, RUNNING, OVERDUE, ANSWERING, UNDELIVERABLE, INTERRUPTED)

_PATIENCE = 60.0  # seconds

#: What stands in the ledger: for a plugin that has to be there first, and for those who look after the agent.
_WAITS = {records.OPEN: WAITING, records.UNSENT: ANSWERING}
_KEPT = {records.UNDELIVERABLE: UNDELIVERABLE, records.INTERRUPTED: INTERRUPTED}
_OF = {QUEUED: WAITING, RUNNING: RUNNING, ENDED: ANSWERING}


class Entry(NamedTuple):
    """One request, in one of STATES since ``since`` (seconds since 1970), which is ``seconds`` ago.

    ``target`` is ``Class.method`` as it was sent, ``identity`` who signed it, ``replyto`` where its result goes (None:
    nobody waits). ``data`` is what its caller put beside it; where that is on the disk alone, ``data_on_disk`` is true
    and ``data`` None. ``reason`` tells why a result was not taken, and what can be done about a
    method that is overdue. All values are plain JSON.
    """

    sn: str
    plugin: str
    state: str
    target: str
    replyto: str | None
    identity: str | None
    data: Any
    data_on_disk: bool
    since: float
    seconds: float
    reason: str | None


class Listing(NamedTuple):
    """Requests. ``total``: how many there are, of which no more than was asked for are here. ``unavailable``: why those
    in the ledger are not among them."""

    entries: list[Entry]
    total: int
    unavailable: str | None


class Overview:
    """The requests of an agent. Any thread but the one that reads a broker: it may wait for the disk.

    Args:
        plugins: returns the plugins that run.
        find: returns the receiver of a plugin, by its name.
    """

    def __init__(
        self,
        book: Book,
        ledger: Ledger,
        custody: HeldByLedger,
        cancelling: Cancelling,
        *,
        plugins: Callable[[], Iterable[Any]],
        find: Callable[[str], Receiver | None],
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._custody = custody
        self._cancelling = cancelling
        self._plugins = plugins
        self._find = find

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
        overdue = self._book.overdue()
        working = [
            one
            for one in (*(one for one in self._book.working() if not one.overdue), *overdue)
            if (_state_of(one) in states) and plugin in (None, one.receiver.service.name)
        ]
        entries, total, unavailable = [_of_memory(one) for one in working[:most]], len(working), None
        if {*states} - {RUNNING, OVERDUE} and self._ledger.exists():
            try:
                for read in (
                    records.absent(_of_row, plugin, _states_of(states, _WAITS), self._is_away, most - len(entries)),
                    records.told(_of_row, plugin, _states_of(states, _KEPT), most - len(entries)),
                ):
                    more, count = self._ledger.call(read)
                    entries = (entries + more)[:most]
                    total += count
            except Unavailable as failed:
                unavailable = str(failed)
        return Listing(entries, total, unavailable)

    def _is_away(self, key: str, plugin: str) -> bool:
        """Tell whether a request waits for its plugin, which is unloaded, or disabled."""
        return self._find(plugin) is None and self._book.get(key) is None

    def cancel(self, sn: str) -> bool:
        """Cancel a request that waits or runs. One that has not come yet is cancelled when it comes, within a day.

        Returns:
            Whether there was something to cancel.

        Raises:
            ValueError: this can be no request's serial number.
        """
        known = self._book.get(sn) or self._book.get_overdue(sn)
        plugins = self._plugins() if known is None else [known.plugin]
        found: list[str] = []
        for plugin in plugins:
            found += self._cancelling.by_number(plugin, sn).wait(_PATIENCE)
        return bool(found)

    def cancel_those(self, criteria: Mapping[str, Any], plugin: str | None = None) -> list[str]:
        """Cancel the requests of all plugins, or of one, whose data meet criteria; return their serial numbers.

        Raises:
            InvalidOperator, ValueError: the criteria are none.
            RuntimeError: the data of some stand on a disk that cannot be read; the text says how many are cancelled.
            TimeoutError: there are too many of these to be read within a minute; it goes on.
        """
        found: list[str] = []
        for one in self._plugins():
            if plugin in (None, one.name):
                found += self._cancelling.by_criteria(one, criteria).wait(_PATIENCE)
        return found

    def retry(self, sn: str) -> None:
        """Have an undeliverable result sent again, or what was interrupted run again, once; nobody is answered then.

        What belongs to a plugin that is not at its queue waits until that is there.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted.
            Unavailable: the ledger cannot be used; the text says why.
        """
        if not (self._ledger.exists() and self._custody.revive(sn, self._find)):
            raise LookupError(self._why_not(sn))

    def drop(self, sn: str) -> None:
        """Do away with an undeliverable result, with what was interrupted, or with what waits for an unloaded plugin.

        The caller of what waits hears no more of it.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted, or waits for an unloaded plugin.
            Unavailable: the ledger cannot be used; the text says why.
        """
        if not (self._ledger.exists() and self._ledger.call(records.drop(sn, self._is_away))):
            raise LookupError(self._why_not(sn))

    def _why_not(self, sn: str) -> str:
        known = self._book.get(sn)
        what = "there is none that is kept" if known is None else f"it is {_OF.get(known.state, 'ended')}"
        return (
            f"request {sn[:128]!r}: only what is undeliverable or interrupted can be retried, and only that, or what"
            f" waits for a plugin that is not loaded, can be dropped; {what}"
        )


def _states_of(states: Collection[str], known: Mapping[int, str]) -> tuple[int, ...]:
    """Translate states into those of the ledger."""
    return tuple(number for number, name in known.items() if name in states)


def _state_of(request: Received) -> str | None:
    """Return one of STATES; None: it is done."""
    return OVERDUE if request.overdue else _OF.get(request.state)


def _of_memory(request: Received) -> Entry:
    state = _state_of(request) or ANSWERING
    seconds = time.monotonic() - (request.arrived if state == WAITING or request.started is None else request.started)
    return Entry(
        request.key,
        request.receiver.service.name,
        state,
        request.target,
        request.document.replyto,
        request.identity,
        request.data,
        request.shed == BARE,
        time.time() - seconds,
        seconds,
        f"{request.late}. {way_out(request)}" if state == OVERDUE else None,
    )


def _of_row(row: records.Row) -> Entry:
    try:
        document = decode(row.body)
        target, replyto, data = (
            f"{document.request.classname}.{document.request.method}",
            document.replyto,
            document.data,
        )
    except DocumentError:
        target, replyto, data = "?", None, None
    since = row.ended or row.arrived
    return Entry(
        row.key,
        row.plugin,
        {**_WAITS, **_KEPT}[row.state],
        target,
        replyto,
        row.identity,
        data,
        False,
        since,
        max(0.0, time.time() - since),
        row.reason,
    )
