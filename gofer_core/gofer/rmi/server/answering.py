"""The end of a request: it gets its result, which is sent; and when that is settled, it is let go of."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

from gofer.errors import Cancelled, ExecutionTimeout, Interrupted
from gofer.messaging.document import encode, shown
from gofer.messaging.value import plain
from gofer.rmi.exceptions import sentence, to_result
from gofer.rmi.request import ANSWERING, QUEUED, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.persistence import AlreadyStarted, Persistence
from gofer.rmi.server.registry import Registry
from gofer.rmi.server.replies import CannotSign, Refusal, Settled
from gofer.rmi.server.request_log import RequestLog
from gofer.rmi.server.statuses import Statuses
from gofer.rmi.store import Unavailable

__all__ = ["Answering"]

log = logging.getLogger(__name__)

#: Where methods are called from: the frames below are the plugin's own.
_CALLING = ("gofer.rmi.model.direct", "gofer.rmi.model.coroutines", "gofer.rmi.server.execution")

# An exception is not asked about itself, as its class may have an answer of its own: this is the real one.
_TRACEBACK = vars(BaseException)["__traceback__"]

_COUNTED = {"value": "done", "exception": "failed", "cancelled": "cancelled", "interrupted": "interrupted"}
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = ((Cancelled, "cancelled"), (Interrupted, "interrupted"))


class Answering:
    """Ends the requests of an agent: one result, one hook, one log line each. Any thread; nothing here waits."""

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        *,
        hooks: HookCalls | None = None,
        request_log: RequestLog | None = None,
    ) -> None:
        self._registry = registry
        self._persistence = persistence
        self._backlogs = persistence.backlogs
        self._hooks = hooks or HookCalls()
        self._log = request_log or RequestLog()
        self.statuses = Statuses()
        self._channels: dict[Channel, None] = {}

    def attach(self, channel: Channel) -> None:
        """Send results through this channel, too: one that was answered late may belong to a plugin that came again."""
        self._channels[channel] = None

    def detach(self, channel: Channel) -> None:
        """Send no more through it."""
        self._channels.pop(channel, None)

    def stop(self) -> None:
        """End the thread for the log, when all lines are written."""
        self._log.stop()

    def _started_before(self, request: Received, result: bytes | None) -> None:
        """Answer a request that must run only once with the result of that run."""
        if result is None:
            self.fail(request, Interrupted(f"{request.target}() was started before; how far it got is not known"))
            return
        request.channel.counters.add("running", -1)
        request.channel.counters.add("repeated")
        self.answer_again(request, result)

    def returned(self, request: Received, value: Any, raised: BaseException | None) -> None:
        """Go on with what the method has returned or raised. (What raised without being called has ended, too.)"""
        if request.limit is not None:
            self._registry.returned(request)
            request.on_cancel = None
        if type(raised) is Unavailable:  # an exception is not asked what it is: its class may have an answer
            self.not_kept(request, raised)
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
        self.statuses.wait(request)
        self._persistence.keep_result(request, result, send)
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
        self.statuses.wait(request)
        self._publish(request, body, partial(self._rejected, request, body))

    def answer_again(self, request: Received, result: bytes) -> None:
        """Answer a request that was delivered again after its end."""
        if request.state < ANSWERING and not self._registry.answer(request):
            return
        body = self._reply(request, result)
        self.statuses.wait(request)
        self._publish(request, body, partial(self._settled, request, result))

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
        self._backlogs.leave(request)
        channel.notify()

    def not_kept(self, request: Received, failed: Unavailable) -> None:
        text = "the agent cannot write down what it must not forget"
        self.reject(request, Refusal("ledger.unavailable", text, str(failed)))

    def _finished(self, request: Received, outcome: str, why: str = "", result: bytes | None = None) -> None:
        seconds = time.monotonic() - (request.started or request.arrived)
        self._hooks.finished(request.channel.service, request, outcome, seconds)
        self._log.write(request, outcome, seconds, why, result)

    # -- settled -----------------------------------------------------------------------------------------------------

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


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below our own frames and those of hooks; all of it when that is nothing."""
    frames: list[TracebackType] = []
    while (at := trace if not frames else frames[-1].tb_next) is not None:
        frames.append(at)
    modules = [frame.tb_frame.f_globals.get("__name__", "") for frame in frames]
    ours = [n for n, name in enumerate(modules) if name in _CALLING]
    below = ours[-1] + 1 if ours else 0
    return frames[below] if below < len(frames) else trace
