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

from gofer.errors import ConnectionLost, MessagingError, NotTaken
from gofer.messaging.address import Address
from gofer.messaging.carrier import fresh
from gofer.messaging.link import Link
from gofer.messaging.loop import Alarm, LoopDriver
from gofer.messaging.pool import pool
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Listen, Send, Step, Tell, advance, flow
from gofer.rmi.options import Options
from gofer.rmi.posts import Owner
from gofer.rmi.remote import Line, Remote, seam
from gofer.rmi.session import Session

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
            await _session(self._line).flush_async(self._line.owner, timeout)

    async def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        link = self._line.leave()
        if link is None:
            return
        loop = asyncio.get_running_loop()
        try:
            await _session_of(link, loop).flush_async(self._line.owner, _CLOSE_WAIT)
        finally:
            self._line.owner.gone = True
            if pool.leave(link):  # else somebody else in the loop has it, and it goes on being driven
                _driver(link, loop).stop()
                # It says goodbye to the broker, and waits a moment for the answer: not in the loop's thread.
                await loop.run_in_executor(None, link.close)

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
            return await session.call_async(document, self._address, options)
        document["replyto"] = options.reply
        await session.post_async(document, self._address, options, line.owner)
        return document["sn"]


def _session(line: Line, exchange: str | None = None) -> _Session:
    loop = asyncio.get_running_loop()
    link = line.link(loop)
    if link.loop is not loop:
        raise RuntimeError("this agent belongs to another event loop: make one in each")
    return _session_of(link, loop, exchange)


def _session_of(link: Link, loop: asyncio.AbstractEventLoop, exchange: str | None = None) -> _Session:
    return link.shared((_Session, exchange), lambda: _Session(_driver(link, loop), exchange))


def _driver(link: Link, loop: asyncio.AbstractEventLoop) -> LoopDriver:
    return link.shared(LoopDriver, lambda: LoopDriver(link, loop))


class _Session(Session):
    """A session whose calls are driven by the loop."""

    def __init__(self, driver: LoopDriver, exchange: str | None) -> None:
        super().__init__(driver.link, exchange)
        self._driver = driver

    async def call_async(self, document: dict[str, Any], address: Address, options: Options) -> Any:
        """Do as ``call``, driving the same flow."""
        alarm = Alarm(asyncio.get_running_loop())
        call = Call(document["sn"], alarm.wake)
        steps = flow(
            call,
            document,
            str(address),
            options,
            encode=lambda ttl: self._encode(document, options, ttl, call.ahead),
            state=lambda: self.link.state,
        )
        self._calls[call.conversation.sn] = call
        self._driver.want(1)
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
                    came = await self._take_async(step, call, alarm, address)
                except MessagingError as raised:
                    step = advance(steps, error=raised)
                else:
                    step = advance(steps, came)
        finally:
            self._driver.want(-1)
            del self._calls[call.conversation.sn]
            self.link.forget(call.token)
        try:
            return call.conversation.outcome()
        except StopIteration as stop:
            raise RuntimeError(f"the method raised {stop!r}, which cannot be raised by a coroutine") from stop

    async def _take_async(self, step: Step, call: Call, alarm: Alarm, address: Address) -> Any:
        if isinstance(step, Hear):
            while await alarm.wait(lambda: call.inbox or self.link.closed, step.deadline):
                if not call.inbox:
                    self.link.check()
                event = call.inbox.popleft()
                if event is not INTERRUPTED or call.sent_in != self._made:  # else it was asked again already
                    return event
        elif isinstance(step, Send):
            await self._sendable(step.deadline)
            while not self._send(step, call, address):
                await self._sendable(step.deadline)
        elif isinstance(step, Listen):
            await self._listen_async(step.deadline)
        return None

    async def post_async(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Do as ``post``."""
        deadline = monotonic() + (options.wait or self.post_wait)
        self._driver.want(1)
        try:
            if self.posts.crowded and not await self._driver.until(lambda: self.posts.eased, deadline):
                raise self._too_many()
            post = self._new_post(document, address, options, owner)
            await self._sendable(deadline)
            while not self.posts.send(document["sn"], post, self.link.offer):
                await self._sendable(deadline)
            if options.confirm:
                await self._driver.until(lambda: document["sn"] not in self.posts, deadline)
                self.posts.confirmed(document["sn"], post)
        finally:
            self._driver.want(-1)

    async def flush_async(self, owner: Owner, timeout: float | None) -> None:  # noqa: ASYNC109 - as in flush
        """Do as ``flush``."""
        deadline = None if timeout is None else monotonic() + timeout
        if self.posts.of(owner):
            await self._driver.until(lambda: not self.posts.of(owner), deadline)
        self.posts.complain(owner)

    def _transmit(self, address: Address, body: bytes, deadline: float | None, **how: Any) -> int:
        return self.link.offer(address, body, **how)  # never waits: the loop's thread must not

    async def _listen_async(self, deadline: float | None) -> None:
        subscription = self._subscription
        if subscription.active:
            return
        await self._open(deadline)
        self.link.subscribe(subscription, 0)
        if not await self._driver.until(lambda: subscription.active or subscription.error, deadline):
            raise ConnectionLost(f"the broker did not answer for the reply queue: {self.link.state}")
        if not subscription.active and subscription.error is not None:
            raise fresh(subscription.error)

    async def _sendable(self, deadline: float | None) -> None:
        while not self.link.sendable:
            await self._open(deadline)
            if not await self._driver.until(lambda: self.link.sendable, deadline):
                raise ConnectionLost(f"cannot send to {self.link.connector.url}: {self.link.state}")

    async def _open(self, deadline: float | None) -> None:
        if not self.link.is_open:
            self.link.ask()
            await self._driver.until(self.link.answered, deadline)
            try:
                self.link.check()
            except MessagingError:
                if deadline is not None and monotonic() >= deadline:
                    raise ConnectionLost(f"no connection in time: {self.link.state}") from None
                raise
