"""Replies are sent, and sent again, until they are settled: a broker has them, or they are given up."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import SystemRandom
from typing import TYPE_CHECKING

from gofer.limit import LimitedLog
from gofer.messaging.adapter import Outcome
from gofer.messaging.address import Address
from gofer.messaging.document import shown
from gofer.rmi.server.counters import Counters

if TYPE_CHECKING:
    from gofer.messaging.thread_driver import ThreadConnection

__all__ = ["GIVE_UP", "Publisher", "Settled"]

log = logging.getLogger(__name__)

#: Seconds of a working connection after which a reply that no broker takes is given up.
GIVE_UP = 60.0

_FIRST_WAIT = 0.05  # seconds; doubled with every try
_LONGEST_WAIT = 5.0
_HURRIED = 1.0  # for how long a reply that was not taken is tried again, when its agent is stopping
_LONGEST_WAIT_FOR_LINK = 0.5  # asking a connection that is down, or full, costs nothing


class Settled(enum.Enum):
    """What became of a reply."""

    CONFIRMED = "confirmed"  # a broker has it, or nobody waits for it
    GIVEN_UP = "given up"
    UNSENT = "unsent"  # the publisher was stopped before either


@dataclass(eq=False, slots=True)
class _Pending:
    """One reply, until it is settled. ``not_taken``: by a broker, once: what was lost with its connection may be."""

    address: Address
    body: bytes
    done: Callable[[Settled, str], object]
    what: object
    durable: bool
    posted: float = field(default_factory=time.monotonic)
    ended: bool = False
    isolated: bool = False
    not_taken: bool = False
    tries: int = 0
    reason: str = ""
    retry_at: float = inf
    up_since: float | None = None


class Publisher:
    """Sends the results and rejections of one queue. Any thread; nothing here waits but ``wait``.

    A reply that is returned, refused or lost is sent again after a random, growing time, until ``give_up`` seconds
    after it was posted or after the connection last came up, whichever is later: its reader may be reconnecting, too.
    Then it is counted as undeliverable and logged. At most ``most_waiting`` wait that a broker did not take; of more,
    the oldest is given up at once: behind each stands a request that the broker holds, and it delivers only so many of
    these at a time. Replies that were lost with a connection do not count: the next one takes them all.

    Args:
        give_up: seconds.
    """

    def __init__(
        self, link: ThreadConnection, counters: Counters, *, give_up: float = GIVE_UP, most_waiting: int = 100
    ) -> None:
        self._link = link
        self._counters = counters
        self._complain = LimitedLog(log)
        self._give_up = give_up
        self._most_waiting = most_waiting
        self._changed = threading.Condition(threading.Lock())
        self._pending: dict[_Pending, None] = {}
        self._unsettled: dict[_Pending, None] = {}  # to be sent again, in this order
        self._waiting = 0  # threads that wait for the end of all
        #: Nothing is sent any more.
        self.stopped = False
        self._hurried = inf  # since when nobody waits for us much longer

    def post(
        self,
        address: Address,
        body: bytes,
        done: Callable[[Settled, str], object],
        what: object,
        *,
        durable: bool = True,
    ) -> None:
        """Send a reply.

        Args:
            done: called once, by any thread, with what became of it, and why it was given up.
            what: names it in the log, if need be.
            durable: it shall survive a restart of the broker.
        """
        if self.stopped:
            done(Settled.UNSENT, "")
            return
        reply = _Pending(address, body, done, what, durable)
        self._pending[reply] = None
        self._publish(reply)

    @property
    def pending(self) -> int:
        """How many are not settled."""
        return len(self._pending)

    def refused(self) -> list[tuple[str, str]]:
        """Tell the addresses that brokers did not take something for, and why not."""
        return [(str(reply.address), reply.reason) for reply in list(self._pending) if reply.reason]

    def wait(self, timeout: float) -> bool:
        """Wait until none is pending, at most ``timeout`` seconds; tell whether that is so."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._pending, timeout)
            self._waiting -= 1
            return not self._pending

    def hurry(self) -> None:
        """Try again now what was not taken, and leave it after a second: nobody waits for us much longer."""
        self._hurried = min(self._hurried, time.monotonic())
        self.look(inf)

    def stop(self) -> None:
        """Send nothing any more. What no broker has taken stays unanswered: its request is delivered again."""
        self.stopped = True
        for reply in list(self._pending):
            self._end(reply, Settled.UNSENT)

    def look(self, now: float) -> float:
        """Send again what is due; return when to look again. Called by one thread, often."""
        if not self._unsettled:
            return inf
        with self._changed:
            ready = [reply for reply in self._unsettled if reply.retry_at <= now]
            for reply in ready:
                del self._unsettled[reply]
            due = min((reply.retry_at for reply in self._unsettled), default=inf)
        for reply in ready:
            self._publish(reply)
        return due

    def _publish(self, reply: _Pending) -> None:
        reply.up_since = self._link.up_since
        sent = reply.ended or self._link.publish_nowait(
            reply.address,
            reply.body,
            isolated=reply.isolated,
            durable=reply.durable,
            settled=partial(self._answered, reply),
        )
        if not sent and time.monotonic() >= self._hurried + _HURRIED:
            self._end(reply, Settled.UNSENT)
        elif not sent:
            self._retry(reply, _LONGEST_WAIT_FOR_LINK)

    def _answered(self, reply: _Pending, outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.CONFIRMED:
            self._end(reply, Settled.CONFIRMED)
            return
        if reply.ended:
            return
        now = time.monotonic()
        up_since = self._link.up_since
        # Lost with the connection, it was not the reply's fault. Otherwise it may have been: then no neighbours.
        intact = up_since is not None and up_since == reply.up_since
        alone = reply.isolated and intact
        reply.not_taken = reply.not_taken or outcome is not Outcome.UNKNOWN or alone
        reply.isolated = reply.isolated or outcome is not Outcome.UNKNOWN or intact
        reply.reason = reason or outcome.value
        if up_since is not None and now >= max(reply.posted, up_since) + self._give_up:
            self._drop(reply, f"not taken for {now - reply.posted:.0f} s")
        elif now >= max(reply.posted, self._hurried) + min(_HURRIED, self._give_up):
            self._end(reply, Settled.UNSENT)
        else:
            self._counters.add("retried")
            self._retry(reply, _LONGEST_WAIT if self._hurried == inf else _HURRIED / 4)
            refused = [one for one in list(self._unsettled) if one.not_taken] if reply.not_taken else []
            if len(refused) > self._most_waiting:
                self._drop(refused[0], f"more than {self._most_waiting} such are waiting")

    def _retry(self, reply: _Pending, longest: float) -> None:
        reply.tries += 1
        most: float = min(longest, _FIRST_WAIT * 2 ** min(reply.tries, 16))
        # Not the generator of the module: a plugin may have seeded that, on all of its machines alike.
        reply.retry_at = time.monotonic() + SystemRandom().uniform(0.5, 1.0) * most
        with self._changed:
            if not reply.ended:
                self._unsettled[reply] = None

    def _drop(self, reply: _Pending, why: str) -> None:
        if self._end(reply, Settled.GIVEN_UP):
            text = "%s for %s cannot be delivered (%s; %s): given up after %d tries"
            address, reason = shown(str(reply.address)), shown(reply.reason)
            self._complain(logging.WARNING, text, reply.what, address, reason, why, reply.tries + 1)
            self._counters.add("undeliverable")

    def _end(self, reply: _Pending, settled: Settled) -> bool:
        """Tell what became of a reply, once; return whether this was the time."""
        with self._changed:
            if reply.ended:
                return False
            reply.ended = True
            self._unsettled.pop(reply, None)
        reply.done(settled, reply.reason)
        self._pending.pop(reply, None)
        if self._waiting:
            with self._changed:
                self._changed.notify_all()
        return True
