"""Shows Prometheus what this agent counts and measures: at a port of this machine, or in a file.

``[metrics] port`` is the port, 9650 unless given; with ``[metrics] file`` alone nothing is served, and the file is
written. The hooks of gofer are not used: what is shown is counted by the agent anyway, and read when somebody asks.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast
from wsgiref.simple_server import WSGIServer

from gofer.agent.plugin import Plugin
from gofer.decorators import action, load, unload
from gofer.errors import ConfigError
from prometheus_client import CollectorRegistry, ProcessCollector, write_to_textfile

from gofer_plugin_metrics.readings import Readings
from gofer_plugin_metrics.serving import serve

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["start", "stop", "write"]

_PORT = 9650

plugin = Plugin.find(__name__)
_served: list[tuple[WSGIServer, threading.Thread]] = []
_files: list[tuple[Path, CollectorRegistry]] = []


@load
def start() -> None:
    """Serve the metrics, or write them for the first time.

    Raises:
        ConfigError: the port cannot be had, or the file cannot be written.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Readings(cast("PluginContainer", plugin.container)))
    settings = plugin.cfg.metrics
    if settings.file:
        file = Path(str(settings.file))
        if not file.is_absolute():
            raise _wrong("file", f"{str(file)!r} is not an absolute path")
        try:
            write_to_textfile(str(file), registry)
        except OSError as failed:
            raise _wrong("file", f"{file} cannot be written: {failed.strerror}") from failed
        _files.append((file, registry))
    if not settings.file or settings.port is not None:
        port = _PORT if settings.port is None else settings.port
        if not str(port).isascii() or not str(port).isdigit() or not 0 < int(port) < 65536:
            raise _wrong("port", f"{port!r} is not a port; allowed: 1 to 65535")
        try:
            _served.append(serve(int(port), registry))
        except OSError as failed:
            text = f"cannot listen on 127.0.0.1 port {port}: {failed.strerror}; set another port"
            raise _wrong("port", text) from failed


@action(seconds=15, splay=0)
def write() -> None:
    """Write the file: the new one takes the place of the old one when it is complete."""
    for file, registry in _files:
        write_to_textfile(str(file), registry)


@unload
def stop() -> None:
    """Serve no more, and remove the file: what it says holds no longer."""
    for server, thread in _served:
        server.shutdown()
        server.server_close()
        thread.join()
    for file, _ in _files:
        file.unlink(missing_ok=True)
    _served.clear()
    _files.clear()


def _wrong(key: str, text: str) -> ConfigError:
    return ConfigError(f"{plugin.descriptor.file}: [metrics] {key}: {text}")
