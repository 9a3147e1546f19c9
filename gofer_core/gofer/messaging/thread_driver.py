"""A connection that a thread of its own drives: for blocking callers, consumers and agents.

Other threads append commands to a deque and wake the I/O thread. A waiting thread sleeps on a lock of its own, which
the I/O thread releases. Nothing else is shared: an interrupt may strike anywhere, and a signal handler may call all of
it.

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
from itertools import takewhile
from math import inf
from operator import call, not_
from time import monotonic
from typing import Any

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter import Adapter, Operation, Outcome, Outgoing
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection, Flow
from gofer.messaging.connector import Connector
from gofer.messaging.core import OPERATION, Settle, State, copy_error
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
#: The parts of the main thread's one step, and the seconds that it may take.
_STEPS, _STUCK = 8, 1.0
#: Seconds after which a waiting thread checks that the I/O thread was started: an interrupt may have struck the thread
#: that was to start it.
_CHECK_INTERVAL = 1.0


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
        self._asleep: object = False  # true while the I/O thread sleeps: another object each time
        self._turn_lock = threading.Lock()  # held by the thread that drives: the I/O thread does while it is awake
        # What the main thread has written, which is yet to be noted.
        self._written: deque[tuple[Wire, int, Adapter, Outgoing, Settle | None]] = deque()
        self._steps: list[object] = []  # what the main thread has done of its one step
        self._driver = self._io = 0  # the ident of that thread, and of the I/O thread
        self._owner: dict[str, threading.Thread] = {}  # at most one I/O thread, however many were started
        self._done = False

    # -- waiting ------------------------------------------------------------------------------------------------------

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
        self.closed = True
        if not self._owner:
            self.core.close()
            self._done = True
            self._wakeup.close()
            return False
        self._submit(0, self.core.close)
        self._wake(self._waiters)
        return True

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
        self._turn_lock = threading.Lock()
        self._written.clear()
        self._poll = None

    # -- the I/O thread -----------------------------------------------------------------------------------------------

    def _submit(self, size: int, command: Callable[..., None], *arguments: Any) -> None:
        if threading.get_ident() == self._driver:  # a callback: its output goes with this turn's
            command(*arguments)
            return
        idle = size > 0 and self._asleep and len(self.core.unconfirmed) + len(self._written) < 2
        if idle and not self._stood_still(monotonic()):
            main = threading.get_ident() == threading.main_thread().ident
            if self._write_at_once(*arguments) if main else self._write_alone(command, arguments):
                return
        if size < 0:
            self._later.append((command, arguments))
            return
        if size > _LARGE:
            self._large.append(size)
        self._commands.append((command, arguments))
        if self._asleep:
            self._wakeup.set()
        elif not self._owner:
            self._ensure_thread()

    def _write_alone(self, publish: Callable[..., None], arguments: tuple[Any, ...]) -> bool:
        """Publish in the calling thread while the I/O thread sleeps; return whether that was possible."""
        if not self._turn_lock.acquire(blocking=False):
            return False
        try:
            core, wire = self.core, self._wire
            if wire is None or wire.buffer or self._commands or not self._asleep:
                return False
            self._driver = threading.get_ident()
            now = core.now = monotonic()
            self._note_written()
            self._guard(publish, *arguments)
            try:
                wire.write(core.take(now))
            except OSError as error:  # the I/O thread handles it: it may be about to read why
                self._commands.append((self._write_failed, (wire, error)))
            except Exception as error:  # noqa: BLE001 - _fault logs it
                self._fault(error)
            more = self._commands or wire.buffer or core.adapter is None
        finally:
            self._driver = self._io
            self._turn_lock.release()
        if more:
            # Not before: a signal handler may have struck the main thread in there, and wait for the I/O thread.
            self._wakeup.set()
        return True

    def _write_at_once(self, message: Outgoing, settle: Settle | None) -> bool:
        """Publish in the main thread while the I/O thread sleeps; return whether that was possible.

        Python runs signal handlers between any two of its own instructions. So the message is encoded, which changes
        nothing; then one call of ``list.extend``, all of it in C, takes the turn, writes, and gives the turn back.
        """
        asleep, wire, adapter, lock = self._asleep, self._wire, self.core.adapter, self._turn_lock
        if not asleep or wire is None or wire.session is not None or self._commands or len(message.body) > _LARGE:
            return False
        data = None if self._is_interrupted else self.core.encode(message)
        if data is None or adapter is None:
            return False
        done: list[object] = []
        sent: list[int] = []
        steps: tuple[Callable[[], object], ...] = (
            partial(lock.acquire, False),
            partial(setattr, self, "_steps", done),
            partial(getattr, self, "_asleep"),  # the same as before: ``data`` still is what is to be written
            partial(not_, wire.buffer),
            partial(self._written.append, (wire, len(data), adapter, message, settle)),
            partial(sent.extend, map(wire.sock.send, (data,))),
            partial(sent.__contains__, len(data)),
            lock.release,
        )
        error = None
        try:
            done.extend(takewhile({True, asleep, None}.__contains__, map(call, steps)))
        except OSError as raised:
            error = raised
        if not done or len(done) == _STEPS:
            return bool(done)
        # Rare, and no single step: if an interrupt strikes here, the I/O thread drops the connection.
        if begun := len(done) > 4:
            if error is None or isinstance(error, BlockingIOError):
                wire.buffer += data[sum(sent) :]
            else:
                self._commands.append((self._write_failed, (wire, error)))
        done.clear()
        lock.release()
        if begun:
            self._wakeup.set()
        return begun

    @property
    def _is_interrupted(self) -> bool:
        """Whether the main thread has left its one step half done, or an interrupt runs in the middle of it."""
        return 0 < len(self._steps) < _STEPS

    def _note_written(self) -> None:
        while self._written:
            wire, size, adapter, message, settle = self._written.popleft()
            wire.taken += size
            self.core.written(adapter, message, settle)

    def _take_turn(self) -> None:
        """Take the turn back from the threads that write by themselves."""
        while not self._turn_lock.acquire(timeout=_STUCK):
            if self._is_interrupted:
                self._steps, self._turn_lock = [], threading.Lock()
                self._fault(ConnectionLost("an interrupt has struck the thread that was sending"))
        self._asleep = False
        self._note_written()

    def _ensure_thread(self) -> None:
        if not (self._owner or self._done):
            threading.Thread(target=self._run, name="gofer-io", daemon=True).start()

    def _run(self) -> None:
        if self._owner.setdefault("io", threading.current_thread()) is not threading.current_thread():
            return  # two threads, or an interrupted one, have started two
        self._turn_lock.acquire()
        self._driver = self._io = threading.get_ident()
        core, readable = self.core, False
        while core.state is not State.CLOSED:
            now = core.now = monotonic()
            stood_still = self._stood_still(now)
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
            readable = not core.closed and self._sleep(now)
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
                try:
                    command(*arguments)
                except Exception as error:  # noqa: BLE001 - _fault logs it
                    self._fault(error)
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
        self._asleep = object()  # set before the check of the commands: a later one sets the wakeup
        self._turn_lock.release()
        ready = self._poll.poll(0 if self._commands else timeout)
        self._take_turn()
        readable = False
        for descriptor, _ in ready:
            if descriptor == self._polled:
                readable = True
            elif self._second != 1:
                self._wakeup.clear()
        return readable

    def _make_poll(self) -> None:
        if hasattr(select, "epoll"):  # by edges: then the wakeup need not be cleared, which would cost a system call
            self._poll, self._second = select.epoll(), 1
            self._poll.register(self._wakeup.fileno(), select.EPOLLIN | select.EPOLLET)
        else:
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
