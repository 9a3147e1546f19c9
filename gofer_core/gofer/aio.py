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
from typing import Any, Self

from gofer.messaging.asyncio_driver import AsyncioConnection, AsyncioWaiter
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.rmi.client.agent import Lease, RemoteAgent
from gofer.rmi.client.options import Options
from gofer.rmi.client.session import Session

__all__ = ["Agent", "AsyncioSession"]

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
        """Wait until the broker has confirmed or refused every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        await self._flush(timeout)

    async def close(self) -> None:
        """Flush, and release the connection; the last agent to do so closes it. Idempotent. The agent is closed then.

        Raises:
            NotTaken: as ``flush``, within five seconds. The agent is closed nevertheless.
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

    def _new_lease(self, connector: Connector) -> Lease[AsyncioSession]:
        return Lease(connector, lambda wanted: pool.acquire_asyncio(wanted, asyncio.get_running_loop()), AsyncioSession)

    def _session(self, exchange: str | None = None) -> Session:
        session = super()._session(exchange)
        if session.connection.loop is not asyncio.get_running_loop():
            raise RuntimeError("this agent belongs to another event loop: make one in each")
        return session

    async def _run(self, send: Any, document: dict[str, Any], options: Options) -> Any:
        try:
            return await send(document, options)
        except RuntimeError as error:
            stop = error.__cause__
            if isinstance(stop, StopIteration):
                raise RuntimeError(f"the method raised {stop!r}, which cannot be raised by a coroutine") from stop
            raise


class AsyncioSession(Session):
    """A session for the coroutines of one event loop."""

    connection: AsyncioConnection

    def _new_waiter(self) -> AsyncioWaiter:
        return AsyncioWaiter(self.connection.loop)

    async def _done(self, doing: Any) -> Any:
        return await doing if hasattr(doing, "__await__") or inspect.isawaitable(doing) else doing
