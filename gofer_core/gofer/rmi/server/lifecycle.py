"""The way of a request through the agent, from top to bottom: admitted, accepted, run, answered, settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, Interrupted
from gofer.messaging.document import shown
from gofer.rmi.exceptions import sentence
from gofer.rmi.progress import Progress
from gofer.rmi.request import ANSWERING, BROKER, QUEUED, Received
from gofer.rmi.server import reply_encoder
from gofer.rmi.server.access import Denied
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.dispatch import Dispatch, Unfit
from gofer.rmi.server.early_cancels import Tombstones
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.persistence import AlreadyStarted, Persistence
from gofer.rmi.server.reply_encoder import CannotSign, Refusal
from gofer.rmi.server.reply_publisher import Settled
from gofer.rmi.server.request_log import RequestLog
from gofer.rmi.server.serial import Outcome, SerialThread
from gofer.rmi.server.statuses import Statuses
from gofer.rmi.server.sweep import Sweep
from gofer.rmi.server.window import Window
from gofer.rmi.store import Unavailable, requests
from gofer.rmi.store.requests import Row

if TYPE_CHECKING:
    from gofer.rmi.clock import Clock

__all__ = ["Lifecycle"]

log = logging.getLogger(__name__)

_ENDS = (Cancelled, ExecutionTimeout)  # what says itself why a method did not go on
_OUTCOMES = ((Cancelled, "cancelled"), (Interrupted, "interrupted"))
_COUNTED = {"value": "done", "exception": "failed"}  # the others are counted as what they are


class Lifecycle:
    """Takes each request of an agent from its admission to its end. Any thread.

    Nothing here waits but a worker's thread, for the disk and for the method.
    """

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        window: Window,
        tombstones: Tombstones,
        clock: Clock,
        *,
        logins: Logins | None = None,
        hooks: HookCalls | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        self._registry = registry
        self._persistence = persistence
        self._window = window
        self._tombstones = tombstones
        self._clock = clock
        self._hooks = hooks or HookCalls()
        self._log = request_log or RequestLog()
        self._statuses = Statuses()
        self._channels: dict[Channel, None] = {}
        self._dispatch = Dispatch(registry, persistence, logins or Logins(), self._returned)
        self._sweep = Sweep(
            registry, persistence, window, self._statuses, self._channels, begin=self._queue, end=self.fail
        )

    def attach(self, channel: Channel) -> None:
        """Look after the requests of a channel, and take up those that the store holds for it. Waits for the disk.

        Raises:
            Unavailable: the store cannot be read; until it can be, no request of the channel may be taken.
        """
        self._channels[channel] = None
        self._persistence.recover(channel, self.resume)
        self._sweep.nudge(time.monotonic())

    def detach(self, channel: Channel) -> None:
        """Look after its requests no more."""
        self._channels.pop(channel, None)

    def stop(self) -> None:
        """End the thread that looks for what is due, and that for the log, when all lines are written."""
        self._sweep.stop()
        self._log.stop()

    # -- 1. admitted: the hooks are asked, and it is held ----------------------------------------------------------

    def admit(self, request: Received) -> None:
        """Take a request that is new. Hooks are asked by another thread, in the order of requests."""
        channel = request.channel
        if channel.refusal is not None:
            self.reject(request, channel.refusal)
            return
        request.for_admin = channel.service.admin is not None and request.classname in channel.service.admin
        channel.enter(request)
        self._sweep.nudge(request.arrived)
        thread = channel.admin if request.for_admin else channel.asking
        if request.for_admin or thread.busy or channel.service.hook.gofer_accept.get_hookimpls():
            thread.put(lambda: self._ask(request, thread))
        else:
            self._hold(request)

    def _ask(self, request: Received, thread: SerialThread) -> None:
        """Ask the hooks whether a request is accepted, as a job of a serial thread."""
        if request.channel.over:
            self._persistence.release(request)
        elif request.state < ANSWERING:  # else it was cancelled while it waited
            self._hooks.accept(thread, request.channel.service, request, partial(self._hold, request))

    def _hold(self, request: Received, refusal: Refusal | None = None) -> None:
        """Have a request looked up in the store if need be; else its broker holds it."""
        if refusal is not None:
            self.reject(request, refusal)
        elif request.state >= ANSWERING:
            pass  # cancelled while the hooks were asked
        elif request.for_admin or not self._persistence.must_look(request):
            self._accept(request)
        else:
            self._persistence.look_up(request, partial(self._looked_up, request))

    def _looked_up(self, request: Received, row: Row | None, failed: Unavailable | None) -> None:
        if failed is not None:
            self._not_kept(request, failed)
        elif row is None:
            self._accept(request)
        elif row.digest != request.digest:
            self.conflict(request)
        elif row.state in (requests.QUEUED, requests.RUNNING):
            request.channel.counters.add("repeated")
            self._persistence.held_by_row(request)
            request.channel.leave(request)
        else:
            self.answer_again(request, row.result or b"{}")

    # -- 2. accepted: it waits for a worker ------------------------------------------------------------------------

    def _accept(self, request: Received) -> None:
        if request.state >= ANSWERING:
            return  # cancelled while it was written
        channel, service = request.channel, request.channel.service
        channel.counters.add("accepted")
        if request.replyto is not None:
            held = self._statuses.held(request)
            if held is None:
                self._statuses.tell(request)
            else:
                request.tell_at = time.monotonic() + held
        if request.for_admin:
            request.due = request.tell_at
            self._answer_as_admin(request)
            return
        self._persistence.hold(request)
        request.due = min(request.tell_at, request.keep_at)
        if self._tombstones.has(service.name, request.sn, request.identity):
            self.cancel(request)
        elif service.latency > 0:
            request.begin_at = time.monotonic() + service.latency  # the sweep keeps the order of equal delays
            request.due = min(request.due, request.begin_at)
        else:
            self._queue(request)

    def _queue(self, request: Received) -> None:
        channel = request.channel
        if channel.over:
            self._persistence.release(request)
        elif self._registry.queue(request):
            request.beside = channel.service.holds_no_thread(request.classname, request.method)
            if request.beside or self._persistence.turn(request):
                channel.service.workers.put(request)

    def _answer_as_admin(self, request: Received) -> None:
        channel = request.channel
        try:
            target = channel.service.admin.find(request.classname, request.method)
        except DispatchError as unknown:
            self.fail(request, unknown)
            return

        def late() -> None:
            # A hook gofer_call, or what a plugin's own objects say of themselves.
            text = "plugin %s: %r has taken more than %g s so far; later requests for Admin continue"
            log.warning(text, channel.service.name, request, channel.admin.limit)

        def answer() -> None:
            if self._registry.start(request):
                request.api = target
                self._start(request)

        if channel.admin.limited(answer, late) is Outcome.FULL:
            text = f"{channel.admin.most} calls of it hang; the agent's log names them"
            self.reject(request, Refusal("agent.busy", "Admin cannot answer", text))

    # -- 3. run: its method is found, allowed, limited in time, and called ------------------------------------------

    def run(self, request: Received) -> None:
        """Run a request to its end; an ``async def``, to where the plugin's event loop goes on with it. In a worker."""
        if request.resolved:
            self._dispatch.go_on(request)
        elif not request.channel.over and self._registry.start(request):  # else it was cancelled, or is given back
            self._window.left(request)
            try:
                self._persistence.claim(request)
            except Unavailable as failed:
                self._not_kept(request, failed)
            else:
                self._start(request)

    def _start(self, request: Received) -> None:
        request.started = time.monotonic()
        self._sweep.nudge(request.started)
        request.channel.counters.add("running")
        if request.replyto is not None and (request.told or request.tell_at == inf):  # else the sweep tells it
            self._tell_started(request, request.started)
        self._dispatch.call(request)

    def _tell_started(self, request: Received, now: float) -> None:
        held = self._statuses.held(request)
        if held is None or request.told:
            self._statuses.tell(request)
        else:  # it came from the store
            with self._registry.lock:
                request.tell_at = now + held
                request.due = 0.0

    # -- 4. answered: one result, one hook, one log line -------------------------------------------------------------

    def _returned(self, request: Received, value: Any, raised: BaseException | None) -> None:
        """Go on with what the method has returned or raised. (What raised without being called has ended, too.)"""
        if request.limit is not None:
            self._registry.returned(request)
            request.on_cancel = None
        if type(raised) is Unavailable:  # an exception is not asked what it is: its class may have an answer
            self._not_kept(request, raised)
        elif type(raised) is AlreadyStarted:
            self._started_before(request, raised.result)
        elif type(raised) is Denied:
            self._denied(request, raised)
        elif type(raised) is Unfit:
            self.reject(request, Refusal("arguments.invalid", "the arguments do not fit the method", str(raised)))
        elif raised is not None:
            self.fail(request, raised)
        elif request.called_off and value is None:  # a value is given: only the method knows that it stopped short
            self.fail(request, Cancelled("cancelled while it ran; its method has returned without a value"))
        elif request.late is not None:
            self.fail(request, ExecutionTimeout(request.late))
        else:
            try:
                result = reply_encoder.of_value(value)
            except BaseException as unfit:  # noqa: BLE001 - its caller hears that
                self.fail(request, unfit)
            else:
                self._end(request, "value", result)

    def _started_before(self, request: Received, result: bytes | None) -> None:
        """Answer a request that must run only once with the result of that run."""
        if result is None:
            self.fail(request, Interrupted(f"{request.target}() was started before; how far it got is not known"))
            return
        request.channel.counters.add("running", -1)
        request.channel.counters.add("repeated")
        self.answer_again(request, result)

    def fail(self, request: Received, raised: BaseException, *, waiting: bool = False) -> bool:
        """End a request by an exception: by Cancelled, or ExecutionTimeout, if that is why its method raised.

        Args:
            waiting: only if it has not started.

        Returns:
            Whether it is ended by this.
        """
        if not issubclass(type(raised), _ENDS):
            if request.called_off:
                raised = Cancelled(f"cancelled while it ran; its method has raised {type(raised).__name__}")
            elif request.late is not None:
                raised = ExecutionTimeout(request.late)
        crossed, request.crossed = request.crossed, None  # it refers to its frames, and these to the request
        result = reply_encoder.of_error(raised, crossed)
        outcome = next((name for kind, name in _OUTCOMES if issubclass(type(raised), kind)), "exception")
        return self._end(request, outcome, result, sentence(raised), waiting=waiting)

    def reject(self, request: Received, refusal: Refusal) -> None:
        """End a request that is not accepted, or cannot be run."""
        self._end(request, "rejected", None, shown(str(refusal), 300)[1:-1], refusal=refusal)

    def _denied(self, request: Received, denied: Denied) -> None:
        channel = request.channel
        channel.counters.add("denied")
        channel.complain(logging.WARNING, "plugin %s: %r is denied: %s", channel.service.name, request, denied)
        self.reject(request, Refusal("access.denied", "the agent's rules do not allow this call", str(denied)))

    def conflict(self, request: Received) -> None:
        """Reject a request with the number of another one."""
        self.reject(request, Refusal("sn.conflict", "another request with this serial number is known", request.sn))

    def _not_kept(self, request: Received, failed: Unavailable) -> None:
        end: Callable[[], object]
        if request.tries:  # a rejection would say that it did not run
            text = f"{request.target}() may have been started before, and cannot be recorded to be run again: {failed}"
            end = partial(self.fail, request, Interrupted(text))
        else:
            refusal = Refusal("ledger.unavailable", "the agent cannot record the request", str(failed))
            end = partial(self.reject, request, refusal)
        if failed.unsure or request.claimed or request.kept != BROKER:  # it is in the store, or may be
            self._persistence.revoke(request, end)
        else:
            end()

    def _end(
        self,
        request: Received,
        outcome: str,
        result: bytes | None,
        why: str = "",
        *,
        refusal: Refusal | None = None,
        waiting: bool = False,
    ) -> bool:
        """Give a request its result, or a refusal, and send that; False: it has one, or has started."""
        if request.progress is not None:
            request.progress.finish()
        if not self._registry.answer(request, waiting=waiting):
            return False
        channel, request.refusal = request.channel, refusal
        body, result, large = channel.encoder.reply(request, result)
        if large is not None:
            outcome, why = "exception", sentence(large)
            channel.complain(logging.WARNING, "%r of plugin %s: %s", request, channel.service.name, large)
        if request.started is not None:
            channel.counters.add("running", -1)
        channel.counters.add(_COUNTED.get(outcome, outcome))
        self._window.left(request)
        channel.notify()
        self._statuses.wait(request)
        send = partial(self._publish, request, body, partial(self._settled, request, result))
        if result is None:
            send()
        else:
            self._persistence.keep_result(request, result, send)
        # After the result, which its caller waits for.
        seconds = time.monotonic() - (request.started or request.arrived)
        channel.time(request, outcome, seconds)
        self._hooks.finished(channel.service, request, outcome, seconds)
        self._log.write(request, outcome, seconds, why, result)
        return True

    def answer_again(self, request: Received, result: bytes) -> None:
        """Answer a request that was delivered again after its end."""
        if request.state >= ANSWERING or self._registry.answer(request):
            self._statuses.wait(request)
            self._publish(
                request, request.channel.encoder.reply(request, result)[0], partial(self._settled, request, result)
            )

    def cancel(self, request: Received) -> bool:
        """Cancel one request; tell whether there was something to cancel.

        One that has not started is ended here, and never starts. One that runs is told; it ends when its method does.
        """
        if request.overdue:
            return request.stop()
        if request.state <= QUEUED and self.fail(request, Cancelled("cancelled before it was started"), waiting=True):
            request.cancelled = True
            request.channel.service.workers.discard(request)
            return True
        return request.state < ANSWERING and request.stop()

    # -- 5. settled: a broker has its result, or nobody will --------------------------------------------------------

    def _publish(self, request: Received, body: bytes | CannotSign, done: Callable[[Settled, str], object]) -> None:
        """Send the end of a request, if somebody waits for it."""
        channel = request.channel  # the one of now: after a redelivery that may be another one
        if request.replyto is None:
            done(Settled.CONFIRMED, "")
        elif isinstance(body, CannotSign):
            channel.counters.add("undeliverable")
            text = "%r of plugin %s is not answered: cannot sign: %s"
            channel.complain(logging.ERROR, text, request, channel.service.name, body)
            done(Settled.GIVEN_UP, f"cannot sign: {body}")
        else:
            if channel.publisher.stopped:  # its plugin may be at its queue again
                name = channel.service.name
                channel = next((one for one in self._channels if one.service.name == name), channel)
            channel.publisher.post(request.replyto, body, done, request, durable=request.durable)

    def _settled(self, request: Received, result: bytes | None, settled: Settled, reason: str) -> None:
        """Let go of a request: its result was taken, given up, or is left for the next connection."""
        self._persistence.ended(request, result, settled, reason)  # the registry tells it to whoever comes
        if settled is Settled.CONFIRMED and request.asked_again:
            self._publish(request, request.channel.encoder.reply(request, result)[0], lambda settled, reason: None)
        request.channel.leave(request)

    # -- beside this way -------------------------------------------------------------------------------------------

    def resume(self, request: Received, row: Row) -> None:
        """Go on with a request that the store held: answer it, or say that its run was cut short."""
        if row.result is not None:
            self.answer_again(request, row.result)
        elif row.state == requests.RUNNING and (row.tries > 1 or row.once):
            request.interrupted = request.claimed = True
            text = f"{request.target}() was started, and its agent died; how far it got is not known"
            self.fail(request, Interrupted(text))
        else:
            self._queue(request)

    def leave(self, channel: Channel, refusal: Refusal | None = None) -> None:
        """Start nothing more of a channel: release all that has not started, or reject it."""
        channel.over = True
        channel.service.workers.withdraw(
            lambda task: isinstance(task, Received) and task.channel is channel and task.state <= QUEUED
        )
        rest = [] if refusal is None else self._window.pull_all(channel)
        self._window.abandon(channel)
        waiting = [request for request in channel.opened() if request.state <= QUEUED]
        waiting += [request for request in rest if request not in waiting]
        for request in waiting:
            if refusal is None:
                self._persistence.release(request)
            else:
                self.reject(request, refusal)

    def make_progress(self, request: Received) -> Progress:
        """Make what a running method reports its progress by."""
        with self._registry.lock:
            if request.progress is None:
                listens = request.replyto is not None and request.state < ANSWERING
                tell = partial(self._statuses.tell, request, progress=True) if listens else None
                request.progress = Progress(self._clock, tell)
            made: Progress = request.progress
            return made
