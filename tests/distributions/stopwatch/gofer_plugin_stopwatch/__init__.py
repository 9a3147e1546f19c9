"""Counts and times of all calls, as text for Prometheus: in the file that ``[stopwatch] file`` names, every second."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from gofer.agent.plugin import Plugin
from gofer.decorators import action, remote
from gofer.hooks import hookimpl
from gofer.rmi.request import Received

__all__ = ["exposition", "gofer_finished", "write"]

plugin = Plugin.find(__name__)
_lock = threading.Lock()  # results end in many threads
_calls: Counter[tuple[str, str, str]] = Counter()
_seconds: Counter[tuple[str, str]] = Counter()


@hookimpl
def gofer_finished(plugin: Plugin, request: Received, outcome: str, seconds: float) -> None:
    """Count and time a call."""
    # What was asked for is the caller's to choose: only what was found may become a label.
    method = "" if request.api is None else request.api.name
    with _lock:
        _calls[plugin.name, method, outcome] += 1
        _seconds[plugin.name, method] += seconds  # type: ignore[assignment]  # a Counter may count in parts


@remote
def exposition() -> str:
    """Return the text."""
    with _lock:
        calls, seconds = sorted(_calls.items()), sorted(_seconds.items())
    lines = ["# TYPE gofer_calls_total counter"]
    lines += [f'gofer_calls_total{{plugin="{p}",method="{m}",outcome="{o}"}} {n}' for (p, m, o), n in calls]
    lines += ["# TYPE gofer_call_seconds_total counter"]
    lines += [f'gofer_call_seconds_total{{plugin="{p}",method="{m}"}} {s:.6f}' for (p, m), s in seconds]
    return "\n".join(lines) + "\n"


@action(seconds=1)
def write() -> None:
    """Write the text, whole or not at all."""
    file = Path(plugin.cfg.stopwatch.file)
    new = file.with_suffix(".new")
    new.write_text(exposition())
    new.replace(file)
