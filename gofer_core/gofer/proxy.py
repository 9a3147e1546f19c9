"""Call methods on agents::

from gofer.proxy import Agent

agent = Agent("amqp://broker.example.com", "web-42")
print(agent.Dog().bark("hello"))
"""

from __future__ import annotations

import warnings
from typing import Any, Self, Unpack

from gofer.errors import NotTaken
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.rmi.options import CallOptions, Options
from gofer.rmi.remote import Double, Line, Remote, seam
from gofer.rmi.session import Session

__all__ = ["Agent", "Double", "agent", "seam"]

#: Seconds that requests which nobody waited for may take when an agent is closed.
_CLOSE_WAIT = 5.0


class Agent(Remote):
    """An agent at an address. Its attributes and items are the remote classes, and modules, of its plugins.

    ``agent["Dog", "2"]`` is version 2 of a class of which the agent has several.

    Usable from many threads, and in a child after ``os.fork``. Agents with equal connectors share one connection.
    ``agent(wait=5)`` is a view of the same agent with other options. ``close``, or ``with``, is optional.

    Args:
        url: the broker's URL, or a :class:`~gofer.messaging.Connector` for TLS files and a heartbeat.
        address: ``queue`` or ``exchange/queue``.
        options: see :class:`gofer.rmi.options.Options`; they apply to all calls.

    Raises:
        TypeError: an unknown option, or a value of the wrong kind.
        ConfigError: the URL or the address cannot be read.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has answered for every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        if self._line.used:
            _session(self._line).flush(self._line.owner, timeout)

    def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        link = self._line.leave()
        if link is None:
            return
        try:
            if not link.in_driver:
                link.shared((Session, None), lambda: Session(link)).flush(self._line.owner, _CLOSE_WAIT)
        finally:
            self._line.owner.gone = True
            pool.release(link)

    def _new_line(self, connector: Connector) -> Line[ThreadConnection]:
        return Line(connector, pool.acquire)

    def _send(self, document: dict[str, Any], options: Options) -> Any:
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
            return session.call(document, self._address, options)
        document["replyto"] = options.reply
        session.post(document, self._address, options, line.owner)
        return document["sn"]


def _session(line: Line[ThreadConnection], exchange: str | None = None) -> Session:
    link = line.link()
    return link.shared((Session, exchange), lambda: Session(link, exchange))


def agent(url: str | URL | Connector, address: str, **options: Unpack[CallOptions]) -> Agent:
    """Return an Agent: the older name of the class."""
    warnings.warn("gofer.proxy.agent() is deprecated: use gofer.proxy.Agent", DeprecationWarning, stacklevel=2)
    return Agent(url, address, **options)
