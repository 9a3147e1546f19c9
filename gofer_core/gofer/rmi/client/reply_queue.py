"""The queue that replies come to, and how a reply reaches the call that waits for it."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

from gofer.errors import DocumentError, MessagingError, NotFound
from gofer.limit import LimitedLog
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue, DeleteQueue, Delivery
from gofer.messaging.document import shown
from gofer.messaging.subscription import Steps, Subscription
from gofer.rmi.client.call import Call
from gofer.rmi.client.notices import Resubscribed, read_reply

if TYPE_CHECKING:
    from gofer.messaging.connection import Connection

__all__ = ["ReplyQueue"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_QUEUE_EXPIRES = 600.0
#: Replies that the broker may deliver before they are acknowledged.
_PREFETCH = 1000
#: Seconds within which they are acknowledged, many at once. One that is delivered again before ends no other call.
_ACK_WITHIN = 0.05


class ReplyQueue:
    """A queue with a name of its own, declared and subscribed to again after each reconnect.

    Its methods run in the thread that reads the broker.

    Attributes:
        address: where agents reply to.
        calls: the calls that wait, by serial number. Any thread adds and removes its own.

    Args:
        exchange: what the queue is bound to; None: the default exchange.
        queue: its name; None: a new one.
    """

    def __init__(self, connection: Connection, exchange: str | None, queue: str | None = None) -> None:
        self._connection = connection
        self._queue = queue or str(uuid.uuid4())
        self._exchange = exchange
        self.address = f"{exchange}/{self._queue}" if exchange else self._queue
        self.calls: dict[str, Call] = {}
        self._declaration = DeclareQueue(self._queue, expires=_QUEUE_EXPIRES)
        self._binding = Bind(self._queue, exchange or "", self._queue)
        self._checking = False
        self._complain = LimitedLog(log)
        self.subscription = Subscription(
            self._queue,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            on_made=self._on_made,
            dispose=self._dispose,
            keep_open=False,
        )

    def _on_delivery(self, delivery: Delivery) -> None:
        self._connection.accept(delivery, _ACK_WITHIN)
        try:
            received = read_reply(delivery.body)
            call = self.calls.get(received.notice.sn or "")
            if call is not None:  # else it comes too late: its caller has gone
                # Here, and not by the caller's thread, which would have to queue a command for it.
                self._connection.forget(call.answered_by(received))
                call.put(received)
        except DocumentError as bad:
            text = "a reply that cannot be read was dropped: %s: %s"
            self._complain(logging.WARNING, text, bad, shown(repr(delivery.body[:200])))

    def _on_made(self) -> None:
        made = self.subscription.made
        for call in list(self.calls.values()):
            if call.sent_in and call.sent_in != made:
                call.put(Resubscribed(made))

    def _prepare(self) -> Steps:
        answer = yield self._declaration
        if answer == NO_EXPIRY and self._declaration.expires is not None:
            # Nobody deletes it for a caller that was killed. So where it cannot expire, it goes with the connection: a
            # caller repeats its request after a reconnect, and an agent repeats a reply that had no queue.
            try:
                yield DeleteQueue(self._queue)
            except MessagingError:
                self._declaration = DeclareQueue(self._queue)  # nor can the broker delete it: it is used as it is
            else:
                self._declaration = DeclareQueue(self._queue, auto_delete=True)
                yield self._declaration
        if self._exchange:
            yield self._binding

    def check_binding(self) -> None:
        """Bind the queue again, since no reply came: no broker tells that an exchange was deleted and declared anew."""
        # Once for all calls that time out together: other operations would wait for thousands of these.
        if self._exchange and self.subscription.active and not self._checking:
            self._checking = True
            self._connection.ask_nowait(self._binding, self._on_bound)

    def _on_bound(self, _: object, error: Exception | None) -> None:
        self._checking = False
        if isinstance(error, NotFound):  # the next call tries it, too, and is told
            self._connection.resubscribe(self.subscription, str(error))

    def _dispose(self) -> Steps:
        yield DeleteQueue(self._queue)

    def leave(self) -> None:
        """Delete the queue, now that no call uses it any more, and the connection goes on."""
        self._connection.unsubscribe_nowait(self.subscription, dispose=True)
