"""Results and rejections on their way: sent again until a broker takes them, or given up."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable
from random import SystemRandom
from typing import TYPE_CHECKING

from gofer.limit import LimitedLog
from gofer.messaging.adapter import Outcome
from gofer.messaging.address import Address
from gofer.messaging.document import shown
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.counters import Counters

if TYPE_CHECKING:
    from gofer.messaging.thread_driver import ThreadConnection

__all__ = ["GIVE_UP", "Fate", "Outgoing"]

log = logging.getLogger(__name__)

#: Seconds of a working connection after which a reply that no broker takes is given up.
GIVE_UP = 60.0

_FIRST_WAIT = 0.05  # seconds; doubled with every try
_LONGEST_WAIT = 5.0
_HURRIED = 1.0  # for how long one is tried on that was not taken, when its agent is stopping
_LONGEST_WAIT_FOR_LINK = 0.5  # asking a link that is down, or full, costs nothing


class Fate(enum.Enum):
    """What became of a reply."""

    TAKEN = "taken"  # by a broker, or nobody waits for it
    GIVEN_UP = "given up"
    LEFT = "left"  # this was stopped before either


class _Letter:
    """One reply, until it is taken or given up."""

    __slots__ = (
        "address",
        "body",
        "done",
        "durable",
        "ended",
        "isolated",
        "posted",
        "reason",
        "timer",
        "tries",
        "up_since",
        "what",
    )

    def __init__(
        self, address: Address, body: bytes, done: Callable[[Fate, str], None], what: object, durable: bool
    ) -> None:
        self.address = address
        self.body = body
        self.done = done
        self.what = what
        self.durable = durable
        self.posted = time.monotonic()
        self.ended = False
        self.isolated = False
        self.tries = 0
        self.reason = ""
        self.timer: Timer | None = None
        self.up_since: float | None = None


class Outgoing:
    """Sends the results and rejections of one plugin. Any thread; nothing here waits.

    What is returned, refused or lost is sent again after a random, growing time, until ``give_up`` seconds after it was
    posted or after the connection last came up, whichever is later: its reader may be reconnecting, too. Then it is
    counted as undeliverable and logged. At most ``most_waiting`` wait so; of more, the oldest is given up at once:
    behind each stands a request that the broker holds, and it delivers only so many of these at a time.

    Args:
        give_up: seconds.
    """

    def __init__(
        self,
        link: ThreadConnection,
        clock: Clock,
        counters: Counters,
        *,
        give_up: float = GIVE_UP,
        most_waiting: int = 100,
    ) -> None:
        self._link = link
        self._clock = clock
        self._counters = counters
        self._complain = LimitedLog(log)
        self._give_up = give_up
        self._most_waiting = most_waiting
        self._longest_wait = _LONGEST_WAIT
        self._changed = threading.Condition(threading.Lock())
        self._pending: dict[_Letter, None] = {}
        self._refused: dict[_Letter, None] = {}  # sent and not taken, in this order
        self._stopped = False
        self._hurried: float | None = None

    def post(
        self, address: Address, body: bytes, done: Callable[[Fate, str], None], what: object, *, durable: bool = True
    ) -> None:
        """Send a reply.

        Args:
            done: called once, by any thread, with what became of it, and why it was given up.
            what: names it in the log, if need be.
            durable: it shall survive a restart of the broker.
        """
        letter = _Letter(address, body, done, what, durable)
        with self._changed:
            stopped = self._stopped
            if not stopped:
                self._pending[letter] = None
        if stopped:
            done(Fate.LEFT, "")
        else:
            self._offer(letter)

    @property
    def pending(self) -> int:
        """How many are neither taken nor given up."""
        return len(self._pending)

    def refused(self) -> list[tuple[str, str]]:
        """Tell the addresses that brokers did not take something for, and why not."""
        with self._changed:
            return [(str(letter.address), letter.reason) for letter in self._pending if letter.reason]

    def wait(self, timeout: float) -> bool:
        """Wait until none is pending, at most ``timeout`` seconds; tell whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending, timeout)

    def hurry(self) -> None:
        """Try what was not taken once more now, and leave it after a second: nobody waits for us much longer."""
        with self._changed:
            self._hurried = self._hurried or time.monotonic()
            self._longest_wait = min(self._longest_wait, _HURRIED / 4)
            left = list(self._refused)
        for letter in left:
            timer = letter.timer
            if timer is not None and timer.take() is not None:  # else it is being offered at this moment
                self._offer(letter)

    def stop(self) -> None:
        """Send nothing any more. What no broker has taken stays unanswered: its request is delivered again."""
        with self._changed:
            self._stopped = True
            left = list(self._pending)
        for letter in left:
            self._end(letter, Fate.LEFT)

    def _offer(self, letter: _Letter) -> None:
        if letter.ended:
            return
        letter.timer = None
        letter.up_since = self._link.up_since
        sent = self._link.publish_nowait(
            letter.address,
            letter.body,
            isolated=letter.isolated,
            durable=letter.durable,
            settled=lambda outcome, reason: self._settled(letter, outcome, reason),
        )
        hurried = self._hurried
        if not sent and hurried is not None and time.monotonic() >= hurried + _HURRIED:
            self._end(letter, Fate.LEFT)
        elif not sent:
            letter.timer = self._clock.call_after(
                self._wait(letter, _LONGEST_WAIT_FOR_LINK), lambda: self._offer(letter)
            )

    def _settled(self, letter: _Letter, outcome: Outcome, reason: str) -> None:
        if outcome is Outcome.CONFIRMED:
            self._end(letter, Fate.TAKEN)
            return
        if letter.ended:
            return
        now = time.monotonic()
        up_since = self._link.up_since
        # Lost with the connection, it was not the letter's fault. Otherwise it may have been: then no neighbours.
        intact = up_since is not None and up_since == letter.up_since
        letter.isolated = letter.isolated or outcome is not Outcome.UNKNOWN or intact
        letter.reason = reason or outcome.value
        if up_since is not None and now >= max(letter.posted, up_since) + self._give_up:
            self._drop(letter, f"not taken for {now - letter.posted:.0f} s")
            return
        hurried = self._hurried
        if hurried is not None and now >= max(letter.posted, hurried) + min(_HURRIED, self._give_up):
            self._end(letter, Fate.LEFT)
            return
        self._counters.add("retried")
        with self._changed:
            if letter.ended:
                return
            self._refused[letter] = None
            letter.timer = self._clock.call_after(self._wait(letter, self._longest_wait), lambda: self._offer(letter))
            oldest = next(iter(self._refused)) if len(self._refused) > self._most_waiting else None
        if oldest is not None:
            self._drop(oldest, f"more than {self._most_waiting} such are waiting")

    def _wait(self, letter: _Letter, longest: float) -> float:
        letter.tries += 1
        most: float = min(longest, _FIRST_WAIT * 2 ** min(letter.tries, 16))
        # Not the generator of the module: a plugin may have seeded that, on all of its machines alike.
        return SystemRandom().uniform(0.5, 1.0) * most

    def _drop(self, letter: _Letter, why: str) -> None:
        if not self._claim(letter):
            return
        self._complain(
            logging.WARNING,
            "%s for %s cannot be delivered (%s; %s): given up after %d tries",
            letter.what,
            shown(str(letter.address)),
            shown(letter.reason),
            why,
            letter.tries + 1,  # the first one, too
        )
        self._counters.add("undeliverable")
        self._finish(letter, Fate.GIVEN_UP)

    def _end(self, letter: _Letter, fate: Fate) -> None:
        if self._claim(letter):
            self._finish(letter, fate)

    def _claim(self, letter: _Letter) -> bool:
        with self._changed:
            if letter.ended:
                return False
            letter.ended = True
            self._refused.pop(letter, None)
            return True

    def _finish(self, letter: _Letter, fate: Fate) -> None:
        if letter.timer is not None:
            letter.timer.cancel()
        letter.done(fate, letter.reason)
        with self._changed:
            self._pending.pop(letter, None)
            if not self._pending:
                self._changed.notify_all()
