"""Telling the service manager how far we are: systemd's notification protocol, one datagram a message."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

__all__ = ["notify", "watchdog_interval"]


def notify(environ: Mapping[str, str], state: str) -> bool:
    """Send a state such as ``READY=1`` to the socket that ``NOTIFY_SOCKET`` names.

    Returns:
        Whether it was sent; False where no service manager asked for it, or where it does not listen (which must never
        keep the agent from its work). Never blocks.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return how often the service manager wants to be told ``WATCHDOG=1``, in seconds: half of its limit.

    Returns:
        None where it has no watchdog, or has one for another process.
    """
    limit, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (limit.isascii() and limit.isdigit() and int(limit)) or process not in ("", str(os.getpid())):
        return None
    return int(limit) / 2e6
