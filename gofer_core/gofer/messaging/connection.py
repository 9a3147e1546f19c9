"""Connections: one per broker and process, shared by all its users.

A caller's session, a consumer and an agent hold one. It owns the state (:mod:`gofer.messaging.core`) and the socket.
Two subclasses drive it: :mod:`gofer.messaging.thread_driver` by a thread of its own, and
:mod:`gofer.messaging.asyncio_driver` in an event loop. Whether or not anybody uses the connection, its driver reads it,
sends heartbeats when they are due, and closes it when it was idle for long. Callbacks run in the driver's thread: they
are quick and never wait.
"""

from __future__ import annotations

import itertools
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from gofer.errors import ConnectionLost
from gofer.messaging.adapter import Delivery, Operation, Outgoing, Settlement
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.core import Settle
from gofer.messaging.driver import Driver
from gofer.messaging.operations import OPERATION, Answer, State, copy_error
from gofer.messaging.subscription import Steps, Subscription

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

__all__ = ["Connection", "Flow", "Traffic"]

_T = TypeVar("_T")

#: What a driver waits for on behalf of a user: it is sent whether each condition came true in time.
Flow = Generator[Callable[[], object], bool, None]

#: Seconds to close the connection.
_CLOSE = 5.0
#: Bytes that may wait for the socket before publishers wait, too.
_OUTBOX = 8 * 1024 * 1024
#: Seconds without use after which a connection is closed, and the same for a connection without users.
_IDLE = 300.0
_IDLE_UNUSED = 5.0


class Traffic(NamedTuple):
    """What has moved on a connection.

    ``deliveries``: messages delivered. ``unfinished``: bytes received that made no event, as those of a large message
    do until it is complete. ``acknowledged``: bytes that the peer's system has taken. ``waiting``: bytes that it has
    not.
    """

    deliveries: int
    unfinished: int
    acknowledged: int
    waiting: int


class Connection(Driver):
    """A connection that outlives its sockets. The pool makes it.

    Any thread may use it (for the asyncio one: the loop's thread), and so may signal handlers.
    """

    #: The event loop that drives it; None: a thread does.
    loop: AbstractEventLoop | None = None

    def __init__(self, connector: Connector, *, ack_delay: float, may_close: Callable[[Connection], bool]) -> None:
        """Open nothing yet.

        Args:
            connector: where, and how.
            ack_delay: seconds that an acknowledgement may wait for other output.
            may_close: asked when the connection has no users and was idle: whether it is to close for good.
        """
        super().__init__(connector, ack_delay)
        #: How many users it has; the pool counts.
        self.users = 0
        #: Whether it was closed for good.
        self.closed = False
        self.abandoned = False
        #: When it was closed because the process ends (``time.monotonic()``); None: it was not.
        self.exited_at: float | None = None
        #: Called at the end of the process, before the connection is closed, with the time (``time.monotonic()``) by
        #: which the call should end.
        self.exit_callbacks: list[Callable[[float], None]] = []
        self._may_close = may_close
        self._tokens = itertools.count(1)
        self._waiters: dict[Any, None] = {}  # of all that wait; and those of them that each turn wakes
        self._watchers: dict[Any, None] = {}
        self._shared: dict[object, Any] = {}
        self._sharing = threading.RLock()  # a signal handler may run in the thread that holds it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.connector.url} {self.state}>"

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Describe the connection in a few words: open, blocked, or why there is none."""
        return "closed" if self.closed else self.core.describe()

    @property
    def up_since(self) -> float | None:
        """When the connection came up (``time.monotonic()``), None while it is down."""
        return self.core.up_since

    @property
    def is_open(self) -> bool:
        """Whether the broker has accepted our login."""
        return self.core.state is State.OPEN

    @property
    def sendable(self) -> bool:
        """Whether ``publish_nowait`` would send now."""
        core, wire = self.core, self._wire
        return core.state is State.OPEN and core.blocked is None and (wire is None or len(wire.buffer) <= _OUTBOX)

    @property
    def backlog(self) -> int:
        """How many bytes wait for the socket."""
        wire = self._wire
        return 0 if wire is None else len(wire.buffer)

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits on it at the moment."""
        return bool(self._waiters)

    def traffic(self) -> Traffic:
        """Tell what has moved on this connection so far. Any thread."""
        wire = self._wire
        acknowledged, waiting = (0, 0) if wire is None else wire.progress()
        return Traffic(self.core.deliveries, self.core.unfinished, acknowledged, waiting)

    def check_usable(self) -> None:
        """Raise ConnectionLost if it was closed, or belongs to the parent process."""
        if self.abandoned:
            raise ConnectionLost("this connection belongs to the parent process")
        if self.closed:
            raise ConnectionLost(f"the connection to {self.connector.url} was closed")

    def shared(self, key: object, make: Callable[[], _T]) -> _T:
        """Return what all users of this connection share under a key. The first use makes it."""
        with self._sharing:
            if key not in self._shared:
                self._shared.setdefault(key, make())  # a signal handler may have made it meanwhile
            found: _T = self._shared[key]
            return found

    # -- commands that never wait -------------------------------------------------------------------------------------

    def publish_nowait(
        self,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        durable: bool = True,
        confirm: bool = True,
        isolated: bool = False,
        settled: Settle | None = None,
        room: bool = True,
    ) -> int:
        """Send a message if that is possible now.

        Args:
            ttl: seconds after which the broker may drop it.
            durable, confirm, isolated: see :class:`gofer.messaging.adapter.Outgoing`.
            settled: a callback, called once with the outcome and the broker's reason (UNKNOWN when the connection
                dies); without ``confirm`` perhaps never, and never after ``forget``.
            room: False: send it also when the broker is blocked or the outbox is full.

        Returns:
            The message's token, for ``forget``; 0: it cannot be sent at the moment, and nothing was sent.
        """
        if not (self.sendable if room else self.core.state is State.OPEN) or self.closed:
            return 0
        message = Outgoing(next(self._tokens), address, body, ttl, durable, confirm, isolated)
        self._submit(len(body), self.core.publish, message, settled)
        return message.token

    def forget(self, token: int) -> None:
        """Drop the callback of a message that was sent without ``confirm``. An unknown token is ignored."""
        if token:
            self._submit(-1, self.core.forget, token)

    def accept(self, delivery: Delivery, within: float = 0.0) -> None:
        """Acknowledge a delivery. A stale delivery is ignored.

        Args:
            within: seconds that it may wait for others, or for other output; some milliseconds at least.
        """
        self._submit(0, self.core.settle, delivery, Settlement.ACCEPT, within)

    def accept_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge several, as ``accept`` does."""
        self._submit(0, self._accept_all, deliveries)

    def _accept_all(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.core.settle(delivery, Settlement.ACCEPT)

    def release(self, delivery: Delivery) -> None:
        """Give a delivery back to its queue. A stale delivery is ignored."""
        self._submit(0, self.core.settle, delivery, Settlement.RELEASE)

    def reject(self, delivery: Delivery) -> None:
        """Have the broker drop or dead-letter a delivery. A stale delivery is ignored."""
        self._submit(0, self.core.settle, delivery, Settlement.REJECT)

    def connect_nowait(self) -> None:
        """Start to connect. If no connection was ever made, the next try is now."""
        self._submit(0, self.core.connect)

    def subscribe_nowait(self, subscription: Subscription) -> Callable[[], object]:
        """Have a queue's messages delivered as soon as that is possible, over every reconnect.

        Returns:
            A function that tells whether the broker has answered.
        """
        self.check_usable()
        made = subscription.made
        if not subscription.active:
            subscription.error = None  # of an earlier try
        self._submit(0, self.core.subscribe, subscription)
        return lambda: subscription.made > made or subscription.active or subscription.error

    def unsubscribe_nowait(self, subscription: Subscription, *, dispose: bool = False) -> None:
        """End a subscription; what comes of that is not told. An unknown one is ignored.

        Args:
            dispose: do then what its ``dispose`` says. RabbitMQ 4 ends the session of who deletes a queue before.
        """

        def ended(*_: object) -> None:
            if dispose and subscription.dispose is not None and self.is_open:
                self.ask_nowait(subscription.dispose(), lambda value, error: None)

        self._submit(0, self.core.unsubscribe, subscription, ended)

    def resubscribe(self, subscription: Subscription, reason: str) -> None:
        """Make a subscription again that the broker seems to have forgotten."""
        self._submit(0, self.core.resubscribe, subscription, reason)

    def reconnect(self, reason: str) -> None:
        """Give up the present connection, which seems open and does not work, and make another one."""
        self._submit(0, self.core.drop, reason)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Have something called in the driver's thread, whatever the connection's state: it must be quick."""
        self._submit(0, callback)

    def ask_nowait(self, operation: Operation | Steps, answer: Answer, timeout: float = OPERATION) -> None:
        """Ask the broker for something; ``answer`` is called in the driver's thread with the value, or the error."""
        ask = self.core.run if hasattr(operation, "send") else self.core.ask
        self._submit(0, ask, operation, answer, timeout)

    def users_changed(self) -> None:
        """Have the driver check whether the connection is still used."""
        self._submit(0, setattr, self, "_close_idle_at", 0.0)

    # -- for waiting users: they wait, where a thread drives it; an event loop's get something to await ----------------

    def open(self, deadline: float | None) -> Any:
        """Wait for the connection.

        Raises:
            MessagingError: it cannot be made (at once, if it never was before), or was not there by the deadline.
        """
        return self._run_flow(self._opening(), deadline)

    def wait_sendable(self, deadline: float | None) -> Any:
        """Wait for the connection and for room in the outbox.

        Raises:
            MessagingError: not possible by the deadline.
        """
        return self._run_flow(self._becoming_sendable(), deadline)

    def subscribe(self, subscription: Subscription, timeout: float | None, *, stay: bool = False) -> Any:
        """Have a queue's messages delivered from now on, over every reconnect.

        Args:
            subscription: one that waits for its next try is tried at once.
            timeout: seconds to wait for it; 0: do not wait, and report no error.
            stay: go on trying after an error.

        Raises:
            NotFound, AdapterError: the broker refused; the subscription is dropped.
            ConnectionLost: no connection within the time; likewise.
        """
        deadline = None if timeout is None else monotonic() + timeout
        return self._run_flow(self._subscribing(subscription, wait=timeout != 0, stay=stay), deadline)

    @abstractmethod
    def _run_flow(self, flow: Flow, deadline: float | None) -> Any:
        """Wait for what a flow waits for."""

    def _opening(self) -> Flow:
        core, tries = self.core, self.core.tries
        if core.state is State.OPEN:
            return
        self.check_usable()
        self.connect_nowait()
        yield lambda: core.state is State.OPEN or (core.tries > tries and not core.opened_before)
        self.check_usable()
        if not self.is_open:
            # The error of a first connection is raised as it is: a wrong password is reported at once. A connection
            # that was there before may come back: then the time is over, for the reason of the last try.
            error = core.error
            if error is not None and not core.opened_before:
                raise copy_error(error)
            why = error or ("no answer to the login yet" if core.state is State.LOGIN else "nobody has answered yet")
            raise ConnectionLost(f"no connection to {self.connector.url} in time: {why}")

    def _becoming_sendable(self) -> Flow:
        while not self.sendable:
            yield from self._opening()
            if not (yield lambda: self.sendable):
                raise ConnectionLost(f"cannot send to {self.connector.url}: {self.state}")

    def _subscribing(self, subscription: Subscription, *, wait: bool, stay: bool) -> Flow:
        answered = self.subscribe_nowait(subscription)
        if not wait:
            return
        try:
            yield from self._opening()
            if not (yield answered):
                raise ConnectionLost(f"the broker did not answer for the queue {subscription.queue!r}: {self.state}")
            if not subscription.active and subscription.error is not None:
                raise copy_error(subscription.error)
        except BaseException:
            if not stay:
                self.unsubscribe_nowait(subscription)
            raise

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close for good: subscriptions clean up, and the broker hears of it. Idempotent, never raises."""
        if self.start_closing():
            self.wait_closed(monotonic() + _CLOSE)

    @abstractmethod
    def start_closing(self) -> bool:
        """Start to close for good; return whether a thread can wait for the end."""

    @abstractmethod
    def wait_closed(self, deadline: float) -> None:
        """Wait until the broker has answered the close, at most to the deadline."""

    @abstractmethod
    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Go on until ``ready()`` or the deadline, at the end of the process; starts no thread, raises nothing."""

    def abandon(self) -> None:
        """Drop the parent's connection in a forked child; the broker hears nothing. Takes no lock: it may be held."""
        self.abandoned = self.closed = True
        self._sharing = threading.RLock()
        self._waiters.clear()
        self._watchers.clear()
        self.core.state, self.core.adapter = State.CLOSED, None
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    # -- for the drivers ----------------------------------------------------------------------------------------------

    @abstractmethod
    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        """Run a command of the core in the driver's thread.

        ``size``: bytes that it holds; -1: it can wait until the driver has something else to do.
        """

    def _close_if_idle(self, now: float) -> float:
        """Close a connection that is not used; return when to look again."""
        limit = _IDLE if self.users else _IDLE_UNUSED
        if self.waited_for or not self.core.idle:
            return now + limit
        due = self.core.used_at + limit
        if now < due:
            return due
        if self.users:
            self.core.suspend()
        elif self._may_close(self):
            self.start_closing()
            return inf
        return now + limit
