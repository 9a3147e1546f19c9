"""Which requests are in the store, and what is written of each.

A request is first held by its broker, so that quick calls touch no disk. After a moment it is taken over: written, then
acknowledged. Of the stored requests that wait, a window is in memory (``window.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gofer.rmi.request import ANSWERING, BROKER, QUEUED, RUNNING, STORED, WRITING, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.nonces import Nonces
from gofer.rmi.server.reply_publisher import Settled
from gofer.rmi.server.window import Window
from gofer.rmi.store import Database, Unavailable, requests, schema
from gofer.rmi.store.requests import Record, Row

if TYPE_CHECKING:
    import sqlite3

__all__ = ["AlreadyStarted", "Persistence"]

log = logging.getLogger(__name__)

_TIDY = 3600.0  # seconds between two times that old entries are removed from the store
_RETRY = 0.25  # seconds until a request is taken over that could not be
_MOST_KNOWN = 100_000  # numbers of requests that stand in the store, remembered by their hashes
_CROWD = 50  # requests that a broker holds are many
_CROWDED_FOR = 0.25  # of the patience: the first of many has waited for that long
_CHUNK = 20  # rows read at a time


class AlreadyStarted(Exception):
    """A request must run only once, and has started before. ``result``: how that has ended; None: nobody knows."""

    def __init__(self, result: bytes | None) -> None:
        super().__init__("started before")
        self.result = result


class Persistence:
    """Keeps the requests of one agent. Any thread; only ``claim`` and ``recover`` wait.

    Args:
        patience: seconds after which the store takes a request over.
        most: of more waiting requests than this, the broker holds the rest.
    """

    def __init__(
        self,
        registry: Registry,
        store: Database,
        nonces: Nonces,
        window: Window,
        *,
        patience: float = 1.0,
        most: int = 1_000_000,
    ) -> None:
        self._registry = registry
        self._store = store
        self._nonces = nonces
        self._patience = patience
        self._window = window
        self._most = most
        self._lock = threading.Lock()
        self._mine = window.mine
        self._known: dict[int, None] = {}  # hashes of the numbers of requests that stand in the store
        self._tidied = time.monotonic()
        self._boot = schema.boot()
        store.lost.append(self._rewrite)

    # -- a request arrives -----------------------------------------------------------------------------------------

    def must_look(self, request: Received) -> bool:
        """Tell whether a request has to be looked for in the store, or written there, before it is accepted.

        So it is when it was delivered before, and when it has a time to live of its own: a broker would drop it,
        accepted or not.
        """
        explicit = request.delivery.ttl is not None and request.document.wait is None
        return explicit or request.redelivered is not False or hash(request.key) in self._known

    def look_up(self, request: Received, done: Callable[[Row | None, Unavailable | None], object]) -> None:
        """Look for a request in the store, and write it there if it is new.

        Args:
            done: called by the store's thread, with what stands there; None: it was new.
        """
        if not self._registry.write(request):
            return  # it was cancelled just now
        request.tries = int(request.redelivered is not False)  # it may have run when it was delivered first

        def looked(row: Row | None, failed: Unavailable | None) -> None:
            if row is None and failed is None:
                self._is_stored(request)
            else:
                request.kept = BROKER
            if row is not None:
                self._remember(request.key)
            done(row, failed)

        self._store.post(partial(requests.load, _record(request)), looked)

    def hold(self, request: Received) -> None:
        """Have a request taken over in a moment, if it has not ended then."""
        if request.kept != STORED:
            request.keep_at = request.arrived + self._patience

    def turn(self, request: Received) -> bool:
        """Tell whether a request that was accepted may go to the workers now; else this sends it there in its turn."""
        backlog = request.channel.backlog
        request.behind = behind = request.kept == STORED or backlog.count > 0
        if request.kept == STORED:
            self._store.post(lambda file: None, lambda *_: self._window.place(request))
        elif behind or backlog.window:
            # At once: it is behind requests that take long, and those behind it need room in the broker's window.
            self.take_over([request])
        return not behind

    def take_over(self, found: Sequence[Received]) -> None:
        """Write requests that take long, and acknowledge them then."""
        due = [one for one in found if one.channel.backlog.count < self._most and self._registry.write(one)]
        if due:
            self._mine.update(request.key for request in due)
            work = partial(requests.take, [_record(one) for one in due])
            self._store.post(work, lambda _, failed: self._taken_over(due, failed))
        for request in found:
            if request.kept == BROKER and request.state < ANSWERING:
                self._take_over_later(request)

    def _taken_over(self, due: Sequence[Received], failed: Unavailable | None) -> None:
        for request in due:
            if failed is None:
                self._is_stored(request)
                if request.state == QUEUED and not request.beside:
                    self._window.place(request)
                continue
            self._mine.discard(request.key)
            request.kept = BROKER  # which goes on holding it
            self._remember(request.key)  # what a disk has failed to write may be there all the same
            self._take_over_later(request)
            self._window.go_on(request)

    def _take_over_later(self, request: Received) -> None:
        with self._registry.lock:
            request.keep_at = time.monotonic() + _RETRY
            request.due = 0.0

    def _is_stored(self, request: Received) -> None:
        if request.kept != STORED:
            request.kept = STORED
            request.keep_at = inf
            self._mine.add(request.key)
            self._remember(request.key)
            self.acknowledge(request)

    def is_crowded(self, in_flight: Sequence[Received], now: float) -> bool:
        """Tell whether so many requests that a broker holds wait that they are to be taken over at once.

        They are where the last of them would be due anyway before its turn comes, at the pace at which requests end
        now: those behind them, which may be for Admin, need room in the prefetch window. A process that the system did
        not run for a moment has no pace: the first of them must have waited for a while.
        """
        if len(in_flight) < _CROWD:
            return False
        held = [request.arrived for request in in_flight if request.keep_at < inf]
        if len(held) < _CROWD or now - held[0] < _CROWDED_FOR * self._patience:
            return False
        return len(held) * (now - max(self._registry.ended_at, held[0])) > self._patience

    def look(self, now: float) -> float:
        """Remove old entries from the store at times, and see whether it answers. Returns when to look again."""
        if now - self._tidied > _TIDY:
            self._tidied = now
            if self._store.exists():
                self._store.post(requests.clean)
        return self._nonces.look(now)

    # -- a request runs --------------------------------------------------------------------------------------------

    def claim(self, request: Received, *, once: bool = False) -> None:
        """Write that a request starts, if it may have run before, or must never run twice. May wait for the disk.

        Raises:
            Unavailable: it cannot be written, and so the request must not run.
            AlreadyStarted: it must run only once, and has started before.
        """
        if not once and (request.claimed or not request.tries):
            return
        record = _record(request)._replace(tries=request.tries)
        work = partial(requests.claim, record, once=once, again=request.claimed, boot=self._boot)
        before = self._store.call(work)
        request.claimed = True
        if before is not None:
            request.kept = STORED
            raise AlreadyStarted(before.result)
        self._is_stored(request)

    def revoke(self, request: Received, then: Callable[[], object]) -> None:
        """Have a request not in the store that could not be recorded there, but may be there all the same.

        Args:
            then: called when it is not. If this process ends before, it is taken up after the next start.
        """

        def work(file: sqlite3.Connection) -> bool:
            if self._store.stopping:  # nobody could be told any more
                return False
            requests.revoke(request.key, request.digest, file)
            return True

        def done(revoked: bool | None, _: Unavailable | None) -> None:
            self._mine.discard(request.key)
            if revoked:
                then()

        self._mine.add(request.key)  # first: it is not pulled before this is written
        self._store.post(work, done, kept=True)

    def begin(self, request: Received) -> None:
        """Write that a request begins now, if it was claimed: else the next agent takes the claim for no run.

        Raises:
            Unavailable: it cannot be written, and so the request must not run.
        """
        if request.claimed:
            self._store.mark(partial(requests.begin, request.key))

    def keep_result(self, request: Received, result: bytes, send: Callable[[], object]) -> None:
        """Write the result of a stored request beside it, so that a death before it is taken does not lose it.

        The result of a run that was claimed is sent after that: else its caller could hear Interrupted after it.
        """
        if request.kept == BROKER or request.started is None or request.interrupted or request.replyto is None:
            send()
            return
        work = partial(requests.keep, _light_record(request), result, requests.ANSWERING, None)
        if request.claimed:
            self._store.post(work, lambda *_: send())
        else:
            self._store.post(work)
            send()

    # -- a request has ended ---------------------------------------------------------------------------------------

    def ended(self, request: Received, result: bytes | None, settled: Settled, reason: str) -> None:
        """Keep what became of the end of a request, and let go of its delivery.

        Args:
            result: None for a rejection: that is not remembered.
            settled: a result that was taken is remembered; one that was given up is kept as undeliverable; what was not
                sent is kept, too, to be sent when its plugin is at its queue again.
        """
        if result is None:
            if settled is Settled.UNSENT:  # it waits for its plugin again
                if request.kept == STORED:  # no broker has it any more, and it may have been revoked
                    self._write_end(request.key, partial(requests.take, [_record(request)]))
                else:  # the broker delivers it again
                    self._nonces.forget(request.nonce)
                self._registry.forget(request)
                return
            if request.kept != BROKER:
                self._write_end(request.key, partial(requests.remove, request.key))
            elif hash(request.key) in self._known and self._registry.get(request.key) is request:
                self._write_end(request.key, partial(requests.revoke, request.key, request.digest))
            self._registry.forget(request)
            self.acknowledge(request)
        elif settled is Settled.CONFIRMED:
            stands = request.kept != BROKER or hash(request.key) in self._known
            if stands:
                self._mine.add(request.key)  # first: it is not pulled before this is written
            self._registry.end(request, result)
            if stands:
                self._write_end(request.key, partial(requests.settle, request.key, result, whole=request.interrupted))
            self.acknowledge(request)
        else:
            unsent = settled is Settled.UNSENT
            self._keep(request, result, requests.ANSWERING if unsent else requests.UNDELIVERABLE, reason or None)

    def _write_end(self, sn: str, work: Callable[[sqlite3.Connection], object]) -> None:
        self._mine.add(sn)
        self._store.post(work, lambda *_: self._mine.discard(sn), kept=True)

    def _keep(self, request: Received, result: bytes, state: str, reason: str | None) -> None:
        self._mine.add(request.key)
        self._registry.end(request, result)
        self._remember(request.key)

        def done(_: None, failed: Unavailable | None) -> None:
            self._mine.discard(request.key)
            if failed is not None:
                if state == requests.ANSWERING:
                    return  # the broker delivers it again
                request.channel.complain(logging.ERROR, "%r: its result is lost: %s", request, failed)
            self.acknowledge(request)

        # A request that the broker still holds need not wait for a store that cannot be used.
        kept = request.kept != BROKER
        self._store.post(partial(requests.keep, _light_record(request), result, state, reason), done, kept=kept)

    def held_by_row(self, request: Received) -> None:
        """Forget a delivery of a request that waits on the disk, and acknowledge it."""
        self._registry.forget(request)
        self.acknowledge(request)

    def release(self, request: Received) -> None:
        """Give a request back that has not started: to its broker; or to the store, where it waits for its plugin."""
        if not self._registry.forget(request, waiting=True):
            return
        request.channel.leave(request)
        if request.kept == STORED:
            self._mine.discard(request.key)
            return
        if request.kept == WRITING:
            self._write_end(request.key, partial(requests.remove, request.key))
            request.kept = STORED  # nothing is acknowledged any more
        self._nonces.forget(request.nonce)  # the broker delivers it again
        request.channel.link.release(request.delivery)

    def adopted(self, previous: Received, known: Received) -> None:
        """Acknowledge the delivery that a newer one has replaced; and that one, too, if the request is stored."""
        self.acknowledge(previous)
        if known.kept == STORED:
            self.acknowledge(known)

    def acknowledge(self, request: Received) -> None:
        """Acknowledge the delivery of a request, as soon as a copy of it would be recognised."""
        delivery, link = request.delivery, request.channel.link
        if delivery.tag is None:
            return  # it came from the store
        if request.nonce is None:
            link.accept(delivery)
        else:
            self._nonces.secured(request.nonce, link.accept_all, delivery)

    # -- after a restart -------------------------------------------------------------------------------------------

    def recover(self, channel: Channel, resume: Callable[[Received, Row], object]) -> None:
        """Take up the requests of a plugin that the store holds, before its queue is read. May be repeated.

        Args:
            resume: is given each request that was interrupted, or has a result that is still to be sent.

        Raises:
            Unavailable: it cannot be read now; until it is, no request of the plugin may be taken.
        """
        if not self._store.exists():
            return
        name = channel.service.name
        self._store.call(requests.clean)
        for sn in self._store.call(partial(requests.known, name, _MOST_KNOWN)):
            self._remember(sn)
        waiting, count, after = self._store.call(partial(requests.count, name)), 0, 0
        unended = [requests.RUNNING, requests.ANSWERING]
        while rows := self._store.call(partial(requests.rows, name, unended, after, _CHUNK)):
            after = rows[-1].number
            for row in rows:
                away = row.sn not in self._mine and self._registry.get(row.sn) is None
                request = self._window.read(row, channel) if away else None
                if request is not None and self._registry.add(request):
                    count += 1
                    channel.enter(request)
                    resume(request, row)
        if waiting or count:
            log.info("plugin %s: %d requests taken up from the ledger", name, waiting + count)
        channel.backlog.count = waiting
        self._window.pull(channel)

    def _rewrite(self) -> None:
        """Write again the requests that are in memory, and stood in a file that was corrupt."""
        for request in self._registry.in_flight():
            if request.kept == STORED and request.delivery.body:
                once = request.claimed and request.api is not None and request.api.mark.once
                record = _record(request)
                work = partial(requests.claim, record, once=True, again=True)
                self._store.post(work if once else partial(requests.take, [record]), kept=True)

    def _remember(self, sn: str) -> None:
        with self._lock:
            self._known[hash(sn)] = None
            if len(self._known) > _MOST_KNOWN:
                del self._known[next(iter(self._known))]


def _record(request: Received) -> Record:
    runs = request.state == RUNNING
    tries = max(request.tries + request.claimed, int(runs))
    state = requests.RUNNING if runs else requests.QUEUED
    body, name = request.delivery.body, request.channel.service.name
    return Record(request.key, name, body, request.identity, request.digest, state, tries)


def _light_record(request: Received) -> Record:
    """Make the record of a request that has ended: of its document, what is needed to answer it."""
    return _record(request)._replace(body=requests.light(request.document) or request.delivery.body)
