"""The caller's half of one connection: it sends the requests of all agents, and waits for what becomes of them.

One session per connection and reply exchange, shared by all agents in the process. Its coroutines serve callers with
threads, too: :func:`complete` runs them there, and each ``await`` blocks the thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any, TypeVar

from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.address import Address
from gofer.messaging.auth import sign
from gofer.messaging.document import encode, timestamp
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.rmi.client.call import Call, Next
from gofer.rmi.client.notices import Notice
from gofer.rmi.client.options import Options
from gofer.rmi.client.reply_queue import ReplyQueue
from gofer.rmi.client.unconfirmed import Owner, Unconfirmed, UnconfirmedRequest

if TYPE_CHECKING:
    from gofer.messaging.asyncio_driver import AsyncioConnection

__all__ = ["Session", "ThreadSession", "complete"]

_T = TypeVar("_T")


class Session:
    """Sends requests, and returns the values of those that are waited for.

    A request without a waiting caller may wait ``publish_wait`` seconds for the connection.
    """

    publish_wait = 30.0
    connection: ThreadConnection | AsyncioConnection

    def __init__(self, connection: Any, exchange: str | None = None, queue: str | None = None) -> None:
        """Keep all. ``queue``: the name of the reply queue, for requests of an earlier process; None: a new one."""
        self.connection = connection
        self.replies = ReplyQueue(connection, exchange, queue)
        self.unconfirmed = connection.shared(Unconfirmed, lambda: Unconfirmed(connection))

    async def call(
        self,
        document: dict[str, Any],
        address: Address,
        options: Options,
        on_reply: Callable[[Notice], object] | None = None,
        on_taken: Callable[[], object] | None = None,
    ) -> Any:
        """Send a request and wait for its end.

        Args:
            on_reply: called with each believed reply.
            on_taken: the broker is to confirm the request, and this is called when it has, or when it returns it.

        Returns:
            The method's value.

        Raises:
            RequestTimeout: no result within ``options.wait``.
            NotFound: there is no agent at the address.
            Exception: what the method raised, or how else the request ended (see :mod:`gofer.errors`).
        """
        document["replyto"], document["wait"] = self.replies.address, options.wait
        waiter, step = self._new_waiter(), Next.SEND
        call = self.replies.calls[document["sn"]] = Call(document, options, waiter.wake)
        call.on_reply, call.on_taken = on_reply, on_taken
        try:
            while step is not Next.END:
                if step is Next.REPORT and options.progress is not None:
                    await self._done(options.progress(call.report or {}))
                try:
                    if step is Next.SEND:
                        await self._send(call, address)
                    heard = await self._done(self.connection.wait(call.inbox.__len__, call.due, waiter))
                except (AdapterError, ConnectionLost, NotFound) as lost:
                    if not call.late:
                        # A restarted broker may need some tries until it has the reply queue again.
                        if call.state == "not sent" or self.connection.closed or self.connection.abandoned:
                            raise
                        # It may be running: its caller waits on, as long as it wanted to.
                        step = call.refused(str(lost)) if isinstance(lost, AdapterError) else call.retry()
                        continue
                    why = str(lost) if call.state == "not sent" else self.connection.state
                    raise call.timeout(why) from lost
                if not heard and call.late:
                    if call.state == "sent":
                        self.replies.check_binding()
                    raise call.timeout(self.connection.state)
                step = call.take(call.inbox.popleft() if heard else None)
        finally:
            del self.replies.calls[call.sn]
            if call.forgotten != call.token:
                self.connection.forget(call.token)
        return call.outcome()

    async def _send(self, call: Call, address: Address) -> None:
        """Send a call's request.

        The reply queue is subscribed to before: else the request would be sent again when it is.
        """
        connection = self.connection
        while True:
            subscription = self.replies.subscription
            if not subscription.active:
                wait = None if call.deadline is None else max(0.001, call.deadline - monotonic())
                await self._done(connection.subscribe(subscription, wait, stay=True))
            ttl = call.ttl
            body = self._encode(call.document, call.options, ttl, call.ahead)
            if call.token:
                connection.forget(call.token)
            if call.state != "not sent" and call.sent_in != subscription.made:
                call.sent_before = True
            call.sent_in = subscription.made
            # Its result is all the confirmation that a waiting caller needs; not asking for one spares the broker a
            # synchronous write for each request. But it must not overtake what was sent before without waiting.
            confirm = call.isolated or call.on_taken is not None or len(self.unconfirmed) > 0
            call.token = connection.publish_nowait(
                address, body, ttl=ttl, isolated=call.isolated, confirm=confirm, settled=call.settled
            )
            if call.token:
                call.sent()
                return
            await self._done(connection.wait_sendable(call.deadline))

    async def publish(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Send a request without waiting for a result; ``flush`` and the owner's next call raise what becomes of it.

        Args:
            owner: whose request it is.

        Raises:
            MessagingError: there is no connection, or no word for long about those sent before; nothing was sent.
            NotTaken: ``options.confirm``, and the broker did not take it.
        """
        sn, connection, unconfirmed = document["sn"], self.connection, self.unconfirmed
        document["replyto"] = options.reply
        deadline = monotonic() + (options.wait or self.publish_wait)
        if unconfirmed.full and not await self._done(connection.wait(lambda: unconfirmed.drained, deadline)):
            count, state = len(unconfirmed), connection.state
            raise ConnectionLost(f"not sent: the broker has not answered for {count} requests before it: {state}")
        # The failure of one that is waited for is told to the one who waits for it, and to no other.
        owner = Owner() if options.confirm else owner
        expires = None if options.ttl is None else monotonic() + options.ttl
        request = UnconfirmedRequest(document, address, owner, partial(self._encode, document, options), expires)
        while not unconfirmed.send(request):
            await self._done(connection.wait_sendable(deadline))
        if options.confirm:
            await self._done(connection.wait(lambda: sn not in unconfirmed, deadline))
            unconfirmed.raise_failure(request)

    async def flush(self, owner: Owner, timeout: float | None) -> None:  # noqa: ASYNC109 - the word of gofer.proxy
        """Wait until the broker has answered for all requests of this owner that were not waited for.

        Raises:
            NotTaken: some were not taken, or there is no word of some within ``timeout`` seconds.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if self.unconfirmed.of(owner):
            await self._done(self.connection.wait(lambda: not self.unconfirmed.of(owner), deadline))
        self.unconfirmed.raise_failures(owner, late=True)

    #: Makes the alarm clock of a call.
    _new_waiter: Callable[[], Any]

    async def _done(self, doing: _T | Awaitable[_T]) -> _T:
        """Return the value of what the connection does: a thread has it already, a coroutine awaits it."""
        raise NotImplementedError

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


class ThreadSession(Session):
    """A session for threads: its coroutines block, and never suspend. Thread-safe."""

    connection: ThreadConnection

    _new_waiter = Waiter

    async def _done(self, doing: Any) -> Any:
        return doing


def complete(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends; return its value."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
    except RuntimeError as error:
        if isinstance(error.__cause__, StopIteration):  # a method's, or a callback's: Python keeps it in a coroutine
            raise error.__cause__ from None
        raise
    raise RuntimeError(f"{coroutine} has suspended: it belongs to an event loop")
