"""Custody by the ledger: what takes longer than a moment is written down, and then acknowledged."""

from __future__ import annotations

import logging
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.errors import ConfigError, DocumentError, Interrupted
from gofer.messaging.adapter.base import Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import verify
from gofer.messaging.document import decode_request
from gofer.rmi import records
from gofer.rmi.answers import Refusal
from gofer.rmi.book import Book, Known
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.request import QUEUED, Received

if TYPE_CHECKING:
    from gofer.rmi.receiver import Receiver

__all__ = ["HeldByLedger"]

log = logging.getLogger(__name__)

_SWEEP = 0.25  # seconds between two looks at what takes long
_CHUNK = 20  # rows read at a time
_CROWD = 50  # requests held by the broker that are many

# Where a request is (its attribute ``custody``).
_BROKER, _WRITING, _WRITTEN = 0, 1, 2


class HeldByLedger:
    """Custody by the broker first, so that quick calls touch no disk, and by the ledger after ``patience`` seconds.

    At once there: what has a time to live of its own (a broker would drop it, accepted or not), and what was delivered
    before. What came from the ledger or was delivered before is noted there before it runs; so is, before its first
    run, what must run only once. What was noted and has not ended is not run again after a restart: its caller hears
    Interrupted. All methods may be called by any thread; only ``starting`` and ``recover`` wait for the disk.

    Args:
        memory: the most bytes of bodies of written requests that stay in memory; others are read again when they run.
    """

    def __init__(
        self, book: Book, ledger: Ledger, clock: Clock, *, patience: float = 1.0, memory: int = 32 * 1024 * 1024
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._clock = clock
        self._patience = patience
        self._memory = memory
        self._lock = threading.Lock()
        self._held: dict[Received, None] = {}  # by the broker, the oldest first
        self._sizes: dict[Received, int] = {}  # of bodies that are written, and in memory too
        self._bytes = 0
        self._timer: Timer | None = None
        self._open: set[Received] = set()
        self._moved = 0.0  # when the last one ended, or the first of those that are open came
        self._pace = 0.0  # seconds from one end to the next, about

    # -- what comes -----------------------------------------------------------------------------------------------

    def taken(self, request: Received) -> bool:
        """Let a request go on at once, unless it has to be written, or looked for in the ledger, first."""
        with self._lock:
            self._enter(request)
        explicit = request.delivery.ttl is not None and request.document.wait is None
        before = request.redelivered is not False
        if not explicit and not before:
            self._hold(request)
            return True
        request.custody = _WRITING
        request.must_note = before
        record = _record(request)

        def work(file: Any) -> tuple[bytes, bytes] | None:
            found = records.find(request.key)(file) if before else None
            if found is None:
                records.take(record)(file)
            return found

        self._ledger.post(work, lambda found, failed: self._looked_up(request, found, failed))
        return False

    def _looked_up(self, request: Received, found: tuple[bytes, bytes] | None, failed: Unavailable | None) -> None:
        receiver = request.receiver
        if failed is not None:
            request.custody = _BROKER
            receiver.proceed(request, _unavailable(failed))
        elif found is None:
            self._written(request)
            receiver.proceed(request, None)
        else:
            request.custody = _BROKER
            if found[0] != request.digest:
                receiver.proceed(
                    request, Refusal("sn.conflict", "another request with this serial number is known", request.sn)
                )
            elif request.start():
                receiver.execution.answer_again(request, found[1])

    def _hold(self, request: Received) -> None:
        with self._lock:
            self._held[request] = None
            # Where many wait, and will for long, those behind them (Admin may be among these) need room now.
            wait = len(self._held) * max(self._pace, request.arrived - self._moved)
            crowded = len(self._held) >= _CROWD and wait > self._patience
            if self._timer is None:
                self._timer = self._clock.call_after(self._patience, self._sweep)
        if crowded:
            self._write(math.inf)

    def _sweep(self) -> None:
        """Write down what has been held for long enough, and look again later."""
        self._write(time.monotonic() - self._patience)
        with self._lock:
            self._timer = self._clock.call_after(_SWEEP, self._sweep) if self._held else None

    def _write(self, latest: float) -> None:
        due: list[Received] = []
        with self._lock:
            for request in self._held:
                if request.arrived > latest:
                    break
                due.append(request)
            for request in due:
                del self._held[request]
                request.custody = _WRITING
        for request in due:
            self._ledger.post(records.take(_record(request)), partial(self._swept, request))

    def _swept(self, request: Received, _: None, failed: Unavailable | None) -> None:
        if failed is None:
            self._written(request)
            return
        request.custody = _BROKER  # which goes on holding it
        with self._lock:
            if not request.has_ended:
                # First in the line: it is tried again at the next look.
                self._held = {request: None, **self._held}
                if self._timer is None:
                    self._timer = self._clock.call_after(_SWEEP, self._sweep)

    def _written(self, request: Received) -> None:
        request.custody = _WRITTEN
        self._acknowledge(request)
        self._shed(request)

    # -- before it runs -------------------------------------------------------------------------------------------

    def starting(self, request: Received, *, once: bool = False) -> None:
        """Have the whole request in memory, and note that it runs, if that is needed."""
        if request.custody != _BROKER:
            with self._lock:
                self._uncount(request)
                shed, request.shed = request.shed, False
            if shed:
                body = self._ledger.call(records.load(request.key))
                if body is None:
                    raise Unavailable("the request is not in the ledger any more")
                request.document = _decode(body)
        if (once or request.must_note) and not request.noted:
            self._ledger.call(records.note(_record(request)))
            request.noted = True
            with self._lock:
                self._held.pop(request, None)
            request.custody = _WRITTEN
            self._acknowledge(request)

    # -- what ends ------------------------------------------------------------------------------------------------

    def ended(self, request: Received, result: bytes) -> None:
        """Remember the result, in the ledger too if the request stands there, and acknowledge."""
        self._book.end(request, result)
        if self._let_go(request):
            self._ledger.post(records.end(request.key, result, sent=True), kept=True)
        self._acknowledge(request)

    def kept(self, request: Received, result: bytes) -> None:
        """Remember the result; in the ledger, to be sent after a restart, if the request stands there."""
        self._book.end(request, result)
        if self._let_go(request):
            self._ledger.post(records.end(request.key, result, sent=False), kept=True)

    def refused(self, request: Received) -> None:
        """Forget the request, and acknowledge."""
        self._book.forget(request)
        if self._let_go(request):
            self._ledger.post(records.remove(request.key), kept=True)
        self._acknowledge(request)

    def given_back(self, request: Received) -> None:
        """Release; what is written stays in the ledger until its plugin is there again."""
        self._book.forget(request)
        self._let_go(request)
        if request.custody == _WRITTEN:
            return
        if request.custody == _WRITING:
            self._ledger.post(records.remove(request.key), kept=True)
        request.receiver.link.release(request.delivery)

    def adopted(self, previous: Received) -> None:
        """Acknowledge the older delivery; and the newer one, too, if the ledger has the request."""
        self._acknowledge(previous)
        known = self._book.get(previous.key)
        if known is not None and known.custody == _WRITTEN:
            self._acknowledge(known)

    # -- after a restart ------------------------------------------------------------------------------------------

    def recover(self, receiver: Receiver) -> None:
        """Take up what the ledger holds for a plugin, before its queue is read."""
        if not self._ledger.exists():
            return
        name, after, count = receiver.service.name, 0, 0
        try:
            self._ledger.call(records.clean)
            while rows := self._ledger.call(records.open_rows(name, after, _CHUNK)):
                count += sum(self._recover(receiver, row) for _, row in rows)
                after = rows[-1][0]
        except Unavailable as failed:
            log.error("plugin %s: what the ledger holds for it cannot be taken up: %s", name, failed)
        if count:
            log.info("plugin %s: %d requests taken up from the ledger", name, count)

    def _recover(self, receiver: Receiver, row: records.Row) -> bool:
        try:
            document = _decode(row.body)
            replyto = Address.parse(document.replyto) if document.replyto else None
        except (DocumentError, ConfigError) as bad:
            log.error(
                "plugin %s: a request in the ledger cannot be read, and stays there: %s", receiver.service.name, bad
            )
            return False
        delivery = Delivery(0, row.body, True, None, None)
        request = Received(document, delivery, receiver, replyto=replyto, identity=row.identity)
        request.key = row.key
        request.custody = _WRITTEN
        request.must_note = True
        if self._book.arrive(request).known is not Known.NEW:
            return False  # of an attachment that is still ending
        with self._lock:
            self._enter(request)
        receiver.resume(request)
        if row.result is not None:
            if request.start():
                receiver.execution.answer_again(request, row.result)
        elif row.runs:
            if request.start():
                receiver.execution.fail(
                    request,
                    Interrupted(f"{request.target}() was started, and its agent died; how far it got is not known"),
                )
        else:
            self._shed(request)
            receiver.proceed(request, None)
        return True

    # -- memory ---------------------------------------------------------------------------------------------------

    def _shed(self, request: Received) -> None:
        """Keep the body of a written request in memory, or let go of it where there are enough."""
        size = 2 * len(request.delivery.body)  # what it was decoded to is as large
        with self._lock:
            if request.state != QUEUED or request.has_started:
                return
            if self._bytes + size <= self._memory:
                self._sizes[request] = size
                self._bytes += size
                return
            light = msgspec.structs.replace(request.document.request, cntr=None, args=None, kws=None, kwargs=None)
            request.document = msgspec.structs.replace(request.document, request=light)
            request.delivery = msgspec.structs.replace(request.delivery, body=b"")
            request.shed = True

    def _enter(self, request: Received) -> None:
        if not self._open:
            self._moved = request.arrived
        self._open.add(request)

    def _uncount(self, request: Received) -> None:
        self._bytes -= self._sizes.pop(request, 0)

    def _let_go(self, request: Received) -> bool:
        """Forget a request; tell whether it stands, or will stand, in the ledger."""
        with self._lock:
            self._held.pop(request, None)
            self._uncount(request)
            if request in self._open:
                self._open.remove(request)
                now = time.monotonic()
                self._pace += 0.2 * (now - self._moved - self._pace)
                self._moved = now
        return bool(request.custody != _BROKER)

    @staticmethod
    def _acknowledge(request: Received) -> None:
        if request.delivery.tag is not None:  # else it came from the ledger
            request.receiver.link.accept(request.delivery)


def _record(request: Received) -> tuple[str, str, bytes, str | None, bytes]:
    return request.key, request.receiver.service.name, request.delivery.body, request.identity, request.digest


def _decode(body: bytes) -> Any:
    """Read a request that was verified when it came."""
    return decode_request(verify(body, None)[0])


def _unavailable(failed: Unavailable) -> Refusal:
    return Refusal("ledger.unavailable", "the agent cannot write down what it must not forget", str(failed))
