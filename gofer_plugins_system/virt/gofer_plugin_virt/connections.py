"""The plugin's connection to libvirt: one, opened when it is needed and again when it is lost."""

from __future__ import annotations

import logging
from typing import Any

import libvirt
from gofer.agent.plugin import Plugin
from gofer.errors import PluginError

__all__ = ["connect", "disconnect", "uri_of"]

log = logging.getLogger(__name__)

_KEPT = "gofer_plugin_virt"  # where the plugin keeps it
_REFUSED = frozenset((libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_CANCELLED, libvirt.VIR_ERR_ACCESS_DENIED))


def uri_of(cfg: Any) -> str:
    """Return which libvirt a descriptor names.

    Raises:
        PluginError: it names none.
    """
    uri = str(cfg.virt.uri) if "virt" in cfg and "uri" in cfg.virt else "qemu:///system"
    if not uri.strip():
        raise PluginError("[virt] uri is empty; write one that `virsh --connect` takes, like qemu:///system")
    return uri


def connect(plugin: Plugin) -> libvirt.virConnect:
    """Return the plugin's connection. Any thread: connections of libvirt are for all of them.

    Raises:
        ConnectionError: libvirt cannot be reached, or there is none such.
        PermissionError: it does not take the agent's user.
    """
    uri = uri_of(plugin.cfg)
    kept = plugin.whiteboard.get(_KEPT)
    if kept is not None and kept[0] == uri and _answers(kept[1]):
        connection: libvirt.virConnect = kept[1]
        return connection
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        text = f"cannot connect to libvirt at {uri!r}: {error}"
        if error.get_error_code() in _REFUSED:
            raise PermissionError(text) from None
        raise ConnectionError(f"{text}. Check that libvirtd runs, and [virt] uri in the descriptor") from None
    # Two threads may have come here: the other's connection ends with its last call.
    plugin.whiteboard[_KEPT] = uri, connection
    return connection


def disconnect(plugin: Plugin) -> None:
    """Let go of the plugin's connection; it closes with the last call that uses it."""
    plugin.whiteboard.pop(_KEPT, None)


def _answers(connection: libvirt.virConnect) -> bool:
    """Ask libvirt something: a connection whose libvirtd has been restarted shows that only then."""
    try:
        return bool(connection.getLibVersion())
    except libvirt.libvirtError as error:
        log.info("connects to libvirt again: %s", error)
        return False
