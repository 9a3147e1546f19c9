"""A journal: one line of JSON for each call of any plugin, in the file that ``[journal] file`` names."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.decorators import load, unload
from gofer.hooks import hookimpl
from gofer.rmi.request import Received

__all__ = ["gofer_finished", "start", "stop"]

plugin = Plugin.find(__name__)
_lock = threading.Lock()  # results end in many threads
_open: list[Any] = []


@load
def start() -> None:
    """Open the file; what cannot be written down keeps the plugin from running."""
    _open.append(open(plugin.cfg.journal.file, "a", encoding="utf-8"))  # noqa: SIM115 - closed by stop()


@unload
def stop() -> None:
    """Close it."""
    with _lock:
        _open.pop().close()


@hookimpl
def gofer_finished(plugin: Plugin, request: Received, outcome: str, seconds: float) -> None:
    """Write the line."""
    line = {
        "time": time.time(),
        "sn": request.sn,
        "who": request.identity,
        "plugin": plugin.name,
        "called": request.target,
        "outcome": outcome,
        "seconds": round(seconds, 6),
    }
    with _lock:
        for file in _open:
            file.write(json.dumps(line) + "\n")
            file.flush()
