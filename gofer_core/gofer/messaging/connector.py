"""Connectors: the settings of a connection. The URL, TLS files, the heartbeat, and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gofer.messaging.url import URL

__all__ = ["SSL", "Connector"]

Source = Callable[[], URL]


def _alias(name: str) -> Any:
    """Make a property that reads and sets an attribute of the connector."""
    return property(lambda ssl: getattr(ssl._connector, name), lambda ssl, value: setattr(ssl._connector, name, value))


class SSL:
    """The TLS files of a connector, by the names that they had in gofer 2: ``connector.ssl.ca_certificate``."""

    __slots__ = ("_connector",)

    ca_certificate = _alias("cacert")
    client_certificate = _alias("clientcert")
    client_key = _alias("clientkey")
    host_validation = _alias("host_validation")

    def __init__(self, connector: Connector) -> None:
        self._connector = connector


class _ParsedURL:
    """An attribute that is set to a URL or its text, and is a URL."""

    def __get__(self, connector: Connector | None, owner: type) -> URL:
        if connector is None:
            raise AttributeError("a connector has no URL of its own")  # so it is an argument without a default
        url: URL = connector.__dict__["url"]
        return url

    def __set__(self, connector: Connector, url: URL | str) -> None:
        connector.__dict__["url"] = URL.parse(url)


@dataclass
class Connector:
    """How to connect to a broker. Hashable: equal connectors share one connection in a process.

    Values can be set until its first use: until it is hashed, to find its connection, or added.

    ``heartbeat`` is in seconds; a peer silent for two of them is dead; 0 turns heartbeats off. The files are PEM. Each
    (re)connect reads them again, so renewed ones come into use. ``clientcert`` may hold the key too.
    ``adapter`` is the one to use for a URL that names none. Reconnecting waits at most ``reconnect_max`` seconds
    between two attempts. A document is at most ``max_message`` bytes. ``source`` returns the current URL, from a file
    for instance; it is called before each connection, and may raise GoferError. It does not count in comparisons.
    """

    url: _ParsedURL = _ParsedURL()
    cacert: str | None = None
    clientcert: str | None = None
    clientkey: str | None = None
    host_validation: bool = True
    heartbeat: float = 10.0
    adapter: str | None = None
    reconnect_max: float = 30.0
    max_message: int = 16 * 1024 * 1024
    proxy: str | None = field(default=None, repr=False)
    source: Source | None = field(default=None, compare=False, repr=False)

    def __setattr__(self, name: str, value: object) -> None:
        if "_used" in self.__dict__:
            raise AttributeError(f"{name} of {self!r} cannot be set: it is used; make another connector")
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        object.__setattr__(self, "_used", True)  # a key of a dict must not change
        return hash((self.url, self.cacert, self.clientcert, self.clientkey, self.host_validation, self.heartbeat))

    def __reduce__(self) -> tuple[object, ...]:
        return Connector, tuple(getattr(self, each.name) for each in fields(self))  # without its use

    @property
    def ssl(self) -> SSL:
        """The TLS files, by the names that they had in gofer 2."""
        return SSL(self)

    def add(self) -> None:
        """Use this connector, with its TLS files and its heartbeat, wherever this process gives only its URL."""
        hash(self)  # it cannot be changed any more
        added[self.url] = self

    def current(self) -> Connector:
        """Return the connector with its current URL.

        Raises:
            GoferError: as ``source`` does.
        """
        return self if self.source is None else replace(self, url=self.source())

    @classmethod
    def of(cls, url: str | URL | Connector) -> Connector:
        """Make a connector of a URL, or return the one that was added for it; a connector stays as it is.

        Raises:
            ConfigError: the text is not a URL.
        """
        if isinstance(url, Connector):
            return url
        parsed = URL.parse(url)
        return added.get(parsed) or cls(parsed)


#: The connectors that were added, by their URLs.
added: dict[URL, Connector] = {}
