"""What agents have in common, for threads and for coroutines: names, views, options, a share in a connection."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, Generic, Never, Protocol, Self, TypeVar, Unpack

from gofer.errors import ConnectionLost
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.rmi.client.options import CallOptions, Options
from gofer.rmi.client.session import Session
from gofer.rmi.client.stub import Stub, Trigger, fixed, new_request
from gofer.rmi.client.unconfirmed import Owner, Unconfirmed
from gofer.tracing import slot

__all__ = ["Double", "Lease", "RemoteAgent", "seam"]

_S = TypeVar("_S", bound=Session)


class Lease(Generic[_S]):
    """An agent's share in a connection, for all its views: taken on first use, and again after a fork.

    It ends when it is closed, or when the last view is gone.

    Args:
        acquire: counts one more user of a connection.
        new_session: makes the session of a connection and a reply exchange. All users of the connection share it.
    """

    def __init__(
        self,
        connector: Connector,
        acquire: Callable[[Connector], Connection],
        new_session: Callable[[Any, str | None], _S],
    ) -> None:
        self.connector = connector
        self.owner = Owner()
        self._acquire, self._new_session = acquire, new_session
        self._session: _S | None = None
        self._closed = False
        self._release: weakref.finalize[Any, Any] | None = None

    @property
    def used(self) -> bool:
        """Whether there may be something to flush: it has a session, or had one."""
        return self._closed or self._session is not None

    def check(self) -> None:
        """Raise ConnectionLost if it was closed."""
        if self._closed:
            raise ConnectionLost(f"this agent was closed ({self.connector.url})")

    def session(self, exchange: str | None = None) -> _S:
        """Return the session for a reply exchange.

        Raises:
            ConnectionLost: the lease was closed.
        """
        session = self._session
        if session is None or session.connection.abandoned:
            session = self._take()
        return session if exchange is None else self._session_of(session.connection, exchange)

    def _session_of(self, connection: Connection, exchange: str | None = None) -> _S:
        return connection.shared((self._new_session, exchange), lambda: self._new_session(connection, exchange))

    def _take(self) -> _S:
        connection = self._acquire(self.connector)
        with pool.guard:
            session = self._session
            taken = not self._closed and (session is None or session.connection.abandoned)  # else a thread was faster
            if taken:
                if self._release is not None:
                    self._release()
                self.owner.gone = False
                self._release = weakref.finalize(self, _release, connection, self.owner)
                self._release.atexit = False
                self._session = session = self._session_of(connection)
        if not taken:
            pool.release(connection)
            self.check()
        assert session is not None  # noqa: S101 - check has raised
        return session

    def close(self) -> _S | None:
        """End the lease. Returns its session, whose connection the caller must release; None: there is none."""
        with pool.guard:
            session, self._session, self._closed = self._session, None, True
        if session is None or session.connection.abandoned:
            return None
        if self._release is not None:
            self._release.detach()
        return session


def _release(connection: Connection, owner: Owner) -> None:
    if not connection.abandoned:  # else the parent tells
        connection.shared(Unconfirmed, lambda: Unconfirmed(connection)).leave(owner)
    pool.release(connection, linger=True)


class Double(Protocol):
    """Stands in for agents in tests: it answers what they would be sent. See :mod:`gofer.testing.mock`."""

    def stub(self, name: str, invoke: Any, agent: object, /) -> Stub:
        """Make the stub of a remote class; ``agent`` is the same object for all views of an agent."""

    def answer(self, agent: object, document: dict[str, Any], options: Options, /) -> Any:
        """Answer a request, instead of sending it: return what the call returns, or raise."""


class _Seam:
    """Where a double is put in the place of all agents of this process. None: requests are sent."""

    double: Double | None = None


#: Of this process; only tests change it.
seam = _Seam()


def _check_named(unnamed: tuple[Any, ...], how: str) -> None:
    if unnamed:
        raise TypeError(
            f"{unnamed[0]!r:.100}: options are given by their names, as in {how}; "
            "arguments go to the remote class or method: agent.Dog('Rex').bark('woof')"
        )


class RemoteAgent:
    """An agent at an address: all of it but how its callers wait (``_run``).

    Remote names never start with ``_``, so whatever does is the object's own.
    """

    _lease: Lease[Any]
    #: Runs ``_send`` to its end, and returns what the call returns; or a coroutine that does so.
    _run: Callable[[Callable[[dict[str, Any], Options], Coroutine[Any, Any, Any]], dict[str, Any], Options], Any]

    def __init__(
        self, url: str | URL | Connector, address: str, *unnamed: Never, **options: Unpack[CallOptions]
    ) -> None:
        _check_named(unnamed, "Agent(url, address, wait=5)")
        self._lease = self._new_lease(Connector.of(url))
        self._address = Address.parse(address)
        self._to = str(self._address)
        self._options = Options().having(options)

    def __call__(self, *unnamed: Never, **options: Unpack[CallOptions]) -> Self:
        """Return a view of this agent with other options in place of some."""
        _check_named(unnamed, "agent(wait=5)")
        view = object.__new__(type(self))
        view._lease, view._address, view._to = self._lease, self._address, self._to
        view._options = self._options.having(options)
        return view

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("_"):
            raise AttributeError(f"remote names do not start with '_': {name!r}")
        return self[name]

    def __setattr__(self, name: str, value: object) -> None:
        fixed(self, name, f"options are given as agent({name}=...)")
        object.__setattr__(self, name, value)

    def __getitem__(self, name: str) -> Stub:
        double = seam.double
        return Stub(name, self._invoke) if double is None else double.stub(name, self._invoke, self._lease)

    __copy__ = __call__

    def __deepcopy__(self, _: object) -> Self:
        return self.__call__()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled: its connection belongs to this process. "
            "Pass the URL and the address, and make an Agent where it is needed"
        )

    def __repr__(self) -> str:
        return f"<Agent {self._to!r} at {self._lease.connector.url}>"

    def _invoke(
        self, classname: str, method: str, cntr: list[Any] | None, args: tuple[Any, ...], kws: dict[str, Any], /
    ) -> Any:
        options = self._options
        document = new_request((classname, method, cntr), args, kws, self._to, options)
        send = self._send if slot.tracer is None else self._send_traced
        if options.trigger:
            return Trigger(document["sn"], lambda: self._run(send, document, options))
        return self._run(send, document, options)

    async def _send_traced(self, document: dict[str, Any], options: Options) -> Any:
        tracer, waits = slot.tracer, options.reply is None and options.wait != 0
        with nullcontext() if tracer is None else tracer.calling(document, self._lease.connector.url, waits=waits):
            return await self._send(document, options)

    async def _send(self, document: dict[str, Any], options: Options) -> Any:
        """Send a request; return what the call returns."""
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

    async def _flush(self, timeout: float | None) -> None:  # noqa: ASYNC109 - the word of its callers
        if self._lease.used:
            await self._session().flush(self._lease.owner, timeout)

    def _session(self, exchange: str | None = None) -> Session:
        session: Session = self._lease.session(exchange)
        return session

    def _new_lease(self, connector: Connector) -> Lease[Any]:
        """Make the share in a connection."""
        raise NotImplementedError
