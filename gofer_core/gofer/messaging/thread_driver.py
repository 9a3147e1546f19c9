"""A connection that a thread of its own drives: for blocking callers, consumers and agents.

Other threads append commands to a deque and wake the I/O thread. A waiting thread sleeps on a lock of its own, which
the I/O thread releases. Nothing else is shared: an interrupt may strike anywhere, and signal handlers may call it all.
While nobody calls, the thread wakes up for what is due (``Core.tick``): heartbeats, deadlines, reconnects.

One short cut: a message may be written by the thread that publishes it, while the I/O thread sleeps and no more than
one message is in flight. That spares a single call the way to the I/O thread; under load the batches of the I/O thread
are cheaper. The main thread runs signal handlers, which may call, or raise, in the middle of anything: so it does what
others do step by step in one single step, and only where an adapter's ``encode`` makes that possible.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from math import inf
from time import monotonic, sleep
from typing import Any

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter import Adapter, Operation, Outcome, Outgoing
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection, Flow
from gofer.messaging.connector import Connector
from gofer.messaging.core import Settle
from gofer.messaging.driver import SILENCE
from gofer.messaging.driver_lock import DriverLock
from gofer.messaging.operations import OPERATION, State, copy_error
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.wire import Wakeup, Wire

__all__ = ["ThreadConnection", "Waiter"]

#: Commands, and bytes of large ones, that may wait for the I/O thread before publishers wait, too.
_QUEUED = 1000
_QUEUED_BYTES = 8 * 1024 * 1024
_LARGE = 8 * 1024
#: Seconds that an acknowledgement may wait for other output: a packet for each costs more than it is worth.
_ACK_DELAY = 0.002
_READ, _READ_WRITE = select.POLLIN, select.POLLIN | select.POLLOUT
#: Seconds after which a waiting thread checks that the I/O thread was started: an interrupt may have struck the thread
#: that was to start it.
_CHECK_INTERVAL = 1.0
#: Seconds after the end of the process has begun in which no daemon thread is told that its connection is closed.
_LEFT_BEHIND = 10.0


class Waiter:
    """The alarm clock of one waiting thread. Any thread may call ``wake``, any number of times."""

    __slots__ = ("_alarm",)

    def __init__(self) -> None:
        self._alarm = threading.Lock()
        self._alarm.acquire()

    def wake(self) -> None:
        """End the sleep, or the next one if its thread does not sleep at the moment."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # it is set already

    def sleep(self, timeout: float) -> None:
        """Sleep until woken, at most ``timeout`` seconds."""
        self._alarm.acquire(timeout=timeout)


class ThreadConnection(Connection):
    """See :class:`Connection`. Any thread may use it; callbacks must not wait."""

    def __init__(self, connector: Connector, may_close: Callable[[Connection], bool]) -> None:
        super().__init__(connector, ack_delay=_ACK_DELAY, may_close=may_close)
        self._commands: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._later: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()  # those that can wait for others
        self._large: deque[int] = deque()  # the sizes of large commands in the queue
        self._wakeup = Wakeup()
        self._poll: Any = None  # the I/O thread's
        self._polled, self._mask = -1, 0  # the socket that is polled, and for what
        self._lock = DriverLock()
        # What the main thread has written, which is yet to be noted.
        self._written: deque[tuple[Wire, int, Adapter, Outgoing, Settle | None]] = deque()
        self._main = threading.main_thread().ident
        self._driver = self._io = 0  # the ident of the thread that drives it, and of the I/O thread
        self._owner: dict[str, threading.Thread] = {}  # at most one I/O thread, however many were started
        self._done = False

    # -- waiting ------------------------------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Raise ConnectionLost if it was closed, or belongs to the parent process.

        At the end of the process a daemon thread hears it so late that it is ended first: it prints no half traceback.
        """
        if self.closed and self.exited_at is not None and threading.current_thread().daemon and not self.in_driver:
            sleep(max(0.0, self.exited_at + _LEFT_BEHIND - monotonic()))  # once: it may have many more calls to make
        super().check_usable()

    def wait(self, ready: Callable[[], object], deadline: float | None, waiter: Waiter | None = None) -> bool:
        """Wait until ``ready()`` is true or the deadline (``time.monotonic()``) has passed.

        Args:
            ready: quick, without side effects; called by this thread only.
            waiter: a callback wakes it when ``ready`` may have become true. None: check after each turn of the driver.

        Returns:
            Whether it is ready.

        Raises:
            ConnectionLost: the connection was closed.
            RuntimeError: called in a callback: the I/O thread cannot wait for itself.
        """
        if ready():
            return True
        if threading.get_ident() == self._driver:
            raise RuntimeError("cannot wait for a message in the thread that reads them (a hook or a callback)")
        own = waiter or Waiter()
        try:
            self._waiters[own] = None
            if waiter is None:
                self._watchers[own] = None
            while not ready():
                if self.closed or not self._owner:
                    self.check_usable()
                    self._ensure_thread()
                timeout = _CHECK_INTERVAL if deadline is None else deadline - monotonic()
                if timeout <= 0:
                    return False
                own.sleep(timeout if timeout < _CHECK_INTERVAL else _CHECK_INTERVAL)
            return True
        finally:
            self._waiters.pop(own, None)
            self._watchers.pop(own, None)

    def publish(self, address: Address, body: bytes, *, deadline: float | None, **how: Any) -> int:
        """Send a message; wait for the connection and for room in the outbox if need be. See ``publish_nowait``.

        Raises:
            MessagingError: not possible by the deadline; nothing was sent.
        """
        while not (token := self.publish_nowait(address, body, **how)):
            self.wait_sendable(deadline)
        return token

    def publish_confirmed(self, address: Address, body: bytes, timeout: float, **how: Any) -> tuple[Outcome, str]:
        """Send a message, and wait for what becomes of it and the broker's reason; UNKNOWN: no word of it in time.

        Raises:
            MessagingError: nothing was sent.
        """
        deadline = monotonic() + timeout
        outcome = self._answer_to(
            lambda settled: self.publish(address, body, deadline=deadline, settled=settled, **how), deadline
        )
        return outcome or (Outcome.UNKNOWN, self.state)

    def _run_flow(self, flow: Flow, deadline: float | None) -> None:
        with closing(flow), suppress(StopIteration):
            ready = next(flow)
            while True:
                ready = flow.send(self.wait(ready, deadline))

    def wait_written(self, timeout: float) -> None:
        """Wait until the socket has taken all that was sent so far, or the connection is gone.

        Raises:
            ConnectionLost: the connection was closed.
        """
        written: list[bool] = []

        def flush() -> None:
            self.core.flush()
            self._write(monotonic())
            written.append(True)

        self.call_soon(flush)
        self.wait(lambda: written and not self.backlog, monotonic() + timeout)

    def unsubscribe(self, subscription: Subscription, timeout: float) -> None:
        """End a subscription. Deliveries that come later are released. An unknown subscription is ignored.

        When it returns, all that was delivered before has been handled. Called in a callback it does not wait.

        Raises:
            MessagingError: the broker did not answer in time, or with an error. The subscription has ended anyway.
        """
        self._ask(lambda answer: self._submit(0, self.core.unsubscribe, subscription, answer, timeout), timeout)

    def ask(self, operation: Operation | Steps, timeout: float = OPERATION) -> Any:
        """Ask the broker for something (one operation, or a generator of several), and return its value.

        Raises:
            MessagingError: the operation's error, or no connection, or no answer, in time.
        """
        self.open(monotonic() + timeout)
        return self._ask(lambda answer: self.ask_nowait(operation, answer, timeout), timeout)

    def _ask(self, start: Callable[[Callable[[Any, Exception | None], None]], None], timeout: float) -> Any:
        if self.in_driver:
            start(lambda value, error: None)
            return None
        answer = self._answer_to(start, monotonic() + timeout)
        if answer is None:
            raise ConnectionLost(f"the broker did not answer within {timeout:g} s: {self.state}")
        value, error = answer
        if error is not None:
            raise copy_error(error) if isinstance(error, MessagingError) else error
        return value

    def _answer_to(self, start: Callable[[Callable[..., None]], object], deadline: float) -> tuple[Any, ...] | None:
        """Start something that calls back; wait for that, and return the arguments; None: it was not in time."""
        answers: list[tuple[Any, ...]] = []
        waiter = Waiter()

        def answer(*arguments: Any) -> None:
            answers.append(arguments)
            waiter.wake()

        start(answer)
        self.wait(lambda: answers, deadline, waiter)
        return answers[0] if answers else None

    @property
    def sendable(self) -> bool:
        """Whether ``publish_nowait`` would send now."""
        full = len(self._commands) >= _QUEUED or (self._large and sum(list(self._large)) > _QUEUED_BYTES)
        return not full and super().sendable

    @property
    def in_driver(self) -> bool:
        """Whether the calling thread drives the connection at the moment: a callback asks."""
        return threading.get_ident() == self._driver

    # -- the end ------------------------------------------------------------------------------------------------------

    def start_closing(self) -> bool:
        """Start to close for good; return whether a thread can wait for the end."""
        if self.closed:
            return False
        if not self._owner:
            self._close()
            self._done = True
            self._wakeup.close()
            return False
        self._submit(0, self._close)
        self.closed = True  # not before: an interrupt in between would leave a thread that nobody ends any more
        self._wake(self._waiters)
        return True

    def _close(self) -> None:
        self.closed = True
        self.core.close()

    def wait_closed(self, deadline: float) -> None:
        """Wait until the broker has answered the close, at most to the deadline; not while a socket is opened."""
        waiter = Waiter()
        self._waiters[waiter] = self._watchers[waiter] = None
        while not (self.in_driver or self._done or self.core.state is State.CONNECTING or monotonic() >= deadline):
            waiter.sleep(0.5)
        self._waiters.pop(waiter, None)
        self._watchers.pop(waiter, None)

    def finish(self, ready: Callable[[], object], deadline: float) -> None:
        """Wait until ``ready()``, at the end of the process: nothing is raised."""
        try:
            self.wait(ready, deadline)
        except ConnectionLost:
            pass  # the caller reports what is not ready

    def abandon(self) -> None:
        """Drop the connection in a forked child."""
        super().abandon()
        self._done = True
        self._wakeup.abandon()
        self._lock = DriverLock()
        self._written.clear()
        self._poll = None

    # -- the I/O thread -----------------------------------------------------------------------------------------------

    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._driver:  # a callback: its output goes with this turn's
            command(*arguments)
            return
        idle = size > 0 and self._lock.asleep and len(self.core.unconfirmed) + len(self._written) < 2
        if idle and monotonic() - self._read_at <= SILENCE:
            main = threading.get_ident() == self._main
            if self._write_at_once(*arguments) if main else self._write_alone(command, arguments):
                return
        if size < 0:
            self._later.append((command, arguments))
            return
        if size > _LARGE:
            self._large.append(size)
        self._commands.append((command, arguments))
        if self._lock.asleep:
            self._wakeup.set()
        elif not self._owner:
            self._ensure_thread()

    def _write_alone(self, publish: Callable[..., None], arguments: tuple[Any, ...]) -> bool:
        """Publish in the calling thread while the I/O thread sleeps; return whether that was possible."""
        if not self._lock.try_acquire():
            return False
        try:
            core, wire = self.core, self._wire
            if wire is None or wire.buffer or self._commands or not self._lock.asleep:
                return False
            self._driver = threading.get_ident()
            now = core.now = monotonic()
            if self._written:
                self._note_written()
            try:
                publish(*arguments)
                wire.write(core.take(now))
            except OSError as error:  # the I/O thread handles it: it may be about to read why
                self._fail_later(wire, error)
            except Exception as error:  # noqa: BLE001 - _fault logs it
                self._fault(error)
            more = self._commands or wire.buffer or core.adapter is None
        finally:
            self._driver = self._io
            self._lock.release()
        if more:
            # Not before: a signal handler may have struck the main thread in there, and wait for the I/O thread.
            self._wakeup.set()
        return True

    def _write_at_once(self, message: Outgoing, settle: Settle | None) -> bool:
        """Publish in the main thread while the I/O thread sleeps; return whether that was possible.

        The message is encoded first, which changes nothing. See :class:`DriverLock` for the rest.
        """
        asleep, wire, adapter = self._lock.asleep, self._wire, self.core.adapter
        if not asleep or wire is None or wire.session is not None or self._commands or len(message.body) > _LARGE:
            return False
        data = None if self._lock.is_interrupted else self.core.encode(message)
        if data is None or adapter is None:
            return False
        note = partial(self._written.append, (wire, len(data), adapter, message, settle))
        written = self._lock.write(asleep, wire, data, note, partial(self._fail_later, wire))
        if written is False:
            self._wakeup.set()
        return written is not None

    def _fail_later(self, wire: Wire, error: OSError) -> None:
        self._commands.append((self._write_failed, (wire, error)))

    def _note_written(self) -> None:
        while self._written:
            wire, size, adapter, message, settle = self._written.popleft()
            wire.taken += size
            self.core.written(adapter, message, settle)

    def _ensure_thread(self) -> None:
        if not (self._owner or self._done):
            threading.Thread(target=self._run, name="gofer-io", daemon=True).start()

    def _run(self) -> None:
        if self._owner.setdefault("io", threading.current_thread()) is not threading.current_thread():
            return  # two threads, or an interrupted one, have started two
        self._lock.acquire()
        self._driver = self._io = threading.get_ident()
        core, readable = self.core, False
        closed = core.closed
        while not closed:
            now = core.now = monotonic()
            stood_still = now - self._read_at > SILENCE
            if readable or stood_still:
                self._read(now, to_end=stood_still)
            if self._commands or self._later:
                self._run_commands()
            if core.state is State.DOWN and now >= core.connect_at:
                self._write(now)  # last words to the old socket, which is closed then
                core.connecting()
                self._opened(self._open())
                now = monotonic()
            self._turn(now)
            if self._watchers:
                self._wake(self._watchers)
            closed = core.closed
            readable = not closed and self._sleep(now)
        self._write(monotonic())
        self._wakeup.close()
        self._poll = None
        self._done = True
        self._run_commands()  # late callers learn that it is closed
        self._wake(self._waiters)

    def _run_commands(self) -> None:
        for queue in (self._commands, self._later):
            for _ in range(len(queue)):
                command, arguments = queue.popleft()
                self._guard(command, *arguments)
        if self._large and not self._commands:
            self._large.clear()  # not one by one: an interrupt may have struck between a size and its command

    def _sleep(self, now: float) -> bool:
        """Wait until something is due, a command comes, or the socket is ready; return whether it can be read."""
        if self._poll is None:
            self._make_poll()
        wire = self._wire
        if wire is not None:
            mask = _READ_WRITE if wire.buffer else _READ
            if self._polled != wire.descriptor:
                self._polled, self._mask = wire.descriptor, mask
                self._poll.register(self._polled, mask)
            elif self._mask != mask:
                self._mask = mask
                self._poll.modify(self._polled, mask)
        due = self._due
        timeout = None if due == inf else (due - now) * self._second if due > now else 0
        self._lock.sleep()  # before the check of the commands: a later one sets the wakeup
        ready = self._poll.poll(0 if self._commands else timeout)
        if self._lock.wake_up():
            self._fault(ConnectionLost("an interrupt has struck the thread that was sending"))
        if self._written:
            self._note_written()
        readable = False
        for descriptor, _ in ready:
            if descriptor == self._polled:
                readable = True
            elif self._second != 1:
                self._wakeup.clear()
        return readable

    def _make_poll(self) -> None:
        try:  # by edges: then the wakeup need not be cleared, which would cost a system call
            self._poll, self._second = select.epoll(), 1
            self._poll.register(self._wakeup.fileno(), select.EPOLLIN | select.EPOLLET)
        except (AttributeError, OSError):  # there is none here, or the process has no file descriptor left for it
            self._poll, self._second = select.poll(), 1000
            self._poll.register(self._wakeup.fileno(), select.POLLIN)

    def _detach(self) -> None:
        if self._polled >= 0:
            self._poll.unregister(self._polled)
        self._polled = -1

    @staticmethod
    def _wake(waiters: dict[Waiter, None]) -> None:
        for waiter in list(waiters):
            waiter.wake()
