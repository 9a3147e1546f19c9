"""The caller's half on one link: the reply queue, and the calls that wait for replies.

One session per link and reply exchange, shared by all agents' proxies in the process and used from many threads.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections import deque
from time import monotonic
from typing import Any, Final, NamedTuple

from msgspec import to_builtins

from gofer.errors import AdapterError, ConnectionLost, DocumentError, MessagingError, NotFound, NotTaken, RequestTimeout
from gofer.messaging.adapter.base import Adapter, Delivery, Outcome, QueueSpec
from gofer.messaging.address import Address
from gofer.messaging.auth import sign, verify
from gofer.messaging.document import Reply, decode_reply, encode, shown, unwrap
from gofer.messaging.link import Link, Subscription
from gofer.messaging.pump import Waiter
from gofer.rmi.conversation import Conversation
from gofer.rmi.options import Options, Report

__all__ = ["Session"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_REPLY_EXPIRES = 600.0
#: Replies that the broker may hand over before they are acknowledged.
_PREFETCH = 1000
#: Requests sent without waiting that the broker may not have answered yet; and how far that falls before more are sent.
_POSTS_MOST, _POSTS_LEAST = 256, 192
#: Seconds that a request which is not waited for may wait for the connection; and those at the end of the process.
_POST_WAIT, _EXIT_WAIT = 30.0, 5.0
#: Seconds between two tries to reach an agent's queue that a restarted broker does not know yet.
_RETRY = 0.2

#: Replies may have been lost since the call was sent: its connection, or its reply queue, was gone for a while.
_INTERRUPTED: Final = object()


class _Heard(NamedTuple):
    """A reply, and the body that it was read from: for the one who verifies it."""

    reply: Reply
    body: bytes


class _Call:
    """A call that waits. Handlers fill its inbox; its own thread empties it."""

    __slots__ = ("conversation", "inbox", "sent_in", "token", "ttl_ends", "waiter")

    def __init__(self, sn: str) -> None:
        self.conversation = Conversation(sn)
        self.inbox: deque[Any] = deque()
        self.waiter = Waiter()
        self.token = 0
        self.sent_in = 0
        self.ttl_ends: float | None = None

    def settled(self, outcome: Outcome, reason: str) -> None:
        if outcome is not Outcome.TAKEN:
            self.put((outcome, reason))

    def put(self, event: Any) -> None:
        self.inbox.append(event)
        self.waiter.wake()


class Session:
    """Sends requests, and gives each caller the replies to its own. Thread-safe."""

    def __init__(self, link: Link, exchange: str | None = None) -> None:
        self.link = link
        self.queue = str(uuid.uuid4())
        self.replyto = f"{exchange}/{self.queue}" if exchange else self.queue
        self._exchange = exchange
        self._calls: dict[str, _Call] = {}
        self._posts: dict[str, object] = {}  # sn -> whose it is
        self._failures: dict[str, tuple[object, str]] = {}
        self._made = 0  # how often the reply queue's subscription was made
        self._subscription = Subscription(
            self.queue,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            on_made=self._on_made,
            dispose=lambda adapter, timeout: adapter.delete_queue(self.queue, timeout),
        )
        link.on_exit(self._goodbye)

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
        wait = options.wait
        deadline = None if wait is None else monotonic() + wait
        call = _Call(document["sn"])
        call.ttl_ends = None if options.ttl is None else monotonic() + options.ttl
        self._calls[call.conversation.sn] = call
        try:
            self._listen(deadline)
            self._send(call, document, address, options, deadline)
            while not call.conversation.done:
                if not self.link.drive(call.inbox.__len__, deadline, call.waiter):
                    raise self._timeout(call, options)
                self._attend(call, document, address, options, deadline)
            return call.conversation.outcome()
        except ConnectionLost as lost:
            if deadline is None or monotonic() < deadline:
                raise
            raise self._timeout(call, options) from lost
        finally:
            del self._calls[call.conversation.sn]
            self.link.forget(call.token)

    def post(self, document: dict[str, Any], address: Address, options: Options, owner: object) -> None:
        """Send a request without waiting for a result; what becomes of it is told by ``failures`` and ``flush``.

        Args:
            owner: whose request it is.

        Raises:
            MessagingError: there is no connection; nothing was sent.
            NotTaken: ``options.confirm``, and the broker did not take it.
        """
        sn = document["sn"]
        deadline = monotonic() + (options.wait or _POST_WAIT)
        if len(self._posts) >= _POSTS_MOST:
            self.link.drive(lambda: len(self._posts) <= _POSTS_LEAST, deadline)
        body = self._encode(document, options)
        self._posts[sn] = owner
        try:
            self.link.send(
                address, body, deadline=deadline, ttl=options.ttl, settled=lambda *how: self._posted(sn, *how)
            )
        except BaseException:
            self._posts.pop(sn, None)
            raise
        if options.confirm:
            self.link.drive(lambda: sn not in self._posts, deadline)
            if sn in self._posts:
                raise NotTaken({sn: f"no word from the broker in time ({self.link.state})"})
            if sn in self._failures:
                raise NotTaken({sn: self._failures.pop(sn)[1]})

    def flush(self, owner: object, timeout: float | None) -> None:
        """Wait until the broker has answered for all requests of this owner that were not waited for.

        Raises:
            NotTaken: some were not taken, or there is no word of some within ``timeout`` seconds.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if owner in self._posts.values():
            self.link.drive(lambda: owner not in self._posts.values(), deadline)
        late = [sn for sn, whose in list(self._posts.items()) if whose is owner]
        failures = self.failures(owner)
        failures.update((sn, f"no word from the broker in time ({self.link.state})") for sn in late)
        if failures:
            raise NotTaken(failures)

    def failures(self, owner: object) -> dict[str, str]:
        """Take what is known to have failed of this owner's requests; it is told once."""
        if not self._failures:
            return {}
        told = {sn: why for sn, (whose, why) in list(self._failures.items()) if whose is owner}
        for sn in told:
            self._failures.pop(sn, None)
        return told

    def _goodbye(self) -> None:
        """Flush at the end of the process, and complain on stderr about what was not taken."""
        if self._posts and not self.link.abandoned:
            try:
                self.link.drive(lambda: not self._posts, monotonic() + _EXIT_WAIT)
            except MessagingError:
                pass  # told below
        lost = {sn: why for sn, (_, why) in self._failures.items()}
        lost.update((sn, f"no word from the broker ({self.link.state})") for sn in self._posts)
        if lost and not self.link.abandoned:
            print(f"gofer: {NotTaken(lost)}", file=sys.stderr)

    def _posted(self, sn: str, outcome: Outcome, reason: str) -> None:
        owner = self._posts.pop(sn, None)
        if outcome is not Outcome.TAKEN:
            what = "nobody listens there" if outcome is Outcome.RETURNED else outcome.value
            self._failures[sn] = (owner, f"{what} ({reason})" if reason else what)

    def _timeout(self, call: _Call, options: Options) -> RequestTimeout:
        return call.conversation.timeout(options.wait, options.ttl or options.wait, self.link.state)

    # -- the way of one call ------------------------------------------------------------------------------------

    def _encode(self, document: dict[str, Any], options: Options) -> bytes:
        body = encode(document)
        if options.authenticator is not None:
            body = sign(body, options.authenticator)
        most = self.link.connector.max_message
        if len(body) > most:
            raise ValueError(f"the request is {len(body)} bytes long, over the limit of {most} (max_message)")
        return body

    def _send(
        self,
        call: _Call,
        document: dict[str, Any],
        address: Address,
        options: Options,
        deadline: float | None,
        *,
        isolated: bool = False,
    ) -> None:
        body = self._encode(document, options)
        ends = deadline if call.ttl_ends is None or call.conversation.accepted else call.ttl_ends
        ttl = None if ends is None else max(0.001, ends - monotonic())
        call.sent_in = self._made
        self.link.forget(call.token)
        # Its result is all the confirmation that a waiting caller needs; not asking for one spares the broker a
        # synchronous write for each request. But it must not overtake what was sent before without waiting.
        confirm = isolated or bool(self._posts)
        call.token = self.link.send(
            address, body, deadline=deadline, ttl=ttl, isolated=isolated, confirm=confirm, settled=call.settled
        )
        call.conversation.reached("sent")

    def _attend(
        self, call: _Call, document: dict[str, Any], address: Address, options: Options, deadline: float | None
    ) -> None:
        """Look at what came for a call, in the thread that made it."""
        event = call.inbox.popleft()
        if isinstance(event, _Heard):
            report = self._hear(call, event, options)
            if report is not None and options.progress is not None:
                options.progress(report)
            return
        isolated = False
        if event is not _INTERRUPTED:
            outcome, reason = event
            isolated = outcome is Outcome.LOST  # it may have been the fault of this one: then it is told alone
            if outcome is Outcome.REFUSED:
                raise AdapterError(f"the broker refused the request: {reason}")
            if outcome is Outcome.RETURNED:
                if "again" not in document:
                    raise NotFound(f"nobody listens at {str(address)!r}: {reason}")
                # The broker was restarted and has forgotten the queue: its agent needs a moment to declare it again.
                pause = monotonic() + _RETRY
                self.link.drive(call.inbox.__len__, pause if deadline is None else min(pause, deadline), call.waiter)
        elif call.sent_in == self._made:
            return  # asked again already
        # An agent that knows the request answers as it did, or will; it runs none a second time for being asked again.
        document["again"] = True
        expired = call.ttl_ends is not None and monotonic() >= call.ttl_ends and not call.conversation.accepted
        if not expired and (deadline is None or monotonic() < deadline):
            self._send(call, document, address, options, deadline, isolated=isolated)

    def _hear(self, call: _Call, heard: _Heard, options: Options) -> Report | None:
        if options.authenticator is not None:
            try:
                verify(heard.body, options.authenticator, to_builtins(heard.reply))
            except DocumentError as bad:
                # Not from our agent, as far as anybody can tell: it does not end the call.
                log.warning("a reply to %s is not believed: %s", call.conversation.sn, bad)
                return None
        return call.conversation.feed(heard.reply)

    # -- replies ------------------------------------------------------------------------------------------------

    def _listen(self, deadline: float | None) -> None:
        if not self._subscription.active:
            self.link.subscribe(self._subscription, None if deadline is None else max(0.001, deadline - monotonic()))

    def _prepare(self, adapter: Adapter, timeout: float) -> None:
        adapter.declare_queue(QueueSpec(self.queue, expires=_REPLY_EXPIRES), timeout)
        if self._exchange:
            adapter.bind(self.queue, self._exchange, self.queue, timeout)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            wrapper = unwrap(delivery.body)
            inner = delivery.body if wrapper is None else wrapper.message.encode("utf-8", "surrogatepass")
            heard = _Heard(decode_reply(inner), delivery.body)
            call = self._calls.get(heard.reply.sn or "")
            if call is not None:
                call.put(heard)  # else it comes too late: its caller has gone
        except DocumentError as bad:
            log.warning("a reply that cannot be read was dropped: %s: %s", bad, shown(repr(delivery.body[:200])))
        self.link.accept(delivery)

    def _on_made(self) -> None:
        self._made += 1
        for call in list(self._calls.values()):
            if call.sent_in and call.sent_in != self._made:
                call.put(_INTERRUPTED)
