"""The connections of an agent, one for each broker; and whether it hears that broker.

Not only whether a socket is open, but whether messages come through it: a probe sends a message to itself through a
private queue, on the connection that it is about, and looks at the request queues. A connection on which nothing came
back twice is deaf: it is given up, and another one is made.
"""

from __future__ import annotations

import logging
import threading
import uuid
from functools import partial
from random import SystemRandom
from time import monotonic
from typing import TYPE_CHECKING, Any

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import CheckQueue, DeclareQueue, DeleteQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import Pool
from gofer.messaging.subscription import Steps, Subscription, declare_temporary
from gofer.messaging.thread_driver import ThreadConnection

if TYPE_CHECKING:
    from gofer.messaging.connection import Traffic
    from gofer.rmi.clock import Clock, Timer

__all__ = ["Links", "Probe"]

log = logging.getLogger(__name__)

_EXPIRES = 600.0  # seconds without the agent after which the broker deletes the private queue
_LARGE = 4096  # bytes: more is a message that is on its way; heartbeats are less
_HUNG = 60.0  # seconds: opening a connection takes the I/O thread less
_SILENT = 2  # intervals without a sign of life


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


class Probe:
    """The check of one connection. Any thread.

    Signs of life are: the probe's message or another one was delivered, a large one moves in either direction, or the
    broker has blocked the connection. So an agent that is busy is not deaf. A connection that is down, and knows it, is
    not deaf either.
    """

    def __init__(self, connection: ThreadConnection, clock: Clock, interval: float) -> None:
        """Send nothing yet.

        Args:
            interval: seconds between two probes; more than 0.
        """
        self._connection = connection
        self._clock = clock
        self._interval = interval
        self._queue = f"gofer.probe.{uuid.uuid4()}"
        self._subscription = Subscription(
            self._queue,
            10,
            self._on_delivery,
            self._prepare,
            self._on_lost,
            on_made=self._send,
            dispose=self._dispose,
            keep_open=False,
        )
        self._returned_at: float | None = None
        self._up_since: float | None = None
        self._traffic: Traffic | None = None
        self._silent = 0
        self._refused = ""
        self._asked_at: float | None = None  # when the I/O thread was asked for an answer
        self._missing: set[int] = set()
        self._timer: Timer | None = None
        self._stopped = False

    # -- for the agent ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Probe the connection whenever it comes up, and again and again."""
        self._connection.subscribe_nowait(self._subscription)
        # Agents that start together must not probe together.
        self._timer = self._clock.call_after(SystemRandom().uniform(0, self._interval), self._tick)

    def stop(self, *, closing: bool) -> None:
        """End it. ``closing``: the connection is closed next, which deletes the private queue."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if not closing:
            self._connection.unsubscribe_nowait(self._subscription, dispose=True)

    @property
    def deaf(self) -> str | None:
        """Say what is wrong, if the connection does not work, and does not know it, or its I/O thread hangs."""
        url, asked = self._connection.connector.url, self._asked_at
        if asked is not None and monotonic() - asked > max(_HUNG, _SILENT * self._interval):
            return f"{url}: the I/O thread hangs"
        if self._silent > _SILENT and self._up_since == self._connection.up_since:
            return f"{url}: the connection seems open, no message arrives, and gofer cannot reconnect"
        return None

    def describe(self) -> dict[str, Any]:
        """Tell how many seconds ago the probe last came back (None: never), and why there is none."""
        returned = self._returned_at
        age = None if returned is None else round(monotonic() - returned, 1)
        return {"interval": self._interval, "returned": age, "error": self._refused or None}

    # -- the private queue: in the I/O thread --------------------------------------------------------------------------

    def _prepare(self) -> Steps:
        return declare_temporary(DeclareQueue(self._queue, expires=_EXPIRES))

    def _dispose(self) -> Steps:
        yield DeleteQueue(self._queue)

    def _send(self) -> None:
        self._connection.publish_nowait(
            Address("", self._queue),
            b"probe",
            ttl=_SILENT * self._interval,
            durable=False,
            isolated=True,  # a broker that does not permit it may close a channel for it
            settled=self._on_settled,
        )

    def _on_settled(self, outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.RETURNED:  # the queue is gone, and the broker has not said so
            self._connection.resubscribe(self._subscription, reason)
        elif outcome is Outcome.REFUSED:
            self._note_refusal(reason)

    def _on_delivery(self, delivery: Delivery) -> None:
        self._connection.accept(delivery)
        self._returned_at = monotonic()
        self._refused = ""

    def _on_lost(self, why: str) -> None:
        if isinstance(self._subscription.error, AdapterError):
            self._note_refusal(why)

    def _note_refusal(self, why: str) -> None:
        if not self._refused:
            text = "%s: the connection cannot be probed: %s. Allow the agent to declare, write and read queues named %s"
            log.warning(text, self._connection.connector.url, why, "gofer.probe.*")
        self._refused = why

    # -- the judgement: in the clock's thread -------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._stopped:
            return
        self._timer = self._clock.call_after(self._interval, self._tick)
        connection = self._connection
        if self._asked_at is None:
            self._asked_at = monotonic()
            connection.call_soon(self._note_answer)
        up_since, before, now = connection.up_since, self._traffic, connection.traffic()
        if up_since is None or up_since != self._up_since or before is None or self._is_alive(before, now):
            self._silent = 0
        elif self._subscription.active or self._subscription.error is not None:
            self._silent += 1  # else it is being made, for which the broker has the time of any operation
        self._up_since, self._traffic = up_since, now
        if up_since is None or connection.core.blocked is not None:
            return
        if self._silent >= _SILENT:
            seconds = _SILENT * self._interval
            connection.reconnect(f"deaf: it seems open, and no message has come through it for {seconds:g} s")
            return
        if self._subscription.active:
            self._send()
        self._look_at_queues()

    def _is_alive(self, before: Traffic, now: Traffic) -> bool:
        """Tell whether there was a sign of life since the last time."""
        if self._connection.core.blocked is not None or now.deliveries > before.deliveries:
            return True
        if now.unfinished - before.unfinished >= _LARGE:
            return True
        if min(before.waiting, now.waiting) >= _LARGE and now.acknowledged - before.acknowledged >= _LARGE:
            return True
        return bool(self._refused)  # without a probe nothing can come back

    def _note_answer(self) -> None:
        self._asked_at = None

    def _look_at_queues(self) -> None:
        core = self._connection.core
        if core.adapter is None or not core.adapter.checks_queues:
            return
        for wanted in core.subscriptions:
            number = wanted.number
            if wanted.keep_open and number is not None:
                self._connection.ask_nowait(CheckQueue(wanted.queue), partial(self._looked, wanted, number))

    def _looked(self, wanted: Subscription, number: int, value: str | None, error: Exception | None) -> None:
        """Take the answer about a request queue, in the I/O thread; wrong twice, it is subscribed to again."""
        wrong = str(error) if isinstance(error, NotFound) else value
        if wrong is None or wanted.number != number:
            self._missing.discard(number)
            if error is not None:
                log.debug("%s: queue %r: %s", self._connection.connector.url, wanted.queue, error)
        elif number in self._missing:
            self._missing.remove(number)
            self._connection.resubscribe(wanted, f"{wrong}; it is subscribed to again")
        else:
            self._missing.add(number)
