"""The broker of one machine and its adapter: messages in the memory of one process, reached by a Unix socket.

It needs no installation, and its messages end with its process. ``adapter`` serves ``local://``; ``server`` is the
broker, ``client`` its side of a connection, ``state`` what it holds; ``wire`` is the protocol on the
socket, and ``paths`` the place of the socket.
"""

from __future__ import annotations

from gofer.messaging.local.paths import default_path, open_socket

__all__ = ["default_path", "open_socket"]
