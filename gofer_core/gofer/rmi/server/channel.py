"""What the requests of one queue share: the plugin, the connection, the replies, and which of them are open."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gofer.limit import LimitedLog
from gofer.rmi.request import ANSWERING, Received
from gofer.rmi.server.counters import Counters
from gofer.rmi.server.reply_encoder import Encoder, Refusal
from gofer.rmi.server.reply_publisher import GIVE_UP, Publisher
from gofer.rmi.server.serial import SerialThread
from gofer.rmi.server.service import Service

if TYPE_CHECKING:
    from gofer.messaging.thread_driver import ThreadConnection

__all__ = ["Backlog", "Channel"]

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Backlog:
    """The stored requests of one queue that wait. Belongs to :class:`gofer.rmi.server.persistence.Persistence`.

    ``window``: those in memory, with their sizes. ``count``: how many are on the disk alone, at most; ``evicted``: how
    many went there, ever. ``pulling``: some are being read; ``pull_at``: not before that time.
    """

    window: dict[Received, int] = field(default_factory=dict)
    bytes: int = 0
    count: int = 0
    evicted: int = 0
    pulling: bool = False
    pull_at: float = 0.0


class Channel:
    """One queue, as the requests that came from it know it. Any thread.

    Args:
        run: runs a request, in a worker.
        make_progress: makes what its method reports its progress by.
        give_up: seconds after which a result that no broker takes is given up.
        exclusive: nobody else may read the queue. (Known before it is read: what the store holds runs before that.)
    """

    def __init__(
        self,
        service: Service,
        link: ThreadConnection,
        run: Callable[[Received], object],
        make_progress: Callable[[Received], object],
        *,
        counters: Counters | None = None,
        prefetch: int = 200,
        give_up: float = GIVE_UP,
        exclusive: bool = False,
    ) -> None:
        self.service = service
        self.link = link
        self.run = run
        self.make_progress = make_progress
        self.prefetch = prefetch
        self.exclusive = exclusive
        self.counters = counters or Counters()
        self.renew()
        self.publisher = Publisher(link, self.counters, give_up=give_up, most_waiting=max(1, min(100, prefetch // 2)))
        #: Writes lines that whoever sends requests can cause.
        self.complain = LimitedLog(log)
        # What must not be done by the thread that reads: it serves all plugins.
        self.asking = SerialThread(f"gofer-{service.name}-accept")
        self.admin = SerialThread(f"gofer-{service.name}-admin")
        self.backlog = Backlog()
        #: Why all that comes is rejected; None: it is not.
        self.refusal: Refusal | None = None
        #: Nothing is started any more.
        self.over = False
        self._changed = threading.Condition(threading.Lock())
        self._open: dict[Received, None] = {}  # accepted, and not yet let go
        self._waiting = 0  # threads that wait for the end of requests

    def renew(self) -> None:
        """Follow a service whose authenticator has changed."""
        service = self.service
        self.encoder = Encoder(service.address, service.authenticator, service.max_message)

    @property
    def open(self) -> int:
        """How many accepted requests have not been let go."""
        return len(self._open) + self.backlog.count

    def opened(self) -> list[Received]:
        """Return the accepted requests in memory that have not been let go."""
        return list(self._open)

    @property
    def unended(self) -> list[Received]:
        """The accepted requests in memory that have no result yet."""
        return [request for request in list(self._open) if request.state < ANSWERING]

    def time(self, request: Received, outcome: str, seconds: float) -> None:
        """Count how long a request has taken that has ended."""
        time, target = self.counters.time, request.api
        how = "left" if request.started is None else "ran"
        time((how, outcome, "", "") if target is None else (how, outcome, target.namespace, target.method), seconds)
        if request.started is not None:
            time(("waited",), request.started - request.arrived)
        if request.refusal is not None:
            time(("rejected", request.refusal.code), seconds)

    def enter(self, request: Received) -> None:
        """Count a request among those that ``wait`` waits for."""
        self._open[request] = None

    def leave(self, request: Received) -> None:
        """Count it no more."""
        self._open.pop(request, None)
        if self._waiting:
            self.notify()

    def notify(self) -> None:
        """Have those who wait look: a request has its result."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def wait(self, timeout: float, *, but: int = 0, answered: bool = True) -> bool:
        """Wait until all that was accepted has ended, at most ``timeout`` seconds; tell whether it has.

        Args:
            but: so many need not end for the wait to do so: that of the caller of this, for one.
            answered: wait also until the results are taken, or given up.
        """

        def left() -> int:
            return self.open if answered else len(self.unended) + self.backlog.count

        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: left() <= but, timeout)
            self._waiting -= 1
            return not left()
