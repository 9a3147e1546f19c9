"""The connections of an agent: one for each broker."""

from __future__ import annotations

import threading

from gofer.messaging.connector import Connector
from gofer.messaging.pool import Pool
from gofer.messaging.thread_driver import ThreadConnection

__all__ = ["Links"]


class Links:
    """Connections of the process's pool, as long as plugins use them. Any thread."""

    def __init__(self, pool: Pool) -> None:
        """Keep the pool. Nothing is opened yet."""
        self._pool = pool
        self._lock = threading.Lock()
        self._users: dict[ThreadConnection, int] = {}

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._users)

    def acquire(self, connector: Connector) -> ThreadConnection:
        """Return the connection for a connector. Each acquired one is released once.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        connection = self._pool.acquire(connector)
        with self._lock:
            self._users[connection] = self._users.get(connection, 0) + 1
        return connection

    def release(self, connection: ThreadConnection) -> None:
        """Give a connection back. The last user in the process closes it."""
        with self._lock:
            self._users[connection] -= 1
            if not self._users[connection]:
                del self._users[connection]
        self._pool.release(connection)
