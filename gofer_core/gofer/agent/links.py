"""The connections of an agent: one for each broker, each driven by a thread of its own."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from gofer.messaging.connector import Connector
from gofer.messaging.link import Link
from gofer.messaging.pool import Pool

__all__ = ["Links"]

log = logging.getLogger(__name__)

_ENDING = 5.0  # seconds that a driving thread has to end


@dataclass(slots=True)
class _Driven:
    """A link, how many plugins use it, and the thread that drives it."""

    link: Link
    thread: threading.Thread
    stop: threading.Event
    users: int = field(default=0)


class Links:
    """Links of the process's pool, as long as plugins use them. Any thread; but ``release`` not one that drives."""

    def __init__(self, pool: Pool) -> None:
        """Keep the pool. Nothing is opened yet."""
        self._pool = pool
        self._lock = threading.Lock()
        self._driven: dict[Connector, _Driven] = {}

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._driven)

    def acquire(self, connector: Connector) -> Link:
        """Return the link for a connector, driven from now on. Each acquired one is released once.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        with self._lock:
            driven = self._driven.get(connector)
            if driven is None:
                link = self._pool.acquire(connector)
                stop = threading.Event()
                thread = threading.Thread(target=_drive, args=(link, stop), name="gofer-link", daemon=True)
                driven = self._driven[connector] = _Driven(link, thread, stop)
                thread.start()
            driven.users += 1
            return driven.link

    def release(self, link: Link) -> None:
        """Let go of a link. The last one ends its thread and, unless others in the process use it, closes it."""
        with self._lock:
            driven = self._driven.get(link.connector)
            if driven is None or driven.link is not link:
                return
            driven.users -= 1
            if driven.users:
                return
            del self._driven[link.connector]
        driven.stop.set()
        link.pump.wake_all()
        driven.thread.join(_ENDING)
        self._pool.release(link)


def _drive(link: Link, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            link.drive(stop.is_set, None)
        except Exception:
            # Whatever this is, an agent that no longer reads its broker would be the worst answer to it.
            log.exception("%s: the connection's thread has failed; it goes on", link.connector.url)
            stop.wait(1.0)
