"""The attributes of spans, by OpenTelemetry's conventions for messaging and for remote calls."""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["SCOPE", "W3C", "described", "failed"]

#: The name of what makes the spans.
SCOPE = "gofer"
#: What writes and reads ``traceparent`` and ``tracestate``.
W3C = TraceContextTextMapPropagator()


def described(operation: str, called: str, sn: str | None, address: str, url: Any) -> dict[str, str | int]:
    """Return the attributes of a call, or of a request.

    Args:
        operation: ``call`` or ``process``.
        called: ``Class.method``.
        url: the broker's :class:`gofer.messaging.url.URL`.
    """
    service, _, method = called.rpartition(".")
    found: dict[str, str | int] = {
        "messaging.operation.name": operation,
        "messaging.operation.type": "send" if operation == "call" else operation,
        "messaging.destination.name": address,
        "rpc.system": "gofer",
        "rpc.service": service,
        "rpc.method": method,
    }
    if sn is not None:
        found["messaging.message.id"] = found["messaging.message.conversation_id"] = sn
    found["messaging.system"] = "gofer" if url.protocol == "local" else "amqp"
    if url.protocol != "local":
        found["server.address"] = url.host
        if url.port is not None:
            found["server.port"] = url.port
    return found


def failed(span: Span, raised: BaseException) -> None:
    """Note on a span what it has ended with."""
    kind = type(raised)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = kind.__name__
    try:
        span.record_exception(raised)
        text = f"{text}: {raised}"[:1000]
    except BaseException as worse:  # noqa: BLE001 - its text is what its class says, which may raise anything
        span.add_event("exception", {"exception.type": name, "exception.message": f"not told: {type(worse).__name__}"})
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, text)
