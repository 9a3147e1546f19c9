"""What shapes a connection: the URL, TLS files and the heartbeat."""

from __future__ import annotations

from dataclasses import dataclass

from gofer.messaging.url import URL

__all__ = ["Connector"]


@dataclass(frozen=True, slots=True)
class Connector:
    """How to connect to a broker. Frozen and hashable: equal connectors share one connection in a process.

    ``heartbeat`` is in seconds; a peer silent for two of them is dead; 0 turns heartbeats off. The files are PEM and
    are read at each (re)connect, so renewed ones are taken up. ``clientcert`` may hold the key too.
    """

    url: URL
    cacert: str | None = None
    clientcert: str | None = None
    clientkey: str | None = None
    host_validation: bool = True
    heartbeat: float = 10.0
