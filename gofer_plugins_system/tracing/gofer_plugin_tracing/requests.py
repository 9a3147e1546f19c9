"""The spans of requests at the agent: the wait for a worker, and the method."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import Any

from gofer.errors import Cancelled, ExecutionTimeout
from gofer.rmi.request import Received
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode

from gofer_plugin_tracing.attributes import SCOPE, W3C, described, failed

__all__ = ["begin", "current", "end", "ended", "record_refused"]


def begin(request: Received) -> Span:
    """Make the span of a method that starts now, and that of the wait before it."""
    now, context = time.time_ns(), _context_of(request)
    tracer = trace.get_tracer(SCOPE)
    called, attributes = _attributes(request)
    started = time.monotonic() if request.started is None else request.started
    span = tracer.start_span(f"process {called}", context, SpanKind.CONSUMER, attributes, start_time=now)
    if span.is_recording():
        wait = {"gofer.plugin": request.plugin.name, "messaging.destination.name": request.address}
        waited = tracer.start_span(f"wait {called}", context, attributes=wait, start_time=_clock(request.arrived, now))
        waited.end(_clock(started, now))
    return span


def current(span: Span) -> AbstractContextManager[Span]:
    """Return what is entered where the method runs, so that spans it makes are children of this one."""
    return trace.use_span(span, record_exception=False, set_status_on_exception=False)


def ended(span: Span, request: Received, value: Any) -> Any:
    """End the span of a method that has returned; of an ``async def``, when that has. Returns what it has returned."""
    if inspect.isawaitable(value) and request.api is not None and request.api.is_async:
        return _awaited(span, request, value)
    end(span, request, None)
    return value


async def _awaited(span: Span, request: Received, value: Awaitable[Any]) -> Any:
    # Entered here, too: the coroutine runs in another thread, and may hand its context on to tasks.
    try:
        with current(span):
            found = await value
    except BaseException as raised:
        end(span, request, raised)
        raise
    end(span, request, None)
    return found


def end(span: Span, request: Received, raised: BaseException | None) -> None:
    """End a span; what its caller was told before counts, too."""
    if request.late is not None:
        failed(span, ExecutionTimeout(request.late))
    elif request.called_off:
        failed(span, Cancelled("cancelled while it ran"))
    if raised is not None:
        failed(span, raised)
    span.end()


def record_refused(request: Received, outcome: str) -> None:
    """Make the span of a request whose method was never called: it was rejected, cancelled or not found."""
    if outcome != "rejected" and request.started is not None and request.api is not None:
        return
    now = time.time_ns()
    called, attributes = _attributes(request)
    attributes["gofer.outcome"] = outcome
    refusal = request.refusal
    attributes["error.type"] = outcome if refusal is None else refusal.code
    span = trace.get_tracer(SCOPE).start_span(
        f"process {called}",
        _context_of(request),
        SpanKind.CONSUMER,
        attributes,
        start_time=_clock(request.arrived, now),
    )
    why = outcome if refusal is None else f"{refusal.code}: {refusal.description}"
    span.set_status(StatusCode.ERROR, why)
    span.end(now)


def _attributes(request: Received) -> tuple[str, dict[str, str | int]]:
    """Return what is called, and the attributes. No name that a caller has made up: there is no end of these."""
    called = "unknown" if request.api is None else request.api.name
    url = request.channel.link.connector.url
    found = described("process", called, request.sn, request.address, url)
    found["messaging.message.body.size"] = len(request.body)
    found["gofer.plugin"] = request.plugin.name
    if request.identity is not None:
        found["enduser.id"] = request.identity
    if request.redelivered:
        found["gofer.redelivered"] = True
    return called, found


def _context_of(request: Received) -> Context:
    document = request.document
    sent = {"traceparent": document.traceparent, "tracestate": document.tracestate}
    return W3C.extract({name: text for name, text in sent.items() if isinstance(text, str)}, Context())


def _clock(monotonic: float, now: int) -> int:
    """Return a time of ``time.monotonic()`` as nanoseconds since 1970."""
    return now - int((time.monotonic() - monotonic) * 1e9)
