"""The stored requests that wait: of each queue a window is in memory; the others are read in their order."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from gofer.errors import ConfigError, DocumentError
from gofer.messaging.adapter import Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import verify
from gofer.messaging.document import Request, decode_request
from gofer.rmi.request import STORED, Received
from gofer.rmi.server.channel import Backlog, Channel
from gofer.rmi.server.registry import Registry
from gofer.rmi.store import Database, Unavailable, requests
from gofer.rmi.store.requests import Row

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Backlogs", "decode"]

log = logging.getLogger(__name__)

_CHUNK = 20  # rows read at a time
_PAUSE = 1.0  # seconds until the store is read again that could not be


class Backlogs:
    """Decides which requests wait in memory and which on the disk. Any thread; two methods wait for the disk.

    Args:
        mine: the numbers of stored requests that are in memory, until their ends are written. Others are pulled.
        most: how many stored requests of a queue that wait are in memory; no more than ``most_bytes`` of them.
    """

    def __init__(self, registry: Registry, store: Database, mine: set[str], most: int, most_bytes: int) -> None:
        self._registry = registry
        self._store = store
        self._mine = mine
        self._most = most
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def enter(self, request: Received) -> bool:
        """Have a stored request that waits stay in memory, if there is room and none is on the disk before it."""
        backlog, size = request.channel.backlog, len(request.delivery.body)
        with self._lock:
            full = len(backlog.window) >= self._most or backlog.bytes + size > self._most_bytes
            if backlog.count or (full and backlog.window):
                return False
            if request not in backlog.window:
                backlog.window[request] = size
                backlog.bytes += size
            return True

    def wait_behind(self, request: Received) -> bool:
        """Have a request that its broker holds wait behind those on the disk; False: there are none."""
        backlog = request.channel.backlog
        with self._lock:
            if backlog.count:
                backlog.behind[request] = None
            return bool(backlog.count)

    def come_forward(self, request: Received) -> bool:
        """Tell whether a request has waited behind those on the disk; it does so no more."""
        with self._lock:
            return request.channel.backlog.behind.pop(request, self) is None

    def evict(self, request: Received) -> None:
        """Leave a request that waits to the disk alone."""
        channel = request.channel
        if self._registry.forget(request, waiting=True):
            channel.service.workers.discard(request)
            channel.leave(request)
            self._leave_to_disk(channel, request.key)

    def _leave_to_disk(self, channel: Channel, sn: str) -> None:
        with self._lock:
            self._mine.discard(sn)
            channel.backlog.count += 1
            channel.backlog.evicted += 1

    def leave(self, request: Received) -> None:
        """Note that a request waits no more, and pull others in its place."""
        backlog = request.channel.backlog
        if backlog.window or backlog.behind:
            with self._lock:
                size = backlog.window.pop(request, None)
                backlog.bytes -= size or 0
                backlog.behind.pop(request, None)
            self.pull(request.channel)

    def pull(self, channel: Channel) -> None:
        """Have more of the requests that wait on the disk read, if there is room for them."""
        backlog = channel.backlog
        if not backlog.count or backlog.pulling or channel.over or time.monotonic() < backlog.pull_at:
            return
        with self._lock:
            room, size = self._most - len(backlog.window), self._most_bytes - backlog.bytes
            if backlog.pulling or room < self._most / 2 or (size <= 0 and backlog.window):
                return
            backlog.pulling = True

        work = partial(requests.pull, channel.service.name, room, size, self._mine)

        rows: list[Row] = []

        def read(file: sqlite3.Connection) -> int:
            before = backlog.evicted
            rows.extend(work(file))
            return before

        def done(before: int, failed: Unavailable | None) -> None:
            if failed is None:
                more = len(rows) >= room or sum(len(row.body) for row in rows) >= size
                self._pulled(channel, rows, None if more else before)
            else:
                self._mine.difference_update(row.sn for row in rows)
                backlog.pull_at = time.monotonic() + _PAUSE
                self._pulled(channel, [], None)

        self._store.post(read, done)

    def _pulled(self, channel: Channel, rows: Sequence[Row], last: int | None) -> None:
        """Go on with requests that were read. ``last``: no others were there when so many had been evicted."""
        backlog = channel.backlog
        ready = [request for row in rows if (request := self._take_up_waiting(row, channel)) is not None]
        with self._lock:
            backlog.pulling = False
            backlog.count = max(0, backlog.count - len(rows) if last is None else backlog.evicted - last)
            if not rows or not backlog.count:  # quick calls go on while the disk cannot be read
                ready += backlog.behind
                backlog.behind.clear()
        channel.notify()
        for request in ready:
            channel.service.workers.put(request)
            if channel.over and self._registry.forget(request, waiting=True):
                self._mine.discard(request.key)
                channel.leave(request)

    def _take_up_waiting(self, row: Row, channel: Channel) -> Received | None:
        """Make a request of a row that waited, and have it wait in memory; None: it is in flight, or cannot be read."""
        request = self.take_up(row, channel)
        if request is not None:
            request.beside = channel.service.holds_no_thread(request.classname, request.method)
            request.told = int(not request.tries)  # that it is accepted; after a restart it is told again
            self._registry.queue(request)
            with self._lock:
                channel.backlog.window[request] = len(row.body)
                channel.backlog.bytes += len(row.body)
        return request

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
            work = partial(requests.pull, channel.service.name, _CHUNK, self._most_bytes, self._mine)
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

    def read(self, row: Row, channel: Channel) -> Received | None:
        """Make a request of a row; None: it cannot be read, and the log says so."""
        try:
            document = decode(row.body)
            replyto = Address.parse(document.replyto) if document.replyto else None
        except (DocumentError, ConfigError) as bad:
            log.error(
                "plugin %s: request %s in the ledger cannot be read, and stays there: %s", row.plugin, row.sn, bad
            )
            return None
        delivery = Delivery(0, row.body, True, None, None)
        now = time.monotonic()
        request = Received(document, delivery, channel, now, replyto=replyto, identity=row.identity)
        request.key = row.sn
        request._digest = row.digest
        request.kept = STORED
        request.tries = row.tries
        return request


def decode(body: bytes) -> Request:
    """Read a request that was verified when it came.

    Raises:
        DocumentError: it is none.
    """
    return decode_request(verify(body, None)[0])
