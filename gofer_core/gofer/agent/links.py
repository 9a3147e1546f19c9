"""The connections of an agent: one for each broker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gofer.agent.probe import Probe
from gofer.messaging.connector import Connector
from gofer.messaging.pool import Pool
from gofer.messaging.thread_driver import ThreadConnection

if TYPE_CHECKING:
    from gofer.rmi.clock import Clock

__all__ = ["Links"]


class Links:
    """Connections of the process's pool, as long as plugins use them, and the probe of each. Any thread."""

    def __init__(self, pool: Pool, clock: Clock, interval: float) -> None:
        """Keep the pool. Nothing is opened yet.

        Args:
            interval: seconds between two probes of a connection; 0: none are made.
        """
        self._pool = pool
        self._clock = clock
        self._interval = interval
        self._lock = threading.Lock()
        self._users: dict[ThreadConnection, int] = {}
        self._probes: dict[ThreadConnection, Probe] = {}

    def acquire(self, connector: Connector) -> ThreadConnection:
        """Return the connection for a connector. Each acquired one is released once.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        connection = self._pool.acquire(connector)
        with self._lock:
            self._users[connection] = users = self._users.get(connection, 0) + 1
        if users == 1 and connector.url.protocol != "local":  # a broker of this machine has few agents
            connection.core.spread()
        return connection

    def watch(self, connection: ThreadConnection) -> None:
        """Probe a connection, from now on until its last user releases it."""
        with self._lock:
            if self._interval and connection in self._users and connection not in self._probes:
                self._probes[connection] = probe = Probe(connection, self._clock, self._interval)
                probe.start()

    def probe(self, connection: ThreadConnection) -> Probe | None:
        """Return the probe of a connection; None: there is none."""
        return self._probes.get(connection)

    def deaf(self) -> str | None:
        """Say which connection does not work, and does not know it; None: there is no such connection."""
        return next(filter(None, (probe.deaf for probe in list(self._probes.values()))), None)

    def release(self, connection: ThreadConnection) -> None:
        """Give a connection back. The last user in the process closes it."""
        with self._lock:
            self._users[connection] -= 1
            last = not self._users[connection]
            if last:
                del self._users[connection]
            probe = self._probes.pop(connection, None) if last else None
        if probe is not None:
            probe.stop(closing=connection.users == 1)
        self._pool.release(connection)
