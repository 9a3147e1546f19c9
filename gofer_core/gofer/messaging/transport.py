"""Opening connections: TCP, TLS, through a proxy, or to the broker of this machine. The one place that does."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.proxies import find_proxy, tunnel
from gofer.messaging.url import place

if TYPE_CHECKING:
    import ssl

__all__ = ["open_socket"]

# Probes of an idle connection, in seconds: they find a dead peer where heartbeats are turned off.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def open_socket(connector: Connector, timeout: float, tried: int = 0) -> socket.socket:
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
    context = _tls_context(connector) if url.tls else None
    hosts = url.hosts[tried % len(url.hosts) :] + url.hosts[: tried % len(url.hosts)]
    failures: list[MessagingError] = []
    for position, (host, port) in enumerate(hosts):
        # One that swallows everything must leave time for those after it.
        share = time.monotonic() + (deadline - time.monotonic()) / (len(hosts) - position)
        try:
            return _open_host(connector, host, port, context, deadline=share, timeout=timeout)
        except (AdapterError, ConnectionLost) as error:
            if len(hosts) == 1:
                raise
            failures.append(error)
    refused = any(isinstance(error, AdapterError) for error in failures)
    raise (AdapterError if refused else ConnectionLost)("; ".join(map(str, failures)))


def _open_host(
    connector: Connector, host: str, port: int, context: ssl.SSLContext | None, *, deadline: float, timeout: float
) -> socket.socket:
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
                sock = _handshake(sock, context, host, where, deadline)
            sock.setblocking(False)
        except TimeoutError:
            sock.close()
            refusals.append(f"no answer within {timeout:g} s")
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


def _handshake(sock: socket.socket, context: ssl.SSLContext, host: str, where: str, deadline: float) -> socket.socket:
    """Shake hands on a connected socket, which is closed when that fails."""
    import ssl

    wrapped: socket.socket = sock
    try:
        wrapped = secure = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        # Python holds this time against the whole handshake, not each read.
        secure.settimeout(max(0.001, deadline - time.monotonic()))
        secure.do_handshake()
    except ssl.SSLCertVerificationError as error:
        wrapped.close()
        raise AdapterError(f"{where}: the broker's certificate does not verify: {error.verify_message}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        wrapped.close()
        raise ConnectionResetError("closed by the peer during the TLS handshake") from error
    except ssl.SSLError as error:
        wrapped.close()
        raise AdapterError(f"{where}: the TLS handshake failed: {error.reason or error}") from error
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _tls_context(connector: Connector) -> ssl.SSLContext:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = connector.host_validation
    if connector.clientkey is not None and connector.clientcert is None:
        raise AdapterError(f"clientkey {connector.clientkey} is given without a clientcert")
    for option in ("cacert", "clientcert", "clientkey"):
        path = getattr(connector, option)
        if path is not None:
            _readable(option, path)
    if connector.cacert is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(connector.cacert)
        except (ssl.SSLError, OSError) as error:
            raise AdapterError(f"cacert {connector.cacert} has no PEM certificate: {_reason(error)}") from error
    if connector.clientcert is not None:
        key = "" if connector.clientkey is None else f" with clientkey {connector.clientkey}"
        try:
            # Without a password at hand OpenSSL would ask for one on the terminal.
            context.load_cert_chain(connector.clientcert, connector.clientkey, password="")
        except (ssl.SSLError, OSError) as error:
            text = f"clientcert {connector.clientcert}{key} is not a PEM certificate and its unencrypted key"
            raise AdapterError(f"{text}: {_reason(error)}") from error
    return context


def _readable(option: str, path: str) -> None:
    try:
        with open(os.fspath(path), "rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{option} {path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The system's words for an error, without the number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
