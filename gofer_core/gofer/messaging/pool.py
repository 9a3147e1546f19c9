"""The connections of a process: counted, shared by equal connectors, closed when nobody uses them.

Each connection looks after itself (heartbeats, and whether it is idle) in its driver's thread. In a forked child the
pool starts empty; the parent's connections are dropped there without a word.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING

from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from gofer.messaging.asyncio_driver import AsyncioConnection

__all__ = ["Pool", "pool"]

log = logging.getLogger(__name__)

#: Seconds that requests which nobody waited for may take at the end of the process.
_EXIT = 5.0


class Pool:
    """Connections by connector, with the number of their users. Thread-safe."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()  # the collector may release a connection while this thread is in here
        #: For users to guard what they keep of connections; made anew in a forked child, as all of this is.
        self.guard = threading.RLock()  # a signal handler may come to it in the thread that has it
        self._connections: dict[tuple[Connector, AbstractEventLoop | None], Connection] = {}
        self._at_end = False

    def acquire(self, connector: Connector) -> ThreadConnection:
        """Return the connection for a connector and count one more user. Nothing is opened yet.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        with self._lock:
            found = self._connections.get((connector, None))
            if not isinstance(found, ThreadConnection) or found.closed:
                found = ThreadConnection(connector, self._retire)
                self._add(found, None)
            found.users += 1
            return found

    def acquire_asyncio(self, connector: Connector, loop: AbstractEventLoop) -> AsyncioConnection:
        """Return the connection that an event loop drives; called in its thread. See ``acquire``."""
        from gofer.messaging.asyncio_driver import AsyncioConnection  # an agent without coroutines needs no asyncio

        with self._lock:
            for key, other in list(self._connections.items()):
                if key[1] is not None and key[1].is_closed():
                    del self._connections[key]
                    other.close()
            found = self._connections.get((connector, loop))
            if not isinstance(found, AsyncioConnection) or found.closed:
                found = AsyncioConnection(connector, self._retire, loop)
                self._add(found, loop)
            found.users += 1
            return found

    def _add(self, connection: Connection, loop: AbstractEventLoop | None) -> None:
        self._connections[connection.connector, loop] = connection
        # What multiprocessing forks ends by os._exit, and calls none of atexit's.
        process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
        if not self._at_end and process is not None and util is not None and process.parent_process() is not None:
            self._at_end = True
            util.Finalize(None, self.close, exitpriority=0)

    def release(self, connection: Connection, *, linger: bool = False) -> None:
        """Count one user less. The last one closes the connection, at once or (``linger``) after some idle seconds."""
        if self.leave(connection, linger=linger):
            connection.close()

    def leave(self, connection: Connection, *, linger: bool = False) -> bool:
        """Count one user less; return whether the connection is the caller's to close: nobody else gets it any more."""
        with self._lock:
            if connection.abandoned or connection not in self._connections.values():
                return False
            connection.users -= 1
            last = connection.users == 0
            if last and not linger:
                self._remove(connection)
        if last and linger:
            connection.users_changed()
        return last and not linger

    def close(self) -> None:
        """Flush and close every connection: at the end of the process. Starts no thread."""
        with self._lock:
            connections = list(self._connections.values())
            self._connections.clear()
        deadline = monotonic() + _EXIT
        for connection in connections:
            try:
                connection.run_exit_callbacks(deadline)
            except Exception:  # whatever it is, the others must be closed, too
                log.exception("%r: its last messages were not looked after", connection)
        closing = [c for c in connections if not isinstance(c, ThreadConnection) or c.start_closing()]
        deadline = monotonic() + _EXIT
        for connection in closing:
            if isinstance(connection, ThreadConnection):
                connection.wait_closed(deadline)
            else:
                connection.close()

    def abandon(self) -> None:
        """Start again in a forked child, where no other thread lives and the locks may be held for ever."""
        connections = list(self._connections.values())
        self._start()
        for connection in connections:
            try:
                connection.abandon()
            except Exception:  # whatever it is, the others must be dropped, too
                log.exception("%r was not dropped in a child", connection)

    def _retire(self, connection: Connection) -> bool:
        with self._lock:
            if connection.users:
                return False
            self._remove(connection)
            return True

    def _remove(self, connection: Connection) -> None:
        for key, found in list(self._connections.items()):
            if found is connection:
                del self._connections[key]


#: The process's connections.
pool = Pool()
os.register_at_fork(after_in_child=pool.abandon)
atexit.register(pool.close)
