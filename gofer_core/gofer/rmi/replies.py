"""What runs while a consumer of replies is started: a subscription, and the thread that tells the listener."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from msgspec import to_builtins

from gofer.errors import ConnectionLost, DocumentError, MessagingError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import Bind, DeclareQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.auth import verify
from gofer.messaging.document import decode_reply, shown
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.rmi.notices import Notice, read_notice, tell

__all__ = ["Replies", "aside"]

log = logging.getLogger(__name__)

#: Replies that the broker hands over before earlier ones are accepted: few, so that consumers share fairly.
_PREFETCH = 10
#: Seconds for setting a reply aside.
_ASIDE = 10.0
#: Serial numbers of ended requests that are remembered.
_REMEMBERED = 10_000


class _Item(NamedTuple):
    """A delivery, which subscription in a row it came by, and how often it was told."""

    delivery: Delivery
    made: int
    tries: int = 0


class Replies:
    """A consumer's queue, subscription and thread, from its start to its stop.

    Args:
        ended: the serial numbers of requests whose end was told; kept from one start to the next.
    """

    def __init__(
        self,
        link: ThreadConnection,
        *,
        queue: DeclareQueue,
        exchange: str,
        listener: Any,
        authenticator: Any,
        pauses: Sequence[float],
        ended: dict[str, None],
    ) -> None:
        self.link = link
        self._queue, self._exchange = queue, exchange
        self._authenticator = authenticator
        self._pauses = pauses
        self._ended = ended
        self._listener = listener
        self._complain = LimitedLog(log)
        self._lock = threading.Lock()  # guards the inbox against its end
        self._inbox: deque[_Item] = deque()
        self._later: list[tuple[float, _Item]] = []
        self._made = 0
        self._stopping = self._left = False
        self._waiter = Waiter()
        name = self._queue.name
        self.subscription = Subscription(
            name,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            lambda why: log.warning("no replies from %r for now: %s", name, why),
            on_made=self._on_made,
        )
        self.thread = threading.Thread(target=self._run, name=f"gofer-replies-{name}", daemon=True)

    def stop(self) -> None:
        """Have the thread end when the listener has returned, after giving back what was not told. Any thread."""
        self._stopping = True
        self._waiter.wake()

    # -- on the thread that pumps: quick ------------------------------------------------------------------------

    def _prepare(self) -> Steps:
        differs = yield self._queue
        if differs:
            log.info("the queue for replies is used as it is: %s", differs)
        if self._exchange:
            yield Bind(self._queue.name, self._exchange, self._queue.name)

    def _on_made(self) -> None:
        self._made += 1  # what an earlier subscription brought comes again

    def _on_delivery(self, delivery: Delivery) -> None:
        with self._lock:
            left = self._left
            if not left:
                self._inbox.append(_Item(delivery, self._made))
        if left:
            self.link.release(delivery)
        self._waiter.wake()

    # -- on the consumer's own thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                due = min((at for at, _ in self._later), default=None)
                self.link.wait(lambda: self._inbox or self._stopping, due, self._waiter)
                self._take_up()
        except ConnectionLost:
            if not self._stopping:
                log.debug("%r: the connection was closed", self.subscription)  # at the end of the process
        finally:
            self._leave()

    def _take_up(self) -> None:
        now = monotonic()
        items = [item for at, item in self._later if at <= now]
        self._later = [(at, item) for at, item in self._later if at > now]
        if self._inbox:
            items.append(self._inbox.popleft())
        for n, item in enumerate(items):
            if self._stopping:
                self._later += [(now, left) for left in items[n:]]  # given back by _leave
                return
            if item.made == self._made:
                self._attend(item)

    def _attend(self, item: _Item) -> None:
        delivery = item.delivery
        try:
            notice = self._read(delivery.body)
        except DocumentError as bad:
            text = "%r: a reply is not told: %s: %s"
            self._complain(logging.WARNING, text, self.subscription, bad, shown(repr(delivery.body[:200])))
            self.link.reject(delivery)
            return
        if notice.sn not in self._ended:
            try:
                tell(self._listener, notice)
            except BaseException as raised:  # whatever a listener does, the next reply is told
                log.error(
                    "the listener raised for %s of request %s", notice.kind, shown(str(notice.sn)), exc_info=raised
                )
                if notice.done and not self._keep(item):
                    return
            if notice.done and notice.sn is not None:
                self._remember(notice.sn)
        self.link.accept(delivery)
        self.link.wait_written(_ASIDE)  # the listener may be busy with the next one for long

    def _read(self, body: bytes) -> Notice:
        inner, _ = verify(body, None)
        reply = decode_reply(inner)
        if self._authenticator is not None:
            verify(body, self._authenticator, to_builtins(reply))
        return read_notice(reply)

    def _keep(self, item: _Item) -> bool:
        """Keep an end that the listener raised for, for another try or in the other queue; tell whether it is there."""
        if item.tries < len(self._pauses):
            pause = self._pauses[item.tries]
        else:
            try:
                self._setaside(item.delivery.body)
                return True
            except MessagingError as refused:
                log.error("%r: a reply cannot be set aside, and is told again: %s", self.subscription, refused)
                pause = max(self._pauses, default=1.0)
        self._later.append((monotonic() + pause, item._replace(tries=item.tries + 1)))
        return False

    def _setaside(self, body: bytes) -> None:
        address = aside(self._queue.name)
        deadline = monotonic() + _ASIDE
        told: list[tuple[Outcome, str]] = []
        waiter = Waiter()

        def settled(outcome: Outcome, reason: str) -> None:
            told.append((outcome, reason))
            waiter.wake()

        self.link.ask(DeclareQueue(address.key), _ASIDE)
        self.link.publish(address, body, deadline=deadline, settled=settled)
        self.link.wait(lambda: told, deadline, waiter)
        if not told or told[0][0] is not Outcome.CONFIRMED:
            why = f"{told[0][0].value} {told[0][1]}" if told else f"no word from the broker ({self.link.state})"
            raise ConnectionLost(f"{address.key!r} did not take it: {why}")
        log.error("%r: the reply was put into %r", self.subscription, address.key)

    def _remember(self, sn: str) -> None:
        self._ended[sn] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _leave(self) -> None:
        try:
            self._give_back()
            self.link.unsubscribe(self.subscription, _ASIDE)
        except MessagingError as lost:
            log.debug("%r: not cancelled: %s", self.subscription, lost)  # then the broker gives them to others itself
        with self._lock:
            self._left = True
        self._give_back()
        pool.release(self.link)

    def _give_back(self) -> None:
        items = [item for _, item in self._later]
        self._later.clear()
        while self._inbox:
            items.append(self._inbox.popleft())
        for item in items:
            self.link.release(item.delivery)


def aside(name: str) -> Address:
    """Tell where that is put which a queue's listener cannot take."""
    return Address.parse(f"/{name}.failed")
