"""Requests in the hands of workers: started, called, ended."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, Interrupted, NotAuthorized
from gofer.limit import Limit
from gofer.messaging.document import encode, shown
from gofer.messaging.value import plain
from gofer.rmi.answers import CannotSign, Refusal
from gofer.rmi.context import Context
from gofer.rmi.custody import AlreadyBegun
from gofer.rmi.dispatcher import Dispatcher, login_of
from gofer.rmi.exceptions import sentence, to_result, trace_of
from gofer.rmi.later import Later
from gofer.rmi.ledger import Unavailable
from gofer.rmi.model import DIRECT
from gofer.rmi.outgoing import Fate
from gofer.rmi.progress import Progress
from gofer.rmi.request import ENDED, RUNNING, Received

if TYPE_CHECKING:
    from gofer.rmi.api import Target
    from gofer.rmi.receiver import Receiver

__all__ = ["Execution", "way_out"]

log = logging.getLogger(__name__)
requests = logging.getLogger("gofer.rmi.requests")

_OVERDUE = 5.0  # seconds that a method has to end when it was told that it takes too long, before the log tells

#: Where methods are called from: what is below is the plugin's own.
_CALLING = ("gofer.rmi.model.direct", "gofer.rmi.model.coroutines", __name__)

# An exception is not asked about itself, as its class may have an answer of its own: this is the real one.
_TRACEBACK = vars(BaseException)["__traceback__"]

_COUNTED = {"value": "done", "exception": "failed", "cancelled": "cancelled", "interrupted": "interrupted"}
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = ((Cancelled, "cancelled"), (Interrupted, "interrupted"))


class Execution:
    """Runs the requests of one receiver and ends them: one result, one hook, one log line each. Any thread."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._service = receiver.service
        self._dispatcher = Dispatcher(receiver.service)
        self._traces = Limit(10, 50)  # tracebacks in the log that no reply tells, a second

    def run(self, request: Received) -> None:
        """Run a request to its end, or (``async def``) to where the plugin's event loop goes on with it."""
        self._run(request, None)

    def answer(self, request: Received, target: Target) -> None:
        """Run a request by a method that was found already."""
        self._run(request, target)

    def _run(self, request: Received, target: Target | None) -> None:
        if not request.start():
            return  # it was cancelled while it waited; that has ended it
        if target is None:  # else it is for Admin, who needs no disk
            try:
                self._receiver.custody.starting(request)
            except Unavailable as failed:
                self._not_kept(request, failed)
                return
        request.started = time.monotonic()
        request.state = RUNNING
        statuses = request.statuses
        if statuses is not None:
            statuses.started()
        request.progress = Progress(self._receiver.clock, None if statuses is None else statuses.progress)
        self._receiver.counters.add("running")
        self._enter(request, target)

    def _enter(self, request: Received, target: Target | None) -> None:
        """Find the method, and run it; if that needs a password, once it is checked."""
        token = Context(request).enter()
        try:
            with self._service.entered():
                target = target or self._dispatcher.find(request)
                if request.beside and not target.holds_no_thread:  # a hook has sent it elsewhere
                    request.beside = False
                    request.receiver.service.workers.put(_Found(self, request, target))
                    return
                asked = login_of(target, request)
                if asked is not None:
                    self._receiver.logins.check(asked, _Login(self, request, target).checked)
                    return
                if target.mark.once:
                    self._once(request, target)
                self._limit(request, target)
                request.receiver.custody.begins(request)
                value = self._dispatcher.invoke(request, target)
                if isinstance(value, Later):
                    value.then(lambda value, raised: self._heard(request, value, raised))
                    return
                if inspect.isawaitable(value):
                    self._go_on(request, value)
                    return
        except Unavailable as failed:
            self._not_kept(request, failed)
        except AlreadyBegun as before:
            self._begun_before(request, before.result)
        except BaseException as raised:  # noqa: BLE001 - SystemExit, too, is a result; its caller waits for one
            self._heard(request, None, raised)
        else:
            self._heard(request, value, None)
        finally:
            Context.leave(token)

    def resume(self, request: Received, target: Target) -> None:
        """Go on with a request whose method is found, in a worker."""
        if request.cancelled.is_set():
            self.fail(request, Cancelled("cancelled before it was started"))
        else:
            self._enter(request, target)

    def logged_in(self, request: Received, target: Target) -> None:
        """Go on with a request whose user and password are right, in a worker."""
        request.authenticated = target
        self.resume(request, target)

    def _once(self, request: Received, target: Target) -> None:
        """Have it noted that a method runs which must not run a second time."""
        if not request.receiver.exclusive:
            raise DispatchError(
                f"{target.name}(): marked @once, which needs a queue that is read by this agent alone: "
                "set [model] exclusive=1 for the plugin whose queue this is. Over AMQP 1.0 no broker can do that: "
                "use another protocol for this plugin, such as amqp+amqp://"
            )
        request.receiver.custody.starting(request, once=True)

    def _begun_before(self, request: Received, result: bytes | None) -> None:
        """Answer a request that must run only once by what came of that once."""
        if result is None:
            self.fail(request, Interrupted(f"{request.target}() was begun before; how far it got is not known"))
            return
        self._receiver.counters.add("running", -1)
        self._receiver.counters.add("repeated")
        statuses, request.statuses = request.statuses, None
        if statuses is None:
            self.answer_again(request, result)
        else:
            statuses.end(lambda: self.answer_again(request, result))

    def _not_kept(self, request: Received, failed: Unavailable) -> None:
        self.reject(
            request, Refusal("ledger.unavailable", "the agent cannot write down what it must not forget", str(failed))
        )

    def _limit(self, request: Received, target: Target) -> None:
        """Have the call ended when it takes longer than the smallest of the limits that it has."""
        asked = (target.mark.timeout, self._service.timeout, request.document.timeout)
        seconds = min((one for one in asked if one is not None), default=None)
        if seconds is None:
            return

        request.timer = self._receiver.clock.call_after(max(0.0, seconds), lambda: self._expire(request, seconds))

    def _expire(self, request: Received, seconds: float) -> None:
        # In this process nothing can stop a method: it is told, and its caller is. One in a process of its own ends.
        if request.has_ended:
            return
        stop = request.on_expire
        end = "it may still run" if stop is None else "its process is being ended"
        # First: a method that is told may return before its caller is.
        request.late = f"{request.target}() took longer than {seconds:g} s; {end}"
        request.cancelled.set()
        if stop is not None:
            stop()
        if self._receiver.expired(request):
            self._receiver.clock.call_after(_OVERDUE, lambda: self._tell_overdue(request))
        self.fail(request, ExecutionTimeout(request.late))

    def _tell_overdue(self, request: Received) -> None:
        if request.overdue:
            text = "%s %s %s. It is still running. %s"
            log.warning(text, request.sn, self._service.name, request.late, way_out(request))

    def _go_on(self, request: Received, value: Awaitable[Any]) -> None:
        if request.api is None or not request.api.is_async:
            raise _undeclared(request, value)

        def done(value: Any, raised: BaseException | None) -> None:
            self._heard(request, value, raised)

        def dropped() -> None:
            self._receiver.returned(request)
            request.on_cancel = None

        coroutine = value if inspect.iscoroutine(value) else _awaiting(value)
        run = self._service.loop.run(coroutine, done, dropped)
        if run is None:
            self._receiver.returned(request)
            log.warning("%r: not run, its plugin has stopped; the broker delivers it again", request)
        elif request.timer is not None:
            # One that is only told to stop decides for itself; one that is overdue has been told.
            request.on_cancel = lambda: run.cancel() if request.overdue else None
            if request.returned:
                request.on_cancel = None  # it refers to the request

    def _heard(self, request: Received, value: Any, raised: BaseException | None) -> None:
        """Hear that the method has ended, and how. (What raised without being called has ended, too.)"""
        if request.timer is not None:
            self._receiver.returned(request)
            request.on_cancel = None
        if raised is None:
            self._succeed(request, value)
        else:
            self.fail(request, raised)

    def _succeed(self, request: Received, value: Any) -> None:
        if request.called_off and value is None:  # a value is given: only the method knows that it stopped short
            self.fail(request, Cancelled("cancelled while it ran; its method has returned without a value"))
            return
        if request.late is not None:
            self.fail(request, ExecutionTimeout(request.late))
            return
        try:
            result = encode({"retval": plain(value, "result")})
        except BaseException as raised:  # noqa: BLE001 - not plain JSON, or it raises when looked at; its caller hears that
            self.fail(request, raised)
            return
        self._end(request, result, "value")

    def fail(self, request: Received, raised: BaseException) -> None:
        """End a request by an exception: by Cancelled, or ExecutionTimeout, if that is why its method raised."""
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
        self._end(request, result, outcome, sentence(raised))

    def reject(self, request: Received, refusal: Refusal) -> None:
        """End a request that was not accepted."""
        if not request.end():
            return
        request.state = ENDED
        if request.started is not None:
            self._receiver.counters.add("running", -1)
        self._receiver.counters.add("rejected")
        request.receiver.has_result()
        details = "" if refusal.details is None else f" ({refusal.details})"
        self._finished(request, "rejected", shown(f"{refusal.code}: {refusal.description}{details}", 300)[1:-1])
        replyto = request.document.replyto or ""

        def write() -> bytes:
            return self._receiver.answers.rejected(request.sn, replyto, request.data, refusal)

        def told(fate: Fate, _: str) -> None:
            self._receiver.refused(request, fate)
            if fate is Fate.TAKEN and request.asked_again:
                self._post(request, write, lambda fate, reason: None)

        def send() -> None:
            self._post(request, write, told)

        statuses, request.statuses = request.statuses, None
        if statuses is None:
            send()
        else:
            statuses.end(send)

    def answer_again(self, request: Received, result: bytes) -> None:
        """Answer a request that was delivered again after its end."""
        if request.end():
            request.state = ENDED  # first: who asks for it from now on is answered once more
            self._post(
                request,
                lambda: self._receiver.answers.result(request, result)[0],
                lambda fate, reason: self._receiver.ended(request, result, fate, reason),
            )

    def repeat(self, request: Received, result: bytes) -> None:
        """Send a result once more, whatever becomes of it."""
        self._post(request, lambda: self._receiver.answers.result(request, result)[0], lambda fate, reason: None)

    def _end(self, request: Received, result: bytes, outcome: str, why: str = "") -> None:
        if not request.end():
            return
        receiver = self._receiver
        if request.timer is not None:
            request.timer.cancel()
        body: bytes | CannotSign = b""
        if request.replyto is not None:
            try:
                body, result, large = receiver.answers.result(request, result)
                if large is not None:
                    outcome, why = "exception", sentence(large)
                    receiver.complain(logging.WARNING, "%r of plugin %s: %s", request, self._service.name, large)
            except CannotSign as failed:
                body = failed
        if request.started is not None:
            receiver.counters.add("running", -1)
        receiver.counters.add(_COUNTED[outcome])
        request.state = ENDED
        request.receiver.has_result()

        def write() -> bytes:
            if isinstance(body, CannotSign):
                raise body
            return body

        def post() -> None:
            self._post(request, write, lambda fate, reason: receiver.ended(request, result, fate, reason))

        def send() -> None:
            receiver.custody.finished(request, result, post)

        if request.progress is not None:
            request.progress.finish()
        statuses, request.statuses = request.statuses, None  # they refer to each other: not left to the collector
        if statuses is None:
            send()
        else:
            statuses.end(send)
        self._finished(request, outcome, why, result)  # after the result, which its caller waits for

    def _post(self, request: Received, write: Callable[[], bytes], done: Callable[[Fate, str], None]) -> None:
        """Send what ends a request, if somebody waits for it; then let go of the request."""
        if request.replyto is None:
            done(Fate.TAKEN, "")
            return
        try:
            body = write()
        except CannotSign as failed:
            self._receiver.counters.add("undeliverable")
            text = "%r of plugin %s is not answered: cannot sign: %s"
            self._receiver.complain(logging.ERROR, text, request, self._service.name, failed)
            done(Fate.GIVEN_UP, f"cannot sign: {failed}")
            return
        # The receiver of now: after a redelivery that may be another one.
        request.receiver.outgoing.post(request.replyto, body, done, request, durable=request.durable)

    def _finished(self, request: Received, outcome: str, why: str = "", result: bytes | None = None) -> None:
        seconds = time.monotonic() - (request.started or request.arrived)
        service = self._service
        self._receiver.hook_calls.finished(service, request, outcome, seconds)
        self._log(request, outcome, seconds, why, result)

    def _log(self, request: Received, outcome: str, seconds: float, why: str, result: bytes | None) -> None:
        """Write the request's line: why it failed, and the traceback where nobody else is told it, or for DEBUG."""
        failed = outcome == "exception"
        level = logging.WARNING if failed and request.replyto is None else logging.INFO
        if not requests.isEnabledFor(level):
            return
        caller = shown(request.identity or request.document.replyto or "nobody")
        words = (request.sn, caller, self._service.name, request.target, outcome, seconds * 1000, why and f": {why}")
        line = requests.makeRecord(requests.name, level, __file__, 0, "%s %s %s %s %s %.1f ms%s", words, None)
        if (
            failed
            and result is not None
            and (requests.isEnabledFor(logging.DEBUG) or (level == logging.WARNING and self._traces.allows()))
        ):
            line.exc_text = trace_of(result)
        requests.handle(line)


class _Login:
    """A request whose user and password are being checked, meanwhile its worker does other things."""

    def __init__(self, execution: Execution, request: Received, target: Target) -> None:
        self._execution = execution
        self._request = request
        self._target = target
        self.beside = request.beside

    def checked(self, refused: NotAuthorized | None) -> None:
        """Hear what came of it, in a thread that checks."""
        if refused is None:
            self._request.receiver.service.workers.put(self)
        else:
            self._execution.fail(self._request, refused)

    def run(self) -> None:
        """Go on, as a worker's task."""
        self._execution.logged_in(self._request, self._target)


class _Found(_Login):
    """A request whose method was found by the thread beside the workers, and needs one of these."""

    def run(self) -> None:
        """Go on, as a worker's task."""
        self._execution.resume(self._request, self._target)


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


async def _awaiting(value: Awaitable[Any]) -> Any:
    return await value


def _undeclared(request: Received, value: object) -> TypeError:
    """Make the error for a method that is no ``async def`` and returned an awaitable: nobody will await that now."""
    close = getattr(value, "close", None)
    if callable(close):
        close()
    return TypeError(f"{request.target}() returned a {type(value).__name__}: declare the method `async def`")


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below our own frames and those of hooks; all of it when that is nothing."""
    frames: list[TracebackType] = []
    while (at := trace if not frames else frames[-1].tb_next) is not None:
        frames.append(at)
    modules = [frame.tb_frame.f_globals.get("__name__", "") for frame in frames]
    ours = [n for n, name in enumerate(modules) if name in _CALLING]
    below = ours[-1] + 1 if ours else 0
    return frames[below] if below < len(frames) else trace
