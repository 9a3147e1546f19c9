"""Which requests are in the store, and which of these are in memory.

A request is first held by its broker, so that quick calls touch no disk. After a moment it is taken over: written, then
acknowledged. Of the stored requests that wait, a window is in memory; the others are rows, and are pulled in their
order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gofer.errors import ConfigError, DocumentError
from gofer.messaging.adapter import Delivery
from gofer.messaging.address import Address
from gofer.rmi.request import ANSWERING, BROKER, QUEUED, RUNNING, STORED, WRITING, Received, RequestQueue
from gofer.rmi.server.channel import Backlog, Channel
from gofer.rmi.server.nonces import Nonces
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.reply_publisher import Settled
from gofer.rmi.store import Database, Unavailable, bodies, requests, schema
from gofer.rmi.store.requests import Record, Row

if TYPE_CHECKING:
    import sqlite3

__all__ = ["AlreadyStarted", "Persistence"]

log = logging.getLogger(__name__)

_TIDY = 3600.0  # seconds between two times that old entries are removed from the store
_RETRY = 0.25  # seconds until a request is taken over that could not be
_PAUSE = 1.0  # seconds until the store is read again that could not be
_MOST_KNOWN = 100_000  # numbers of requests that stand in the store, remembered by their hashes
_CROWD = 50  # requests that a broker holds are many
_CHUNK = 20  # rows read at a time


class AlreadyStarted(Exception):
    """A request must run only once, and has started before. ``result``: how that has ended; None: nobody knows."""

    def __init__(self, result: bytes | None) -> None:
        super().__init__("started before")
        self.result = result


class Persistence:
    """Keeps the requests of one agent. Any thread; only ``claim``, ``recover``, ``pull_one`` and ``pull_all`` wait.

    What is on the disk alone is decided by the store's thread, in the order in which it writes.

    Args:
        patience: seconds after which the store takes a request over.
        window: how many stored requests of a queue that wait are in memory; no more than ``window_bytes`` of them.
        most: of more waiting requests than this, the broker holds the rest.
    """

    def __init__(
        self,
        registry: Registry,
        store: Database,
        nonces: Nonces,
        *,
        patience: float = 1.0,
        window: int = 64,
        window_bytes: int = 8 * 1024 * 1024,
        most: int = 1_000_000,
    ) -> None:
        self._registry = registry
        self._store = store
        self._nonces = nonces
        self._patience = patience
        self._window = window
        self._window_bytes = window_bytes
        self._most = most
        self._lock = threading.Lock()
        # Numbers of stored requests that are in memory, until their ends are written. Others are pulled.
        self._mine: set[str] = set()
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
            self._store.post(lambda file: None, lambda *_: self._place(request))
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
                    self._place(request)
                continue
            self._mine.discard(request.key)
            request.kept = BROKER  # which goes on holding it
            self._take_over_later(request)
            self._go_on(request)

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
        now: those behind them, which may be for Admin, need room in the prefetch window.
        """
        if len(in_flight) < _CROWD:
            return False
        held = [request.arrived for request in in_flight if request.keep_at < inf]
        pace = now - max(self._registry.ended_at, held[0]) if held else 0.0
        return len(held) >= _CROWD and len(held) * pace > self._patience

    def look(self, now: float) -> None:
        """Remove old entries from the store, from time to time."""
        if now - self._tidied > _TIDY:
            self._tidied = now
            if self._store.exists():
                self._store.post(requests.clean)

    # -- of the stored requests that wait, some are in memory --------------------------------------------------------

    def _place(self, request: Received) -> None:
        """Have a stored request that waits stay in memory, if there is room and none is on the disk before it."""
        channel, backlog, size = request.channel, request.channel.backlog, len(request.delivery.body)
        with self._lock:
            full = len(backlog.window) >= self._window or backlog.bytes + size > self._window_bytes
            stays = not backlog.count and not (full and backlog.window)
            if stays:
                self._enter(request)
        if stays:
            self._go_on(request)
        elif self._registry.forget(request, waiting=True):
            channel.service.workers.discard(request)
            channel.leave(request)
            self._leave_to_disk(channel, request.key)

    @staticmethod
    def _enter(request: Received) -> None:
        """Count a request among those that wait in memory. Under the lock."""
        backlog, size = request.channel.backlog, len(request.delivery.body)
        backlog.bytes += size - backlog.window.get(request, 0)
        backlog.window[request] = size
        if request.state > QUEUED:  # it was started or ended just now, and ``left`` has not seen it
            backlog.bytes -= backlog.window.pop(request)

    def _go_on(self, request: Received) -> None:
        """Send a request to the workers that has waited for its turn."""
        if request.behind:
            request.behind = False
            request.channel.service.workers.put(request)

    def _leave_to_disk(self, channel: RequestQueue, sn: str) -> None:
        with self._lock:
            self._mine.discard(sn)
            channel.backlog.count += 1
            channel.backlog.evicted += 1

    def left(self, request: Received) -> None:
        """Note that a request waits no more, and pull others in its place."""
        backlog = request.channel.backlog
        if backlog.window:
            with self._lock:
                backlog.bytes -= backlog.window.pop(request, 0)
            self.pull(request.channel)

    def pull(self, channel: RequestQueue) -> None:
        """Have more of the requests that wait on the disk read, if there is room for them."""
        backlog = channel.backlog
        if not backlog.count or backlog.pulling or channel.over or time.monotonic() < backlog.pull_at:
            return
        with self._lock:
            room, size = self._window - len(backlog.window), self._window_bytes - backlog.bytes
            if backlog.pulling or room < self._window / 2 or (size <= 0 and backlog.window):
                return
            backlog.pulling = True

        rows: list[Row] = []

        def read(file: sqlite3.Connection) -> int:
            rows.extend(requests.pull(channel.service.name, room, size, self._mine, file))
            return int(backlog.evicted)

        def done(evicted: int, failed: Unavailable | None) -> None:
            if failed is not None:
                self._mine.difference_update(row.sn for row in rows)
                rows.clear()
                backlog.pull_at = time.monotonic() + _PAUSE
            more = failed is not None or len(rows) >= room or sum(len(row.body) for row in rows) >= size
            found = [request for row in rows if (request := self.take_up(row, channel)) is not None]
            with self._lock:
                backlog.pulling = False
                # All were read that had been left to the disk by then.
                backlog.count = max(0, backlog.count - len(rows)) if more else backlog.evicted - evicted
                for request in found:
                    self._enter(request)
            channel.notify()
            for request in found:
                request.told = int(not request.tries)  # that it is accepted; after a restart it is told again
                request.beside = channel.service.holds_no_thread(request.classname, request.method)
                self._registry.queue(request)
                channel.service.workers.put(request)
                if channel.over and self._registry.forget(request, waiting=True):
                    self._mine.discard(request.key)
                    channel.leave(request)

        self._store.post(read, done)

    def take_up(self, row: Row, channel: RequestQueue) -> Received | None:
        """Make a request of a row that was pulled; None: it is in flight, or cannot be read."""
        request = self._read(row, channel)
        if request is None:
            return None
        if not self._registry.add(request):  # it was delivered again just now, and is being looked up
            self._leave_to_disk(channel, row.sn)
            return None
        channel.enter(request)
        return request

    def pull_one(self, sn: str, channel: Channel) -> Received | None:
        """Take a request that waits on the disk alone into memory; None: it does not. Waits for the disk.

        Raises:
            Unavailable: the disk cannot be read.
        """
        mine = sn in self._mine
        try:
            row = self._store.call(partial(requests.pull_one, sn, self._mine))
        except Unavailable:
            if not mine:
                self._mine.discard(sn)
            raise
        return None if row is None else self.take_up(row, channel)

    def pull_all(self, channel: Channel) -> list[Received]:
        """Take all requests of a plugin that wait on the disk, to be rejected. Waits for the disk."""
        found: list[Received] = []
        try:
            work = partial(requests.pull, channel.service.name, _CHUNK, self._window_bytes, self._mine)
            while channel.backlog.count and (rows := self._store.call(work)):
                found += [request for row in rows if (request := self.take_up(row, channel)) is not None]
        except Unavailable as failed:
            log.error("plugin %s: its requests in the ledger stay there: %s", channel.service.name, failed)
        return found

    def abandon(self, channel: Channel) -> None:
        """Leave what waits on the disk to whoever takes up the plugin's requests next."""
        with self._lock:
            channel.backlog = Backlog()
        channel.notify()

    @staticmethod
    def _read(row: Row, channel: RequestQueue) -> Received | None:
        """Make a request of a row; None: it cannot be read, and the log says so."""
        try:
            document = bodies.decode(row.body)
            replyto = Address.parse(document.replyto) if document.replyto else None
        except (DocumentError, ConfigError) as bad:
            text = "plugin %s: request %s in the ledger cannot be read, and stays there: %s"
            log.error(text, row.plugin, row.sn, bad)
            return None
        delivery = Delivery(0, row.body, True, None, None)
        request = Received(
            document, delivery, channel, time.monotonic(), replyto=replyto, identity=row.identity, digest=row.digest
        )
        request.key, request.tries, request.kept = row.sn, row.tries, STORED
        return request

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
            if settled is Settled.UNSENT:  # the broker delivers it again
                self._nonces.forget(request.nonce)
                self._registry.forget(request)
                return
            if request.kept != BROKER:
                self._write_end(request.key, partial(requests.remove, request.key))
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
            self._nonces.secured(request.nonce, lambda: link.accept(delivery))

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
                request = self._read(row, channel) if away else None
                if request is not None and self._registry.add(request):
                    count += 1
                    channel.enter(request)
                    resume(request, row)
        if waiting or count:
            log.info("plugin %s: %d requests taken up from the ledger", name, waiting + count)
        channel.backlog.count = waiting
        self.pull(channel)

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
    return _record(request)._replace(body=bodies.light(request.document) or request.delivery.body)
