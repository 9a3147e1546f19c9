"""Broker URLs: ``<adapter>+<protocol>://<user>:<password>@<host>:<port>,<host>:<port>/<virtual-host>``.

All but one host are optional. Several hosts are tried in turn, at each reconnect.

Protocols: ``tcp`` and ``amqp`` (plain, port 5672), ``ssl`` and ``amqps`` (TLS, port 5671), and ``local`` (the embedded
broker: ``local://`` or ``local:///path/to.sock``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from gofer.errors import ConfigError

__all__ = ["URL", "broker_of", "place"]

_PORTS = {"amqp": 5672, "tcp": 5672, "amqps": 5671, "ssl": 5671}
_TLS = {"amqps", "ssl"}
_HOST = r"(?: (?: \[ [0-9A-Fa-f:.]+ (?: % [\w.-]+ )? \] | [^:@/\[\],]* ) (?: : [0-9]* )? )"
_SHAPE = re.compile(
    r"""
    (?: (?: (?P<adapter> [A-Za-z][A-Za-z0-9._-]*) \+ )? (?P<protocol> [A-Za-z][A-Za-z0-9.-]*) :// | (?! [^/@]*:// ) )
    (?: (?P<user> [^:@/]*) (?: : (?P<password> [^@/]*) )? @ )?
    (?P<hosts> HOST (?: , HOST )* )
    (?P<path> /.*)?
    """.replace("HOST", _HOST),
    re.VERBOSE | re.DOTALL,
)
_SCHEME = re.compile(r"\s*[^:/@]*://")
_PORT = re.compile(r"[0-9]*(/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class URL:
    """Where a broker is. Frozen, hashable; ``str()`` and ``repr()`` never show the password, ``text`` does."""

    host: str = "localhost"
    protocol: str = "amqp"
    adapter: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    #: More hosts with their ports, for when the first does not answer.
    others: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if "/" in self.host or "@" in self.host:  # in gofer 2 URL(text) read the text; as a host it would be shown
            raise ConfigError(f"URL() takes the parts of a URL, not its text; write URL.parse({_masked(self.host)!r})")

    @classmethod
    def parse(cls, text: str | URL) -> URL:
        """Read a URL.

        Raises:
            ConfigError: not a URL, an unknown protocol, or an invalid port. The text shows no password.
        """
        if isinstance(text, URL):
            return text
        if not isinstance(text, str):
            raise ConfigError(f"a URL is text like amqp://host, not {type(text).__name__}")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise ConfigError(f"not a URL: {_masked(text)!r} has bytes in it that are not UTF-8")
        found = _SHAPE.fullmatch(text.strip())
        if found is None:
            raise ConfigError(
                f"not a URL: {_masked(text)!r}; expected [adapter+]protocol://[user[:password]@]host[:port][/virtual-host]"
            )
        protocol = (found["protocol"] or "amqp").lower()
        path, adapter = found["path"], found["adapter"]
        if protocol == "local":
            if found["hosts"] or found["user"] is not None:
                raise ConfigError(f"{_masked(text)!r}: local takes only a path: local:// or local:///path/to.sock")
            return cls("", protocol, adapter or "local", path=unquote(path) if path and path != "/" else None)
        if protocol not in _PORTS:
            allowed = ", ".join(sorted([*_PORTS, "local"]))
            raise ConfigError(f"unknown protocol {protocol!r} in {_masked(text)!r}; allowed: {allowed}")
        if adapter == "local":
            raise ConfigError(
                f"{_masked(text)!r}: the adapter local has no hosts. Write local:// or local:///path/to.sock for this"
                f" machine's broker, or {protocol}:// without local+ for another one"
            )
        hosts = [_host(each, protocol, text) for each in found["hosts"].split(",")]
        if path is not None and "@" in path:
            raise ConfigError(f"not a URL: {_masked(text)!r}; write '/' in a user or password as %2F, and '@' as %40")
        (host, port), *others = hosts
        password = None if found["password"] is None else unquote(found["password"])
        user = None if not found["user"] and password is None else unquote(found["user"])
        vhost = unquote(path[1:]) if path is not None and len(path) > 1 else None
        return cls(host, protocol, adapter, port, user, password, vhost, tuple(others))

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """All hosts with their ports, in their order in the URL."""
        return ((self.host, self.port or 0), *self.others)

    @property
    def tls(self) -> bool:
        """Whether the protocol is a TLS one."""
        return self.protocol in _TLS

    @property
    def text(self) -> str:
        """The URL with its password: what ``parse`` reads back as an equal URL."""
        return self._format(None if self.password is None else quote(self.password, safe=""))

    def __str__(self) -> str:
        return self._format(None if self.password is None else "***")

    def _format(self, password: str | None) -> str:
        adapter = "" if self.adapter is None else f"{self.adapter}+"
        if self.protocol == "local":
            return f"{'' if adapter == 'local+' else adapter}local://{quote(self.path or '', safe='/')}"
        login = "" if self.user is None else quote(self.user, safe="")
        if password is not None:
            login += f":{password}"
        hosts = ",".join(place(host, port) for host, port in self.hosts)
        vhost = "" if self.path is None else "/" + quote(self.path, safe="")
        return f"{adapter}{self.protocol}://{login + '@' if login else ''}{hosts}{vhost}"


def broker_of(url: URL) -> tuple[object, ...]:
    """Return what tells one broker's queues from another's: two URLs with the same lead to the same queues."""
    port = url.port if url.port is not None else (5671 if url.tls else 5672)
    return ("local", url.path) if url.protocol == "local" else (url.host.lower(), port, url.path or "")


def place(host: str, port: int) -> str:
    """Write a host and its port."""
    name = f"[{host}]" if ":" in host else host
    return f"{name}:{port}" if port else name


def _host(text: str, protocol: str, url: str) -> tuple[str, int]:
    """Read one ``host:port``."""
    name, _, number = text[1:].partition("]") if text.startswith("[") else text.partition(":")
    number = number.lstrip(":")
    if not name:
        raise ConfigError(f"no host in {_masked(url)!r}")
    if any(c.isspace() or not c.isprintable() for c in name):
        raise ConfigError(f"the host {name[:200]!r} has spaces or control characters in it")
    port = int(number[:6]) if number else _PORTS[protocol]
    if not 0 < port < 65536:
        raise ConfigError(f"port {port} in {_masked(url)!r} is not between 1 and 65535")
    return name, port


def _masked(text: str) -> str:
    """The text without what may be a password, for error messages."""
    scheme = _SCHEME.match(text)
    start = "" if scheme is None else scheme[0]
    login, at, place = text[len(start) :].rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        login = f"{user}:***" if colon else user
    else:  # without a host, the password may stand in the place of the port
        host, colon, port = place.partition("]:" if place.startswith("[") else ":")
        if colon and _PORT.fullmatch(port) is None:
            place = f"{host}{colon}***"
    return f"{start}{login}{at}{place}"[:200]
