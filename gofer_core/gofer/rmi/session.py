"""The caller's half on one link: the reply queue, and the calls that wait for replies.

One session per link and reply exchange, shared by all agents' proxies in the process and used from many threads.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Generator
from functools import partial
from time import monotonic, time
from typing import Any

from gofer.errors import ConnectionLost, DocumentError, MessagingError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue, DeleteQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import sign
from gofer.messaging.connection import Connection
from gofer.messaging.document import decode_reply, encode, shown, timestamp, unwrap
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Heard, Listen, Send, Step, Tell, advance, flow
from gofer.rmi.options import Options
from gofer.rmi.posts import Owner, Post, Posts

__all__ = ["Session", "SessionBase"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_REPLY_EXPIRES = 600.0
#: Replies that the broker may hand over before they are acknowledged.
_PREFETCH = 1000


class SessionBase:
    """What sessions of threads and of event loops have in common.

    A request sent without waiting may wait ``post_wait`` seconds for the connection.
    """

    post_wait = 30.0

    def __init__(self, link: Connection, exchange: str | None = None) -> None:
        self.link = link
        self.queue = str(uuid.uuid4())
        self.replyto = f"{exchange}/{self.queue}" if exchange else self.queue
        self.posts = link.shared(Posts, lambda: Posts(link))
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

    def _new_post(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> Post:
        # The failure of one that is waited for is told to the one who waits for it, and to no other.
        owner = Owner() if options.confirm else owner
        return Post(document, address, owner, options.ttl, lambda ttl: self._encode(document, options, ttl))

    def _too_many(self) -> ConnectionLost:
        count = len(self.posts)
        return ConnectionLost(
            f"not sent: the broker has not answered for {count} requests before it: {self.link.state}"
        )

    # -- the way of one call ------------------------------------------------------------------------------------

    def _start_call(
        self, document: dict[str, Any], address: Address, options: Options, wake: Callable[[], None]
    ) -> tuple[Call, Generator[Step, Any, None]]:
        """Have the replies to a request reach its caller; return the call and its flow."""
        call = Call(document["sn"], wake)
        self._calls[call.conversation.sn] = call
        return call, flow(
            call,
            document,
            str(address),
            options,
            encode=lambda ttl: self._encode(document, options, ttl, call.ahead),
            state=lambda: self.link.state,
        )

    def _end_call(self, call: Call) -> None:
        del self._calls[call.conversation.sn]
        self.link.forget(call.token)

    def _encode(self, document: dict[str, Any], options: Options, ttl: float | None, ahead: float = 0.0) -> bytes:
        """Write a document. ``ahead``: by how many seconds the agent's clock is known to be ahead of ours."""
        document.setdefault("timestamp", timestamp())
        # In the document, too: the broker counts only from when it has queued the message, and nobody signs that.
        lives = {} if ttl is None else {"ttl": ttl, "expires": round(time() + ahead + ttl, 3)}
        body = encode({**document, **lives})
        if options.authenticator is not None:
            body = sign(body, options.authenticator)
        most = self.link.connector.max_message
        if len(body) > most:
            raise ValueError(f"the request is {len(body)} bytes long, over the limit of {most} (max_message)")
        return body

    def _send_options(self, step: Send, call: Call) -> dict[str, Any]:
        """Return how the message of one step is published."""
        self.link.forget(call.token)
        call.sent_in = self._made
        # Its result is all the confirmation that a waiting caller needs; not asking for one spares the broker a
        # synchronous write for each request. But it must not overtake what was sent before without waiting.
        confirm = step.isolated or bool(self.posts)
        return {"ttl": step.ttl, "isolated": step.isolated, "confirm": confirm, "settled": call.settled}

    # -- replies ------------------------------------------------------------------------------------------------

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
            wrapper = unwrap(delivery.body)
            inner = delivery.body if wrapper is None else wrapper.message.encode("utf-8", "surrogatepass")
            heard = Heard(decode_reply(inner), delivery.body)
            call = self._calls.get(heard.reply.sn or "")
            if call is not None:
                call.put(heard)  # else it comes too late: its caller has gone
        except DocumentError as bad:
            text = "a reply that cannot be read was dropped: %s: %s"
            self._complain(logging.WARNING, text, bad, shown(repr(delivery.body[:200])))
        self.link.accept(delivery)

    @property
    def _made(self) -> int:
        """How often the reply queue's subscription was made: not its handler's count, which may come after a call."""
        return self._subscription.made

    def _on_made(self) -> None:
        for call in list(self._calls.values()):
            if call.sent_in and call.sent_in != self._made:
                call.put(INTERRUPTED)


class Session(SessionBase):
    """Sends requests, and gives each caller the replies to its own. Thread-safe."""

    link: ThreadConnection

    # -- sending with and without waiting -----------------------------------------------------------------------

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
        call, steps = self._start_call(document, address, options, waiter.wake)
        try:
            step = advance(steps)
            while step is not None:
                if isinstance(step, Tell):  # what the callback raises is its caller's, and means nothing to the flow
                    if options.progress is not None:
                        options.progress(step.report)
                    step = advance(steps)
                    continue
                try:
                    came = self._take(step, call, waiter, address)
                except MessagingError as raised:
                    step = advance(steps, error=raised)
                else:
                    step = advance(steps, came)
        finally:
            self._end_call(call)
        return call.conversation.outcome()

    def _take(self, step: Step, call: Call, waiter: Waiter, address: Address) -> Any:
        """Do one step of a call's flow, in the thread that made the call."""
        if isinstance(step, Hear):
            while self.link.wait(call.inbox.__len__, step.deadline, waiter):
                event = call.inbox.popleft()
                if event is not INTERRUPTED or call.sent_in != self._made:  # else it was asked again already
                    return event
        elif isinstance(step, Send):
            how = self._send_options(step, call)
            call.token = self.link.publish(address, step.body, deadline=step.deadline, **how)
        elif isinstance(step, Listen):
            self._listen(step.deadline)
        return None

    def post(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Send a request without waiting for a result; what becomes of it is told by ``posts.failures`` and ``flush``.

        Args:
            owner: whose request it is.

        Raises:
            MessagingError: there is no connection, or no word for long about those sent before; nothing was sent.
            NotTaken: ``options.confirm``, and the broker did not take it.
        """
        deadline = monotonic() + (options.wait or self.post_wait)
        if self.posts.crowded and not self.link.wait(lambda: self.posts.eased, deadline):
            raise self._too_many()
        post = self._new_post(document, address, options, owner)
        self.posts.send(document["sn"], post, partial(self.link.publish, deadline=deadline))
        if options.confirm:
            self.link.wait(lambda: document["sn"] not in self.posts, deadline)
            self.posts.confirmed(document["sn"], post)

    def flush(self, owner: Owner, timeout: float | None) -> None:
        """Wait until the broker has answered for all requests of this owner that were not waited for.

        Raises:
            NotTaken: some were not taken, or there is no word of some within ``timeout`` seconds.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if self.posts.of(owner):
            self.link.wait(lambda: not self.posts.of(owner), deadline)
        self.posts.complain(owner)

    def _listen(self, deadline: float | None) -> None:
        if not self._subscription.active:
            self.link.subscribe(
                self._subscription, None if deadline is None else max(0.001, deadline - monotonic()), stay=True
            )
