"""Brokers and messages: addresses, documents, connections, adapters, and the broker of one machine.

``NotFound`` is at home in :mod:`gofer.errors`, the others in modules of their own; here are their documented names.
"""

from __future__ import annotations

from typing import NoReturn

from gofer.errors import NotFound
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

__all__ = ["URL", "Connector", "NotFound"]

#: What programs of gofer 2 import from here, and what to write instead.
_GONE = {
    "Queue": "name a queue by text; a ReplyConsumer declares its own",
    "Exchange": "declare exchanges at the broker; an address is <exchange>/<queue>",
    "Node": "name a queue by text",
    "Destination": "an address is text, like <exchange>/<queue>",
    "Producer": "call an agent's methods with gofer.proxy.Agent",
    "Reader": "hear replies with gofer.rmi.reply.ReplyConsumer",
    "Consumer": "hear replies with gofer.rmi.reply.ReplyConsumer",
    "Document": "documents are plain mappings",
    "Authenticator": "from gofer.messaging.auth import Authenticator",
    "ValidationFailed": "from gofer.messaging.auth import ValidationFailed",
}


def __getattr__(name: str) -> NoReturn:
    instead = _GONE.get(name)
    if instead is not None:
        # Not an AttributeError: of that, an import would tell nothing but the name.
        raise ImportError(f"gofer.messaging has no {name} in this version of gofer: {instead}", name=__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
