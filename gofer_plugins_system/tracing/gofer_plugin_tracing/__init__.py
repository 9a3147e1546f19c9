"""OpenTelemetry traces of calls, at the caller and at the agent.

As a plugin of an agent it makes spans of the requests that come, and of the calls that methods make to other agents.
In any other program :class:`GoferInstrumentor` has the calls traced that it makes.
"""

from __future__ import annotations

from typing import Any

from gofer.decorators import load, unload
from gofer.hooks import hookimpl
from gofer.rmi.request import Received
from gofer.tracing import use

from gofer_plugin_tracing import exporters, requests

__all__ = ["GoferInstrumentor", "gofer_call", "gofer_finished", "start", "stop"]

_TRACER = "gofer_plugin_tracing.tracer:CallTracer"


class GoferInstrumentor:
    """Has the calls traced that this process makes. ``opentelemetry-instrument`` looks for it; it may be used by hand.

    Where the program has set a provider of traces before, that one is used; else one is made, as the environment says.
    """

    def instrument(self, **_: Any) -> None:
        """Trace all calls from now on.

        Raises:
            ConfigError: the environment asks for an exporter that is not installed, or not known.
        """
        use(_TRACER)
        exporters.provide("gofer")

    def uninstrument(self, **_: Any) -> None:
        """Trace no more."""
        use(None)


@load
def start() -> None:
    """Trace requests and calls.

    Raises:
        ConfigError: the environment asks for an exporter that is not installed, or not known.
    """
    use(_TRACER)
    exporters.provide("goferd")


@unload
def stop() -> None:
    """Trace calls no more, and hand on what was recorded."""
    use(None)
    exporters.flush(5.0)


@hookimpl(wrapper=True)
def gofer_call(request: Received) -> Any:
    """Trace a method."""
    span = requests.begin(request)
    try:
        with requests.current(span):
            value = yield
    except BaseException as raised:
        requests.end(span, request, raised)
        raise
    return requests.ended(span, request, value)


@hookimpl
def gofer_finished(request: Received, outcome: str) -> None:
    """Trace a request whose method did not start."""
    requests.record_refused(request, outcome)
