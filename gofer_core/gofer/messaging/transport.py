"""Opening connections: TCP, TLS, through a proxy, or to the broker of this machine. The one place that does."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.endings import words
from gofer.messaging.proxies import find_proxy, tunnel
from gofer.messaging.url import place
from gofer.messaging.wire import Wire

if TYPE_CHECKING:
    import ssl

__all__ = ["open_wire"]

# Probes of an idle connection, in seconds: they find a dead peer where heartbeats are turned off.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def open_wire(connector: Connector, timeout: float, tried: int = 0) -> Wire:
    """Open a connection to one of the connector's hosts: TCP, and TLS when its URL says so; or a Unix socket.

    Every host, and every address of it, is tried in turn. TLS is 1.2 or later, verified against ``cacert``, or the
    system's authorities without one; ``host_validation`` False leaves out only the check of the host's name. A host
    behind a proxy is resolved by the proxy.

    Args:
        timeout: seconds for all of it: resolving the name, connecting, and the TLS handshake.
        tried: how many connections were tried before: with several hosts each begins at the next one.

    Returns:
        A connection whose socket has TCP_NODELAY and keepalive set. It is the caller's to close.

    Raises:
        ConnectionLost: refused, unreachable, unknown host, or no answer within ``timeout``.
        AdapterError: a certificate that does not verify, a peer that does not speak TLS, a file that is missing,
            unreadable or not PEM (the text names it), or a proxy that refuses.
    """
    url = connector.url
    if url.protocol == "local":
        from gofer.messaging.local import open_socket

        return Wire(open_socket(connector, timeout))
    deadline, context = time.monotonic() + timeout, None
    if url.tls:
        from gofer.messaging.tls import make_context  # two megabytes that plain connections do not need

        context = make_context(connector)
    first = tried % len(url.hosts)
    hosts = url.hosts[first:] + url.hosts[:first]
    failures: list[MessagingError] = []
    for position, at in enumerate(hosts):
        # One that swallows everything must leave time for those after it.
        share = _share(deadline, len(hosts) - position)
        try:
            return _open_host(connector, at, context, time.monotonic() + share, timeout)
        except (AdapterError, ConnectionLost) as error:  # another host may be as it should
            failures.append(error)
    kind = AdapterError if any(isinstance(error, AdapterError) for error in failures) else ConnectionLost
    raise kind("; ".join(map(str, failures))) from failures[-1]


def _share(deadline: float, left: int) -> float:
    """Return the seconds for one of so many that are left."""
    return max(0.001, (deadline - time.monotonic()) / left)


def _open_host(
    connector: Connector, at: tuple[str, int], context: ssl.SSLContext | None, deadline: float, timeout: float
) -> Wire:
    where = place(*at)
    proxy = find_proxy(connector, at[0])
    target = at if proxy is None else (proxy.host, proxy.port or 0)
    addresses = _resolve(*target, place(*target), deadline)
    refusals: list[str] = []
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)  # an OSError for a family this machine does not have
            _set_options(sock)
            sock.settimeout(_share(deadline, len(addresses) - position))
            sock.connect(address)
            if proxy is not None:
                tunnel(sock, proxy, where, deadline)
            if context is None:
                return Wire(sock)
            from gofer.messaging.tls import shake_hands

            return Wire(sock, shake_hands(sock, context, connector, at, deadline))
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            refusals.append(_reason(error, timeout))
    by = "" if proxy is None else f" by the proxy {place(*target)}"
    raise ConnectionLost(f"{where}{by}: {'; '.join(dict.fromkeys(refusals)) or 'no address'}")


def _resolve(host: str, port: int, where: str, deadline: float) -> list[Any]:
    """Look up the host's addresses, no longer than to the deadline."""
    literal = host.encode() if host.isascii() else host  # for text Python loads its tables of all alphabets
    try:
        return socket.getaddrinfo(literal, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # a name
    found: list[Any] = []
    failure: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failure.append(error)

    # The system's resolver takes no timeout. A thread left behind by one that is passed ends with the resolver's own.
    thread = threading.Thread(target=look_up, name="gofer-resolve", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if failure:
        raise ConnectionLost(f"{where}: cannot resolve the name: {words(failure[0])}")
    if not found:
        raise ConnectionLost(f"{where}: the name was not resolved in time")
    return found


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reason(error: Exception, timeout: float) -> str:
    """The system's words for an error, without the number; a handshake's own after those of a timeout."""
    text = words(error)
    if not isinstance(error, TimeoutError):
        return text
    return f"no answer within {timeout:g} s" + (f": {text}" if "handshake" in text else "")
