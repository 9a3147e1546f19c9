"""Shows Prometheus what this agent counts and measures: at a port of this machine, or in a file.

``[metrics] port`` is the port, 9650 unless given; with ``[metrics] file`` alone nothing is served, and the file is
written. The hooks of gofer are not used: what is shown is counted by the agent anyway, and read when somebody asks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

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


@load
def start() -> None:
    """Serve the metrics, or write them for the first time.

    Raises:
        ConfigError: the port cannot be had, or the file cannot be written.
    """
    plugin = Plugin.find(__name__)
    kept, settings = plugin.whiteboard, plugin.cfg.metrics
    registry = kept["registry"] = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Readings(cast("PluginContainer", plugin.container)))
    if settings.file:
        file = Path(str(settings.file))
        if not file.is_absolute():
            raise _wrong(plugin, "file", f"{str(file)!r} is not an absolute path")
        try:
            write_to_textfile(str(file), registry)
        except OSError as failed:
            raise _wrong(plugin, "file", f"{file} cannot be written: {failed.strerror}") from failed
        kept["file"] = file
    if not settings.file or settings.port is not None:
        port = _PORT if settings.port is None else settings.port
        if not str(port).isascii() or not str(port).isdigit() or not 0 < int(port) < 65536:
            raise _wrong(plugin, "port", f"{port!r} is not a port; allowed: 1 to 65535")
        try:
            kept["served"] = serve(int(port), registry)
        except OSError as failed:
            stop()
            text = f"cannot listen on 127.0.0.1 port {port}: {failed.strerror}; set another port"
            raise _wrong(plugin, "port", text) from failed


@action(seconds=15, splay=0)
def write() -> None:
    """Write the file: the new one takes the place of the old one when it is complete."""
    kept = Plugin.find(__name__).whiteboard
    if "file" in kept:
        write_to_textfile(str(kept["file"]), kept["registry"])


@unload
def stop() -> None:
    """Serve no more, and remove the file: what it says holds no longer."""
    kept = Plugin.find(__name__).whiteboard
    if "served" in kept:
        server, thread = kept.pop("served")
        server.shutdown()
        server.server_close()
        thread.join()
    if "file" in kept:
        kept.pop("file").unlink(missing_ok=True)


def _wrong(plugin: Plugin, key: str, text: str) -> ConfigError:
    return ConfigError(f"{plugin.descriptor.file}: [metrics] {key}: {text}")
