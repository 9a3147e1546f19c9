"""An audit log: who has called what, on a chain of lines that nobody can change unnoticed.

A record ``call`` is written before a method runs, and a record ``end`` when its request has ended, whatever its plugin.
With ``[main] required = 1`` no method runs whose record cannot be written.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Generator
from importlib.metadata import version
from typing import Any

from gofer.agent.config import LiveSection, Machine
from gofer.agent.config.kinds import FLAG, Kind, Wrong, line, seconds, size, whole
from gofer.agent.plugin import Plugin
from gofer.decorators import load, unload
from gofer.errors import ConfigError, NotAuthorized
from gofer.hooks import hookimpl
from gofer.limit import LimitedLog
from gofer.rmi.request import Received

from gofer_plugin_audit.log import AuditLog

__all__ = ["begin", "end", "gofer_call", "gofer_finished"]

log = logging.getLogger(__name__)

_KINDS = {
    "directory": line("the path of a directory, absolute or relative to /var/log/gofer"),
    "max_size": size(1 << 16, 1 << 40),
    "keep": whole(1, 1_000_000),
    "sync": seconds(high=3600),
    "arguments": FLAG,
}
_MOST = 4000  # characters of a call's arguments


class _Audit:
    """The log, while the plugin is loaded; and how many records could not be written to it."""

    def __init__(self) -> None:
        self._log: AuditLog | None = None
        self._required = self._arguments = False
        self._lock = threading.Lock()
        self._lost = 0
        self._complain = LimitedLog(log, rate=0.1, burst=3)

    def begin(self, plugin: Plugin) -> None:
        """Open the log."""
        root, section = plugin.container.root, plugin.cfg.audit
        for key, _ in section:
            if key not in _KINDS:
                raise ConfigError(f"[audit] {key}: unknown key; allowed: {', '.join(_KINDS)}")
        directory = root.log / _setting(section, "directory", "audit")
        if directory.is_relative_to(root.log):
            root.ensure(root.log)
        opened = AuditLog(
            root.ensure(directory, 0o700),
            max_size=_setting(section, "max_size", "64M"),
            keep=_setting(section, "keep", None),
            sync=_setting(section, "sync", "1s"),
        )
        self._arguments = _setting(section, "arguments", "0")
        self._required = plugin.descriptor.required
        try:
            opened.open(host=Machine.this().host, pid=os.getpid(), version=version("gofer-core"))
        except OSError as failed:
            raise ConfigError(f"{directory}: the audit log cannot be written: {failed.strerror}") from failed
        self._log = opened
        log.info("audit: the log is in %s; last record %s", directory, opened.where)

    def end(self) -> None:
        """Close the log."""
        opened, self._log = self._log, None
        if opened is not None:
            opened.close()
            log.info("audit: the log is closed; last record %s", opened.where)

    def call(self, plugin: Plugin, request: Received) -> None:
        """Note that a method is about to run.

        Raises:
            NotAuthorized: that cannot be written, and this plugin is required.
        """
        more = {"arguments": _arguments(request)} if self._arguments else {}
        failed = self._write("call", plugin, request, durable=True, **more)
        if failed is not None and self._required:
            raise NotAuthorized(f"not run: the audit log cannot be written: {failed}")

    def finished(self, plugin: Plugin, request: Received, outcome: str, seconds: float) -> None:
        """Note how a request has ended."""
        more = {} if request.refusal is None else {"code": request.refusal.code}
        self._write("end", plugin, request, outcome=outcome, seconds=round(seconds, 6), **more)

    def _write(self, event: str, plugin: Plugin, request: Received, **fields: Any) -> str | None:
        """Write a record; return why that fails, and count what is lost."""
        api, pam = request.api, request.document.pam
        told: dict[str, Any] = {
            "sn": request.sn,
            "who": request.identity,
            "user": pam.get("user") if isinstance(pam, dict) and request.authenticated is not None else None,
            "plugin": plugin.name,
            "called": f"{request.classname}.{request.method}"[:_MOST],
            "of": None if api is None else api.plugin,
        }
        try:
            opened = self._log
            if opened is None:
                raise OSError("it is not open")
            with self._lock:
                if self._lost:
                    opened.write("lost", records=self._lost)
                    self._lost = 0
            opened.write(event, **told, **fields)
        except OSError as failed:
            with self._lock:
                self._lost += 1
            why = failed.strerror or str(failed)
            self._complain(logging.ERROR, "the record of %r cannot be written: %s", request, why)
            return why
        return None


def _setting(section: LiveSection, key: str, default: str | None) -> Any:
    kind: Kind = _KINDS[key]
    raw = section[key] if key in section else default  # noqa: SIM401 - it has no get(): that may be a key
    try:
        return None if raw is None else kind.read(raw)
    except Wrong as wrong:
        raise ConfigError(f"[audit] {key}: {wrong}; allowed: {kind.allowed}") from None


def _arguments(request: Received) -> str:
    """Return a call's arguments as JSON, cut where they are long. Neither a secret nor a password is among these."""
    asked = request.document.request
    return json.dumps({"cntr": asked.cntr, "args": asked.args, "kws": asked.kws})[:_MOST]


_audit = _Audit()


@load
def begin() -> None:
    """Open the log."""
    _audit.begin(Plugin.find(__name__))


@unload
def end() -> None:
    """Close the log."""
    _audit.end()


@hookimpl(wrapper=True, tryfirst=True)
def gofer_call(plugin: Plugin, request: Received) -> Generator[None, Any, Any]:
    """Note each call before any other hook, and the method."""
    _audit.call(plugin, request)
    return (yield)


@hookimpl
def gofer_finished(plugin: Plugin, request: Received, outcome: str, seconds: float) -> None:
    """Note the end of each request."""
    _audit.finished(plugin, request, outcome, seconds)
