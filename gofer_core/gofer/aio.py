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
from functools import partial
from time import monotonic
from typing import Any

from gofer.errors import ConnectionLost, MessagingError, NotTaken
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.link import Link
from gofer.messaging.loop import Alarm, LoopDriver
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.proxy import seam
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Send, Step, Tell, flow
from gofer.rmi.options import Options
from gofer.rmi.session import Session
from gofer.rmi.stub import Stub, Trigger, new_request

__all__ = ["Agent"]

_CLOSE_WAIT = 5.0


class Agent:
    """An agent at an address, as :class:`gofer.proxy.Agent`; what that returns or raises is had by ``await``.

    To be used within one running event loop. ``await agent.close()``, or ``async with``, gives back its share of the
    connection. A progress callback may be a coroutine function. Arguments and options are the same, and raise the same.
    """

    def __init__(self, url: str | URL | Connector, address: str, **options: Any) -> None:
        self.__setup(_Line(Connector.of(url)), Address.parse(address), Options().having(options))

    def __setup(self, line: _Line, address: Address, options: Options) -> Agent:
        self.__line = line
        self.__address = address
        self.__options = options
        return self

    def __call__(self, **options: Any) -> Agent:
        """Return a view of this agent with other options in place of some."""
        view = object.__new__(type(self))
        return view.__setup(self.__line, self.__address, self.__options.having(options))

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("_"):
            raise AttributeError(f"remote names do not start with '_': {name!r}")
        return self[name]

    def __getitem__(self, name: str | tuple[str, str]) -> Stub:
        double = seam.double
        return Stub(name, self.__invoke) if double is None else double.stub(name, self.__invoke, self.__line)

    def __repr__(self) -> str:
        return f"<Agent {str(self.__address)!r} at {self.__line.connector.url}>"

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the word of gofer.proxy
        """Wait until the broker has answered for every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        if self.__line.used:
            await self.__line.session(None).flush_async(self.__line, timeout)

    async def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        await self.__line.close()

    def __invoke(
        self, classname: str, method: str, cntr: list[Any] | None, args: tuple[Any, ...], kws: dict[str, Any], /
    ) -> Any:
        options = self.__options
        document = new_request((classname, method, cntr), args, kws, str(self.__address), options)
        if options.trigger:
            return Trigger(document["sn"], lambda: self.__send(document, options))
        return self.__send(document, options)

    async def __send(self, document: dict[str, Any], options: Options) -> Any:
        if seam.double is not None:
            self.__line.check()
            return seam.double.answer(self.__line, document, options)
        posts = self.__line.session(None)
        failures = posts.failures(self.__line)
        if failures:
            raise NotTaken(failures)
        if options.reply is None and options.wait != 0:
            session = self.__line.session(options.exchange) if options.exchange else posts
            document["replyto"] = session.replyto
            document["wait"] = options.wait
            return await session.call_async(document, self.__address, options)
        document["replyto"] = options.reply
        await posts.post_async(document, self.__address, options, self.__line)
        return document["sn"]


class _Line:
    """One agent's share in the loop's link, had by all its views."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._link: Link | None = None
        self._closed = False

    @property
    def used(self) -> bool:
        """Whether there may be something to flush: it has a link, or had one."""
        return self._closed or self._link is not None

    def check(self) -> None:
        """Raise ConnectionLost if it was closed."""
        if self._closed:
            raise ConnectionLost(f"this agent was closed ({self.connector.url})")

    def session(self, exchange: str | None) -> _Session:
        loop = asyncio.get_running_loop()
        link = self._link
        if link is None or link.abandoned:
            self.check()
            link = self._link = pool.acquire(self.connector, loop)
        if link.loop is not loop:
            raise RuntimeError("this agent belongs to another event loop: make one in each")
        driver = link.shared(LoopDriver, lambda: LoopDriver(link, loop))
        return link.shared((_Session, exchange), lambda: _Session(driver, exchange))

    async def close(self) -> None:
        link, self._closed = self._link, True
        if link is None or link.abandoned:
            return
        try:
            await self.session(None).flush_async(self, _CLOSE_WAIT)
        finally:
            self._link = None
            driver: LoopDriver = link.shared(LoopDriver, lambda: LoopDriver(link, asyncio.get_running_loop()))
            if pool.users(link) == 1:
                driver.stop()
            # It says goodbye to the broker, and waits a moment for the answer: not in the loop's thread.
            await asyncio.get_running_loop().run_in_executor(None, pool.release, link)


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
            encode=partial(self._encode, document, options),
            state=lambda: self.link.state,
        )
        self._calls[call.conversation.sn] = call
        self._driver.want(1)
        try:
            step = next(steps)
            while True:
                try:
                    came = await self._take_async(step, call, alarm, address, options)
                except Exception as raised:  # noqa: BLE001 - the flow decides what it means
                    step = steps.throw(raised)
                else:
                    step = steps.send(came)
        except StopIteration as done:
            return done.value
        finally:
            self._driver.want(-1)
            del self._calls[call.conversation.sn]
            self.link.forget(call.token)

    async def _take_async(self, step: Step, call: Call, alarm: Alarm, address: Address, options: Options) -> Any:
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
        elif isinstance(step, Tell):
            if options.progress is not None:
                told = options.progress(step.report)
                if inspect.isawaitable(told):
                    await told
        else:
            await self._listen_async(step.deadline)
        return None

    async def post_async(self, document: dict[str, Any], address: Address, options: Options, owner: object) -> None:
        """Do as ``post``."""
        deadline = monotonic() + (options.wait or self.post_wait)
        self._driver.want(1)
        try:
            if len(self._posts) >= self.posts_most:
                await self._driver.until(lambda: len(self._posts) <= self.posts_least, deadline)
            await self._sendable(deadline)
            while not self._post(document, address, options, owner, deadline):
                await self._sendable(deadline)
            if options.confirm:
                await self._driver.until(lambda: document["sn"] not in self._posts, deadline)
                self._confirmed(document["sn"])
        finally:
            self._driver.want(-1)

    async def flush_async(self, owner: object, timeout: float | None) -> None:  # noqa: ASYNC109 - as in flush
        """Do as ``flush``."""
        deadline = None if timeout is None else monotonic() + timeout
        if owner in self._posts.values():
            await self._driver.until(lambda: owner not in self._posts.values(), deadline)
        self._complain(owner)

    def _transmit(self, address: Address, body: bytes, deadline: float | None, **how: Any) -> int:
        return self.link.offer(address, body, **how)  # never waits: the loop's thread must not

    async def _listen_async(self, deadline: float | None) -> None:
        subscription = self._subscription
        if subscription.active:
            return
        await self._open(deadline)
        self.link.subscribe(subscription, 0)
        if not await self._driver.until(lambda: subscription.active or subscription.error, deadline):
            raise ConnectionLost(f"no reply queue in time: {self.link.state}")
        if not subscription.active and subscription.error is not None:
            raise subscription.error

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
