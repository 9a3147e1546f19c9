"""Where spans go, as the environment says: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from importlib.metadata import entry_points
from threading import Thread
from typing import Any

from gofer.errors import ConfigError
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

__all__ = ["find", "flush", "provide", "rehearse"]

_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def find() -> list[Callable[[], Any]]:
    """Import the exporters that ``OTEL_TRACES_EXPORTER`` names, ``otlp`` unless it is set. They are not made yet.

    Raises:
        ConfigError: one is not installed, or the protocol is not known.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    names = [name.strip() for name in (os.environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(",")]
    return [_find(name) for name in names if name not in ("", "none")]


def _find(name: str) -> Callable[[], Any]:
    wanted = name
    if name == "otlp":
        variable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
        protocol = os.environ.get(variable) or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
        if protocol not in _PROTOCOLS:
            allowed = ", ".join(_PROTOCOLS)
            raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {protocol!r} is not known; allowed: {allowed}")
        wanted = _PROTOCOLS[protocol]
    known = {one.name: one for one in entry_points(group="opentelemetry_traces_exporter")}
    if wanted not in known:
        text = f"OTEL_TRACES_EXPORTER: there is no exporter {wanted!r}; installed: {', '.join(sorted(known)) or 'none'}"
        if wanted in _PROTOCOLS.values():
            text += f"; to install it: pip install opentelemetry-exporter-{wanted.replace('_', '-')}"
        raise ConfigError(text)
    exporter: Callable[[], Any] = known[wanted].load()
    return exporter


def rehearse(found: list[Callable[[], Any]]) -> None:
    """Make what ``provide`` makes, and drop it: what is imported late for that is there when a child does so again.

    It took 200 ms of each forked call. No thread is started here, as a process that forks must have none; gRPC would.
    """
    Resource.create()
    for exporter in found:
        if "grpc" not in getattr(exporter, "__module__", ""):
            SimpleSpanProcessor(exporter()).shutdown()


def provide(service: str, found: list[Callable[[], Any]] | None = None) -> None:
    """Make the provider of traces of this process, unless there is one.

    Args:
        service: the name of the service, unless the environment has one.
        found: the exporters; those of the environment unless given.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    found = find() if found is None else found
    resource = Resource({"host.name": socket.gethostname()}).merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=resource)
    for exporter in found:
        provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)


def flush(seconds: float) -> None:
    """Hand on what was recorded; wait at most so long."""
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        # It may wait for a collector that is not there for longer than it is told to.
        thread = Thread(target=provider.force_flush, name="gofer-traces", daemon=True)
        thread.start()
        thread.join(seconds)
