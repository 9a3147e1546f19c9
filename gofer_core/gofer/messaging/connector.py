"""What shapes a connection: the URL, TLS files, the heartbeat, and how patient it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gofer.messaging.url import URL

__all__ = ["Connector"]


@dataclass(frozen=True, slots=True)
class Connector:
    """How to connect to a broker. Frozen and hashable: equal connectors share one connection in a process.

    ``heartbeat`` is in seconds; a peer silent for two of them is dead; 0 turns heartbeats off. The files are PEM and
    are read at each (re)connect, so renewed ones are taken up. ``clientcert`` may hold the key too.
    ``adapter`` is the one to use for a URL that names none. Reconnecting waits at most ``reconnect_max`` seconds
    between two attempts. A document is at most ``max_message`` bytes. ``source`` tells the URL of the moment, and is
    asked before each connection, in place of ``url``: where a file holds it, say. It may raise GoferError;
    connectors that differ in nothing else are equal.
    """

    url: URL
    cacert: str | None = None
    clientcert: str | None = None
    clientkey: str | None = None
    host_validation: bool = True
    heartbeat: float = 10.0
    adapter: str | None = None
    reconnect_max: float = 30.0
    max_message: int = 16 * 1024 * 1024
    proxy: str | None = field(default=None, repr=False)
    source: Callable[[], URL] | None = field(default=None, compare=False, repr=False)

    def current(self) -> Connector:
        """Return the connector with the URL of the moment.

        Raises:
            GoferError: what ``source`` raised.
        """
        return self if self.source is None else replace(self, url=self.source())

    @classmethod
    def of(cls, url: str | URL | Connector) -> Connector:
        """Make a connector of a URL; a connector stays as it is.

        Raises:
            ConfigError: the text is not a URL.
        """
        return url if isinstance(url, Connector) else cls(URL.parse(url))
