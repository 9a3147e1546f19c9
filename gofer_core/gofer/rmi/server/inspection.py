"""The requests of an agent, for operators: listed, cancelled, retried and dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from gofer.errors import DocumentError
from gofer.rmi import request as states
from gofer.rmi.request import Received
from gofer.rmi.server.backlog import Backlogs, decode
from gofer.rmi.server.cancellation import Cancellation
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.dispatch import way_out
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.persistence import silenced
from gofer.rmi.server.registry import Registry
from gofer.rmi.store import Database, Unavailable, requests

__all__ = [
    "ANSWERING",
    "INTERRUPTED",
    "OVERDUE",
    "STATES",
    "UNDELIVERABLE",
    "WAITING",
    "Entry",
    "Inspection",
    "Listing",
]

#: States: it has not started; it runs; it still runs, though its caller was told that it takes too long; it has its
#: result, which no broker has taken yet; nobody took that, and it is kept for a day; it was started by an agent that
#: died, and its caller was told so.
WAITING, RUNNING, OVERDUE, ANSWERING = "waiting", "running", "overdue", "answering"
UNDELIVERABLE, INTERRUPTED = "undeliverable", "interrupted"
STATES = (WAITING, RUNNING, OVERDUE, ANSWERING, UNDELIVERABLE, INTERRUPTED)

_PATIENCE = 60.0  # seconds

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


class Inspection:
    """The requests of an agent. Any thread but the one that reads a broker: it may wait for the disk.

    Args:
        plugins: returns the plugins that run.
        find: returns the channel of a plugin, by its name; None: it is not at its queue.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        store: Database,
        backlogs: Backlogs,
        lifecycle: Lifecycle,
        cancellation: Cancellation,
        plugins: Callable[[], Iterable[Any]],
        find: Callable[[str], Channel | None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._backlogs = backlogs
        self._lifecycle = lifecycle
        self._cancellation = cancellation
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
        overdue = self._registry.overdue()
        in_memory = [
            one
            for one in (*(one for one in self._registry.in_flight() if not one.overdue), *overdue)
            if (_state_of(one) in states) and plugin in (None, one.channel.service.name)
        ]
        entries, total, unavailable = [_of_memory(one) for one in in_memory[:most]], len(in_memory), None
        if {*states} - {RUNNING, OVERDUE} and self._store.exists():
            try:
                for read in (
                    partial(requests.absent, plugin, _named(states, _WAITS), self._is_away, most - len(entries)),
                    partial(requests.kept, plugin, _named(states, _KEPT), most - len(entries)),
                ):
                    more, count = self._store.call(read)
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
        """
        known = self._registry.get(sn) or self._registry.get_overdue(sn)
        found: list[str] = []
        for plugin in self._plugins() if known is None else [known.plugin]:
            found += self._cancellation.by_number(plugin, sn).result(_PATIENCE)
        return bool(found)

    def cancel_those(self, criteria: Mapping[str, Any], plugin: str | None = None) -> list[str]:
        """Cancel the requests of all plugins, or of one, whose data meet criteria; return their serial numbers.

        Raises:
            InvalidOperator, ValueError: the criteria are none.
            RuntimeError: those on the disk cannot be read; the text says how many are cancelled.
            TimeoutError: there are too many of these to be read within a minute; it goes on.
        """
        found: list[str] = []
        for one in self._plugins():
            if plugin in (None, one.name):
                found += self._cancellation.by_criteria(one, criteria).result(_PATIENCE)
        return found

    def retry(self, sn: str) -> None:
        """Have an undeliverable result sent again, or an interrupted request run again, once; nobody is answered then.

        What belongs to a plugin that is not at its queue waits until that is there.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted.
            Unavailable: the ledger cannot be used; the text says why.
        """
        row = self._store.call(partial(requests.revive, sn, silenced)) if self._store.exists() else None
        if row is None:
            raise LookupError(self._why_not(sn))
        channel = self._find(row.plugin)
        if row.state == requests.QUEUED:
            self._registry.unlearn(sn)
            request = None if channel is None else self._backlogs.pull_one(sn, channel)
        else:
            request = None if channel is None else self._backlogs.take_up(row, channel)
        if request is not None:
            self._lifecycle.resume(request, row)

    def drop(self, sn: str) -> None:
        """Drop an undeliverable result, an interrupted request, or one that waits for a plugin that is not loaded.

        The caller of what waits hears no more of it.

        Raises:
            LookupError: no request of that number is undeliverable or interrupted, or waits for an unloaded plugin.
            Unavailable: the ledger cannot be used; the text says why.
        """
        if not (self._store.exists() and self._store.call(partial(requests.drop, sn, self._is_orphaned))):
            raise LookupError(self._why_not(sn))

    def _is_away(self, sn: str) -> bool:
        return self._registry.get(sn) is None

    def _is_orphaned(self, sn: str, plugin: str) -> bool:
        """Tell whether a request waits for its plugin, which is unloaded, or disabled."""
        return self._find(plugin) is None and self._is_away(sn)

    def _why_not(self, sn: str) -> str:
        known = self._registry.get(sn)
        what = "there is none that is kept" if known is None else f"it is {_OF.get(known.state, 'ended')}"
        return (
            f"request {sn[:128]!r}: only what is undeliverable or interrupted can be retried, and only that, or what"
            f" waits for a plugin that is not loaded, can be dropped; {what}"
        )


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
        document = decode(row.body)
    except DocumentError:
        target, replyto, data = "?", None, None
    else:
        target = f"{document.request.classname}.{document.request.method}"
        replyto, data = document.replyto, document.data
    state = {**_WAITS, **_KEPT}[row.state]
    seconds = max(0.0, time.time() - row.updated)
    return Entry(row.sn, row.plugin, state, target, replyto, row.identity, data, row.updated, seconds, row.reason)
