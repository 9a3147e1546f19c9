"""The way of a request through the agent, from top to bottom: admitted, accepted, queued, run, answered, settled."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, Interrupted
from gofer.messaging.document import encode, shown
from gofer.messaging.value import plain
from gofer.rmi.exceptions import sentence, to_result
from gofer.rmi.model import DIRECT
from gofer.rmi.progress import Progress
from gofer.rmi.request import ANSWERING, QUEUED, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.execution import Execution
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.persistence import AlreadyStarted, Persistence
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.replies import CannotSign, Refusal, Settled
from gofer.rmi.server.request_log import RequestLog
from gofer.rmi.server.serial import Outcome, SerialThread
from gofer.rmi.server.statuses import Statuses
from gofer.rmi.server.sweep import Sweep
from gofer.rmi.server.tombstones import Tombstones
from gofer.rmi.store import Unavailable
from gofer.rmi.store.requests import QUEUED as ROW_QUEUED
from gofer.rmi.store.requests import RUNNING as ROW_RUNNING
from gofer.rmi.store.requests import Row

if TYPE_CHECKING:
    from gofer.rmi.api import Target
    from gofer.rmi.clock import Clock

__all__ = ["Lifecycle", "way_out"]

log = logging.getLogger(__name__)

_OVERDUE = 5.0  # seconds that a method has to end when it was told that it takes too long, before the log says so
_GLANCE = 0.25  # seconds between two looks, at most, while something is in flight

#: Where methods are called from: the frames below are the plugin's own.
_CALLING = ("gofer.rmi.model.direct", "gofer.rmi.model.coroutines", "gofer.rmi.server.execution")

# An exception is not asked about itself, as its class may have an answer of its own: this is the real one.
_TRACEBACK = vars(BaseException)["__traceback__"]

_COUNTED = {"value": "done", "exception": "failed", "cancelled": "cancelled", "interrupted": "interrupted"}
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = ((Cancelled, "cancelled"), (Interrupted, "interrupted"))


class Lifecycle:
    """Takes each request of an agent from its admission to its end: one result, one hook, one log line. Any thread.

    Nothing here waits but a worker's thread, for the disk and for the method.
    """

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        tombstones: Tombstones,
        clock: Clock,
        *,
        logins: Logins | None = None,
        hooks: HookCalls | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        self._registry = registry
        self._persistence = persistence
        self._tombstones = tombstones
        self._clock = clock
        self._hooks = hooks or HookCalls()
        self._log = request_log or RequestLog()
        self._statuses = Statuses(registry)
        self._channels: dict[Channel, None] = {}
        self._sweep = Sweep(self.look)
        self._execution = Execution(registry, persistence, logins or Logins(), self._returned)

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
        """End the threads, when all log lines are written."""
        self._sweep.stop()
        self._log.stop()

    # -- 1. admitted: asked for by the hooks, and held -------------------------------------------------------------

    def admit(self, request: Received) -> None:
        """Take a request that is new. Hooks are asked by another thread, in the order of requests."""
        channel = request.channel
        if channel.refusal is not None:
            self.reject(request, channel.refusal)
            return
        channel.enter(request)
        self._sweep.nudge(request.arrived)
        thread = channel.admin if channel.is_for_admin(request) else channel.asking
        if thread is channel.asking and not thread.busy and not channel.service.hook.gofer_accept.get_hookimpls():
            self._hold(request)
        else:
            thread.put(lambda: self._ask(request, thread))

    def _ask(self, request: Received, thread: SerialThread) -> None:
        """Ask the hooks whether a request is accepted, as a job of a serial thread."""
        if request.channel.over:
            self._persistence.release(request)
        elif request.state < ANSWERING:  # else it was cancelled while it waited

            def asked(refusal: Refusal | None) -> None:
                if refusal is None:
                    self._hold(request)
                else:
                    self.reject(request, refusal)

            self._hooks.accept(thread, request.channel.service, request, asked)

    def _hold(self, request: Received) -> None:
        """Have a request looked up in the store if need be; else its broker holds it."""
        if request.state >= ANSWERING:
            return  # cancelled while the hooks were asked
        if request.channel.is_for_admin(request) or not self._persistence.must_look(request):
            self._accept(request)
        else:
            self._persistence.look_up(request, partial(self._looked_up, request))

    def _looked_up(self, request: Received, row: Row | None, failed: Unavailable | None) -> None:
        channel = request.channel
        if failed is not None:
            self._not_kept(request, failed)
        elif row is None:
            self._accept(request)
        elif row.digest != request.digest:
            self.reject(request, Refusal("sn.conflict", "another request with this serial number is known", request.sn))
        elif row.state in (ROW_QUEUED, ROW_RUNNING):
            channel.counters.add("repeated")
            self._persistence.held_by_row(request)
            channel.leave(request)
        else:
            self.answer_again(request, row.result or b"{}")

    # -- 2. accepted -----------------------------------------------------------------------------------------------

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
        if channel.is_for_admin(request):
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
                channel.put(request)

    def _answer_as_admin(self, request: Received) -> None:
        channel = request.channel
        try:
            target = channel.service.admin.find(request.classname, request.method)
        except DispatchError as unknown:
            self.fail(request, unknown)
            return

        def late() -> None:
            # A hook gofer_call, or what a plugin's own objects say of themselves.
            text = "plugin %s: %r has taken more than %g s so far; the requests for Admin after it go on"
            log.warning(text, channel.service.name, request, channel.admin.limit)

        def answer() -> None:
            if self._registry.start(request):
                self._start(request, target)

        if channel.admin.limited(answer, late) is Outcome.FULL:
            text = f"{channel.admin.most} calls of it hang; the agent's log names them"
            self.reject(request, Refusal("agent.busy", "Admin cannot answer", text))

    # -- 3. run ----------------------------------------------------------------------------------------------------

    def run(self, request: Received) -> None:
        """Run a request to its end; an ``async def``, to where the plugin's event loop goes on with it. In a worker."""
        if request.channel.over or not self._registry.start(request):
            return  # it was cancelled while it waited, or is given back
        self._persistence.left_window(request)
        try:
            self._persistence.claim(request)
        except Unavailable as failed:
            self._not_kept(request, failed)
            return
        self._start(request, None)

    def _start(self, request: Received, target: Target | None) -> None:
        request.started = time.monotonic()
        self._sweep.nudge(request.started)
        request.channel.counters.add("running")
        if request.replyto is not None:
            held = self._statuses.held(request)
            if held is None or request.told:
                self._statuses.tell(request)
            elif request.tell_at == inf:  # it came from the store
                with self._registry.lock:
                    request.tell_at = request.started + held
                    request.due = 0.0
        self._execution.call(request, target)

    def _started_before(self, request: Received, result: bytes | None) -> None:
        """Answer a request that must run only once with the result of that run."""
        if result is None:
            self.fail(request, Interrupted(f"{request.target}() was started before; how far it got is not known"))
            return
        request.channel.counters.add("running", -1)
        request.channel.counters.add("repeated")
        self.answer_again(request, result)

    def _expire(self, request: Received) -> None:
        # In this process nothing can stop a method: it is told, and its caller is. One in a process of its own ends.
        if request.state >= ANSWERING:
            return
        stop = request.on_expire
        end = "it may still run" if stop is None else "its process is being ended"
        # First: a method that is told may return before its caller is.
        request.late = f"{request.target}() took longer than {request.limit:g} s; {end}"
        request.cancelled = True
        if stop is not None:
            stop()
        if self._registry.expire(request):
            self._clock.call_after(_OVERDUE, lambda: self._tell_overdue(request))
        self.fail(request, ExecutionTimeout(request.late))

    def _tell_overdue(self, request: Received) -> None:
        if request.overdue:
            text = "%s %s %s. It is still running. %s"
            log.warning(text, request.sn, request.channel.service.name, request.late, way_out(request))

    # -- 4. answered -----------------------------------------------------------------------------------------------

    def _returned(self, request: Received, value: Any, raised: BaseException | None) -> None:
        """Go on with what the method has returned or raised. (What raised without being called has ended, too.)"""
        if request.limit is not None:
            self._registry.returned(request)
            request.on_cancel = None
        if type(raised) is Unavailable:  # an exception is not asked what it is: its class may have an answer
            self._not_kept(request, raised)
        elif type(raised) is AlreadyStarted:
            self._started_before(request, raised.result)
        elif raised is not None:
            self.fail(request, raised)
        elif request.called_off and value is None:  # a value is given: only the method knows that it stopped short
            self.fail(request, Cancelled("cancelled while it ran; its method has returned without a value"))
        elif request.late is not None:
            self.fail(request, ExecutionTimeout(request.late))
        else:
            try:
                result = encode({"retval": plain(value, "result")})
            except BaseException as unfit:  # noqa: BLE001 - not plain JSON, or it raises when looked at; its caller hears that
                self.fail(request, unfit)
            else:
                self._end(request, result, "value")

    def fail(self, request: Received, raised: BaseException, *, waiting: bool = False) -> bool:
        """End a request by an exception: by Cancelled, or ExecutionTimeout, if that is why its method raised.

        Args:
            waiting: only if it has not started.

        Returns:
            Whether it is ended by this.
        """
        if request.called_off and not issubclass(type(raised), (Cancelled, ExecutionTimeout)):
            raised = Cancelled(f"cancelled while it ran; its method has raised {type(raised).__name__}")
        elif request.late is not None and not issubclass(type(raised), (Cancelled, ExecutionTimeout)):
            raised = ExecutionTimeout(request.late)
        _TRACEBACK.__set__(raised, _below(_TRACEBACK.__get__(raised)))
        try:
            crossed, request.crossed = request.crossed, None  # it refers to its frames, and these to the request
            result = crossed[1] if crossed is not None and crossed[0] is raised else encode(to_result(raised))
        except Exception as worse:  # noqa: BLE001 - an integer of 5,000 digits among its arguments, for one
            result = encode(to_result(TypeError(f"a {type(raised).__qualname__} that cannot be sent: {worse}")))
        _TRACEBACK.__set__(raised, None)  # its frames refer to it: not left to the collector
        outcome = next((name for kind, name in _OUTCOMES if issubclass(type(raised), kind)), "exception")
        return self._end(request, result, outcome, sentence(raised), waiting=waiting)

    def _end(self, request: Received, result: bytes, outcome: str, why: str = "", *, waiting: bool = False) -> bool:
        """Give a request its result, and send that."""
        if request.progress is not None:
            request.progress.finish()
        if not self._registry.answer(request, waiting=waiting):
            return False
        channel = request.channel
        body: bytes | CannotSign = b""
        if request.replyto is not None:
            try:
                body, result, large = channel.encoder.result(request, result)
                if large is not None:
                    outcome, why = "exception", sentence(large)
                    channel.complain(logging.WARNING, "%r of plugin %s: %s", request, channel.service.name, large)
            except CannotSign as failed:
                body = failed
        self._has_result(request, _COUNTED[outcome])
        send = partial(self._publish, request, body, partial(self._settled, request, result))
        self._statuses.after(request, lambda: self._persistence.keep_result(request, result, send))
        self._finished(request, outcome, why, result)  # after the result, which its caller waits for
        return True

    def reject(self, request: Received, refusal: Refusal) -> None:
        """End a request that is not accepted, or cannot be run."""
        if not self._registry.answer(request):
            return
        self._has_result(request, "rejected")
        details = "" if refusal.details is None else f" ({refusal.details})"
        self._finished(request, "rejected", shown(f"{refusal.code}: {refusal.description}{details}", 300)[1:-1])
        body: bytes | CannotSign = b""
        if request.replyto is not None:
            try:
                body = request.channel.encoder.rejected(request.sn, str(request.replyto), request.data, refusal)
            except CannotSign as failed:
                body = failed
        self._statuses.after(request, lambda: self._publish(request, body, partial(self._rejected, request, body)))

    def answer_again(self, request: Received, result: bytes) -> None:
        """Answer a request that was delivered again after its end."""
        if request.state < ANSWERING and not self._registry.answer(request):
            return
        body = self._reply(request, result)
        send = partial(self._publish, request, body, partial(self._settled, request, result))
        self._statuses.after(request, send)

    def cancel(self, request: Received) -> bool:
        """Cancel one request; tell whether there was something to cancel.

        One that has not started is ended here, and never starts. One that runs is told; it ends when its method does.
        """
        if request.overdue:
            return request.stop()
        if request.state <= QUEUED and self.fail(request, Cancelled("cancelled before it was started"), waiting=True):
            request.cancelled = True
            request.channel.withdraw(request)
            return True
        return request.state < ANSWERING and request.stop()

    def _has_result(self, request: Received, counted: str) -> None:
        channel = request.channel
        if request.started is not None:
            channel.counters.add("running", -1)
        channel.counters.add(counted)
        self._persistence.left_window(request)
        channel.notify()

    def _not_kept(self, request: Received, failed: Unavailable) -> None:
        text = "the agent cannot write down what it must not forget"
        self.reject(request, Refusal("ledger.unavailable", text, str(failed)))

    def _finished(self, request: Received, outcome: str, why: str = "", result: bytes | None = None) -> None:
        seconds = time.monotonic() - (request.started or request.arrived)
        self._hooks.finished(request.channel.service, request, outcome, seconds)
        self._log.write(request, outcome, seconds, why, result)

    # -- 5. settled ------------------------------------------------------------------------------------------------

    def _reply(self, request: Received, result: bytes) -> bytes | CannotSign:
        if request.replyto is None:
            return b""
        try:
            body: bytes = request.channel.encoder.result(request, result)[0]
        except CannotSign as failed:
            return failed
        return body

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

    def _settled(self, request: Received, result: bytes, settled: Settled, reason: str) -> None:
        """Let go of a request: its result was taken, given up, or is left for the next connection."""
        if settled is Settled.CONFIRMED:
            self._persistence.settled(request, result)  # from here on the registry says so to whoever comes
            if request.asked_again:
                self._publish(request, self._reply(request, result), lambda settled, reason: None)
        elif settled is Settled.GIVEN_UP:
            self._persistence.given_up(request, result, reason)
        else:
            self._persistence.unsent(request, result)
        request.channel.leave(request)

    def _rejected(self, request: Received, body: bytes | CannotSign, settled: Settled, _: str) -> None:
        if settled is Settled.UNSENT:
            self._persistence.left_unsent(request)
        else:
            self._persistence.rejected(request)
            if settled is Settled.CONFIRMED and request.asked_again:
                self._publish(request, body, lambda settled, reason: None)
        request.channel.leave(request)

    # -- beside this way -------------------------------------------------------------------------------------------

    def resume(self, request: Received, row: Row) -> None:
        """Go on with a request that the store held: answer it, or say that its run was cut short."""
        if row.result is not None:
            self.answer_again(request, row.result)
        elif row.state == ROW_RUNNING and (row.tries > 1 or row.once):
            request.interrupted = request.claimed = True
            text = f"{request.target}() was started, and its agent died; how far it got is not known"
            self.fail(request, Interrupted(text))
        else:
            self._queue(request)

    def leave(self, channel: Channel, refusal: Refusal | None = None) -> None:
        """Start nothing more of a channel: release all that has not started, or reject it."""
        channel.over = True
        channel.service.workers.withdraw(lambda task: isinstance(task, Received) and task.channel is channel)
        rest = [] if refusal is None else self._persistence.pull_all(channel)
        self._persistence.abandon(channel)
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

    def look(self, now: float) -> float:
        """Do what is due: statuses, time limits, takeovers, latency, retries. Returns when to look again."""
        due = inf
        taken: list[Received] = []
        in_flight = self._registry.in_flight()
        for request in in_flight:
            if request.due <= now:
                self._look_at(request, now, taken)
            due = min(due, request.due)
        if taken:
            self._persistence.take_over(taken)
        for channel in list(self._channels):
            due = min(due, channel.publisher.look(now), channel.asking.look(now), channel.admin.look(now))
            if channel.backlog.count:
                self._persistence.pull(channel)
            if in_flight or channel.backlog.count or channel.publisher.pending:
                due = min(due, now + _GLANCE)  # something may be due that was not when this has looked
        self._persistence.look(now)
        return due

    def _look_at(self, request: Received, now: float, taken: list[Received]) -> None:
        if request.tell_at <= now:
            request.tell_at = inf
            self._statuses.tell(request)
        if request.begin_at <= now:
            request.begin_at = inf
            self._queue(request)
        if request.keep_at <= now:
            request.keep_at = inf
            if request.state < ANSWERING:
                taken.append(request)
        if request.expires_at <= now:
            request.expires_at = inf
            self._expire(request)
        with self._registry.lock:
            request.due = min(request.tell_at, request.begin_at, request.keep_at, request.expires_at)


def way_out(request: Received) -> str:
    """Tell what can be done about a method that goes on for longer than it may."""
    if request.on_expire is not None or (request.api is not None and request.api.model != DIRECT):
        return "Its process is being ended."
    if request.api is not None and request.api.is_async:
        return f"It holds no thread; gofer mgt --cancel {request.key} ends it where it awaits something."
    return (
        "It holds one of the plugin's threads until it returns; nothing but a restart of goferd ends it. "
        "Mark the method @fork: a process of its own is ended when it takes too long."
    )


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below our own frames and those of hooks; all of it when that is nothing."""
    frames: list[TracebackType] = []
    while (at := trace if not frames else frames[-1].tb_next) is not None:
        frames.append(at)
    modules = [frame.tb_frame.f_globals.get("__name__", "") for frame in frames]
    ours = [n for n, name in enumerate(modules) if name in _CALLING]
    below = ours[-1] + 1 if ours else 0
    return frames[below] if below < len(frames) else trace
