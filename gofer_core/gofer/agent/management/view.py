"""What an agent tells of itself and its plugins, as plain JSON."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gofer.agent.builtin import started
from gofer.agent.certificates import InUse, certificates_in_use
from gofer.agent.failures import one_line
from gofer.ownership import user_name
from gofer.rmi import description
from gofer.rmi.server.administration import OVERDUE

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer
    from gofer.agent.plugin import Plugin

__all__ = ["plugin_line", "show"]


def show(container: PluginContainer, phase: str) -> dict[str, Any]:
    """Tell all: the agent, and each plugin with its state, code, API, queue, connection, counts and actions."""
    plugins = list(container.plugins.values())  # at once: others load and unload meanwhile
    return {
        "agent": {
            "version": version("gofer-core"),
            "python": sys.version.split()[0],
            "state": phase,
            "root": str(container.root.path),
            "user": user_name(os.geteuid()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": started(),
            "threads": threading.active_count(),
            "rss": _rss(),
            "ledger": {"error": _text(container.store.error)},
            "waiting": sorted(container.pending),
            "closed": container.gate.reasons() if container.endpoints.closed else [],
            "fleet": container.membership.describe(),
            "certificates": [_certificate(one) for one in certificates_in_use(plugins)],
        },
        "plugins": [_plugin(container, plugin) for plugin in sorted(plugins, key=lambda plugin: plugin.name)],
    }


def plugin_line(plugin: Plugin) -> dict[str, Any]:
    """Tell what a plugin is, in short."""
    source = plugin.source
    return {
        "name": plugin.name,
        "state": plugin.state.value,
        "error": plugin.error,
        "distribution": None if source is None else source.distribution,
        "version": None if source is None else source.version,
    }


def _plugin(container: PluginContainer, plugin: Plugin) -> dict[str, Any]:
    source, descriptor = plugin.source, plugin.descriptor
    told = {
        **plugin_line(plugin),
        **{name: getattr(plugin, name) for name in ("trace", "enabled", "queue", "foreign")},
        "descriptor": str(descriptor.file),
        "module": None if source is None else source.module,
        "file": None if source is None or source.file is None else str(source.file),
        "extends": descriptor.extends,
        "forward": list(descriptor.forward),
        "accept": list(descriptor.accept),
        "url": None if plugin.url is None else str(plugin.url),
        "connection": _connection(container, plugin),
        "counters": plugin.counters.snapshot(),
        "workers": {
            "threads": descriptor.threads,
            "busy": plugin.workers.busy,
            "waiting": plugin.workers.waiting,
            "coroutines": plugin.loop.running,
            "fork_helper": plugin.forks.pid,
        },
        "overdue": [
            {"sn": one.sn, "target": one.target, "seconds": round(one.seconds, 1), "reason": one.reason}
            for one in container.requests.listing(plugin.name, states=[OVERDUE]).entries
        ],
        "actions": [],
        "api": None,
    }
    try:  # what the plugin's own classes and exceptions say of themselves
        told["actions"] = plugin.actions.describe()
        api = description.of_api(plugin.api)
        told["api"] = {"classes": api["classes"], "functions": api["functions"], "names": api["names"]}
    except BaseException as raised:  # noqa: BLE001 - SystemExit, too: the other plugins are shown
        told["error"] = told["error"] or f"cannot be described: {one_line(raised)[0]}"
    return told


def _connection(container: PluginContainer, plugin: Plugin) -> dict[str, Any] | None:
    """Tell how a plugin stands with its broker; None: it is not attached."""
    endpoint = container.endpoints.of(plugin.name)
    if endpoint is None:
        return None
    link = endpoint.link
    up_since = link.up_since
    subscription = endpoint.consumer.subscription
    probe = container.links.probe(link)
    return {
        "state": link.state,
        "up": None if up_since is None else round(time.monotonic() - up_since, 1),
        "reading": subscription is not None and subscription.active,
        "error": None if subscription is None else _text(subscription.error),
        "open": endpoint.consumer.channel.open,
        "probe": None if probe is None else probe.describe(),
    }


def _certificate(one: InUse) -> dict[str, Any]:
    now = time.time()
    return {
        "file": one.file,
        "uses": list(one.uses),
        "name": one.name,
        "ends": None if one.ends is None else datetime.fromtimestamp(one.ends, UTC).isoformat().replace("+00:00", "Z"),
        "days_left": None if one.ends is None else int((one.ends - now) // 86400),
        "warning": one.warning(now),
    }


def _text(error: object) -> str | None:
    return None if error is None else str(error)


def _rss() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
