"""Links: one connection per broker and process, shared by everybody in it.

A link is the only place that retries, sleeps and reconnects. Whoever waits on it drives it (see
:mod:`gofer.messaging.pump`); an agent has one thread that drives for ever (``run``). All of it may be used from many
threads, and from a signal handler: one that interrupts its own thread in the middle of a message can send, and is told
by a RuntimeError that it cannot wait. Handlers (deliveries, settlements, openings) run in the thread that pumps, one at
a time, with no lock held: they must be quick and never wait. What the broker has to answer is asked in a thread beside
(see :mod:`gofer.messaging.errands`): no wait takes longer than it may, whatever others ask for.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TypeVar

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter.base import Adapter
from gofer.messaging.address import Address
from gofer.messaging.carrier import Carrier, Settle, fresh
from gofer.messaging.connector import Connector
from gofer.messaging.errands import Errands, Question
from gofer.messaging.pump import Pump, Waiter
from gofer.messaging.sending import Sending
from gofer.messaging.subscription import Subscription
from gofer.messaging.turns import Turns

__all__ = ["Link", "Loop", "Subscription"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Seconds for one operation (declare ...) to be answered.
_OPERATION = 10.0
#: Seconds that closing waits for an errand that is under way, and for each thing that is cleaned up.
_LAST_ERRAND = 1.0
_DISPOSE = 2.0


class Loop(Protocol):
    """An event loop, as far as links know of it."""

    def is_closed(self) -> bool:
        """Tell whether it will run no more."""


class Link:
    """A connection that outlives its connections. Made by the pool, not by hand.

    Args:
        connector: where, and how.
        adapter: the class that serves it.
        loop: the event loop that drives it, None for threads.
    """

    def __init__(self, connector: Connector, adapter: type[Adapter], loop: Loop | None = None) -> None:
        self.connector = connector
        self.loop = loop
        #: Has its event loop drive it no more, and close it.
        self.unhook: Callable[[], None] | None = None
        self._carrier = carrier = Carrier(connector)
        self._errands = Errands(carrier, adapter, self._wake_all)
        #: For an event loop that drives the link: what it has to look at, and when.
        self.turns = Turns(carrier, self._errands)
        self.pump = Pump(self.turns.take, carrier.bell.ring, lambda: carrier.occupied)
        self._sending = sending = Sending(carrier, self.pump)
        self._stopping = False
        self._farewells: list[tuple[Callable[[], object], Callable[[], None]]] = []
        self._shared: dict[object, Any] = {}
        self._sharing = threading.RLock()
        # Sending is had as one's own: a request or two of each call go this way.
        self.offer, self.forget = sending.offer, sending.forget
        self.accept, self.release, self.reject = sending.accept, sending.release, sending.reject

    def __repr__(self) -> str:
        return f"<Link {self.connector.url} {self.state}>"

    def _wake_all(self) -> None:
        self.pump.wake_all()

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        carrier = self._carrier
        adapter = carrier.adapter
        if carrier.closed:
            return "closed"
        if adapter is None:
            return f"no connection ({carrier.error})" if carrier.error else "no connection yet"
        blocked = adapter.blocked
        return "open" if blocked is None else f"blocked by the broker ({blocked})"

    @property
    def up_since(self) -> float | None:
        """When the connection came up (``time.monotonic()``), None while it is down."""
        return self._carrier.up_since

    @property
    def used_at(self) -> float:
        """When something was last sent or delivered."""
        return self._carrier.used_at

    @property
    def abandoned(self) -> bool:
        """Whether it belongs to the parent process, and must not be used in this child."""
        return self._carrier.abandoned

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._carrier.closed

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._carrier.adapter is not None

    @property
    def unsettled(self) -> int:
        """How many sends the broker has not answered."""
        return len(self._carrier.sends)

    @property
    def unwritten(self) -> int:
        """How many bytes wait for the socket, or for the adapter."""
        adapter = self._carrier.adapter
        return self._carrier.queued + (0 if adapter is None else adapter.unwritten)

    def shared(self, key: object, make: Callable[[], _T]) -> _T:
        """Return what all users of this link share under a key, made on first use."""
        with self._sharing:
            if key not in self._shared:
                self._shared.setdefault(key, make())  # a signal handler may have made it meanwhile
            found: _T = self._shared[key]
            return found

    def on_exit(self, over: Callable[[], object], then: Callable[[], None]) -> None:
        """Have something waited for at the end of the process, and something done before the connection is closed."""
        self._farewells.append((over, then))

    def linger(self, seconds: float) -> bool:
        """Drive for so long what is waited for at the end of the process; return whether there is nothing any more.

        Nothing new is begun meanwhile: what a broker has to answer is asked in a thread, and none can be started then.
        """
        self._carrier.ending = True
        if self.abandoned or not self._farewells:
            return True
        try:
            return self.drive(lambda: all(over() for over, _ in self._farewells), monotonic() + seconds)
        except MessagingError:
            return True  # it is closed; what is missing is told by ``farewell``

    def farewell(self) -> None:
        """Do what was asked for by ``on_exit``."""
        if not self.abandoned:
            for _, then in self._farewells:
                then()

    # -- opening, waiting ---------------------------------------------------------------------------------------

    def open(self, deadline: float | None) -> None:
        """Wait for the connection.

        Raises:
            MessagingError: it cannot be made (at once, if it never was before), or was not there by the deadline.
        """
        if self._carrier.adapter is None:
            self.ask()
            self.drive(self.answered, deadline)
            self.check()

    def ask(self) -> None:
        """Want the connection: one that was never made is tried at once, whatever an earlier try said."""
        carrier = self._carrier
        carrier.usable()
        if carrier.adapter is None and not carrier.opened_before:
            carrier.error = None
            carrier.retry.hurry()
            carrier.bell.ring()

    def answered(self) -> bool:
        """Whether there is a connection, or the first one cannot be made."""
        carrier = self._carrier
        return carrier.adapter is not None or (carrier.error is not None and not carrier.opened_before)

    def check(self) -> None:
        """Raise why there is no connection, if there is none.

        What a first connection was refused for is raised as it is: a wrong password is told at once. One that was there
        before may come back, so this is about the time that is over, and names what the last try was refused for.
        """
        carrier = self._carrier
        carrier.usable()
        if carrier.adapter is None:
            error = carrier.error
            if error is not None and not carrier.opened_before:
                raise fresh(error)
            raise ConnectionLost(f"no connection to {self.connector.url} in time" + (f": {error}" if error else ""))

    def drive(self, ready: Callable[[], object], deadline: float | None, waiter: Waiter | None = None) -> bool:
        """Wait until ``ready()``, driving the link meanwhile. See :meth:`Pump.drive`.

        Raises:
            ConnectionLost: the link was closed.
            RuntimeError: the calling thread is a handler, or was interrupted in the middle of a message.
        """
        carrier = self._carrier
        if carrier.lock._is_owned() and not ready():
            carrier.usable()
        done = self.pump.drive(lambda: ready() or carrier.closed, deadline, waiter)
        if carrier.closed:
            self.pump.alone(self._end, 0.0)  # who closed it may not have waited for whoever was reading
            if not ready():
                carrier.usable()
        return done

    def run(self) -> None:
        """Drive the link until ``stop``: what the thread of an agent does."""
        self.pump.drive(lambda: self._stopping or self._carrier.closed, None)

    def stop(self) -> None:
        """Have ``run`` return soon. The connection stays."""
        self._stopping = True
        self.pump.wake_all()

    def keep(self) -> None:
        """Take one turn that does not wait, if nobody drives: for heartbeats, and for output that nobody waits for."""
        if (self._carrier.adapter is not None or self._carrier.todo) and (self.loop is None or self.loop.is_closed()):
            self.turn(0.0)

    def turn(self, timeout: float) -> bool:
        """Take one turn, if nobody else drives; return whether it was taken."""
        return self.pump.alone(lambda: self.turns.take(timeout), 0.0)

    @property
    def caught_up(self) -> bool:
        """Whether all that was read has been handled. What a broker has sent before an answer is read before that."""
        carrier = self._carrier
        adapter = carrier.adapter
        if adapter is None:
            return True
        return not (carrier.away or carrier.todo or carrier.handling or carrier.queue or adapter.pending)

    @property
    def sendable(self) -> bool:
        """Whether ``offer`` would send now."""
        return self._sending.possible

    # -- subscriptions ------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, timeout: float | None, *, stay: bool = False) -> None:
        """Have a queue's messages delivered from now on, over every reconnect.

        Args:
            subscription: one that is waiting to be tried again is tried at once.
            timeout: seconds to wait for it; 0: only ask for it, the link does it as soon as it can.
            stay: keep wanting it when the wait is over.

        Raises:
            NotFound, AdapterError: the broker refused; the subscription is forgotten.
            ConnectionLost: no connection within the time; likewise.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self._carrier.usable()
        with self._carrier.lock:
            self._carrier.subscriptions.add(subscription)
        self._carrier.bell.ring()
        if timeout == 0:
            return
        try:
            self.open(deadline)
            if not self.drive(lambda: subscription.active or subscription.error, deadline):
                raise ConnectionLost(f"the broker did not answer for the queue {subscription.queue!r}: {self.state}")
            if not subscription.active and subscription.error is not None:
                raise fresh(subscription.error)
        except BaseException:
            if not stay:  # else it is wanted by others, too, and on
                self._cancel(subscription, 0.0)
            raise

    def unsubscribe(self, subscription: Subscription, timeout: float) -> None:
        """End a subscription. Deliveries that nobody wants any more are released. An unknown one is ignored.

        Raises:
            MessagingError: the broker did not answer in time, or with an error. It is ended all the same.
        """
        deadline = monotonic() + timeout
        asked = self._cancel(subscription, timeout)
        if asked is None or self.pump.mine or self._carrier.closed:
            return
        question, meant = asked
        if not self.drive(lambda: question.done or self._carrier.adapter is not meant, deadline):
            raise ConnectionLost(f"the broker did not answer in time: {self.state}")
        if question.done:
            question.outcome()

    def _cancel(self, subscription: Subscription, timeout: float) -> tuple[Question, Adapter] | None:
        carrier = self._carrier
        with carrier.lock:
            number, meant = carrier.subscriptions.remove(subscription), carrier.adapter
        if number is None or meant is None:
            carrier.bell.ring()
            return None

        def cancel(adapter: Adapter, most: float) -> None:
            if adapter is meant:
                adapter.cancel(number, most)

        question = Question(cancel, monotonic() + timeout)
        self._errands.ask(question)
        return question, meant

    # -- operations, sending ------------------------------------------------------------------------------------

    def call(self, operation: Callable[[Adapter, float], _T], timeout: float = _OPERATION) -> _T:
        """Do a declare-like operation on the adapter, in a thread beside.

        Args:
            operation: called with the adapter and the seconds that it may take; those may be more than ``timeout``, as
                an operation that is given up takes the connection down.

        Raises:
            MessagingError: what the operation raised, or no connection, or no answer, in time.
            RuntimeError: called from a handler.
        """
        deadline = monotonic() + timeout
        self.open(deadline)
        question = Question(operation, deadline)
        self._errands.ask(question)
        try:
            if not self.drive(lambda: question.done, deadline):
                raise ConnectionLost(f"the broker did not answer within {timeout:g} s: {self.state}")
        finally:
            question.dropped = True
        done: _T = question.outcome()
        return done

    def send(
        self,
        address: Address,
        body: bytes,
        *,
        deadline: float | None,
        ttl: float | None = None,
        isolated: bool = False,
        confirm: bool = True,
        settled: Settle | None = None,
    ) -> int:
        """Send a message, waiting for the connection and for room in the outbox if need be. See ``Sending.offer``.

        Raises:
            MessagingError: not possible by the deadline; nothing was sent.
        """
        while True:
            token = self.offer(address, body, ttl=ttl, isolated=isolated, confirm=confirm, settled=settled)
            if token:
                return token
            self.open(deadline)
            if not self.drive(lambda: self.sendable, deadline):
                raise ConnectionLost(f"cannot send to {self.connector.url}: {self.state}")

    # -- closing ------------------------------------------------------------------------------------------------

    def suspend(self, *, lose: bool = True) -> None:
        """Close the connection until it is needed again.

        Args:
            lose: do so also while the broker has to answer for something; that is LOST then.
        """
        carrier = self._carrier
        self._errands.wait(_LAST_ERRAND)
        with carrier.lock:
            adapter = carrier.adapter
            if adapter is None or carrier.away or (carrier.sends and not lose):
                return
            carrier.take_down(adapter, ConnectionLost("closed while idle"), quietly=True)
        adapter.close()

    def retire(self) -> None:
        """Close for good what nobody uses any more; an event loop that drives it stops that first."""
        if self.unhook is not None:
            try:
                self.unhook()
                return
            except RuntimeError:
                pass  # its loop is closed
        self.close()

    def close(self) -> None:
        """Close for good: dispose of what subscriptions leave behind, and say goodbye. Idempotent, never raises.

        Waits for nobody who is connecting, and a second or two for a broker that does not answer.
        """
        carrier = self._carrier
        if carrier.inside:  # in a signal handler: its own thread has to go on first
            threading.Thread(target=self.close, name="gofer-close").start()
            return
        with carrier.lock:
            if carrier.closed:
                return
            carrier.closed = True
        self._dispose()
        self.pump.wake_all()
        if self.pump.mine:
            self._end()
        else:
            self.pump.alone(self._end, 5.0)

    def _dispose(self) -> None:
        carrier = self._carrier
        if carrier.adapter is not None:
            self._errands.wait(_LAST_ERRAND)
        with carrier.lock:
            adapter, free = carrier.adapter, not carrier.away
            carrier.away = True  # for good
        try:
            for subscription in carrier.subscriptions:
                if free and adapter is not None and subscription.dispose is not None and subscription.active:
                    subscription.dispose(adapter, _DISPOSE)
        except MessagingError as left:
            log.debug("%s: not cleaned up: %s", self.connector.url, left)
        finally:
            with carrier.lock:
                if adapter is not None:
                    carrier.take_down(adapter, ConnectionLost("closed"), quietly=True)
                carrier.subscriptions.clear()
            if free and adapter is not None:
                adapter.close()  # else the errand that has it does

    def _end(self) -> None:
        self._carrier.handle()
        self._carrier.bell.close()

    def abandon(self) -> None:
        """Drop the connection in a forked child, without a word to the broker.

        No lock is taken: the thread that held it may not exist here.
        """
        carrier = self._carrier
        carrier.abandoned = carrier.closed = True
        adapter, carrier.adapter = carrier.adapter, None
        carrier.away = False
        carrier.lock, self._sharing = threading.RLock(), threading.RLock()
        self.pump.abandon()
        try:
            self._errands.abandon()
            if adapter is not None:
                adapter.abandon()
        finally:
            carrier.bell.close()
