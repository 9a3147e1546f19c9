"""The pool of links: one per broker in a process, the only state that the process shares.

A link is counted: it is closed when its last user closes it, a few seconds after its last user was collected without
closing it, and five minutes after its last use. One keeper thread looks after the links that nobody drives, so that an
idle caller still answers heartbeats. In a forked child the pool
starts empty; the parent's connections are dropped there without a word.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from time import monotonic

from gofer.messaging.adapter import find
from gofer.messaging.connector import Connector
from gofer.messaging.link import Link, Loop

__all__ = ["Pool", "pool"]

_Key = tuple[Connector, object]

log = logging.getLogger(__name__)

#: Seconds after which a connection is closed that has users but no use, and one that has neither.
_IDLE = 300.0
_LINGER = 5.0
#: Seconds between two looks of the keeper.
_KEEP = 1.0
#: Seconds that requests which nobody waited for may take at the end of the process, and all goodbyes to brokers.
_EXIT_WAIT = 5.0
_GOODBYES = 2.0
#: Seconds after which the next link has its turn then.
_TURN = 0.05
#: As long as a broker takes what nobody waits for, piece by piece.
_SOON = 0.02


class Pool:
    """Links by connector, with the number of their users. Thread-safe."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._lock = threading.RLock()  # the collector may release a link while this thread is in here
        #: For users to guard what they keep of links; made anew in a forked child, as all of this is.
        self.guard = threading.RLock()  # a signal handler may come to it in the thread that has it
        self._links: dict[_Key, Link] = {}
        self._users: dict[_Key, int] = {}
        self._keeper: threading.Thread | None = None
        self._poke = threading.Event()
        self._ends = False

    def acquire(self, connector: Connector, loop: Loop | None = None) -> Link:
        """Return the link for a connector and count one more user. Nothing is opened yet.

        Args:
            loop: the event loop that drives it; None: threads do.

        Raises:
            AdapterError: no adapter serves the URL.
        """
        with self._lock:
            key = (connector, loop)
            link = self._links.get(key)
            if link is None:
                link = self._links[key] = Link(connector, find(connector.url, connector.adapter), loop)
                self._users[key] = 0
                self._ensure_keeper()
                self._ensure_end()
            self._users[key] = self._users.get(key, 0) + 1
            return link

    def release(self, link: Link, *, linger: bool = False) -> None:
        """Count one user less. The last one closes the link, at once or (``linger``) when it was idle for a bit."""
        if self.leave(link, linger=linger):
            link.close()

    def leave(self, link: Link, *, linger: bool = False) -> bool:
        """Count one user less; return whether the link is now the caller's to close: nobody else gets it any more."""
        with self._lock:
            key = (link.connector, link.loop)
            if link.abandoned or self._links.get(key) is not link:
                return False
            self._users[key] -= 1
            if linger or self._users[key] > 0:
                return False
            del self._links[key], self._users[key]
            self._poke.set()  # the keeper of no links ends
        return True

    def users(self, link: Link) -> int:
        """Return how many users a link has."""
        with self._lock:
            return self._users.get((link.connector, link.loop), 0)

    def close(self) -> None:
        """Close every link: at the end of the process. No thread is started, as from Python 3.12 on none can be."""
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
            self._users.clear()
        self._poke.set()
        self._linger(links)
        for link in links:
            link.farewell()
        # Those that answer come first: one that does not takes a while, and the rest then goes without a word.
        links.sort(key=lambda link: bool(link.unsettled or link.unwritten))
        deadline = monotonic() + _GOODBYES
        for link in links:
            if monotonic() < deadline:
                link.close()
            else:
                link.abandon()

    def _linger(self, links: list[Link]) -> None:
        """Wait for what all of them wait for at the end of the process, a moment each: no dead one is in the way."""
        deadline = monotonic() + _EXIT_WAIT
        while links:
            turn = deadline - monotonic() if len(links) == 1 else min(_TURN, deadline - monotonic())
            if turn <= 0:
                return
            links = [link for link in links if not link.linger(turn)]

    def abandon(self) -> None:
        """Start anew in a forked child, where no other thread lives and the locks may be held for ever."""
        links = list(self._links.values())
        self._start()
        for link in links:
            try:
                link.abandon()
            except Exception:  # whatever it is, the others must be dropped, too
                log.exception("%s was not dropped in a child", link)

    def _ensure_end(self) -> None:
        # What multiprocessing forks ends by os._exit, and calls none of atexit's.
        process, util = (sys.modules.get(f"multiprocessing.{name}") for name in ("process", "util"))
        if not self._ends and process is not None and util is not None and process.parent_process() is not None:
            self._ends = True
            util.Finalize(None, self.close, exitpriority=0)

    def _ensure_keeper(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self._keep, name="gofer-keeper", daemon=True)
            self._keeper.start()

    def _keep(self) -> None:
        taken = False
        while True:
            self._poke.wait(_SOON if taken else _KEEP)
            taken = False
            self._poke.clear()
            with self._lock:
                links = dict(self._links)
                if not links:
                    self._keeper = None
                    return
            for key, link in links.items():
                try:
                    if link.loop is None or link.loop.is_closed():
                        taken = self._look_after(link) or taken
                    if self._is_idle(link):
                        self._retire(key, link)
                except Exception:  # whatever it is, the others must be looked after, and this one again
                    log.exception("%s: looking after it failed", link)

    def _look_after(self, link: Link) -> bool:
        """Take the turns that wait for nothing; return whether the broker took some output, and there is more."""
        before = link.unwritten
        link.keep()
        left = link.unwritten
        while left and not link.pump.busy:
            link.keep()
            if link.unwritten >= left:
                break  # the broker takes nothing at the moment
            left = link.unwritten
        return 0 < left < before

    def _is_idle(self, link: Link) -> bool:
        users = self.users(link)
        if link.loop is not None:
            return not link.unsettled and (users == 0 or link.loop.is_closed())
        if not link.is_open:
            return users == 0
        idle = monotonic() - link.used_at
        return not link.unsettled and not link.pump.busy and idle > (_IDLE if users else _LINGER)

    def _retire(self, key: _Key, link: Link) -> None:
        with self._lock:
            over = link.loop is not None and link.loop.is_closed()
            unused = self._links.get(key) is link and (over or self._users.get(key) == 0)
            if unused:
                del self._links[key], self._users[key]
        if unused:
            link.retire()
        elif link.loop is None:
            link.suspend(lose=False)  # it may have been used since it was found idle


#: The process's links.
pool = Pool()
os.register_at_fork(after_in_child=pool.abandon)
atexit.register(pool.close)
