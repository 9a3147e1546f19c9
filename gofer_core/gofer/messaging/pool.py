"""The pool of links: one per broker in a process, the only state that the process shares.

A link is counted: it is closed when its last user closes it, or five minutes after its last use. One keeper thread
looks after the links that nobody drives, so that an idle caller still answers heartbeats. In a forked child the pool
starts empty; the parent's connections are dropped there without a word.
"""

from __future__ import annotations

import atexit
import os
import threading
from time import monotonic

from gofer.messaging.adapter import find
from gofer.messaging.connector import Connector
from gofer.messaging.link import Link

__all__ = ["Pool", "pool"]

#: Seconds after which an unused connection is closed.
_IDLE = 300.0
#: Seconds between two looks of the keeper.
_KEEP = 1.0


class Pool:
    """Links by connector, with the number of their users. Thread-safe."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()  # the collector may release a link while this thread is in here
        #: For users to guard what they keep of links; made anew in a forked child, as all of this is.
        self.guard = threading.Lock()
        self._links: dict[Connector, Link] = {}
        self._users: dict[Connector, int] = {}
        self._keeper: threading.Thread | None = None
        self._poke = threading.Event()

    def acquire(self, connector: Connector) -> Link:
        """Return the link for a connector and count one more user. Nothing is opened yet.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        with self._lock:
            link = self._links.get(connector)
            if link is None:
                link = self._links[connector] = Link(connector, find(connector.url, connector.adapter))
                self._users[connector] = 0
                self._ensure_keeper()
            self._users[connector] += 1
            return link

    def release(self, link: Link, *, linger: bool = False) -> None:
        """Count one user less. The last one closes the link, at once or (``linger``) when it has been idle for long."""
        with self._lock:
            if link.abandoned or self._links.get(link.connector) is not link:
                return
            self._users[link.connector] -= 1
            if linger or self._users[link.connector] > 0:
                return
            del self._links[link.connector], self._users[link.connector]
            self._poke.set()  # the keeper of no links ends
        link.close()

    def close(self) -> None:
        """Close every link: at the end of the process."""
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
            self._users.clear()
        self._poke.set()
        for link in links:
            link.farewell()
            link.close()

    def abandon(self) -> None:
        """Start anew in a forked child, where no other thread lives and the locks may be held for ever."""
        links = list(self._links.values())
        self._start()
        for link in links:
            link.abandon()

    def _ensure_keeper(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._keep, name="gofer-keeper", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        while True:
            self._poke.wait(_KEEP)
            self._poke.clear()
            with self._lock:
                links = dict(self._links)
                if not links:
                    self._keeper = None
                    return
            for connector, link in links.items():
                link.keep()
                while link.unwritten and not link.pump.busy:
                    link.keep()
                if link.is_open and not link.unsettled and monotonic() - link.used_at > _IDLE and not link.pump.busy:
                    self._retire(connector, link)

    def _retire(self, connector: Connector, link: Link) -> None:
        with self._lock:
            unused = self._users.get(connector) == 0 and self._links.get(connector) is link
            if unused:
                del self._links[connector], self._users[connector]
        if unused:
            link.close()
        else:
            link.suspend()


#: The process's links.
pool = Pool()
os.register_at_fork(after_in_child=pool.abandon)
atexit.register(pool.close)
