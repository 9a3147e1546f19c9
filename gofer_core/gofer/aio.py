"""Call methods on agents from coroutines: the words of :mod:`gofer.proxy`, with ``await``::

    from gofer.aio import Agent

    async with Agent("amqp://broker.example.com", "web-42") as agent:
        print(await agent.Dog().bark("hello"))

All calls of an event loop to one broker share one connection, which the loop itself reads and writes; thousands may be
in flight. Cancelling a task ends its wait, and nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
from time import monotonic
from typing import Any, Self

from gofer.errors import MessagingError, NotTaken
from gofer.messaging.address import Address
from gofer.messaging.asyncio_driver import AsyncioConnection, AsyncioWaiter
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Listen, Send, Step, Tell, advance
from gofer.rmi.options import Options
from gofer.rmi.posts import Owner
from gofer.rmi.remote import Line, Remote, seam
from gofer.rmi.session import SessionBase

__all__ = ["Agent"]

_CLOSE_WAIT = 5.0


class Agent(Remote):
    """An agent at an address, as :class:`gofer.proxy.Agent`; what that returns or raises is had by ``await``.

    To be used within one running event loop. ``await agent.close()``, or ``async with``, gives back its share of the
    connection. A progress callback may be a coroutine function. Arguments and options are the same, and raise the same.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the word of gofer.proxy
        """Wait until the broker has answered for every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        if self._line.used:
            await _session(self._line).flush(self._line.owner, timeout)

    async def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        link = self._line.leave()
        if link is None:
            return
        try:
            await link.shared((_Session, None), lambda: _Session(link)).flush(self._line.owner, _CLOSE_WAIT)
        finally:
            self._line.owner.gone = True
            if pool.leave(link):
                await link.aclose()

    def _new_line(self, connector: Connector) -> Line[AsyncioConnection]:
        return Line(connector, lambda wanted: pool.acquire_asyncio(wanted, asyncio.get_running_loop()))

    async def _send(self, document: dict[str, Any], options: Options) -> Any:
        line = self._line
        if seam.double is not None:
            line.check()
            return seam.double.answer(line, document, options)
        session = _session(line)
        failures = session.posts.failures(line.owner)
        if failures:
            raise NotTaken(failures)
        if options.reply is None and options.wait != 0:
            if options.exchange:
                session = _session(line, options.exchange)
            document["replyto"] = session.replyto
            document["wait"] = options.wait
            return await session.call(document, self._address, options)
        document["replyto"] = options.reply
        await session.post(document, self._address, options, line.owner)
        return document["sn"]


def _session(line: Line[AsyncioConnection], exchange: str | None = None) -> _Session:
    link = line.link()
    if link.loop is not asyncio.get_running_loop():
        raise RuntimeError("this agent belongs to another event loop: make one in each")
    return link.shared((_Session, exchange), lambda: _Session(link, exchange))


class _Session(SessionBase):
    """A session whose calls are driven by the loop. See :class:`gofer.rmi.session.Session`."""

    link: AsyncioConnection

    async def call(self, document: dict[str, Any], address: Address, options: Options) -> Any:
        """Send a request and wait for its end."""
        waiter = AsyncioWaiter(self.link.loop)
        call, steps = self._start_call(document, address, options, waiter.wake)
        try:
            step = advance(steps)
            while step is not None:
                if isinstance(step, Tell):
                    told = None if options.progress is None else options.progress(step.report)
                    if inspect.isawaitable(told):
                        await told
                    step = advance(steps)
                    continue
                try:
                    came = await self._take(step, call, waiter, address)
                except MessagingError as raised:
                    step = advance(steps, error=raised)
                else:
                    step = advance(steps, came)
        finally:
            self._end_call(call)
        try:
            return call.conversation.outcome()
        except StopIteration as stop:
            raise RuntimeError(f"the method raised {stop!r}, which cannot be raised by a coroutine") from stop

    async def _take(self, step: Step, call: Call, waiter: AsyncioWaiter, address: Address) -> Any:
        if isinstance(step, Hear):
            while await self.link.wait(call.inbox.__len__, step.deadline, waiter):
                event = call.inbox.popleft()
                if event is not INTERRUPTED or call.sent_in != self._made:  # else it was asked again already
                    return event
        elif isinstance(step, Send):
            how = self._send_options(step, call)
            while not (token := self.link.publish_nowait(address, step.body, **how)):
                await self.link.wait_sendable(step.deadline)
            call.token = token
        elif isinstance(step, Listen) and not self._subscription.active:
            await self.link.subscribe(self._subscription, step.deadline)
        return None

    async def post(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Send a request without waiting for a result."""
        deadline = monotonic() + (options.wait or self.post_wait)
        if self.posts.crowded and not await self.link.wait(lambda: self.posts.eased, deadline):
            raise self._too_many()
        post = self._new_post(document, address, options, owner)
        await self.link.wait_sendable(deadline)
        while not self.posts.send(document["sn"], post, self.link.publish_nowait):
            await self.link.wait_sendable(deadline)
        if options.confirm:
            await self.link.wait(lambda: document["sn"] not in self.posts, deadline)
            self.posts.confirmed(document["sn"], post)

    async def flush(self, owner: Owner, timeout: float | None) -> None:  # noqa: ASYNC109 - as in gofer.proxy
        """Wait until the broker has answered for all requests of this owner that were not waited for."""
        deadline = None if timeout is None else monotonic() + timeout
        if self.posts.of(owner):
            await self.link.wait(lambda: not self.posts.of(owner), deadline)
        self.posts.complain(owner)
