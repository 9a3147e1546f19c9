"""Opening connections: TCP, TLS, through a proxy, or to the broker of this machine. The one place that does."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.handshake import Stalled
from gofer.messaging.proxies import find_proxy, tunnel
from gofer.messaging.url import place

if TYPE_CHECKING:
    import ssl

    from gofer.messaging.tls import SecureSocket

__all__ = ["open_socket"]

# Probes of an idle connection, in seconds: they find a dead peer where heartbeats are turned off.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def open_socket(connector: Connector, timeout: float, tried: int = 0) -> socket.socket | SecureSocket:
    """Open a connection to one of the connector's hosts: TCP, and TLS when its URL says so; or a Unix socket.

    Every host, and every address of it, is tried in turn. TLS is 1.2 or later, verified against ``cacert``, or the
    system's authorities without one; ``host_validation`` False leaves out only the check of the host's name. A host
    behind a proxy is resolved by the proxy.

    Args:
        timeout: seconds for all of it: resolving the name, connecting, and the TLS handshake.
        tried: how many connections were tried before: with several hosts each begins at the next one.

    Returns:
        A non-blocking socket with TCP_NODELAY and keepalive set. It is the caller's to close.

    Raises:
        ConnectionLost: refused, unreachable, unknown host, or no answer within ``timeout``.
        AdapterError: a certificate that does not verify, a peer that does not speak TLS, a file that is missing,
            unreadable or not PEM (the text names it), or a proxy that refuses.
    """
    if connector.url.protocol == "local":
        from gofer.messaging.local import open_socket as open_local

        return open_local(connector, timeout)
    deadline = time.monotonic() + timeout
    url = connector.url
    context = None
    if url.tls:
        from gofer.messaging.tls import make_context  # two megabytes that plain connections do not need

        context = make_context(connector)
    hosts = url.hosts[tried % len(url.hosts) :] + url.hosts[: tried % len(url.hosts)]
    failures: list[MessagingError] = []
    for position, (host, port) in enumerate(hosts):
        # One that swallows everything must leave time for those after it.
        share = time.monotonic() + (deadline - time.monotonic()) / (len(hosts) - position)
        try:
            return _open_host(connector, host, port, context, deadline=share, timeout=timeout)
        except (AdapterError, ConnectionLost) as error:  # another host may be as it should
            failures.append(error)
    kind = AdapterError if any(isinstance(error, AdapterError) for error in failures) else ConnectionLost
    raise kind("; ".join(map(str, failures))) from failures[-1]


def _open_host(
    connector: Connector, host: str, port: int, context: ssl.SSLContext | None, *, deadline: float, timeout: float
) -> socket.socket | SecureSocket:
    where = place(host, port)
    proxy = find_proxy(connector, host)
    target = (host, port) if proxy is None else (proxy.host, proxy.port or 0)
    addresses = _resolve(*target, place(*target), deadline)
    refusals: list[str] = []
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - position)
        if share <= 0:
            refusals.append(f"no answer within {timeout:g} s")
            break
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a family this machine does not have
            refusals.append(_reason(error))
            continue
        try:
            _set_options(sock)
            sock.settimeout(share)
            sock.connect(address)
            if proxy is not None:
                tunnel(sock, proxy, where, deadline)
            if context is not None:
                from gofer.messaging.tls import shake_hands

                return shake_hands(sock, context, connector, (host, port), deadline)
            sock.setblocking(False)
        except TimeoutError as error:
            sock.close()
            step = f": {error}" if isinstance(error, Stalled) else ""
            refusals.append(f"no answer within {timeout:g} s{step}")
        except OSError as error:
            sock.close()
            refusals.append(_reason(error))
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    by = "" if proxy is None else f" by the proxy {place(*target)}"
    raise ConnectionLost(f"{where}{by}: {'; '.join(dict.fromkeys(refusals)) or 'no address'}")


def _resolve(host: str, port: int, where: str, deadline: float) -> list[Any]:
    """Look up the host's addresses, no longer than to the deadline."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
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
        raise ConnectionLost(f"{where}: cannot resolve the name: {_reason(failure[0])}")
    if not found:
        raise ConnectionLost(f"{where}: the name was not resolved in time")
    return found


def _set_options(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not every system has them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _reason(error: Exception) -> str:
    """The system's words for an error, without the number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
