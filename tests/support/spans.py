"""The spans of this process: an in-memory exporter behind the one provider that a process may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gofer_plugin_tracing import GoferInstrumentor
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.waiting import eventually

__all__ = ["Spans", "recorded"]


class Spans:
    """What was recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        """Wait for the only span of a name."""

        def found() -> list[ReadableSpan]:
            return [one for one in self.all() if one.name == name]

        (span,) = eventually(found, what=f"{name} in {[one.name for one in self.all()]}")
        return span

    def under(self, child: str, parent: str) -> None:
        """Check that a span is the child of another one."""
        below, above = self.one(child), self.one(parent)
        assert below.parent is not None
        assert above.context is not None
        assert below.parent.span_id == above.context.span_id
        assert below.parent.trace_id == above.context.trace_id


@contextmanager
def recorded() -> Iterator[Spans]:
    """Record the spans of this process, and have its calls traced."""
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    spans = Spans()
    processor = SimpleSpanProcessor(spans._exporter)
    provider.add_span_processor(processor)
    with_environment = GoferInstrumentor()
    with_environment.instrument()
    try:
        yield spans
    finally:
        with_environment.uninstrument()
        processor.shutdown()
