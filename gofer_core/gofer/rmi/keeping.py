"""Custody by the ledger: what takes longer than a moment is written down, and then acknowledged."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gofer.errors import DocumentError
from gofer.rmi import records, recovery
from gofer.rmi.answers import Refusal
from gofer.rmi.beginnings import Beginnings
from gofer.rmi.book import Book, Known
from gofer.rmi.clock import Clock
from gofer.rmi.custody import AlreadyBegun
from gofer.rmi.ledger import Ledger, Unavailable
from gofer.rmi.patience import Held
from gofer.rmi.records import Found, Record
from gofer.rmi.request import Received
from gofer.rmi.shedding import BARE, WHOLE, Bodies, restore, slim

if TYPE_CHECKING:
    from gofer.rmi.receiver import Receiver

__all__ = ["HeldByLedger"]

log = logging.getLogger(__name__)

_TIDY = 3600.0  # seconds between two times that old things are thrown out of the ledger
_MOST_REMEMBERED = 100_000  # keys of what has ended and stands in the ledger

# Where a request is (its attribute ``custody``).
_BROKER, _WRITING, _WRITTEN = 0, 1, 2


class HeldByLedger:
    """Custody by the broker first, so that quick calls touch no disk, and by the ledger after ``patience`` seconds.

    At once there: what has a time to live of its own (a broker would drop it, accepted or not), and what was delivered
    before. What came from the ledger or was delivered before is noted there before it runs; so is, before its first
    run, what must run only once. What was noted and has not ended is not run again after a restart: its caller hears
    Interrupted. A result that nobody takes is kept there, too. All methods may be called by any thread; only
    ``starting``, ``recover`` and ``revive`` wait for the disk.

    Args:
        memory: the most bytes of bodies of written requests that stay in memory; others are read again when they run.
        most: of more requests than this, the broker holds the rest.
    """

    def __init__(
        self,
        book: Book,
        ledger: Ledger,
        clock: Clock,
        *,
        patience: float = 1.0,
        memory: int = 32 * 1024 * 1024,
        most: int = 100_000,
    ) -> None:
        self._book = book
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()
        self._held = Held(clock, patience, most, self._write)
        self._bodies = Bodies(memory)
        self._unsent: set[str] = set()  # keys of requests whose results stand in the ledger and were not taken
        self._given_up: dict[str, None] = {}  # keys of those whose results stand there as undeliverable, the latest
        self._remembered: dict[int, None] = {}  # hashes of the keys of what has ended, and stands in the ledger
        self._beginnings = Beginnings(ledger.path.with_name("begun"))
        ledger.lost.append(self._rewrite)
        clock.call_after(_TIDY, self._tidy)

    # -- what comes -----------------------------------------------------------------------------------------------

    def taken(self, request: Received) -> bool:
        """Let a request go on at once, unless it has to be written, or looked for in the ledger, first."""
        self._held.enter(request)
        explicit = request.delivery.ttl is not None and request.document.wait is None
        before = request.redelivered is not False
        if not explicit and not before and hash(request.key) not in self._remembered:
            self._held.hold(request)
            return True
        request.custody = _WRITING
        request.must_note = before
        record = _record(request)

        def work(file: Any) -> Found | None:
            found = records.find(request.key)(file)
            if found is None:
                records.take(record)(file)
            return found

        self._ledger.post(work, lambda found, failed: self._looked_up(request, found, failed))
        return False

    def _looked_up(self, request: Received, found: Found | None, failed: Unavailable | None) -> None:
        receiver = request.receiver
        if failed is not None:
            request.custody = _BROKER
            receiver.proceed(request, _unavailable(failed))
        elif found is None:
            self._written(request)
            receiver.proceed(request, None)
        else:
            request.custody = _BROKER
            if found.digest != request.digest:
                receiver.proceed(
                    request, Refusal("sn.conflict", "another request with this serial number is known", request.sn)
                )
            elif request.start():
                self.answered_again(request)
                receiver.execution.answer_again(request, found.result or b"{}")

    def answered_again(self, request: Received) -> None:
        """Hear that a request is answered by a result that stands in the ledger."""
        self._unsent.add(request.key)

    def _write(self, due: list[Received]) -> None:
        for request in due:
            request.custody = _WRITING
            self._ledger.post(records.take(_record(request)), partial(self._swept, request))

    def _swept(self, request: Received, _: None, failed: Unavailable | None) -> None:
        if failed is None:
            self._written(request)
        else:
            request.custody = _BROKER  # which goes on holding it
            self._held.hold_on(request)

    def _written(self, request: Received) -> None:
        request.custody = _WRITTEN
        self._acknowledge(request)
        self._bodies.settle(request)

    # -- before it runs -------------------------------------------------------------------------------------------

    def starting(self, request: Received, *, once: bool = False) -> None:
        """Have the whole request in memory, and note that it runs, if that is needed."""
        if request.custody != _BROKER and self._bodies.claim(request) != WHOLE:
            body = self._ledger.call(records.load(request.key))
            if body is None:
                raise Unavailable("the request is not in the ledger any more")
            try:
                restore(request, body)
            except DocumentError as bad:
                raise Unavailable(f"the request in the ledger cannot be read: {bad}") from bad
        if (once or request.must_note) and not request.noted:
            note = records.note(_record(request), once=once)
            before = self._ledger.call(self._beginnings.noting(note, request.key))
            request.noted = True
            self._held.take(request)
            if before is not None:
                raise AlreadyBegun(before.result)
            request.custody = _WRITTEN
            self._acknowledge(request)

    def begins(self, request: Received) -> None:
        """Write that a noted run begins; without a wait for the disk."""
        if request.noted:
            self._beginnings.begins(request.key)

    def recall(self, request: Received, then: Callable[[], object]) -> None:
        """Have what the caller put beside a request in memory again, and go on; at once, if it is there."""

        def end() -> None:
            then()
            if request.custody == _WRITTEN:
                self._bodies.lighten(request)  # it may wait on for a worker, who finds that it has ended

        if request.shed != BARE:
            end()
            return

        def done(body: bytes | None, failed: Unavailable | None) -> None:
            try:
                if body is None:
                    raise failed or Unavailable("the request is not in the ledger any more")
                restore(request, body)
            except (Unavailable, DocumentError) as lost:
                log.error("%r is answered without its data, which cannot be read: %s", request, lost)
            end()

        self._ledger.post(records.load(request.key), done)

    # -- what ends ------------------------------------------------------------------------------------------------

    def finished(self, request: Received, result: bytes, send: Callable[[], None]) -> None:
        """Write the result of what stands in the ledger beside it, so that a death before it is taken does not lose it.

        The result of a run that was noted is sent after that: else its caller could hear it, and Interrupted after it.
        """
        if request.custody == _BROKER or request.started is None or request.interrupted or request.replyto is None:
            send()
            return
        whole = request.shed == WHOLE
        record = _record(request)._replace(body=slim(request) if whole else b"")
        work = records.keep(record, result, records.UNSENT, whole=whole)
        self._unsent.add(request.key)
        if request.noted:
            self._ledger.post(work, lambda _, failed: send())
        else:
            self._ledger.post(work)
            send()

    def ended(self, request: Received, result: bytes) -> None:
        """Remember the result, in the ledger too if the request stands there, and acknowledge."""
        self._book.end(request, result)
        if self._let_go(request) or request.key in self._unsent or request.key in self._given_up:
            self._unsent.discard(request.key)
            self._given_up.pop(request.key, None)
            self._ledger.post(records.end(request.key, result, interrupted=request.interrupted), kept=True)
        if request.noted:
            self._remember(request.key)
        self._acknowledge(request)

    def kept(self, request: Received, result: bytes) -> None:
        """Remember the result, and keep it in the ledger, to be sent when its plugin is at its queue again."""
        self._book.end(request, result)
        self._keep(request, result, records.UNSENT, None)

    def given_up(self, request: Received, result: bytes, reason: str) -> None:
        """Remember the result, keep it in the ledger as undeliverable, and then acknowledge."""
        self._book.end(request, result)
        self._keep(request, result, records.UNDELIVERABLE, reason)

    def _keep(self, request: Received, result: bytes, state: int, reason: str | None) -> None:
        written = self._let_go(request)
        if state == records.UNSENT:
            self._unsent.add(request.key)
        else:
            self._unsent.discard(request.key)
            self._given_up[request.key] = None
            while len(self._given_up) > records.MOST_KEPT:
                del self._given_up[next(iter(self._given_up))]
        self._remember(request.key)
        whole = request.shed == WHOLE
        record = _record(request)._replace(body=slim(request) if whole else b"")

        def done(_: None, failed: Unavailable | None) -> None:
            if failed is not None:
                self._unsent.discard(request.key)
                if state == records.UNSENT:
                    return  # the broker delivers it again
                request.receiver.complain(logging.ERROR, "%r: its result is lost, for %s", request, failed)
            self._acknowledge(request)

        # What the broker still holds need not wait for a ledger that cannot be used.
        self._ledger.post(records.keep(record, result, state, reason, whole=whole), done, kept=written)

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
        """Take up what the ledger holds for a plugin, before its queue is read. May be repeated when it has failed.

        Raises:
            Unavailable: it cannot be read now; until it is, no request of the plugin may be taken.
        """
        if not self._ledger.exists():
            return
        name = receiver.service.name
        self._ledger.call(records.clean)
        for key in reversed(self._ledger.call(records.known(name, _MOST_REMEMBERED))):
            self._remember(key)
        count = recovery.recover(receiver, self._ledger, self.take_up)
        if count:
            log.info("plugin %s: %d requests taken up from the ledger", name, count)

    def take_up(self, request: Received, row: records.Row) -> bool:
        """Take up one request from the ledger; False: it is in work already."""
        request.custody = _WRITTEN
        request.must_note = True
        known = self._book.arrive(request).known
        if known is Known.ANSWERED and row.result is not None:
            request.receiver.resume(request)  # its result is known here, and was not sent
        elif known is not Known.NEW:
            return False  # of an attachment that is still ending
        else:
            self._held.enter(request)
            request.receiver.resume(request)
        if row.runs == 1 and row.result is None and self._beginnings.spared(row.key):
            self._ledger.post(records.unnote(row.key), kept=True)
            row = row._replace(runs=0)
        recovery.go_on(request, row, self._bodies)
        return True

    def revive(self, key: str, find: Callable[[str], Receiver | None]) -> bool:
        """Have what is undeliverable sent again, or what was interrupted run again, which is not answered.

        What belongs to a plugin that is not at its queue is taken up when that is there again.

        Args:
            find: returns the receiver of a plugin, by its name.

        Returns:
            Whether there is such a request.

        Raises:
            Unavailable: the ledger cannot be used.
        """
        row = self._ledger.call(recovery.revived(key))
        if row is None:
            return False
        receiver = find(row.plugin)
        if row.state == records.OPEN:
            self._book.unlearn(key)
        request = None if receiver is None else recovery.read(row, receiver)
        if request is not None:
            self._unsent.add(key)
            self.take_up(request, row._replace(runs=0))
        return True

    def _rewrite(self) -> None:
        """Write down again what is known of what stood in a file that was corrupt."""
        for request in self._held.open():
            if request.custody == _WRITTEN and request.shed == WHOLE:
                self._ledger.post(records.take(_record(request), begun=request.noted), kept=True)

    def _tidy(self) -> None:
        self._clock.call_after(_TIDY, self._tidy)
        if self._ledger.exists():
            self._ledger.post(records.clean)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _remember(self, key: str) -> None:
        with self._lock:
            self._remembered[hash(key)] = None
            if len(self._remembered) > _MOST_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]

    def _let_go(self, request: Received) -> bool:
        """Forget a request; tell whether it stands, or will stand, in the ledger."""
        self._bodies.claim(request)
        self._held.leave(request)
        return bool(request.custody != _BROKER)

    @staticmethod
    def _acknowledge(request: Received) -> None:
        if request.delivery.tag is not None:  # else it came from the ledger
            request.receiver.acknowledge(request)


def _record(request: Received) -> Record:
    return Record(request.key, request.receiver.service.name, request.delivery.body, request.identity, request.digest)


def _unavailable(failed: Unavailable) -> Refusal:
    return Refusal("ledger.unavailable", "the agent cannot write down what it must not forget", str(failed))
