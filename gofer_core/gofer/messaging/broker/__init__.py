"""The local broker: queues, exchanges and messages in the memory of one process, reached by a Unix socket.

Nothing needs to be installed for it, and nothing survives it. See ``server`` for the loop, ``model`` for what it keeps,
``protocol`` for what is said over the socket.
"""

from __future__ import annotations

from gofer.messaging.broker.paths import default_path
from gofer.messaging.broker.server import Broker, serving

__all__ = ["Broker", "default_path", "serving"]
