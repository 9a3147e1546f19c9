"""The caller's half of one connection: the reply queue, and the calls that wait for replies.

One session per connection and reply exchange, shared by all agents in the process and used by many threads. A request
is sent when the reply queue is subscribed to: so it need not be sent again when that happens after a reconnect.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial
from time import monotonic, time
from typing import Any

from gofer.errors import ConnectionLost, DocumentError, MessagingError, RequestTimeout
from gofer.limit import LimitedLog
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue, DeleteQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import sign
from gofer.messaging.connection import Connection
from gofer.messaging.document import encode, shown, timestamp
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.rmi.client.call import Call, Next, Resubscribed
from gofer.rmi.client.options import Options
from gofer.rmi.client.replies import read_reply
from gofer.rmi.client.unconfirmed import Owner, Unconfirmed, UnconfirmedRequest

__all__ = ["Session", "SessionBase"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_REPLY_EXPIRES = 600.0
#: Replies that the broker may deliver before they are acknowledged.
_PREFETCH = 1000


class SessionBase:
    """What sessions of threads and of event loops have in common.

    A request without a waiting caller may wait ``publish_wait`` seconds for the connection.
    """

    publish_wait = 30.0

    def __init__(self, connection: Connection, exchange: str | None = None) -> None:
        self.connection = connection
        self.queue = str(uuid.uuid4())
        self.replyto = f"{exchange}/{self.queue}" if exchange else self.queue
        self.unconfirmed = connection.shared(Unconfirmed, lambda: Unconfirmed(connection))
        self._exchange = exchange
        self._declaration = DeclareQueue(self.queue, expires=_REPLY_EXPIRES)
        self._calls: dict[str, Call] = {}
        self._complain = LimitedLog(log)
        self._subscription = Subscription(
            self.queue,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            on_made=self._on_made,
            dispose=self._dispose,
            keep_open=False,
        )

    # -- requests -----------------------------------------------------------------------------------------------------

    def _begin(self, document: dict[str, Any], options: Options, wake: Callable[[], None]) -> Call:
        """Have the replies to a request reach its caller."""
        document["replyto"], document["wait"] = self.replyto, options.wait
        call = self._calls[document["sn"]] = Call(document, options, wake)
        return call

    def _publish(self, call: Call, address: Address) -> bool:
        """Send a call's request if that is possible now; return whether it was."""
        connection, ttl = self.connection, call.ttl
        body = self._encode(call.document, call.options, ttl, call.ahead)
        connection.forget(call.token)
        call.sent_in = self._subscription.made
        # Its result is all the confirmation that a waiting caller needs; not asking for one spares the broker a
        # synchronous write for each request. But it must not overtake what was sent before without waiting.
        call.token = connection.publish_nowait(
            address,
            body,
            ttl=ttl,
            isolated=call.isolated,
            confirm=call.isolated or len(self.unconfirmed) > 0,
            settled=call.settled,
        )
        if call.token:
            call.sent()
        return call.token != 0

    def _take(self, call: Call, event: Any) -> Next:
        """Hand an event to a call; without one, its time may be over.

        Raises:
            RequestTimeout: no result within ``options.wait``.
        """
        if event is None and call.late:
            raise call.timeout(self.connection.state)
        return call.take(event)

    def _timeout(self, call: Call, lost: ConnectionLost) -> RequestTimeout:
        """Make the error for a caller that has waited for a connection until the end."""
        return call.timeout(str(lost) if call.state == "not sent" else self.connection.state)

    def _end(self, call: Call) -> None:
        del self._calls[call.sn]
        self.connection.forget(call.token)

    def _request(
        self, document: dict[str, Any], address: Address, options: Options, owner: Owner
    ) -> UnconfirmedRequest:
        """Make a request without a waiting caller."""
        document["replyto"] = options.reply
        # The failure of one that is waited for is told to the one who waits for it, and to no other.
        owner = Owner() if options.confirm else owner
        expires = None if options.ttl is None else monotonic() + options.ttl
        return UnconfirmedRequest(document, address, owner, partial(self._encode, document, options), expires)

    def _full(self) -> ConnectionLost:
        count = len(self.unconfirmed)
        return ConnectionLost(
            f"not sent: the broker has not answered for {count} requests before it: {self.connection.state}"
        )

    def _encode(self, document: dict[str, Any], options: Options, ttl: float | None, ahead: float = 0.0) -> bytes:
        """Write a document. ``ahead``: by how many seconds the agent's clock is known to be ahead of ours."""
        document.setdefault("timestamp", timestamp())
        if ttl is not None:
            # In the document, too: the broker counts only from when it has queued the message, and nobody signs that.
            document["ttl"], document["expires"] = ttl, round(time() + ahead + ttl, 3)
        body = encode(document)
        if options.authenticator is not None:
            body = sign(body, options.authenticator)
        most = self.connection.connector.max_message
        if len(body) > most:
            raise ValueError(f"the request is {len(body)} bytes long, over the limit of {most} (max_message)")
        return body

    # -- replies, in the driver's thread ------------------------------------------------------------------------------

    def _prepare(self) -> Steps:
        answer = yield self._declaration
        if answer == NO_EXPIRY and self._declaration.expires is not None:
            # Nobody deletes it for a caller that was killed. So where it cannot expire, it goes with the connection: a
            # caller repeats its request after a reconnect, and an agent repeats a reply that had no queue.
            try:
                yield DeleteQueue(self.queue)
            except MessagingError:
                self._declaration = DeclareQueue(self.queue)  # nor can the broker delete it: it is used as it is
            else:
                self._declaration = DeclareQueue(self.queue, auto_delete=True)
                yield self._declaration
        if self._exchange:
            yield Bind(self.queue, self._exchange, self.queue)

    def _dispose(self) -> Steps:
        yield DeleteQueue(self.queue)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            received = read_reply(delivery.body)
            call = self._calls.get(received.notice.sn or "")
            if call is not None:
                call.put(received)  # else it comes too late: its caller has gone
        except DocumentError as bad:
            text = "a reply that cannot be read was dropped: %s: %s"
            self._complain(logging.WARNING, text, bad, shown(repr(delivery.body[:200])))
        self.connection.accept(delivery)

    def _on_made(self) -> None:
        made = self._subscription.made
        for call in list(self._calls.values()):
            if call.sent_in and call.sent_in != made:
                call.put(Resubscribed(made))


class Session(SessionBase):
    """Sends requests, and gives each caller the replies to its own. Thread-safe."""

    connection: ThreadConnection

    def call(self, document: dict[str, Any], address: Address, options: Options) -> Any:
        """Send a request and wait for its end.

        Returns:
            The method's value.

        Raises:
            RequestTimeout: no result within ``options.wait``.
            NotFound: nobody listens at the address.
            Exception: what the method raised, or how else the request ended (see :mod:`gofer.errors`).
        """
        waiter = Waiter()
        call = self._begin(document, options, waiter.wake)
        step = Next.SEND
        try:
            while step is not Next.END:
                if step is Next.REPORT and options.progress is not None:
                    options.progress(call.report or {})
                try:
                    if step is Next.SEND:
                        self._send(call, address)
                    heard = self.connection.wait(call.inbox.__len__, call.due, waiter)
                except ConnectionLost as lost:
                    if call.late:
                        raise self._timeout(call, lost) from lost
                    raise
                step = self._take(call, call.inbox.popleft() if heard else None)
        finally:
            self._end(call)
        return call.outcome()

    def _send(self, call: Call, address: Address) -> None:
        """Send a call's request when its replies can come."""
        while True:
            if not self._subscription.active:
                wait = None if call.deadline is None else max(0.001, call.deadline - monotonic())
                self.connection.subscribe(self._subscription, wait, stay=True)
            if self._publish(call, address):
                return
            self.connection.wait_sendable(call.deadline)

    def publish(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Send a request without waiting for a result; ``flush`` and the owner's next call raise what becomes of it.

        Args:
            owner: whose request it is.

        Raises:
            MessagingError: there is no connection, or no word for long about those sent before; nothing was sent.
            NotTaken: ``options.confirm``, and the broker did not take it.
        """
        connection, unconfirmed = self.connection, self.unconfirmed
        deadline = monotonic() + (options.wait or self.publish_wait)
        if unconfirmed.full and not connection.wait(lambda: unconfirmed.drained, deadline):
            raise self._full()
        request = self._request(document, address, options, owner)
        while not unconfirmed.send(request):
            connection.wait_sendable(deadline)
        if options.confirm:
            connection.wait(lambda: document["sn"] not in unconfirmed, deadline)
            unconfirmed.raise_failure(request)

    def flush(self, owner: Owner, timeout: float | None) -> None:
        """Wait until the broker has answered for all requests of this owner that were not waited for.

        Raises:
            NotTaken: some were not taken, or there is no word of some within ``timeout`` seconds.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if self.unconfirmed.of(owner):
            self.connection.wait(lambda: not self.unconfirmed.of(owner), deadline)
        self.unconfirmed.raise_late(owner)
