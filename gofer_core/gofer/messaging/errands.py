"""What a link waits for in a thread beside: connecting, subscribing, and whatever else the broker has to answer.

Whoever calls waits for it no longer than it can, and an impatient one spoils it for nobody: an errand has the time that
it needs, and goes on when those who wanted it have gone.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gofer.errors import AdapterError, ConnectionLost, GoferError, MessagingError, NotFound
from gofer.messaging.adapter.base import Adapter
from gofer.messaging.carrier import Carrier, fresh
from gofer.messaging.subscription import Subscription

__all__ = ["Errands", "Question"]

log = logging.getLogger(__name__)

#: Seconds for a connection to open, and for one operation (declare, subscribe ...) to be answered.
_CONNECT = 10.0
_OPERATION = 10.0


class Question:
    """An operation that the broker answers. ``done``: it is answered, or failed."""

    __slots__ = ("_error", "_value", "deadline", "done", "dropped", "operation")

    def __init__(self, operation: Callable[[Adapter, float], Any], deadline: float) -> None:
        self.operation = operation
        self.deadline = deadline
        self.done = self.dropped = False
        self._value: Any = None
        self._error: BaseException | None = None

    def answered(self, value: Any = None, error: BaseException | None = None) -> None:
        """Note the answer."""
        self._value, self._error = value, error
        self.done = True

    def outcome(self) -> Any:
        """Return what the operation returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # else it would hold this frame, and this frame it
        return self._value


class Errands:
    """The errands of one link, one at a time. ``begin`` is called by the thread that pumps.

    Args:
        adapter: the class to connect with.
        told: wakes all who wait on the link.
    """

    def __init__(self, carrier: Carrier, adapter: type[Adapter], told: Callable[[], None]) -> None:
        self._carrier = carrier
        self._class = adapter
        self._told = told
        self._questions: deque[Question] = deque()
        self._connecting: Adapter | None = None
        self._thread: threading.Thread | None = None
        #: One that was begun, and that no thread has taken up yet.
        self._errand: object = None

    @property
    def due(self) -> float:
        """When there is something to do next (``time.monotonic()``).

        A broker that has blocked the connection answers nothing. Who asks it all the same keeps what it delivers from
        being read, until the operation is given up and the connection with it. So it is asked when the alarm is over.
        """
        carrier = self._carrier
        adapter = carrier.adapter
        if carrier.ending:
            return math.inf
        if adapter is None:
            return carrier.retry.due
        due = 0.0 if self._questions else carrier.subscriptions.due
        return math.inf if due < math.inf and adapter.blocked is not None else due

    def ask(self, question: Question) -> None:
        """Have a question asked when its turn comes. Any thread."""
        self._questions.append(question)
        self._carrier.bell.ring()

    def begin(self) -> None:
        """Do what is due, in a thread beside; the adapter is away until it is done."""
        carrier = self._carrier
        errand = object()
        thread = threading.Thread(target=self._run, args=(errand,), name="gofer-errand", daemon=True)
        carrier.handling = True  # a signal handler cannot wait for what does not run yet
        try:
            with carrier.lock:
                if carrier.closed or carrier.away:
                    return
                self._errand = errand
                carrier.away = True
            self._thread = thread
            thread.start()
        except RuntimeError:  # no more threads, or the end of the process: then those who wait wait for this
            if not self._run(errand):
                raise  # it was a signal handler's
        except BaseException:
            if self._claim(errand):  # else the thread is at it, however little it has told of itself yet
                self._end()
            raise
        finally:
            carrier.handling = False

    def wait(self, timeout: float) -> bool:
        """Wait for the errand that is under way; return whether there is none any more."""
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(timeout)
        return not self._carrier.away

    def abandon(self) -> None:
        """Drop, in a forked child, what the parent was connecting."""
        adapter, self._connecting = self._connecting, None
        self._questions.clear()
        if adapter is not None:
            adapter.abandon()

    def _claim(self, errand: object) -> bool:
        """Return whether an errand is the caller's to run or to call off: once, of all who ask."""
        with self._carrier.lock:
            mine = self._errand is errand
            if mine:
                self._errand = None
        return mine

    # -- in the thread beside: the adapter is its own ------------------------------------------------------------

    def _run(self, errand: object) -> bool:
        if not self._claim(errand):
            return False
        carrier = self._carrier
        adapter = carrier.adapter
        try:
            if adapter is None:
                adapter = self._connect()
            while adapter is not None and adapter is carrier.adapter:
                with carrier.lock:
                    carrier.drain_mine()  # what was sent before a question was asked goes before it
                if carrier.closed or adapter.blocked is not None:
                    break
                if not (self._subscribe(adapter) or self._answer(adapter)):
                    break
        finally:
            if adapter is not None and adapter is not carrier.adapter:
                adapter.close()  # lost, or the link was closed meanwhile
            self._end()
        return True

    def _end(self) -> None:
        carrier = self._carrier
        try:
            with carrier.lock:
                try:
                    carrier.drain_mine()  # before others can send: what waited comes first
                finally:
                    carrier.away = False
        finally:
            self._told()

    def _connect(self) -> Adapter | None:
        carrier = self._carrier
        adapter: Adapter | None = None
        try:
            adapter = self._connecting = self._class(carrier.connector.current())
            adapter.connect(_CONNECT)
        except Exception as failed:
            self._connecting = None
            if adapter is not None:
                adapter.close()
            if isinstance(failed, MessagingError):
                error = fresh(failed)
            elif isinstance(failed, GoferError):  # there is no telling where to
                error = AdapterError(str(failed))
            else:  # an adapter's own fault
                log.exception("%s: cannot connect", carrier.connector.url)
                error = AdapterError(f"{type(failed).__name__}: {failed}")
            delay = carrier.retry.failed()
            carrier.error = error
            level = logging.WARNING if carrier.retry.failures == 1 else logging.INFO
            log.log(level, "%s: cannot connect: %s; next try in %.1f s", carrier.connector.url, error, delay)
            return None
        with carrier.lock:
            self._connecting = None
            wanted = not carrier.closed
            if wanted:
                carrier.take_up(adapter)
        if wanted:
            log.info("%s: connected", carrier.connector.url)
            self._told()
        return adapter

    def _subscribe(self, adapter: Adapter) -> bool:
        """Make the subscription that is due; return whether there was one."""
        carrier = self._carrier
        with carrier.lock:
            subscription = carrier.subscriptions.next_due(monotonic())
        if subscription is None:
            return False
        try:
            if subscription.prepare is not None:
                subscription.prepare(adapter, _OPERATION)
            number = adapter.subscribe(
                subscription.queue,
                subscription.prefetch,
                _OPERATION,
                exclusive=subscription.exclusive,
                limit=subscription.limit,
            )
        except ConnectionLost as lost:
            self._lose(adapter, lost)  # all are made again with the next connection
        except (MessagingError, ValueError, TypeError) as refused:
            self._refuse(subscription, refused)
        except Exception as wrong:  # what prepares it, or its adapter, is at fault: who knows how far it got
            log.exception("%s: %s was not made", carrier.connector.url, subscription)
            self._refuse(subscription, wrong)
            self._lose(adapter, ConnectionLost(f"{type(wrong).__name__}: {wrong}"))
        else:
            self._made(subscription, adapter, number)
        self._told()
        return True

    def _made(self, subscription: Subscription, adapter: Adapter, number: int) -> None:
        carrier = self._carrier
        with carrier.lock:
            wanted = carrier.subscriptions.made(subscription, number)
            if wanted and subscription.on_made is not None:
                carrier.todo.append(subscription.on_made)
        if not wanted:
            self._ask(adapter, Question(lambda adapter, timeout: adapter.cancel(number, timeout), 0.0))

    def _refuse(self, subscription: Subscription, why: Exception) -> None:
        with self._carrier.lock:
            self._carrier.fail(subscription, why if isinstance(why, MessagingError) else AdapterError(str(why)))

    def _answer(self, adapter: Adapter) -> bool:
        """Ask the question whose turn it is; return whether there was one."""
        try:
            question = self._questions.popleft()
        except IndexError:
            return False
        if not question.dropped:
            self._ask(adapter, question)
            self._told()
        return True

    def _ask(self, adapter: Adapter, question: Question) -> None:
        try:
            left = question.deadline - monotonic()
            question.answered(question.operation(adapter, _OPERATION if left < _OPERATION else min(left, 1e6)))
        except (NotFound, AdapterError, ValueError, TypeError) as refused:  # the adapter is as it was
            question.answered(error=refused)
        except Exception as lost:  # noqa: BLE001 - the one who asked hears it
            question.answered(error=lost)
            self._lose(adapter, lost if isinstance(lost, MessagingError) else ConnectionLost(str(lost)))

    def _lose(self, adapter: Adapter, error: MessagingError) -> None:
        with self._carrier.lock:
            self._carrier.drop(adapter, error)
