"""What agents have in common, be it those of threads or of coroutines: names, views, options, a share in a link."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar, Unpack

from gofer.errors import ConnectionLost
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.rmi.options import CallOptions, Options
from gofer.rmi.posts import Owner, Posts
from gofer.rmi.stub import Stub, Trigger, fixed, new_request

__all__ = ["Double", "Line", "Remote", "seam"]


_C = TypeVar("_C", bound=Connection)


class Line(Generic[_C]):
    """One agent's share in a link, had by all its views; taken up on first use, and again after a fork.

    It is given back when it is closed, or when the last view is gone.

    Args:
        acquire: counts one more user of a connection.
    """

    def __init__(self, connector: Connector, acquire: Callable[[Connector], _C]) -> None:
        self.connector = connector
        self._acquire = acquire
        self.owner = Owner()
        self._link: _C | None = None
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

    def link(self) -> _C:
        """Return the link.

        Raises:
            ConnectionLost: it was closed.
        """
        link = self._link
        return self._take() if link is None or link.abandoned else link

    def _take(self) -> _C:
        mine = self._acquire(self.connector)
        with pool.guard:
            closed, link = self._closed, self._link
            taken = not closed and (link is None or link.abandoned)  # else another thread was faster
            if taken:
                if self._release is not None:
                    self._release()
                self.owner.gone = False
                self._release = weakref.finalize(self, _let_go, mine, self.owner)
                self._release.atexit = False
                self._link = link = mine
        if not taken:
            pool.release(mine)
        if closed or link is None:
            self.check()
        assert link is not None  # noqa: S101 - check has raised
        return link

    def leave(self) -> _C | None:
        """Close it; return the link that is now the caller's to release, if there is one."""
        with pool.guard:
            link, self._link, self._closed = self._link, None, True
        if link is None or link.abandoned:
            return None
        if self._release is not None:
            self._release.detach()
        return link


def _let_go(link: Connection, owner: Owner) -> None:
    if not link.abandoned:  # else the parent tells
        link.shared(Posts, lambda: Posts(link)).leave(owner)
    pool.release(link, linger=True)


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


class Remote:
    """An agent at an address: all of it but how its requests are sent (``_send``).

    Remote names never start with ``_``, so whatever does is the object's own.
    """

    _line: Line[Any]

    def __init__(self, url: str | URL | Connector, address: str, **options: Unpack[CallOptions]) -> None:
        self._line = self._new_line(Connector.of(url))
        self._address = Address.parse(address)
        self._options = Options().having(options)

    def __call__(self, **options: Unpack[CallOptions]) -> Self:
        """Return a view of this agent with other options in place of some."""
        view = object.__new__(type(self))
        view._line, view._address = self._line, self._address
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
        return Stub(name, self._invoke) if double is None else double.stub(name, self._invoke, self._line)

    def __copy__(self) -> Self:
        return self.__call__()

    def __deepcopy__(self, _: object) -> Self:
        return self.__call__()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled: its connection belongs to this process. "
            "Pass the URL and the address, and make an Agent where it is needed"
        )

    def __repr__(self) -> str:
        return f"<Agent {str(self._address)!r} at {self._line.connector.url}>"

    def _invoke(
        self, classname: str, method: str, cntr: list[Any] | None, args: tuple[Any, ...], kws: dict[str, Any], /
    ) -> Any:
        options = self._options
        document = new_request((classname, method, cntr), args, kws, str(self._address), options)
        if options.trigger:
            return Trigger(document["sn"], lambda: self._send(document, options))
        return self._send(document, options)

    def _new_line(self, connector: Connector) -> Line[Any]:
        """Make the share in a connection."""
        raise NotImplementedError

    def _send(self, document: dict[str, Any], options: Options) -> Any:
        """Send a request, and return (or have awaited) what the call returns."""
        raise NotImplementedError
