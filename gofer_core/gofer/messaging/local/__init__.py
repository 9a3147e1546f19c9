"""The broker of one machine and its adapter: messages in the memory of one process, reached by a Unix socket.

Nothing needs to be installed for it, and nothing survives it. ``adapter`` is what ``local://`` is served by; ``server``
is the broker's loop, ``client`` its side of a connection, ``model`` and ``queues`` what it keeps; ``wire`` is what is
said over the socket, and ``paths`` where that is.
"""

from __future__ import annotations

from gofer.messaging.local.paths import default_path, open_socket

__all__ = ["default_path", "open_socket"]
