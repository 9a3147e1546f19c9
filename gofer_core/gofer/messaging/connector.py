"""What shapes a connection: the URL, TLS files, the heartbeat, and how patient it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gofer.messaging.url import URL

__all__ = ["SSL", "Connector"]

Source = Callable[[], URL]


class SSL:
    """The TLS files of a connector, by the names that they had in gofer 2: ``connector.ssl.ca_certificate``."""

    __slots__ = ("_connector",)

    def __init__(self, connector: Connector) -> None:
        self._connector = connector

    @property
    def ca_certificate(self) -> str | None:
        """The connector's ``cacert``."""
        return self._connector.cacert

    @ca_certificate.setter
    def ca_certificate(self, file: str | None) -> None:
        self._connector.cacert = file

    @property
    def client_certificate(self) -> str | None:
        """The connector's ``clientcert``."""
        return self._connector.clientcert

    @client_certificate.setter
    def client_certificate(self, file: str | None) -> None:
        self._connector.clientcert = file

    @property
    def client_key(self) -> str | None:
        """The connector's ``clientkey``."""
        return self._connector.clientkey

    @client_key.setter
    def client_key(self, file: str | None) -> None:
        self._connector.clientkey = file

    @property
    def host_validation(self) -> bool:
        """The connector's ``host_validation``."""
        return self._connector.host_validation

    @host_validation.setter
    def host_validation(self, wanted: bool) -> None:
        self._connector.host_validation = bool(wanted)


@dataclass
class Connector:
    """How to connect to a broker. Hashable: equal connectors share one connection in a process.

    Its values may be set until it is used: until it is hashed, which is how its connection is found, or added.

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
    source: Source | None = field(default=None, compare=False, repr=False)

    if TYPE_CHECKING:  # what it takes is more than what it has: a dataclass cannot say so

        def __init__(  # noqa: PLR0917 - as many as a dataclass makes
            self,
            url: URL | str,
            cacert: str | None = None,
            clientcert: str | None = None,
            clientkey: str | None = None,
            host_validation: bool = True,
            heartbeat: float = 10.0,
            adapter: str | None = None,
            reconnect_max: float = 30.0,
            max_message: int = 16 * 1024 * 1024,
            proxy: str | None = None,
            source: Source | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self.url = URL.parse(self.url)

    def __setattr__(self, name: str, value: object) -> None:
        if "_used" in self.__dict__:
            raise AttributeError(f"{name} of {self!r} cannot be set: it is used; make another connector")
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        object.__setattr__(self, "_used", True)  # found by what it is now, it must stay that
        return hash((self.url, self.cacert, self.clientcert, self.clientkey, self.host_validation, self.heartbeat))

    def __reduce__(self) -> tuple[object, ...]:
        values = (self.url, self.cacert, self.clientcert, self.clientkey, self.host_validation, self.heartbeat)
        more = (self.adapter, self.reconnect_max, self.max_message, self.proxy, self.source)
        return Connector, (*values, *more)

    @property
    def ssl(self) -> SSL:
        """The TLS files, by the names that they had in gofer 2."""
        return SSL(self)

    def add(self) -> None:
        """Have whoever gives this URL alone in this process mean this connector: its TLS files, its heartbeat."""
        added.put(self)

    def current(self) -> Connector:
        """Return the connector with the URL of the moment.

        Raises:
            GoferError: what ``source`` raised.
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


class Added:
    """The connectors that were added, by their URLs. Any thread."""

    def __init__(self) -> None:
        self._connectors: dict[URL, Connector] = {}

    def put(self, connector: Connector) -> None:
        """Keep a connector, in place of one with the same URL; it cannot be changed any more."""
        hash(connector)
        self._connectors[connector.url] = connector

    def get(self, url: URL) -> Connector | None:
        """Return the one with a URL."""
        return self._connectors.get(url)

    def clear(self) -> None:
        """Forget all: for tests."""
        self._connectors.clear()


added = Added()
