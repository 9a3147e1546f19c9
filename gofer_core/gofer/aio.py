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

from gofer.errors import ConnectionLost
from gofer.messaging.address import Address
from gofer.messaging.asyncio_driver import AsyncioConnection, AsyncioWaiter
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.rmi.client.agent import Lease, RemoteAgent, seam
from gofer.rmi.client.call import Call, Next
from gofer.rmi.client.options import Options
from gofer.rmi.client.session import SessionBase
from gofer.rmi.client.unconfirmed import Owner

__all__ = ["Agent"]

_CLOSE_WAIT = 5.0


class Agent(RemoteAgent):
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
        if self._lease.used:
            await self._session().flush(self._lease.owner, timeout)

    async def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        session = self._lease.close()
        if session is None:
            return
        try:
            await session.flush(self._lease.owner, _CLOSE_WAIT)
        finally:
            self._lease.owner.gone = True
            if pool.leave(session.connection):
                await session.connection.aclose()

    def _new_lease(self, connector: Connector) -> Lease[_Session]:
        return Lease(connector, lambda wanted: pool.acquire_asyncio(wanted, asyncio.get_running_loop()), _Session)

    def _session(self, exchange: str | None = None) -> _Session:
        session: _Session = self._lease.session(exchange)
        if session.connection.loop is not asyncio.get_running_loop():
            raise RuntimeError("this agent belongs to another event loop: make one in each")
        return session

    async def _send(self, document: dict[str, Any], options: Options) -> Any:
        lease = self._lease
        if seam.double is not None:
            lease.check()
            return seam.double.answer(lease, document, options)
        session = self._session()
        session.unconfirmed.raise_failures(lease.owner)
        if options.reply is None and options.wait != 0:
            if options.exchange:
                session = self._session(options.exchange)
            return await session.call(document, self._address, options)
        await session.publish(document, self._address, options, lease.owner)
        return document["sn"]


class _Session(SessionBase):
    """A session whose calls are driven by the loop. See :class:`gofer.rmi.client.session.Session`."""

    connection: AsyncioConnection

    async def call(self, document: dict[str, Any], address: Address, options: Options) -> Any:
        """Send a request and wait for its end."""
        waiter = AsyncioWaiter(self.connection.loop)
        call = self._begin(document, options, waiter.wake)
        step = Next.SEND
        try:
            while step is not Next.END:
                if step is Next.REPORT and options.progress is not None:
                    told = options.progress(call.report or {})
                    if inspect.isawaitable(told):
                        await told
                try:
                    if step is Next.SEND:
                        await self._send(call, address)
                    heard = await self.connection.wait(call.inbox.__len__, call.due, waiter)
                except ConnectionLost as lost:
                    if call.late:
                        raise self._timeout(call, lost) from lost
                    raise
                step = self._take(call, call.inbox.popleft() if heard else None)
        finally:
            self._end(call)
        try:
            return call.outcome()
        except StopIteration as stop:
            raise RuntimeError(f"the method raised {stop!r}, which cannot be raised by a coroutine") from stop

    async def _send(self, call: Call, address: Address) -> None:
        while True:
            if not self._subscription.active:
                await self.connection.subscribe(self._subscription, call.deadline)
            if self._publish(call, address):
                return
            await self.connection.wait_sendable(call.deadline)

    async def publish(self, document: dict[str, Any], address: Address, options: Options, owner: Owner) -> None:
        """Send a request without waiting for a result."""
        connection, unconfirmed = self.connection, self.unconfirmed
        deadline = monotonic() + (options.wait or self.publish_wait)
        if unconfirmed.full and not await connection.wait(lambda: unconfirmed.drained, deadline):
            raise self._full()
        request = self._request(document, address, options, owner)
        while not unconfirmed.send(request):
            await connection.wait_sendable(deadline)
        if options.confirm:
            await connection.wait(lambda: document["sn"] not in unconfirmed, deadline)
            unconfirmed.raise_failure(request)

    async def flush(self, owner: Owner, timeout: float | None) -> None:  # noqa: ASYNC109 - the word of gofer.proxy
        """Wait until the broker has answered for all requests of this owner that were not waited for."""
        deadline = None if timeout is None else monotonic() + timeout
        if self.unconfirmed.of(owner):
            await self.connection.wait(lambda: not self.unconfirmed.of(owner), deadline)
        self.unconfirmed.raise_late(owner)
