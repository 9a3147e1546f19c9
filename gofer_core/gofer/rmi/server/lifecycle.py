"""The way of a request through the agent, from top to bottom: admitted, accepted, queued, run. Then it is answered."""

from __future__ import annotations

import logging
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from gofer.errors import DispatchError, ExecutionTimeout, Interrupted
from gofer.rmi.progress import Progress
from gofer.rmi.request import ANSWERING, QUEUED, Received
from gofer.rmi.server.answering import Answering
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.execution import Execution, way_out
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.replies import Refusal
from gofer.rmi.server.serial import Outcome, SerialThread
from gofer.rmi.server.sweep import Sweep
from gofer.rmi.server.tombstones import Tombstones
from gofer.rmi.store import Unavailable
from gofer.rmi.store.requests import QUEUED as ROW_QUEUED
from gofer.rmi.store.requests import RUNNING as ROW_RUNNING
from gofer.rmi.store.requests import Row

if TYPE_CHECKING:
    from gofer.rmi.api import Target
    from gofer.rmi.clock import Clock

__all__ = ["Lifecycle"]

log = logging.getLogger(__name__)

_OVERDUE = 5.0  # seconds that a method has to end when it was told that it takes too long, before the log says so
_GLANCE = 0.25  # seconds between two looks, at most, while something is in flight


class Lifecycle:
    """Takes each request of an agent from its admission to its end. Any thread.

    Nothing here waits but a worker's thread, for the disk and for the method.
    """

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        tombstones: Tombstones,
        answering: Answering,
        clock: Clock,
        *,
        logins: Logins | None = None,
        hooks: HookCalls | None = None,
    ) -> None:
        self._registry = registry
        self._persistence = persistence
        self._backlogs = persistence.backlogs
        self._tombstones = tombstones
        self._answering = answering
        self._clock = clock
        self._hooks = hooks or HookCalls()
        self._statuses = answering.statuses
        self._channels: dict[Channel, None] = {}
        self._sweep = Sweep(self.look)
        self._execution = Execution(registry, persistence, logins or Logins(), self._answering.returned)

    def attach(self, channel: Channel) -> None:
        """Look after the requests of a channel, and take up those that the store holds for it. Waits for the disk.

        Raises:
            Unavailable: the store cannot be read; until it can be, no request of the channel may be taken.
        """
        self._channels[channel] = None
        self._answering.attach(channel)
        self._persistence.recover(channel, self.resume)
        self._sweep.nudge(time.monotonic())

    def detach(self, channel: Channel) -> None:
        """Look after its requests no more."""
        self._channels.pop(channel, None)
        self._answering.detach(channel)

    def stop(self) -> None:
        """End the thread that looks for what is due."""
        self._sweep.stop()

    # -- 1. admitted: asked for by the hooks, and held -------------------------------------------------------------

    def admit(self, request: Received) -> None:
        """Take a request that is new. Hooks are asked by another thread, in the order of requests."""
        channel = request.channel
        if channel.refusal is not None:
            self._answering.reject(request, channel.refusal)
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
                    self._answering.reject(request, refusal)

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
            self._answering.not_kept(request, failed)
        elif row is None:
            self._accept(request)
        elif row.digest != request.digest:
            self._answering.reject(
                request, Refusal("sn.conflict", "another request with this serial number is known", request.sn)
            )
        elif row.state in (ROW_QUEUED, ROW_RUNNING):
            channel.counters.add("repeated")
            self._persistence.held_by_row(request)
            channel.leave(request)
        else:
            self._answering.answer_again(request, row.result or b"{}")

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
            self._answering.cancel(request)
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
            self._answering.fail(request, unknown)
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
            self._answering.reject(request, Refusal("agent.busy", "Admin cannot answer", text))

    # -- 3. run ----------------------------------------------------------------------------------------------------

    def run(self, request: Received) -> None:
        """Run a request to its end; an ``async def``, to where the plugin's event loop goes on with it. In a worker."""
        if request.channel.over or not self._registry.start(request):
            return  # it was cancelled while it waited, or is given back
        self._backlogs.leave(request)
        try:
            self._persistence.claim(request)
        except Unavailable as failed:
            self._answering.not_kept(request, failed)
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
        self._answering.fail(request, ExecutionTimeout(request.late))

    def _tell_overdue(self, request: Received) -> None:
        if request.overdue:
            text = "%s %s %s. It is still running. %s"
            log.warning(text, request.sn, request.channel.service.name, request.late, way_out(request))

    # -- beside this way -------------------------------------------------------------------------------------------

    def resume(self, request: Received, row: Row) -> None:
        """Go on with a request that the store held: answer it, or say that its run was cut short."""
        if row.result is not None:
            self._answering.answer_again(request, row.result)
        elif row.state == ROW_RUNNING and (row.tries > 1 or row.once):
            request.interrupted = request.claimed = True
            text = f"{request.target}() was started, and its agent died; how far it got is not known"
            self._answering.fail(request, Interrupted(text))
        else:
            self._queue(request)

    def leave(self, channel: Channel, refusal: Refusal | None = None) -> None:
        """Start nothing more of a channel: release all that has not started, or reject it."""
        channel.over = True
        channel.service.workers.withdraw(lambda task: isinstance(task, Received) and task.channel is channel)
        rest = [] if refusal is None else self._backlogs.pull_all(channel)
        self._backlogs.abandon(channel)
        waiting = [request for request in channel.opened() if request.state <= QUEUED]
        waiting += [request for request in rest if request not in waiting]
        for request in waiting:
            if refusal is None:
                self._persistence.release(request)
            else:
                self._answering.reject(request, refusal)

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
                self._backlogs.pull(channel)
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
