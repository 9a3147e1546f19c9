"""What can be asked of an agent by management, one function for each request of ``wire``; and what it answers."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.agent.builtin import started
from gofer.agent.certificates import InUse, certificates_in_use
from gofer.agent.failures import one_line
from gofer.agent.management import wire
from gofer.agent.management.wire import Unusable, encode
from gofer.errors import GoferError
from gofer.ownership import user_name
from gofer.rmi import description
from gofer.rmi.server.administration import OVERDUE
from gofer.rmi.store import Unavailable

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer
    from gofer.agent.plugin import Plugin

__all__ = ["Operations", "plugin_line", "show"]

log = logging.getLogger(__name__)

_MOST = 100_000  # requests in one listing
_DATA = 8 << 20  # bytes of callers' data in one listing


class Operations:
    """Does what callers of management ask for. Any thread; each may take its time.

    ``phase``: what the agent does as a whole: ``starting``, ``running`` or ``stopping``.
    """

    def __init__(self, container: PluginContainer) -> None:
        """Keep the container, whose plugins and requests these are about."""
        self._container = container
        self.phase = "starting"
        self._known: Mapping[type, Callable[[Any], Any]] = {
            wire.Show: lambda _: show(container, self.phase),
            wire.Load: lambda asked: plugin_line(container.load(asked.path)),
            wire.Reload: lambda asked: plugin_line(container.reload(asked.which)),
            wire.Unload: lambda asked: container.unload(asked.which),
            wire.Requests: self._requests,
            wire.Cancel: self._cancel,
            wire.Retry: lambda asked: container.requests.retry(asked.sn),
            wire.Drop: lambda asked: container.requests.drop(asked.sn),
        }

    def do(self, request: wire.Request, caller: str) -> Any:
        """Do what a request says, and return plain JSON.

        Raises:
            Unusable: it cannot be done; says why.
        """
        if not isinstance(request, wire.Show | wire.Requests):
            fields = msgspec.to_builtins(request)
            told = " ".join(f"{key}={value!r:.200}" for key, value in fields.items() if key != "do")
            log.info("management: %s: %s %s", caller, fields["do"], told)
        try:
            return self._known[type(request)](request)
        except Unusable:
            raise
        except (GoferError, Unavailable, RuntimeError, TimeoutError) as failed:
            raise Unusable("failed", str(failed)) from failed
        except LookupError as unknown:
            if not isinstance(request, wire.Retry | wire.Drop):
                raise
            raise Unusable("not-found", str(unknown.args[0] if unknown.args else unknown)) from unknown

    def _requests(self, asked: wire.Requests) -> Any:
        states = {} if asked.states is None else {"states": asked.states}
        try:
            found = self._container.requests.listing(asked.plugin, most=min(asked.most, _MOST), **states)
        except ValueError as wrong:
            raise Unusable("malformed", str(wrong)) from wrong
        entries, left = [], _DATA
        for one in found.entries:
            size = 0 if one.data is None else len(encode(one.data))
            left_out = size > left
            left -= 0 if left_out else size
            entries.append({**one._asdict(), "data": None if left_out else one.data, "data_left_out": left_out})
        return {"entries": entries, "total": found.total, "unavailable": found.unavailable}

    def _cancel(self, asked: wire.Cancel) -> list[str]:
        requests, plugins = self._container.requests, self._container.plugins
        if (asked.sn is None) == (asked.criteria is None):
            raise Unusable("malformed", "cancel needs one of 'sn' and 'criteria'")
        if asked.plugin is not None and asked.plugin not in plugins:
            known = ", ".join(sorted(plugins)) or "none"
            raise Unusable("malformed", f"there is no plugin {asked.plugin!r:.60}; there are: {known}")
        try:
            if asked.sn is not None:
                return [asked.sn] if requests.cancel(asked.sn) else []
            return list(requests.cancel_those(asked.criteria or {}, asked.plugin))
        except (GoferError, ValueError) as wrong:  # no serial number, or no criteria
            raise Unusable("malformed", str(wrong)) from wrong


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
