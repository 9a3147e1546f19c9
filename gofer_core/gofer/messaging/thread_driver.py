"""A connection that a thread of its own drives: for blocking callers, consumers and agents.

Other threads append commands to a deque and wake the I/O thread; one that waits sleeps on a lock of its own, which the
I/O thread releases. Nothing else is shared, so an interrupt can strike anywhere, and a signal handler may do all of it.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable
from math import ceil, inf
from time import monotonic
from typing import Any

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter import Operation
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection
from gofer.messaging.connector import Connector
from gofer.messaging.core import OPERATION, State, fresh
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.wire import Wakeup

__all__ = ["ThreadConnection", "Waiter"]

#: Commands, and bytes of large ones, that may wait for the I/O thread before publishers wait, too.
_QUEUED = 1000
_QUEUED_BYTES = 8 * 1024 * 1024
_LARGE = 8 * 1024
#: Seconds that an acknowledgement may wait for other output: a packet for each costs more than it is worth.
_COMPANY = 0.002
#: A waiting thread looks this often, in seconds, whether the I/O thread was started: an interrupt may have struck the
#: thread that was to start it.
_LOOK_AROUND = 1.0
#: Seconds after which the socket is read before something is written, whatever the poll said.
_SILENCE = 1.0
#: Seconds that ``close`` waits for the I/O thread.
_CLOSE = 5.0


class Waiter:
    """One waiting thread's own alarm clock. ``wake`` may be called by any thread, any number of times."""

    __slots__ = ("_alarm",)

    def __init__(self) -> None:
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def wake(self) -> None:
        """End the sleep, or the next one if its thread does not sleep at the moment."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it rings already

    def sleep(self, timeout: float) -> None:
        """Sleep until woken, at most ``timeout`` seconds."""
        self._alarm.acquire(timeout=timeout)


class ThreadConnection(Connection):
    """See :class:`Connection`. All of it may be used from any thread; callbacks must not wait."""

    def __init__(self, connector: Connector, retire: Callable[[Connection], bool]) -> None:
        super().__init__(connector, company=_COMPANY, retire=retire)
        self._commands: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._large: dict[object, int] = {}  # sizes of the commands that are large
        self._wakeup = Wakeup()
        self._poll = select.poll()
        self._poll.register(self._wakeup.fileno(), select.POLLIN)
        self._watched, self._mask = -1, 0  # the socket that is polled, and for what
        self._asleep = False
        self._io = 0  # the ident of the I/O thread
        self._owner: dict[str, threading.Thread] = {}  # at most one I/O thread, whoever started how many
        self._done = False
        self._watchers: dict[Waiter, None] = {}  # wait for a change of state, and look after each turn
        self._unwritten: list[Callable[[], None]] = []  # wait until all is written
        self._waiters: dict[Waiter, None] = {}  # are woken by a callback

    # -- waiting ------------------------------------------------------------------------------------------------------

    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Wait until ``ready()``, at the end of the process: nothing is raised."""
        try:
            self.wait(ready, deadline)
        except ConnectionLost:
            pass  # what is not ready is the caller's to tell

    def wait(self, ready: Callable[[], object], deadline: float | None, waiter: Waiter | None = None) -> bool:
        """Wait until ``ready()`` is true or the deadline (``time.monotonic()``) has passed.

        Args:
            ready: quick, without side effects; called by this thread only.
            waiter: a callback wakes it when ``ready`` may have become true. None: look after each turn of the driver.

        Returns:
            Whether it is ready.

        Raises:
            ConnectionLost: the connection was closed.
            RuntimeError: called from a callback, in the thread that reads what it would wait for.
        """
        if ready():
            return True
        if self.in_driver:
            raise RuntimeError("cannot wait for a message in the thread that reads them (a hook or a callback)")
        waiters = self._watchers if waiter is None else self._waiters
        waiter = waiter or Waiter()
        waiters[waiter] = None
        try:
            while not ready():
                self.check_usable()
                self._ensure_thread()
                timeout = _LOOK_AROUND if deadline is None else deadline - monotonic()
                if timeout <= 0:
                    return False
                waiter.sleep(min(timeout, _LOOK_AROUND))
            return True
        finally:
            waiters.pop(waiter, None)

    def open(self, deadline: float | None) -> None:
        """Wait for the connection.

        Raises:
            MessagingError: it cannot be made (at once, if it never was before), or was not there by the deadline.
        """
        if self.core.state is not State.OPEN:
            self.check_usable()
            tries = self.core.tries
            self.want()
            self.wait(lambda: self.connect_outcome(tries), deadline)
            self.raise_down()

    def publish(self, address: Address, body: bytes, *, deadline: float | None, **how: Any) -> int:
        """Send a message, waiting for the connection and for room in the outbox if need be. See ``publish_nowait``.

        Raises:
            MessagingError: not possible by the deadline; nothing was sent.
        """
        while True:
            token = self.publish_nowait(address, body, **how)
            if token:
                return token
            self.open(deadline)
            if not self.wait(lambda: self.sendable, deadline):
                raise ConnectionLost(f"cannot send to {self.connector.url}: {self.state}")

    def wait_written(self, timeout: float) -> None:
        """Wait until the socket has taken all that was sent so far, or the connection is gone.

        Raises:
            ConnectionLost: the connection was closed.
        """
        written, waiter = threading.Event(), Waiter()

        def tell() -> None:
            written.set()
            waiter.wake()

        self._submit(0, self.core.flush)
        self._submit(0, lambda: self._unwritten.append(tell))
        self.wait(written.is_set, monotonic() + timeout, waiter)

    def subscribe(self, subscription: Subscription, timeout: float | None, *, stay: bool = False) -> None:
        """Have a queue's messages delivered from now on, over every reconnect.

        Args:
            subscription: one that is waiting to be tried again is tried at once.
            timeout: seconds to wait for it; 0: only ask for it.
            stay: keep wanting it when the wait is over.

        Raises:
            NotFound, AdapterError: the broker refused; the subscription is forgotten.
            ConnectionLost: no connection within the time; likewise.
        """
        deadline = None if timeout is None else monotonic() + timeout
        made = subscription.made
        if not subscription.active:
            subscription.error = None  # of an earlier try
        self.subscribe_nowait(subscription)
        if timeout == 0:
            return
        try:
            self.open(deadline)
            if not self.wait(lambda: subscription.made > made or subscription.active or subscription.error, deadline):
                raise ConnectionLost(f"the broker did not answer for the queue {subscription.queue!r}: {self.state}")
            if not subscription.active and subscription.error is not None:
                raise fresh(subscription.error)
        except BaseException:
            if not stay:  # else it is wanted by others, too, and on
                self._submit(0, self.core.unsubscribe, subscription, lambda value, error: None)
            raise

    def unsubscribe(self, subscription: Subscription, timeout: float) -> None:
        """End a subscription. Deliveries that nobody wants any more are released. An unknown one is ignored.

        When it returns, all that was delivered before has been handled. Called from a callback it does not wait.

        Raises:
            MessagingError: the broker did not answer in time, or with an error. It is ended all the same.
        """
        self._ask(lambda answer: self._submit(0, self.core.unsubscribe, subscription, answer, timeout), timeout)

    def ask(self, operation: Operation | Steps, timeout: float = OPERATION) -> Any:
        """Ask the broker for something (one operation, or a generator of several), and return its value.

        Raises:
            MessagingError: the operation's error, or no connection, or no answer, in time.
        """
        deadline = monotonic() + timeout
        self.open(deadline)
        return self._ask(lambda answer: self.ask_nowait(operation, answer, timeout), timeout)

    def _ask(self, start: Callable[[Callable[[Any, Exception | None], None]], None], timeout: float) -> Any:
        answers: list[tuple[Any, Exception | None]] = []
        waiter = Waiter()

        def answer(value: Any, error: Exception | None) -> None:
            answers.append((value, error))
            waiter.wake()

        start(answer)
        if self.in_driver:
            return None
        if not self.wait(lambda: answers, monotonic() + timeout, waiter):
            raise ConnectionLost(f"the broker did not answer within {timeout:g} s: {self.state}")
        value, error = answers[0]
        if error is not None:
            raise fresh(error) if isinstance(error, MessagingError) else error
        return value

    @property
    def sendable(self) -> bool:
        """Whether ``publish_nowait`` would send now."""
        if not super().sendable or len(self._commands) >= _QUEUED:
            return False
        return not self._large or sum(list(self._large.values())) <= _QUEUED_BYTES

    @property
    def in_driver(self) -> bool:
        """Whether the calling thread is the I/O thread: a callback asks."""
        return threading.get_ident() == self._io

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close for good; wait some seconds for a broker that does not answer, and for nobody who is connecting."""
        if self.start_closing():
            self.wait_closed(monotonic() + _CLOSE)

    def start_closing(self) -> bool:
        """Have the connection closed for good; return whether there is something to wait for."""
        if self._closing:
            return False
        self._closing = True
        if not self._owner:
            self.core.close()
            self._done = True
            self._wakeup.close()
            return False
        self._submit(0, self.core.close)
        for waiter in [*self._watchers, *self._waiters]:
            waiter.wake()
        return True

    def wait_closed(self, deadline: float) -> None:
        """Wait until the goodbye has been said, at most to the deadline."""
        waiter = Waiter()
        self._watchers[waiter] = None
        while not (self.in_driver or self._done or self.core.state is State.CONNECTING or monotonic() >= deadline):
            waiter.sleep(0.5)
        self._watchers.pop(waiter, None)

    def abandon(self) -> None:
        """Drop the connection in a forked child."""
        super().abandon()
        self._done = True
        self._wakeup.abandon()
        self._watchers.clear()
        self._waiters.clear()

    # -- the I/O thread -----------------------------------------------------------------------------------------------

    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._io:  # a callback: what it sends goes with this turn's output
            command(*arguments)
            return
        if size > _LARGE:
            self._large[arguments[0]] = size  # by its token
        self._commands.append((command, arguments))
        if self._asleep:
            if size >= 0:
                self._wakeup.set()
        elif not self._owner:
            self._ensure_thread()

    def _ensure_thread(self) -> None:
        if not (self._owner or self._done):
            threading.Thread(target=self._run, name="gofer-io", daemon=True).start()

    def _run(self) -> None:
        if self._owner.setdefault("io", threading.current_thread()) is not threading.current_thread():
            return  # two threads, or an interrupted one, have started two
        self._io = threading.get_ident()
        self._housekeeping_at = monotonic() + 1.0
        readable = False
        while not self.core.closed:
            if readable and monotonic() - self._read_at <= _SILENCE:
                self._read()
            self._run_commands()
            core = self.core
            if core.state is State.DOWN and core.now >= core.connect_at:
                self._connect()
            else:
                self._turn(False)
            self._wake_watchers()
            readable = not core.closed and self._sleep()
        self._write(monotonic())
        self._wakeup.close()
        self._done = True
        self._run_commands()  # those that came late are told that it is closed
        for waiter in [*self._watchers, *self._waiters]:
            waiter.wake()

    def _run_commands(self) -> None:
        if monotonic() - self._read_at > _SILENCE:
            while self._read():
                pass  # to the end: the broker may have hung up while this process stood still
        self.core.now = monotonic()
        for _ in range(len(self._commands)):
            command, arguments = self._commands.popleft()
            if self._large and type(arguments[0]) is int:
                self._large.pop(arguments[0], None)
            self._guard(command, *arguments)

    def _sleep(self) -> bool:
        """Wait until something is due, a command comes, or the socket is ready; return whether it can be read."""
        wire = self._wire
        descriptor = -1 if wire is None else wire.fileno()
        if descriptor != self._watched:
            if self._watched >= 0:
                self._poll.unregister(self._watched)
            self._watched, self._mask = descriptor, 0
        pending = wire is not None and wire.pending
        if wire is not None:
            mask = select.POLLIN | (select.POLLOUT if wire.unsent else 0)
            if mask != self._mask:
                self._poll.register(descriptor, mask)
                self._mask = mask
        due = min(self.core.deadline, self._housekeeping_at)
        timeout = None if due == inf else max(0, ceil((due - monotonic()) * 1000))
        self._asleep = True  # then a look at the commands: one that was appended before is not waited for
        ready = self._poll.poll(0 if self._commands or pending else timeout)
        self._asleep = False
        for found, _ in ready:
            if found == descriptor:
                pending = True
            else:
                self._wakeup.clear()
        return pending

    def _detach(self) -> None:
        if self._watched >= 0:
            self._poll.unregister(self._watched)
        self._watched = -1

    def _connect(self) -> None:
        self.core.connecting()
        try:
            adapter, wire = self._open()
        except MessagingError as error:
            self._guard(self.core.connect_failed, error, monotonic())
        else:
            self._opened(adapter, wire)
            self._write(monotonic())  # the greeting: nobody may come who wakes this thread

    def _wake_watchers(self) -> None:
        if self._unwritten and not self.backlog:
            written, self._unwritten = self._unwritten, []
            for tell in written:
                tell()
        if self._watchers:
            for waiter in list(self._watchers):
                waiter.wake()

    @property
    def waited_for(self) -> bool:
        """Whether somebody waits on it at the moment."""
        return bool(self._watchers or self._waiters)
