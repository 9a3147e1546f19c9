"""Call methods on agents::

from gofer.proxy import Agent

agent = Agent("amqp://broker.example.com", "web-42")
print(agent.Dog().bark("hello"))
"""

from __future__ import annotations

import warnings
from typing import Any, Self, Unpack

from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.rmi.client.agent import Double, Lease, RemoteAgent, seam
from gofer.rmi.client.options import CallOptions, Options
from gofer.rmi.client.session import ThreadSession, complete

__all__ = ["Agent", "Double", "agent", "seam"]

#: Seconds that requests without a waiting caller may take when an agent is closed.
_CLOSE_WAIT = 5.0


class Agent(RemoteAgent):
    """An agent at an address. Its attributes and items are the remote classes, and modules, of its plugins.

    ``agent["Dog", "2"]`` is version 2 of a class of which the agent has several.

    Usable from many threads, and in a child after ``os.fork``. Agents with equal connectors share one connection.
    ``agent(wait=5)`` is a view of the same agent with other options. ``close``, or ``with``, is optional.

    Args:
        url: the broker's URL, or a :class:`~gofer.messaging.Connector` for TLS files and a heartbeat.
        address: ``queue`` or ``exchange/queue``.
        options: see :class:`gofer.rmi.client.options.Options`; they apply to all calls.

    Raises:
        TypeError: an unknown option, or a value of the wrong kind.
        ConfigError: the URL or the address cannot be read.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has confirmed or refused every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        complete(self._flush(timeout))

    def close(self) -> None:
        """Flush, and release the connection; the last agent to do so closes it. Idempotent. The agent is closed then.

        Raises:
            NotTaken: as ``flush``, within five seconds. The agent is closed nevertheless.
        """
        session = self._lease.close()
        if session is None:
            return
        try:
            if not session.connection.in_driver:
                complete(session.flush(self._lease.owner, _CLOSE_WAIT))
        finally:
            self._lease.owner.gone = True
            pool.release(session.connection)

    def _new_lease(self, connector: Connector) -> Lease[ThreadSession]:
        return Lease(connector, pool.acquire, ThreadSession)

    def _run(self, send: Any, document: dict[str, Any], options: Options) -> Any:
        return complete(send(document, options))


def agent(url: str | URL | Connector, address: str, **options: Unpack[CallOptions]) -> Agent:
    """Return an Agent: the older name of the class."""
    warnings.warn("gofer.proxy.agent() is deprecated: use gofer.proxy.Agent", DeprecationWarning, stacklevel=2)
    return Agent(url, address, **options)
