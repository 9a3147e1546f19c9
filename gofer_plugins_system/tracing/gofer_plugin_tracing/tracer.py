"""The spans of calls that a process makes, and of methods in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from gofer_plugin_tracing import exporters
from gofer_plugin_tracing.attributes import SCOPE, W3C, described, failed

__all__ = ["CallTracer"]


class CallTracer:
    """What :mod:`gofer.tracing` asks for: :class:`gofer.tracing.Tracer`. Any thread."""

    def __init__(self) -> None:
        # Imported here: each child of a process that forks would have to do it again.
        self._exporters = exporters.find()
        exporters.rehearse(self._exporters)

    @contextmanager
    def calling(self, document: dict[str, Any], url: Any, *, waits: bool) -> Iterator[None]:
        """Make the span of a call; one that does not wait for its result ends when it is sent."""
        asked, address = document["request"], document["routing"][1]
        called = f"{asked['classname']}.{asked['method']}"
        attributes = described("call", called, document["sn"], address, url)
        kind = SpanKind.CLIENT if waits else SpanKind.PRODUCER
        span = trace.get_tracer(SCOPE).start_span(f"call {called}", kind=kind, attributes=attributes)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            W3C.inject(document)
            try:
                yield
            except BaseException as raised:
                failed(span, raised)
                raise

    def carrier(self) -> Mapping[str, str]:
        """Return the context of where the call is."""
        carrier: dict[str, str] = {}
        W3C.inject(carrier)
        return carrier

    @contextmanager
    def in_child(self, called: str, carrier: Mapping[str, str]) -> Iterator[None]:
        """Make the span of a method in this process."""
        exporters.provide("goferd", self._exporters)
        context, attributes = W3C.extract(carrier), {"process.pid": os.getpid()}
        span = trace.get_tracer(SCOPE).start_span(f"fork {called}", context, attributes=attributes)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield
            except BaseException as raised:
                failed(span, raised)
                raise

    def flush(self) -> None:
        """Hand on the spans of this process."""
        exporters.flush(1.5)  # the agent has the result by now; the process is killed after two seconds
