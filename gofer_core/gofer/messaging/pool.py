"""The connections of a process: counted, shared by equal connectors, closed when nobody uses them.

Each connection does its own housekeeping (heartbeats, the idle timeout) in its driver's thread. In a forked child the
pool starts empty, and the parent's connections are dropped without a word to their brokers.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar, cast

from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from gofer.messaging.asyncio_driver import AsyncioConnection

__all__ = ["Pool", "pool"]

log = logging.getLogger(__name__)

_C = TypeVar("_C", bound=Connection)

#: Seconds for the last messages at the end of the process, and again for closing the connections.
_EXIT = 5.0


class Pool:
    """Connections by connector, with the number of their users. Thread-safe."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may release a connection while this thread holds it
        #: For users to guard what they keep of connections; made anew in a forked child.
        self.guard = threading.RLock()  # a signal handler may run in the thread that holds it
        self._connections: dict[tuple[Connector, AbstractEventLoop | None], Connection] = {}
        self._finalized = False

    def acquire(self, connector: Connector) -> ThreadConnection:
        """Return the connection for a connector and count one more user. Nothing is opened yet.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        return self._acquire(connector, None, lambda: ThreadConnection(connector, self._may_close))

    def acquire_asyncio(self, connector: Connector, loop: AbstractEventLoop) -> AsyncioConnection:
        """Return the connection that an event loop drives; called in its thread. See ``acquire``."""
        from gofer.messaging.asyncio_driver import AsyncioConnection  # an agent without coroutines needs no asyncio

        with self._lock:
            for key, other in list(self._connections.items()):
                if key[1] is not None and key[1].is_closed():
                    del self._connections[key]
                    other.close()
            return self._acquire(connector, loop, lambda: AsyncioConnection(connector, self._may_close, loop))

    def _acquire(self, connector: Connector, loop: AbstractEventLoop | None, make: Callable[[], _C]) -> _C:
        with self._lock:
            found = cast("_C | None", self._connections.get((connector, loop)))
            if found is None or found.closed:
                found = self._connections[connector, loop] = make()
                # A process that multiprocessing has forked ends by os._exit, without atexit.
                process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
                if not self._finalized and process is not None and util is not None and process.parent_process():
                    self._finalized = True
                    util.Finalize(None, self.close, exitpriority=0)
            found.users += 1
            return found

    def release(self, connection: Connection, *, linger: bool = False) -> None:
        """Count one user less. The last one closes the connection, at once or (``linger``) after some idle seconds."""
        if self.leave(connection, linger=linger):
            connection.close()

    def leave(self, connection: Connection, *, linger: bool = False) -> bool:
        """Count one user less; return whether the caller must close the connection: nobody else gets it any more."""
        with self._lock:
            if connection.abandoned or not self._has(connection):
                return False
            connection.users -= 1
            if connection.users:
                return False
            if not linger:
                del self._connections[connection.connector, connection.loop]
                return True
        connection.users_changed()
        return False

    def close(self) -> None:
        """Flush and close every connection: at the end of the process. Starts no thread."""
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        deadline = monotonic() + _EXIT
        for connection in connections:
            connection.exited_at = monotonic()
            for callback in connection.exit_callbacks:
                try:
                    callback(deadline)
                except Exception:  # the others must be closed, too
                    log.exception("%r: its last messages were not flushed", connection)
        closing = [connection for connection in connections if connection.start_closing()]
        deadline = monotonic() + _EXIT
        for connection in closing:
            connection.wait_closed(deadline)

    def abandon(self) -> None:
        """Start again in a forked child, where no other thread lives and the locks may be held for ever."""
        connections = list(self._connections.values())
        self._start()
        for connection in connections:
            try:
                connection.abandon()
            except Exception:  # the others must be dropped, too
                log.exception("%r was not dropped in a child", connection)

    def _has(self, connection: Connection) -> bool:
        return self._connections.get((connection.connector, connection.loop)) is connection

    def _may_close(self, connection: Connection) -> bool:
        """Remove a connection from the pool, unless it has users again."""
        with self._lock:
            if connection.users:
                return False
            if self._has(connection):
                del self._connections[connection.connector, connection.loop]
            return True


#: The process's connections.
pool = Pool()
os.register_at_fork(after_in_child=pool.abandon)
atexit.register(pool.close)
