"""Brokers and messages: addresses, documents, connections, adapters, and the broker of one machine.

The documented names stand here. They are defined in modules of their own, and ``NotFound`` in :mod:`gofer.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gofer.errors import NotFound
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

if TYPE_CHECKING:
    from gofer.messaging.document import Document
    from gofer.messaging.model import Consumer, Exchange, Producer, Queue, Reader

__all__ = ["URL", "Connector", "Consumer", "Document", "Exchange", "NotFound", "Producer", "Queue", "Reader"]

#: Names that programs of gofer 2 import from here, and their replacements.
_GONE = {
    "Node": "from gofer.messaging import Queue",
    "Destination": "an address is text, like <exchange>/<queue>",
    "Authenticator": "from gofer.messaging.auth import Authenticator",
    "ValidationFailed": "from gofer.messaging.auth import ValidationFailed",
}


def __getattr__(name: str) -> Any:
    if name in __all__:  # when it is asked for: an agent needs none of these
        return getattr(importlib.import_module("gofer.messaging.model"), name)
    instead = _GONE.get(name)
    if instead is not None:
        # Not an AttributeError: an import would then show nothing but the name.
        raise ImportError(f"gofer.messaging has no {name} in this version of gofer: {instead}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
