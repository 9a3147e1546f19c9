"""Links: one connection per broker and process, shared by everybody in it.

A link is the only place that retries, sleeps and reconnects. Whoever waits on it drives it (see
:mod:`gofer.messaging.pump`); an agent has one thread that drives for ever (``run``). All of it may be used from many
threads. Handlers (deliveries, settlements, openings) run in the thread that pumps, one at a time, with no lock held:
they must be quick and never wait.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter.base import Adapter, Delivery, Event, Outcome, Settled
from gofer.messaging.address import Address
from gofer.messaging.backoff import Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.doorbell import Doorbell
from gofer.messaging.pump import Pump, Waiter
from gofer.messaging.subscription import Subscription, Subscriptions

__all__ = ["Link", "Subscription"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Settled = Callable[[Outcome, str], None]

#: Seconds for a connection to open, and for one operation (declare, subscribe ...) to be answered.
_CONNECT = 10.0
_OPERATION = 10.0
#: What an operation is given at least, whoever drives.
_SHORTEST = 0.5
#: Seconds that a connection must have lasted for the next one to be tried without a pause.
_LASTING = 5.0
#: Seconds after which a connection that nobody has looked at is looked at before something is sent.
_SILENCE = 2.0
#: Bytes that may wait for the socket before senders wait too.
_OUTBOX = 8 * 1024 * 1024
#: Seconds that an acknowledgement may wait for company.
_SOON = 0.002


class Link:
    """A connection that outlives its connections. Made by the pool, not by hand.

    Args:
        connector: where, and how.
        adapter: the class that serves it.
    """

    def __init__(self, connector: Connector, adapter: type[Adapter], loop: object = None) -> None:
        self.connector = connector
        #: The event loop that drives it, None for threads.
        self.loop = loop
        #: Set in a forked child: the link belongs to the parent and must not be used here.
        self.abandoned = False
        #: Why there is no connection, as the last try or loss said.
        self.error: MessagingError | None = None
        #: When the connection came up (``time.monotonic()``), None while it is down.
        self.up_since: float | None = None
        #: When something was last sent or delivered.
        self.used_at = monotonic()
        self._class = adapter
        self._lock = threading.Lock()  # guards the adapter and what is below; never held while waiting or handling
        self._adapter: Adapter | None = None
        self._tokens = itertools.count(1)
        self._sends: dict[int, _Settled | None] = {}
        self._subscriptions = Subscriptions(connector.reconnect_max)
        self._todo: deque[Callable[[], None]] = deque()  # read, and not yet handled
        self._farewells: list[Callable[[], None]] = []
        self._shared: dict[object, Any] = {}
        self._retry = Backoff(connector.reconnect_max)
        self._tick_at = 0.0
        self._flush_at = 0.0  # when what is in the outbox is to be written; 0: as soon as the socket takes it
        self._opened_before = self._closed = self._stopping = False
        self._answered = True
        self._read_at = 0.0
        self._bell = Doorbell()
        self.pump = Pump(self._turn, self._bell.ring)

    def __repr__(self) -> str:
        return f"<Link {self.connector.url} {self.state}>"

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        adapter = self._adapter
        if self._closed:
            return "closed"
        if adapter is None:
            return f"no connection ({self.error})" if self.error else "no connection yet"
        blocked = adapter.blocked
        return "open" if blocked is None else f"blocked by the broker ({blocked})"

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._adapter is not None

    @property
    def instance(self) -> str | None:
        """The broker's memory, see :attr:`Adapter.instance`."""
        adapter = self._adapter
        return None if adapter is None else adapter.instance

    @property
    def unsettled(self) -> int:
        """How many sends the broker has not answered."""
        return len(self._sends)

    @property
    def unwritten(self) -> int:
        """How many bytes wait for the socket."""
        adapter = self._adapter
        return 0 if adapter is None else adapter.unwritten

    def shared(self, key: object, make: Callable[[], _T]) -> _T:
        """Return what all users of this link share under a key, made on first use."""
        with self._lock:
            if key not in self._shared:
                self._shared[key] = make()
            found: _T = self._shared[key]
            return found

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Have something done at the end of the process, before the connection is closed."""
        self._farewells.append(callback)

    def farewell(self) -> None:
        """Do what was asked for by ``on_exit``."""
        for callback in self._farewells:
            callback()

    # -- opening, waiting ---------------------------------------------------------------------------------------

    def open(self, deadline: float | None) -> None:
        """Wait for the connection.

        Raises:
            MessagingError: it cannot be made (at once, if it never was before), or was not there by the deadline.
        """
        if self._adapter is None:
            self.ask()
            self.drive(self.answered, deadline)
            self.check()

    def ask(self) -> None:
        """Want the connection: one that was never made is tried at once, whatever an earlier try said."""
        self._usable()
        if self._adapter is None and not self._opened_before:
            self.error = None
            self._retry.hurry()
            self._bell.ring()

    def answered(self) -> bool:
        """Whether there is a connection, or the first one cannot be made."""
        return self._adapter is not None or (self.error is not None and self._answered and not self._opened_before)

    def check(self) -> None:
        """Raise why there is no connection, if there is none."""
        self._usable()
        if self._adapter is None:
            error = self.error or ConnectionLost(f"no connection to {self.connector.url} in time")
            raise type(error)(*error.args)  # each has its own: one that is raised twice grows

    def drive(self, ready: Callable[[], object], deadline: float | None, waiter: Waiter | None = None) -> bool:
        """Wait until ``ready()``, driving the link meanwhile. See :meth:`Pump.drive`.

        Raises:
            ConnectionLost: the link was closed.
        """
        done = self.pump.drive(lambda: ready() or self._closed, deadline, waiter)
        if self._closed:
            self.pump.alone(self._end, 0.0)  # who closed it may not have waited for whoever was connecting
            if not ready():
                self._usable()
        return done

    def run(self) -> None:
        """Drive the link until ``stop``: what the thread of an agent does."""
        self.pump.drive(lambda: self._stopping or self._closed, None)

    def stop(self) -> None:
        """Have ``run`` return soon. The connection stays."""
        self._stopping = True
        self.pump.wake_all()

    def keep(self) -> None:
        """Take one turn that does not wait, if nobody drives: for heartbeats, and for output that nobody waits for."""
        if (self._adapter is not None or self._todo) and self.loop is None:
            self.turn(0.0)

    # -- for an event loop ----------------------------------------------------------------------------------------

    @property
    def bell(self) -> Doorbell:
        """What rings when the link has something to do."""
        return self._bell

    def fileno(self) -> int:
        """Return the connection's descriptor, -1 when there is none."""
        adapter = self._adapter
        return -1 if adapter is None else adapter.fileno()

    @property
    def patient(self) -> bool:
        """Whether the next turn may take its time, connecting or subscribing: not for the thread of an event loop."""
        return self._adapter is None or monotonic() >= self._subscriptions.due

    @property
    def busy(self) -> bool:
        """Whether the next turn has something to do without waiting."""
        adapter = self._adapter
        return bool(self._todo) or (adapter is not None and adapter.pending)

    @property
    def due(self) -> float:
        """When the next turn is due, if nothing is read before (``time.monotonic()``)."""
        times = (self._tick_at, self._subscriptions.due, self._flush_at or math.inf)
        return min(times)

    @property
    def writing(self) -> bool:
        """Whether output waits for the socket to take it."""
        return self.unwritten > 0 and self._flush_at <= monotonic()

    def turn(self, timeout: float) -> bool:
        """Take one turn, if nobody else drives; return whether it was taken."""
        return self.pump.alone(lambda: self._turn(timeout), 0.0)

    @property
    def sendable(self) -> bool:
        """Whether ``offer`` would send now."""
        return self._sendable()

    # -- subscriptions ------------------------------------------------------------------------------------------

    def subscribe(self, subscription: Subscription, timeout: float | None, *, stay: bool = False) -> None:
        """Have a queue's messages delivered from now on, over every reconnect.

        Args:
            subscription: one that is waiting to be tried again is tried at once.
            timeout: seconds to wait for it; 0: only ask for it, the link does it as soon as it can.

        Raises:
            NotFound, AdapterError: the broker refused; the subscription is forgotten.
            ConnectionLost: no connection within the time; likewise.
        """
        deadline = None if timeout is None else monotonic() + timeout
        self._usable()
        with self._lock:
            self._subscriptions.add(subscription)
        self._bell.ring()
        if timeout == 0:
            return
        try:
            self.open(deadline)
            if not self.drive(lambda: subscription.active or subscription.error, deadline):
                raise ConnectionLost(f"no subscription to {subscription.queue!r} in time: {self.state}")
            if not subscription.active and subscription.error is not None:
                raise subscription.error
        except BaseException:
            if not stay:  # it is wanted by others, too, and on
                self.unsubscribe(subscription, 1.0)
            raise

    def unsubscribe(self, subscription: Subscription, timeout: float) -> None:
        """End a subscription. Deliveries that nobody wants any more are released. An unknown one is ignored."""
        with self._lock:
            number, adapter = self._subscriptions.remove(subscription), self._adapter
            if number is not None and adapter is not None:
                self._guarded(adapter, lambda: adapter.cancel(number, timeout))
        self._bell.ring()

    # -- operations, sending, settling ---------------------------------------------------------------------------

    def call(self, operation: Callable[[Adapter, float], _T], timeout: float = _OPERATION) -> _T:
        """Do a declare-like operation on the adapter, which is given and may keep the timeout.

        Raises:
            MessagingError: what the operation raised, or no connection in time.
        """
        deadline = monotonic() + timeout
        while True:
            self.open(deadline)
            with self._lock:
                adapter = self._adapter
                if adapter is not None:
                    done = self._guarded(adapter, partial(operation, adapter, max(0.1, deadline - monotonic())))
                    break
        self._bell.ring()  # it may have read what others wait for
        return done

    def offer(
        self,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        isolated: bool = False,
        durable: bool = True,
        confirm: bool = True,
        settled: _Settled | None = None,
    ) -> int:
        """Send a message if that is possible now; never waits.

        Args:
            ttl: seconds after which the broker may drop it.
            isolated, durable, confirm: see :meth:`Adapter.send`.
            settled: a handler, called once with the outcome and the broker's reason (LOST when the connection dies);
                without ``confirm`` perhaps never, and never after ``forget``.

        Returns:
            The message's number, for ``forget``; 0 when it is not possible to send at the moment (no connection,
            blocked, outbox full): nothing was sent.
        """
        with self._lock:
            adapter = self._adapter
            if adapter is not None and monotonic() - self._read_at > _SILENCE:
                # This process may have stood still for long, and the broker have hung up.
                self._steady(adapter, partial(self._read, adapter))
                self._bell.ring()
                adapter = self._adapter
            if adapter is None or adapter.blocked is not None or adapter.unwritten > _OUTBOX:
                return 0
            token = next(self._tokens)
            if confirm or settled is not None:
                self._sends[token] = settled
            self._write(
                adapter,
                lambda: adapter.send(
                    token, address, body, ttl=ttl, isolated=isolated, durable=durable, confirm=confirm
                ),
            )
            self.used_at = monotonic()
            waiting = adapter.unwritten
        if waiting and not self.pump.mine:
            self._bell.ring()
        return token

    def send(
        self,
        address: Address,
        body: bytes,
        *,
        deadline: float | None,
        ttl: float | None = None,
        isolated: bool = False,
        confirm: bool = True,
        settled: _Settled | None = None,
    ) -> int:
        """Send a message, waiting for the connection and for room in the outbox if need be. See ``offer``.

        Raises:
            MessagingError: not possible by the deadline; nothing was sent.
        """
        while True:
            token = self.offer(address, body, ttl=ttl, isolated=isolated, confirm=confirm, settled=settled)
            if token:
                return token
            self.open(deadline)
            if not self.drive(self._sendable, deadline):
                raise ConnectionLost(f"cannot send to {self.connector.url}: {self.state}")

    def forget(self, token: int) -> None:
        """Hear no more of a message that was sent without ``confirm``. An unknown one is ignored."""
        with self._lock:
            if self._sends.pop(token, None) is not None and self._adapter is not None:
                self._adapter.forget(token)

    def accept(self, delivery: Delivery, *, at_once: bool = False) -> None:
        """Tell the broker that a delivery is done with. A stale one is ignored.

        Args:
            at_once: it does not wait for company, nor for somebody to drive.
        """
        with self._lock:
            if (adapter := self._adapter) is not None:
                self._write(adapter, lambda: adapter.accept(delivery), soon=not at_once)

    def release(self, delivery: Delivery) -> None:
        """Give a delivery back to its queue. A stale one is ignored."""
        with self._lock:
            if (adapter := self._adapter) is not None:
                self._write(adapter, lambda: adapter.release(delivery))

    def reject(self, delivery: Delivery) -> None:
        """Have the broker drop or dead-letter a delivery. A stale one is ignored."""
        with self._lock:
            if (adapter := self._adapter) is not None:
                self._write(adapter, lambda: adapter.reject(delivery))

    def _sendable(self) -> bool:
        adapter = self._adapter
        return adapter is not None and adapter.blocked is None and adapter.unwritten <= _OUTBOX

    def _write(self, adapter: Adapter, encode: Callable[[], None], *, soon: bool = False) -> None:
        try:
            encode()
            if soon:
                # It goes with whatever is written next: a packet for each acknowledgement costs more than it is worth.
                if self._flush_at == 0.0:
                    self._flush_at = monotonic() + _SOON
                    if not self.pump.mine:
                        self._bell.ring()
            elif self.pump.mine:
                self._flush_at = monotonic()  # the pumper may have more to write, and flushes before it waits again
            else:
                self._flush(adapter)
        except MessagingError as lost:
            self._break(adapter, lost)
        except (ValueError, TypeError):  # a message that is wrong in itself: nothing was written
            raise
        except BaseException:
            self._break(adapter, ConnectionLost("interrupted while writing"))
            raise

    def _guarded(self, adapter: Adapter, operation: Callable[[], _T]) -> _T:
        """Do something that the broker answers; a connection that is lost over it is taken down."""
        try:
            return operation()
        except (NotFound, AdapterError, ValueError, TypeError):  # the adapter is as it was
            raise
        except MessagingError as lost:
            self._break(adapter, lost)
            raise
        except BaseException:
            self._break(adapter, ConnectionLost("interrupted"))
            raise

    # -- closing ------------------------------------------------------------------------------------------------

    def suspend(self) -> None:
        """Close the connection until it is needed again. Unsettled sends are LOST."""
        with self._lock:
            if self._adapter is not None:
                self._break(self._adapter, ConnectionLost("closed while idle"), quietly=True)

    def close(self) -> None:
        """Close for good: dispose of what subscriptions leave behind, and say goodbye. Idempotent, never raises."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            adapter = self._adapter
            if adapter is not None:
                for subscription in self._subscriptions:
                    if subscription.dispose is not None and subscription.active:
                        try:
                            subscription.dispose(adapter, 2.0)
                        except MessagingError as left:
                            log.debug("%s: not cleaned up: %s", subscription, left)
                self._break(adapter, ConnectionLost("closed"), quietly=True)
            self._subscriptions.clear()
        self.pump.wake_all()
        if self.pump.mine:
            self._end()
        else:
            self.pump.alone(self._end, 5.0)

    def _end(self) -> None:
        self._handle()
        self._bell.close()

    def abandon(self) -> None:
        """Drop the connection in a forked child, without a word to the broker.

        No lock is taken: the thread that held it may not exist here.
        """
        self.abandoned = self._closed = True
        adapter, self._adapter = self._adapter, None
        self._lock = threading.Lock()
        try:
            if adapter is not None:
                adapter.abandon()
        finally:
            self._bell.close()

    def _usable(self) -> None:
        if self.abandoned:
            raise ConnectionLost("this connection belongs to the parent process")
        if self._closed:
            raise ConnectionLost(f"the connection to {self.connector.url} was closed")

    # -- the turn: only the pumper is in here ---------------------------------------------------------------------

    def _turn(self, timeout: float) -> None:
        if self._todo:
            self._handle()
            return
        now = monotonic()
        adapter = self._adapter
        if adapter is None:
            self._reopen(now, timeout)
        elif now >= self._subscriptions.due:
            self._establish(adapter, timeout)
        else:
            self._wait_and_read(adapter, now, timeout)
            self._handle()

    def _wait_and_read(self, adapter: Adapter, now: float, timeout: float) -> None:
        with self._lock:
            if adapter is not self._adapter:
                return
            until = min(now + timeout, self._tick_at, self._subscriptions.due)
            writing = bool(adapter.unwritten)
            if writing and self._flush_at > now:
                until, writing = min(until, self._flush_at), False
            elif writing:
                self._steady(adapter, lambda: self._flush(adapter))
                writing = bool(adapter.unwritten)
            pending = adapter.pending
        if not pending:
            self._bell.wait(until - now, writing=writing)
        with self._lock:
            if adapter is self._adapter:
                self._steady(adapter, lambda: self._read(adapter))

    def _read(self, adapter: Adapter) -> None:
        self._collect(adapter.process())
        now = self._read_at = monotonic()
        if now >= self._tick_at:
            adapter.tick()
            self._flush(adapter)
            heartbeat = self.connector.heartbeat
            self._tick_at = now + (min(1.0, heartbeat / 4) if heartbeat else 1.0)

    def _flush(self, adapter: Adapter) -> None:
        self._flush_at = 0.0
        adapter.flush()

    def _steady(self, adapter: Adapter, work: Callable[[], None]) -> None:
        """Read or write for all (under the lock). A loss, or an interrupt in the middle, takes the connection down."""
        try:
            work()
        except MessagingError as lost:
            self._break(adapter, lost)
        except BaseException:
            self._break(adapter, ConnectionLost("interrupted"))
            raise

    def _collect(self, events: Iterable[Event]) -> None:
        """Note what was read as work to do. What each event is about is looked up now, under the lock."""
        for event in events:
            if isinstance(event, Delivery):
                self.used_at = monotonic()
                subscription = self._subscriptions.of(event.subscription)
                wanted = self.release if subscription is None else subscription.on_delivery
                self._todo.append(partial(wanted, event))
            elif isinstance(event, Settled):
                callback = self._sends.pop(event.token, None)
                if callback is not None:
                    self._todo.append(partial(callback, event.outcome, event.reason))
            elif (subscription := self._subscriptions.of(event.subscription)) is not None:
                self._fail(subscription, NotFound(event.reason))

    def _handle(self) -> None:
        # Popped only when done: an interrupt in the middle leaves the rest, and this one again, to the next pumper.
        while self._todo:
            work = self._todo.popleft()
            try:
                work()
            except Exception:  # a handler's fault must not become everybody's
                log.exception("a handler failed")
            except BaseException:
                self._todo.appendleft(work)
                raise

    # -- breaking and reopening ---------------------------------------------------------------------------------

    def _break(self, adapter: Adapter, error: MessagingError, *, quietly: bool = False) -> None:
        """Take down the connection (under the lock): what is unsettled is LOST, what was subscribed waits."""
        if adapter is not self._adapter:
            return
        if not quietly:
            log.warning("%s: connection lost: %s", self.connector.url, error)
        self._adapter = None
        self._bell.forget()
        self.error = error
        if quietly or self.up_since is None or monotonic() - self.up_since >= _LASTING:
            self._retry.reset()
        else:
            self._retry.failed()
        self.up_since = None
        self._subscriptions.all_down()
        adapter.close()
        self._collect([Settled(token, Outcome.LOST, str(error)) for token in self._sends])
        self._bell.ring()

    def _reopen(self, now: float, timeout: float) -> None:
        if self._closed:
            return
        if now < self._retry.due:
            self._bell.wait(min(timeout, self._retry.due - now))
            return
        adapter = self._class(self.connector)
        try:
            adapter.connect(min(_CONNECT, max(timeout, 0.1)))
        except MessagingError as failed:
            adapter.close()
            delay = self._retry.failed()
            # Not the error itself: its traceback would keep the frames, and so the agents, of whoever drove.
            self.error = type(failed)(*failed.args)
            # With more time it might have come about: for those who have more, this is no answer.
            self._answered = timeout >= _CONNECT or monotonic() - now < timeout
            level = logging.WARNING if self._retry.failures == 1 else logging.INFO
            log.log(level, "%s: cannot connect: %s; next try in %.1f s", self.connector.url, failed, delay)
            self.pump.wake_all()
            return
        except BaseException:
            adapter.abandon()
            raise
        with self._lock:
            if self._closed:
                adapter.close()
                return
            self._bell.watch(adapter.fileno())
            self._adapter = adapter
            self._tick_at = self.up_since = self._read_at = monotonic()
            self._flush_at = 0.0
            self.error = None
            self._opened_before = True
        log.info("%s: connected", self.connector.url)
        self._establish(adapter, timeout - (monotonic() - now))
        self.pump.wake_all()

    def _establish(self, adapter: Adapter, timeout: float) -> None:
        """Make the subscriptions that are due, one at a time, so that others get in between."""
        while True:
            with self._lock:
                subscription = self._subscriptions.next_due(monotonic())
                if subscription is None or adapter is not self._adapter:
                    break
                most = min(_OPERATION, max(timeout, _SHORTEST))
                make = partial(self._subscriptions.make, subscription, adapter, most)
                try:
                    self._guarded(adapter, make)
                except ConnectionLost:
                    break  # all are made again with the next connection
                except MessagingError as refused:
                    self._fail(subscription, refused)
                except (ValueError, TypeError) as wrong:
                    self._fail(subscription, AdapterError(str(wrong)))
                else:
                    if subscription.on_made is not None:
                        self._todo.append(subscription.on_made)
        self.pump.wake_all()

    def _fail(self, subscription: Subscription, why: MessagingError) -> None:
        if self._subscriptions.failed(subscription, why) and subscription.on_lost is not None:
            self._todo.append(partial(subscription.on_lost, str(why)))
