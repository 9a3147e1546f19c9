"""Telling the service manager how far we are: systemd's notification protocol, one datagram a message."""

from __future__ import annotations

import socket
from collections.abc import Mapping

__all__ = ["notify"]


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
