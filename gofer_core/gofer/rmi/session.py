"""The caller's half on one link: the reply queue, and the calls that wait for replies.

One session per link and reply exchange, shared by all agents' proxies in the process and used from many threads.
"""

from __future__ import annotations

import logging
import sys
import uuid
from time import monotonic
from typing import Any, NamedTuple

from gofer.errors import DocumentError, MessagingError, NotTaken
from gofer.messaging.adapter.base import Adapter, Delivery, Outcome, QueueSpec
from gofer.messaging.address import Address
from gofer.messaging.auth import sign
from gofer.messaging.document import decode_reply, encode, shown, unwrap
from gofer.messaging.link import Link, Subscription
from gofer.messaging.pump import Waiter
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Heard, Send, Step, Tell, flow
from gofer.rmi.options import Options

__all__ = ["Session"]

log = logging.getLogger(__name__)

#: Seconds without use after which the broker deletes a reply queue: a dead caller leaves nothing behind.
_REPLY_EXPIRES = 600.0
#: Replies that the broker may hand over before they are acknowledged.
_PREFETCH = 1000
#: Seconds that requests which nobody waited for may take at the end of the process.
_EXIT_WAIT = 5.0


class _Confirming(NamedTuple):
    owner: object


class Session:
    """Sends requests, and gives each caller the replies to its own. Thread-safe.

    Of requests sent without waiting, ``posts_most`` may be unanswered by the broker, and these must fall to
    ``posts_least`` before more are sent; such a request may wait ``post_wait`` seconds for the connection.
    """

    posts_most, posts_least = 256, 192
    post_wait = 30.0

    def __init__(self, link: Link, exchange: str | None = None) -> None:
        self.link = link
        self.queue = str(uuid.uuid4())
        self.replyto = f"{exchange}/{self.queue}" if exchange else self.queue
        self._exchange = exchange
        self._calls: dict[str, Call] = {}
        self._posts: dict[str, object] = {}  # sn -> whose it is
        self._failures: dict[str, tuple[object, str]] = {}
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
        waiter = Waiter()
        call = Call(document["sn"], waiter.wake)
        steps = flow(
            call,
            document,
            str(address),
            options,
            encode=lambda ttl: self._encode(document, options, ttl),
            state=lambda: self.link.state,
        )
        self._calls[call.conversation.sn] = call
        try:
            step = next(steps)
            while True:
                try:
                    came = self._take(step, call, waiter, address, options)
                except Exception as raised:  # noqa: BLE001 - the flow decides what it means
                    step = steps.throw(raised)
                else:
                    step = steps.send(came)
        except StopIteration as done:
            return done.value
        finally:
            del self._calls[call.conversation.sn]
            self.link.forget(call.token)

    def _take(self, step: Step, call: Call, waiter: Waiter, address: Address, options: Options) -> Any:
        """Do one step of a call's flow, in the thread that made the call."""
        if isinstance(step, Hear):
            while self.link.drive(call.inbox.__len__, step.deadline, waiter):
                event = call.inbox.popleft()
                if event is not INTERRUPTED or call.sent_in != self._made:  # else it was asked again already
                    return event
        elif isinstance(step, Send):
            self._send(step, call, address)
        elif isinstance(step, Tell):
            if options.progress is not None:
                options.progress(step.report)
        else:
            self._listen(step.deadline)
        return None

    def post(self, document: dict[str, Any], address: Address, options: Options, owner: object) -> None:
        """Send a request without waiting for a result; what becomes of it is told by ``failures`` and ``flush``.

        Args:
            owner: whose request it is.

        Raises:
            MessagingError: there is no connection; nothing was sent.
            NotTaken: ``options.confirm``, and the broker did not take it.
        """
        deadline = monotonic() + (options.wait or self.post_wait)
        if len(self._posts) >= self.posts_most:
            self.link.drive(lambda: len(self._posts) <= self.posts_least, deadline)
        self._post(document, address, options, owner, deadline)
        if options.confirm:
            self.link.drive(lambda: document["sn"] not in self._posts, deadline)
            self._confirmed(document["sn"])

    def _post(
        self, document: dict[str, Any], address: Address, options: Options, owner: object, deadline: float | None
    ) -> bool:
        sn = document["sn"]
        body = self._encode(document, options, options.ttl)
        if options.confirm:
            owner = _Confirming(owner)  # its failure is told to the one who waits for it, and to no other
        self._posts[sn] = owner
        token = 0
        try:
            token = self._transmit(
                address, body, deadline, ttl=options.ttl, settled=lambda *how: self._posted(sn, *how)
            )
        finally:
            if not token:
                self._posts.pop(sn, None)
        return token != 0

    def _confirmed(self, sn: str) -> None:
        """Raise what is known to have become of a request that was to be confirmed."""
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
        self._complain(owner)

    def _complain(self, owner: object) -> None:
        """Raise what of this owner's requests was not taken, or not yet."""
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
        owner = self._posts.get(sn)
        if outcome is not Outcome.TAKEN and owner is not None:
            what = "nobody listens there" if outcome is Outcome.RETURNED else outcome.value
            self._failures[sn] = (owner, f"{what} ({reason})" if reason else what)
        self._posts.pop(sn, None)

    # -- the way of one call ------------------------------------------------------------------------------------

    def _encode(self, document: dict[str, Any], options: Options, ttl: float | None = None) -> bytes:
        if options.authenticator is None:
            body = encode(document)
        else:
            # In what is signed, too: of the message's own time to live nobody at the other end can be sure.
            body = sign(encode(document if ttl is None else {**document, "ttl": ttl}), options.authenticator)
        most = self.link.connector.max_message
        if len(body) > most:
            raise ValueError(f"the request is {len(body)} bytes long, over the limit of {most} (max_message)")
        return body

    def _send(self, step: Send, call: Call, address: Address) -> bool:
        self.link.forget(call.token)
        call.sent_in = self._made
        # Its result is all the confirmation that a waiting caller needs; not asking for one spares the broker a
        # synchronous write for each request. But it must not overtake what was sent before without waiting.
        confirm = step.isolated or bool(self._posts)
        call.token = self._transmit(
            address,
            step.body,
            step.deadline,
            ttl=step.ttl,
            isolated=step.isolated,
            confirm=confirm,
            settled=call.settled,
        )
        return call.token != 0

    def _transmit(self, address: Address, body: bytes, deadline: float | None, **how: Any) -> int:
        """Send a message by the deadline; return its number, 0 when that is not possible now and may be later."""
        return self.link.send(address, body, deadline=deadline, **how)

    # -- replies ------------------------------------------------------------------------------------------------

    def _listen(self, deadline: float | None) -> None:
        if not self._subscription.active:
            self.link.subscribe(
                self._subscription, None if deadline is None else max(0.001, deadline - monotonic()), stay=True
            )

    def _prepare(self, adapter: Adapter, timeout: float) -> None:
        adapter.declare_queue(QueueSpec(self.queue, expires=_REPLY_EXPIRES), timeout)
        if self._exchange:
            adapter.bind(self.queue, self._exchange, self.queue, timeout)

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            wrapper = unwrap(delivery.body)
            inner = delivery.body if wrapper is None else wrapper.message.encode("utf-8", "surrogatepass")
            heard = Heard(decode_reply(inner), delivery.body)
            call = self._calls.get(heard.reply.sn or "")
            if call is not None:
                call.put(heard)  # else it comes too late: its caller has gone
        except DocumentError as bad:
            log.warning("a reply that cannot be read was dropped: %s: %s", bad, shown(repr(delivery.body[:200])))
        self.link.accept(delivery)

    @property
    def _made(self) -> int:
        """How often the reply queue's subscription was made: not its handler's count, which may come after a call."""
        return self._subscription.made

    def _on_made(self) -> None:
        for call in list(self._calls.values()):
            if call.sent_in and call.sent_in != self._made:
                call.put(INTERRUPTED)
