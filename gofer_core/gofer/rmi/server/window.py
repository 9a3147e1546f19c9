"""Which of the stored requests that wait are in memory: a window of each queue; the others are rows of the store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from gofer.errors import ConfigError, DocumentError
from gofer.messaging.adapter import Delivery
from gofer.messaging.address import Address
from gofer.rmi.request import QUEUED, STORED, Received
from gofer.rmi.server.channel import Backlog, Channel
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.store import Database, Unavailable, requests
from gofer.rmi.store.requests import Row

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Window"]

log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds until the store is read again that could not be
_CHUNK = 20  # rows read at a time


class Window:
    """Has requests that wait on the disk pulled into memory, in their order. Any thread; ``pull_these`` and
    ``pull_all`` wait.

    What is on the disk alone is decided by the store's thread, in the order in which it writes.

    Args:
        most: how many stored requests of a queue that wait are in memory; no more than ``most_bytes`` of them.
    """

    def __init__(
        self, registry: Registry, store: Database, *, most: int = 64, most_bytes: int = 8 * 1024 * 1024
    ) -> None:
        self._registry = registry
        self._store = store
        self._most = most
        self._bytes = most_bytes
        self._lock = threading.Lock()
        #: Numbers of stored requests that are in memory, until their ends are written. Others are pulled.
        self.mine: set[str] = set()

    def place(self, request: Received) -> None:
        """Have a stored request that waits stay in memory, if there is room and none is on the disk before it."""
        channel, backlog, size = request.channel, request.channel.backlog, len(request.delivery.body)
        with self._lock:
            full = len(backlog.window) >= self._most or backlog.bytes + size > self._bytes
            stays = not backlog.count and not (full and backlog.window)
            if stays:
                self._enter(request)
        if stays:
            self.go_on(request)
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

    def go_on(self, request: Received) -> None:
        """Send a request to the workers that has waited for its turn."""
        if request.behind:
            request.behind = False
            request.channel.service.workers.put(request)

    def _leave_to_disk(self, channel: Channel, sn: str) -> None:
        with self._lock:
            self.mine.discard(sn)
            channel.backlog.count += 1
            channel.backlog.evicted += 1

    def left(self, request: Received) -> None:
        """Note that a request waits no more, and pull others in its place."""
        backlog = request.channel.backlog
        if backlog.window:
            with self._lock:
                backlog.bytes -= backlog.window.pop(request, 0)
            self.pull(request.channel)

    def pull(self, channel: Channel) -> None:
        """Have more of the requests that wait on the disk read, if there is room for them."""
        backlog = channel.backlog
        if not backlog.count or backlog.pulling or channel.over or time.monotonic() < backlog.pull_at:
            return
        with self._lock:
            room, size = self._most - len(backlog.window), self._bytes - backlog.bytes
            if backlog.pulling or room < self._most / 2 or (size <= 0 and backlog.window):
                return
            backlog.pulling = True

        rows: list[Row] = []

        def read(file: sqlite3.Connection) -> int:
            rows.extend(requests.pull(channel.service.name, room, size, self.mine, file))
            return int(backlog.evicted)

        def done(evicted: int, failed: Unavailable | None) -> None:
            if failed is not None:
                self.mine.difference_update(row.sn for row in rows)
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
                    self.mine.discard(request.key)
                    channel.leave(request)

        self._store.post(read, done)

    def take_up(self, row: Row, channel: Channel) -> Received | None:
        """Make a request of a row that was pulled; None: it is in flight, or cannot be read."""
        request = self.read(row, channel)
        if request is None:
            return None
        if not self._registry.add(request):  # it was delivered again just now, and is being looked up
            self._leave_to_disk(channel, row.sn)
            return None
        channel.enter(request)
        return request

    def pull_these(self, channel: Channel, sns: Sequence[str]) -> list[Received]:
        """Take those requests into memory that wait on the disk alone, with one look at it. Waits for the disk.

        Raises:
            Unavailable: the disk cannot be read.
        """
        rows = self._pulled(channel, partial(requests.pull_these, sns, self.mine))
        return [request for row in rows if (request := self.take_up(row, channel)) is not None]

    def _pulled(self, channel: Channel, work: Callable[[sqlite3.Connection], list[Row]]) -> list[Row]:
        """Wait for rows that are pulled. Those for which that cannot be waited go back to the disk."""
        rows: list[Row] = []

        def pull(file: sqlite3.Connection) -> None:
            rows.extend(work(file))  # perhaps once more: it does not read again what it has read

        def give_back(*_: object) -> None:
            for row in rows:
                if channel.over:
                    self.mine.discard(row.sn)
                else:
                    self._leave_to_disk(channel, row.sn)

        try:
            self._store.call(pull)
        except Unavailable:
            self._store.post(lambda file: None, give_back)  # behind that: it may be done yet
            raise
        return rows

    def pull_all(self, channel: Channel) -> list[Received]:
        """Take all requests of a plugin that wait on the disk, to be rejected. Waits for the disk."""
        found: list[Received] = []
        try:
            work = partial(requests.pull, channel.service.name, _CHUNK, self._bytes, self.mine)
            while channel.backlog.count and (rows := self._pulled(channel, work)):
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
    def read(row: Row, channel: Channel) -> Received | None:
        """Make a request of a row; None: it cannot be read, and the log says so."""
        try:
            document = requests.decode(row.body)
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
