"""HTTP proxies: finding the one to use, and asking it for a tunnel to the broker."""

from __future__ import annotations

import base64
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from gofer.errors import AdapterError, ConfigError
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

if TYPE_CHECKING:
    import socket

__all__ = ["find_proxy", "parse_proxy", "tunnel"]

_LONGEST_ANSWER = 8192
_HTTP = b"HTTP/"


def parse_proxy(text: str) -> URL:
    """Read ``http://[user:password@]host:port``. The port is 3128 if none is given.

    Raises:
        ConfigError: it is something else. The text shows no password.
    """
    try:
        parts = urlsplit(text if "//" in text else f"//{text}", scheme="http")
        port = parts.port or 3128
    except ValueError:
        raise ConfigError("a proxy is http://[user:password@]host:port, with a port between 1 and 65535") from None
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(
            f"a proxy is http://[user:password@]host:port, not {parts.scheme}://{parts.hostname or ''}{parts.path}"
        )
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return URL(parts.hostname, "tcp", None, port, user, password)


def find_proxy(connector: Connector, host: str) -> URL | None:
    """Return the proxy for a host; None: the connection is direct.

    Raises:
        AdapterError: the proxy cannot be read.
    """
    proxy = connector.proxy
    if proxy is None:
        if not connector.url.tls or host in ("localhost", "127.0.0.1", "::1"):
            return None
        import urllib.request  # large, and most agents need none of it

        if urllib.request.proxy_bypass(host):
            return None
        proxy = urllib.request.getproxies().get("https", "")
    try:
        return parse_proxy(proxy) if proxy else None
    except ConfigError as error:
        raise AdapterError(f"no connection to {host}: {error}") from None


def tunnel(sock: socket.socket, proxy: URL, where: str, deadline: float) -> None:
    """Ask a proxy for a tunnel, on a connected socket, no longer than to the deadline (``time.monotonic()``).

    Raises:
        OSError: the connection ended, no answer in time, or the proxy cannot reach the broker (5xx).
        AdapterError: the proxy refuses, or is no HTTP proxy.
    """
    name = f"{proxy.host}:{proxy.port}"
    request = f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n"
    if proxy.user is not None:
        login = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode("ascii")
        request += f"Proxy-Authorization: Basic {login}\r\n"
    sock.sendall(f"{request}\r\n".encode())
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        sock.settimeout(max(0.001, deadline - monotonic()))  # for all of it: the socket's own is for each byte
        byte = sock.recv(1)  # no more: what follows the answer is the broker's
        if not byte:
            raise ConnectionResetError(f"closed by the proxy {name}")
        answer += byte
        if not answer.startswith(_HTTP[: len(answer)]) or len(answer) > _LONGEST_ANSWER:
            raise AdapterError(f"{where}: {name} does not answer like an HTTP proxy")
    status = bytes(answer).split(b"\r\n", 1)[0].decode("latin-1")
    code = status.partition(" ")[2].strip()
    if code.startswith("5"):
        raise ConnectionError(f"the proxy has no connection to it: {code[:200]!r}")
    if not code.startswith("2"):
        raise AdapterError(f"{where}: the proxy {name} refuses the connection: {code[:200]!r}")
