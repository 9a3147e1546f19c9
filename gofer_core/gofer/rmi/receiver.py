"""The requests of one plugin, from their acceptance to a worker's queue, and until they are let go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gofer.errors import DispatchError, MessagingError
from gofer.limit import LimitedLog
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.rmi.answers import Answers, Refusal
from gofer.rmi.book import Book
from gofer.rmi.cancelling import Cancelling, cancel
from gofer.rmi.clock import Clock, Timer
from gofer.rmi.counters import Counters
from gofer.rmi.custody import Custody, HeldByBroker
from gofer.rmi.execution import Execution
from gofer.rmi.hook_calls import HookCalls
from gofer.rmi.intake import Intake
from gofer.rmi.lane import Lane, Outcome
from gofer.rmi.logins import Logins
from gofer.rmi.outgoing import GIVE_UP, Fate, Outgoing
from gofer.rmi.refusing import start_of
from gofer.rmi.replays import Replays
from gofer.rmi.request import QUEUED, Received
from gofer.rmi.service import Service
from gofer.rmi.statuses import Statuses

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery

__all__ = ["Receiver"]

log = logging.getLogger(__name__)


class Receiver:
    """Takes the requests of one plugin from its queue, and answers for each of them. Any thread.

    Each delivery is verified, decoded, looked up in the book, shown to the hook gofer_accept, and then accepted or
    rejected; an accepted one waits for a worker. What the broker delivered is acknowledged when its result (or
    rejection) is settled, so that the death of this process loses nothing.

    Args:
        book: shared by all receivers of an agent.
        custody: who keeps an accepted request; by default the broker.
        cancelling: knows which requests were cancelled before they came; shared as the book is.
        replays: knows which signatures were seen; shared as the book is.
        logins: checks users and passwords; shared as the book is.
        give_up: seconds after which a result that no broker takes is let go.
        hook_calls: tells hooks; shared as the book is.
        exclusive: nobody else may read the queue; asked of what comes from the ledger before that is subscribed to.
    """

    def __init__(
        self,
        service: Service,
        link: ThreadConnection,
        clock: Clock,
        book: Book,
        *,
        counters: Counters | None = None,
        custody: Custody | None = None,
        cancelling: Cancelling | None = None,
        replays: Replays | None = None,
        logins: Logins | None = None,
        hook_calls: HookCalls | None = None,
        prefetch: int = 200,
        give_up: float = GIVE_UP,
        exclusive: bool = False,
    ) -> None:
        self.exclusive = exclusive
        self.service = service
        self.link = link
        self.clock = clock
        self.counters = counters or Counters()
        self.answers = Answers(service.address, service.authenticator, service.max_message)
        self.outgoing = Outgoing(
            link, clock, self.counters, give_up=give_up, most_waiting=max(1, min(100, prefetch // 2))
        )
        self.hook_calls = hook_calls or HookCalls()
        self.execution = Execution(self)
        self._book = book
        self._custody = custody or HeldByBroker(book)
        self._cancelling = cancelling or Cancelling(book)
        self._replays = Replays() if replays is None else replays
        self._intake = Intake(self, book, self._replays)
        self.logins = logins or Logins()
        #: Writes lines that whoever sends requests can cause.
        self.complain = LimitedLog(log)
        # What must not be done by the thread that reads: it serves all plugins.
        self._asking = Lane(f"gofer-{service.name}-accept", clock)
        self._admin = Lane(f"gofer-{service.name}-admin", clock)
        self._prefetch = prefetch
        self._subscription: Subscription | None = None
        self._changed = threading.Condition(threading.Lock())
        self._open: dict[Received, None] = {}  # accepted, and not yet let go
        self._delayed: dict[Received, Timer] = {}
        self._waiting = 0  # threads that wait for the end of requests
        self._stopping = False
        self._closed = False
        self._over = False  # nothing is started any more
        self._refusal: Refusal | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def start(
        self,
        queue: str,
        timeout: float | None,
        *,
        prepare: Callable[[], Steps] | None = None,
        on_lost: Callable[[str], None] | None = None,
        dispose: Callable[[], Steps] | None = None,
    ) -> Subscription:
        """Subscribe to the queue; the arguments are those of :class:`Subscription`."""
        self._subscription = Subscription(
            queue,
            self._prefetch,
            self.deliver,
            prepare,
            on_lost,
            exclusive=self.exclusive,
            limit=self.service.max_message,
            dispose=dispose,
        )
        self.link.subscribe(self._subscription, timeout)
        return self._subscription

    def close(self, timeout: float) -> bool:
        """Take no more from the queue, and go on with what was accepted. ``stop`` follows.

        Returns:
            Whether all that was delivered and not accepted has been given back by now.
        """
        self._closed = True
        return self._unsubscribe(timeout)

    def catch_up(self, timeout: float) -> None:
        """Wait until the broker says that the queue, which was deleted, delivers no more: that comes last."""
        subscription = self._subscription
        try:
            self.link.wait(lambda: subscription is None or not subscription.active, time.monotonic() + timeout)
        except MessagingError as gone:
            log.debug("plugin %s: %s", self.service.name, gone)

    def reject_all(self, refusal: Refusal) -> None:
        """Reject what comes from now on."""
        self._refusal = refusal

    def refuse(self, refusal: Refusal, timeout: float) -> None:
        """Take from the queue again, alone, to reject all that comes.

        Raises:
            MessagingError: somebody else takes from it, or it cannot be read; nothing is taken then.
        """
        before = self._subscription
        assert before is not None  # noqa: S101 - it was started
        self._refusal, self._closed = refusal, False
        self._subscription = Subscription(
            before.queue, self._prefetch, self.deliver, exclusive=True, limit=self.service.max_message
        )
        try:
            self.link.subscribe(self._subscription, timeout)
        except MessagingError:
            self._closed = True
            raise

    def wait(self, timeout: float, *, but: int = 0, answered: bool = True) -> bool:
        """Wait until all that was accepted has ended, at most ``timeout`` seconds; tell whether it has.

        Args:
            but: so many need not end for the wait to do so: that of the caller of this, for one.
            answered: wait also until the results are taken, or given up.
        """

        def left() -> int:
            return len(self._open if answered else self.unended)

        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: left() <= but, timeout)
            self._waiting -= 1
            return not left()

    def exchange(self, swap: Callable[[], object]) -> None:
        """Have the workers of the service exchanged, while no request is put to them."""
        with self._changed:
            swap()

    def renew(self) -> None:
        """Follow a service whose authenticator or audience has changed."""
        service = self.service
        self.answers = Answers(service.address, service.authenticator, service.max_message)
        self._intake.renew()

    def leave(self, refusal: Refusal | None = None) -> None:
        """Give back all that has not been started, or reject it; and what would start later, too. ``stop`` follows."""
        with self._changed:
            self._over = True
            delayed = list(self._delayed.items())
            self._delayed.clear()
        for request, timer in delayed:
            timer.cancel()
            self._leave(request, refusal)
        for task in self.service.workers.withdraw(self._is_mine):
            if isinstance(task, Received):
                self._leave(task, refusal)

    def halt(self) -> Callable[[float], None]:
        """Take no more, and start nothing more, at once. Calls that run go on. ``close`` and ``stop`` follow.

        Returns:
            What gives back all that has not started, and may take as many seconds as it is told.
        """
        self._closed = True
        with self._changed:
            self._over = True
            waiting = list(self._delayed)
            timers = list(self._delayed.values())
            self._delayed.clear()
        for timer in timers:
            timer.cancel()
        waiting += [one for one in self.service.workers.withdraw(self._is_mine) if isinstance(one, Received)]

        def give_back(timeout: float) -> None:
            self._unsubscribe(timeout)  # first: the broker would deliver to this one again
            for request in waiting:
                self._give_back(request)

        return give_back

    def stop(self, timeout: float) -> list[Received]:
        """Take no more, give back what has not started, and wait for the rest, at most ``timeout`` seconds.

        The workers are left as they are. May be repeated.

        A result that no broker has taken is tried for one more second, and then kept until this is started again.

        Returns:
            What has not ended by then, or whose result no broker has taken. The broker still holds these, and delivers
            them again when the connection ends; a result that was not taken is then answered from memory.
        """
        deadline = time.monotonic() + timeout
        self._stopping = True
        self._unsubscribe(timeout)
        self.leave()
        self.outgoing.hurry()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, max(0.0, deadline - time.monotonic()))
            left = list(self._open)
        self.outgoing.wait(max(0.0, deadline - time.monotonic()))  # rejections, too
        self.outgoing.stop()
        self._replays.flush(1.0)  # or the broker would deliver again what was answered
        self._asking.stop()
        self._admin.stop()
        return left

    def _unsubscribe(self, timeout: float) -> bool:
        if self._subscription is not None:
            try:
                self.link.unsubscribe(self._subscription, max(1.0, timeout))
            except MessagingError as gone:
                log.debug("plugin %s: its subscription went with the connection: %s", self.service.name, gone)
                return False
        return True

    def _leave(self, request: Received, refusal: Refusal | None) -> None:
        if refusal is None:
            self._give_back(request)
        elif request.start():
            self._custody.recall(request, lambda: self.execution.reject(request, refusal))

    @property
    def custody(self) -> Custody:
        """Who keeps what was accepted."""
        return self._custody

    @property
    def subscription(self) -> Subscription | None:
        """Its place at the queue; None before ``start``."""
        return self._subscription

    @property
    def open(self) -> int:
        """How many accepted requests have not been let go."""
        return len(self._open)

    @property
    def unended(self) -> list[Received]:
        """The accepted requests that have no result yet."""
        return [request for request in list(self._open) if not request.has_ended]

    # -- in -------------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """Take a message, in the thread that reads the broker."""
        if self._stopping or self._closed:
            self.link.release(delivery)
            return
        try:
            self._intake.take(delivery)
        except Exception as wrong:  # noqa: BLE001 - logged, with limits: whoever has found it may send many
            # A mistake of ours. Given back, it would come again and again.
            text = "plugin %s: a message is dropped: %s"
            self.complain(logging.ERROR, text, self.service.name, start_of(delivery.body), error=wrong)
            self.counters.add("dropped")
            self.link.reject(delivery)

    def accept(self, request: Received) -> None:
        """Accept a request that is new, or reject it. Hooks are asked by another thread, in the order of requests."""
        if self._refusal is not None:
            self.execution.reject(request, self._refusal)
            return
        self.resume(request)
        lane = self._admin if self._is_for_admin(request) else self._asking
        if lane is self._asking and not lane.busy and not self.service.hook.gofer_accept.get_hookimpls():
            self._take(request)
        else:
            lane.put(lambda: self._ask(request, lane))

    def _ask(self, request: Received, lane: Lane) -> None:
        """Ask the hooks whether a request is accepted, as a job of a lane."""
        if self._over:
            self._give_back(request)
        elif not request.has_ended:  # else it was cancelled while it waited
            self.hook_calls.accept(
                lane,
                self.service,
                request,
                lambda refusal: self._take(request) if refusal is None else self.execution.reject(request, refusal),
            )

    def _take(self, request: Received) -> None:
        if request.has_ended:  # cancelled while the hooks were asked
            return
        if self._is_for_admin(request) or self._custody.taken(request):  # Admin needs no disk
            self.proceed(request, None)

    def _is_for_admin(self, request: Received) -> bool:
        return self.service.admin is not None and request.classname in self.service.admin

    def resume(self, request: Received) -> None:
        """Count a request among those that ``stop`` waits for."""
        with self._changed:
            self._open[request] = None

    def proceed(self, request: Received, refusal: Refusal | None) -> None:
        """Accept a request that is held now, or reject it after all."""
        if refusal is not None:
            self.execution.reject(request, refusal)
            return
        if request.has_ended:  # cancelled while it was written down
            return
        service = self.service
        self.counters.add("accepted")
        statuses = None
        if request.replyto is not None:
            statuses = request.statuses = Statuses(request)
            if not statuses.held:
                statuses.accepted(self.clock)
        if self._is_for_admin(request):
            self._answer(request, request.classname, request.method)
        elif self._cancelling.awaits(service.plugin, request.sn, request.identity):
            cancel(request)
        elif service.latency > 0:
            self._delay(request)
        else:
            self._submit(request)
        if statuses is not None and statuses.held:
            statuses.accepted(self.clock)  # not before: a worker has begun meanwhile

    def _answer(self, request: Received, classname: str, method: str) -> None:
        admin = self.service.admin
        assert admin is not None  # noqa: S101 - asked just before
        try:
            target = admin.find(classname, method)
        except DispatchError as unknown:
            self.execution.fail(request, unknown)
            return

        def late() -> None:
            # A hook gofer_call, or what a plugin's own objects say of themselves.
            text = "plugin %s: %r has taken more than %g s so far; what is asked of Admin after it goes on"
            log.warning(text, service.name, request, self._admin.limit)

        service = self.service
        if self._admin.limited(lambda: self.execution.answer(request, target), late) is Outcome.FULL:
            text = f"{self._admin.most} calls of it hang; the agent's log names them"
            self.execution.reject(request, Refusal("agent.busy", "Admin cannot answer", text))

    def _delay(self, request: Received) -> None:
        with self._changed:
            over = self._over
            if not over:
                # The clock keeps the order of equal delays.
                self._delayed[request] = self.clock.call_after(self.service.latency, lambda: self._due(request))
        if over:
            self._give_back(request)

    def _due(self, request: Received) -> None:
        with self._changed:
            due = self._delayed.pop(request, None) is not None
        if due:
            self._submit(request)

    def _submit(self, request: Received) -> None:
        request.beside = self.service.holds_no_thread(request.classname, request.method)
        with self._changed:
            over = self._over
            if not over:
                self.service.workers.put(request)
        if over:
            self._give_back(request)

    def _is_mine(self, task: object) -> bool:
        return isinstance(task, Received) and task.receiver is self and task.state == QUEUED

    def _give_back(self, request: Received) -> None:
        if request.end():
            self._replays.forget(request.proof)  # the broker delivers it again
            self._custody.given_back(request)
            self._let_go(request)

    # -- out ------------------------------------------------------------------------------------------------------

    def has_result(self) -> None:
        """Hear from the execution that a request has its result, which is still to be taken."""
        if self._waiting:
            with self._changed:
                self._changed.notify_all()

    def ended(self, request: Received, result: bytes, fate: Fate, reason: str) -> None:
        """Hear from the execution what became of a result, and why it was given up."""
        if fate is Fate.TAKEN:
            self._custody.ended(request, result)  # from here on the book says so to whoever comes
            if request.asked_again:
                self.execution.repeat(request, result)
        elif fate is Fate.GIVEN_UP:
            self._custody.given_up(request, result, reason)
        else:
            self._custody.kept(request, result)
        self._let_go(request)

    def refused(self, request: Received, fate: Fate) -> None:
        """Hear from the execution what became of a rejection."""
        if fate is not Fate.LEFT:
            self._custody.refused(request)
        else:
            self._replays.forget(request.proof)
            self._book.forget(request)
        self._let_go(request)

    def expired(self, request: Received) -> bool:
        """Hear from the execution that a method takes longer than it may; False: it has just returned."""
        return self._book.expired(request)

    def returned(self, request: Received) -> None:
        """Hear from the execution that the method of a request has ended."""
        self._book.returned(request)

    def acknowledge(self, request: Received) -> None:
        """Acknowledge what the broker delivered for a request, as soon as a copy of that would be recognised."""
        delivery = request.delivery
        self._replays.secured(request.proof, lambda: self.link.accept(delivery))

    def _let_go(self, request: Received) -> None:
        with self._changed:
            self._open.pop(request, None)
            if len(self._open) <= 1 or self._waiting:
                self._changed.notify_all()
