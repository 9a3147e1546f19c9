"""Call methods on agents::

from gofer.proxy import Agent

agent = Agent("amqp://broker.example.com", "web-42")
print(agent.Dog().bark("hello"))
"""

from __future__ import annotations

import warnings
import weakref
from typing import Any, Protocol

from gofer.errors import ConnectionLost, NotTaken
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.link import Link
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.rmi.options import Options
from gofer.rmi.session import Session
from gofer.rmi.stub import Invoke, Stub, Trigger, new_request

__all__ = ["Agent", "Double", "agent", "seam"]


class Agent:
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

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Agent {str(self.__address)!r} at {self.__line.connector.url}>"

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has answered for every request that was sent without waiting.

        Raises:
            NotTaken: some were not taken, or not within ``timeout`` seconds; ``reasons`` says which and why.
        """
        if self.__line.used:
            self.__line.session(None).flush(self.__line, timeout)

    def close(self) -> None:
        """Flush, and give up the connection (the last one to do so closes it). Idempotent; the agent is done with.

        Raises:
            NotTaken: as ``flush``, within five seconds; it is closed all the same.
        """
        self.__line.close()

    def __invoke(
        self, classname: str, method: str, cntr: list[Any] | None, args: tuple[Any, ...], kws: dict[str, Any], /
    ) -> Any:
        options = self.__options
        document = new_request((classname, method, cntr), args, kws, str(self.__address), options)
        if options.trigger:
            return Trigger(document["sn"], lambda: self.__send(document, options))
        return self.__send(document, options)

    def __send(self, document: dict[str, Any], options: Options) -> Any:
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
            return session.call(document, self.__address, options)
        document["replyto"] = options.reply
        posts.post(document, self.__address, options, self.__line)
        return document["sn"]


class _Line:
    """One agent's share in a link, had by all its views; taken up on first use, and again after a fork."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self._link: Link | None = None
        self._closed = False
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def used(self) -> bool:
        """Whether there may be something to flush: it has a link, or had one."""
        return self._closed or self._link is not None

    def check(self) -> None:
        """Raise ConnectionLost if it was closed."""
        if self._closed:
            raise ConnectionLost(f"this agent was closed ({self.connector.url})")

    def session(self, exchange: str | None) -> Session:
        link = self._link
        if link is None or link.abandoned:
            link = self._take()
        return link.shared((Session, exchange), lambda: Session(link, exchange))

    def _take(self) -> Link:
        mine = pool.acquire(self.connector)
        with pool.guard:
            closed, link = self._closed, self._link
            taken = not closed and (link is None or link.abandoned)  # else another thread was faster
            if taken:
                if self._release is not None:
                    self._release.detach()
                self._release = weakref.finalize(self, pool.release, mine, linger=True)
                self._release.atexit = False
                self._link = link = mine
        if not taken:
            pool.release(mine)
        if closed or link is None:
            raise ConnectionLost(f"this agent was closed ({self.connector.url})")
        return link

    def close(self) -> None:
        with pool.guard:
            link, self._link, self._closed = self._link, None, True
        if link is None or link.abandoned:
            return
        if self._release is not None:
            self._release.detach()
        try:
            if not link.pump.mine:
                link.shared((Session, None), lambda: Session(link)).flush(self, 5.0)
        finally:
            pool.release(link)


class Double(Protocol):
    """Stands in for agents in tests: it answers what they would be sent. See :mod:`gofer.testing.mock`."""

    def stub(self, name: str | tuple[str, str], invoke: Invoke, agent: object, /) -> Stub:
        """Make the stub of a remote class; ``agent`` is the same object for all views of an agent."""

    def answer(self, agent: object, document: dict[str, Any], options: Options, /) -> Any:
        """Answer a request, instead of sending it: return what the call returns, or raise."""


class _Seam:
    """Where a double is put in the place of all agents of this process, gofer.aio's too. None: requests are sent."""

    double: Double | None = None


#: Of this process; only tests change it.
seam = _Seam()


def agent(url: str | URL | Connector, address: str, **options: Any) -> Agent:
    """Return an Agent: the older name of the class."""
    warnings.warn("gofer.proxy.agent() is deprecated: use gofer.proxy.Agent", DeprecationWarning, stacklevel=2)
    return Agent(url, address, **options)
