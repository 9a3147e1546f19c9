"""Brokers and messages: addresses, documents, connections, adapters, and the broker of one machine.

``NotFound`` is at home in :mod:`gofer.errors`, the others in modules of their own; here are their documented names.
"""

from gofer.errors import NotFound
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

__all__ = ["URL", "Connector", "NotFound"]
