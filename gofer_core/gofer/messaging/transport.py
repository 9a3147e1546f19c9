"""Opening connections: TCP, TLS, through a proxy, or to the broker of this machine. The one place that does."""

from __future__ import annotations

import errno
import os
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

__all__ = ["Connecting", "open_wire", "start_connecting"]

# Probes of an idle connection, in seconds: they find a dead peer where heartbeats are turned off.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


def open_wire(connector: Connector, timeout: float, tried: int = 0) -> Wire:
    """Open a connection to one of the connector's hosts: TCP, and TLS when its URL says so; or a Unix socket.

    Every host, and every address of it, is tried in turn. TLS is 1.2 or later, verified against ``cacert``, or the
    system's authorities without one; ``host_validation`` False leaves out only the check of the host's name. A host
    behind a proxy is resolved by the proxy.

    Args:
        timeout: seconds for all of it: resolving the name, connecting, and the TLS handshake.
        tried: how many connections were tried before: with several hosts each begins at the next one, and when all
            were first, at the next address of each. One that takes connections and then says nothing must not be the
            first of all tries.

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
            return _open_host(connector, at, context, time.monotonic() + share, timeout, tried // len(hosts))
        except (AdapterError, ConnectionLost) as error:  # another host may be as it should
            failures.append(error)
    kind = AdapterError if any(isinstance(error, AdapterError) for error in failures) else ConnectionLost
    raise kind("; ".join(map(str, failures))) from failures[-1]


class Connecting:
    """A TCP socket that connects while nobody waits. Poll ``fileno()`` for writing, and then take the ``result``."""

    def __init__(self, where: str, family: int, address: Any) -> None:
        """Start. Raises OSError: there is no socket."""
        self._where = where
        self._sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            _set_options(self._sock)
            self._sock.setblocking(False)
            self._refusal = self._sock.connect_ex(address)
        except BaseException:
            self._sock.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether there was an end at once: a machine refuses its own ports so."""
        return self._refusal != errno.EINPROGRESS

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def result(self, waited: float | None) -> Wire:
        """Return the connection, at its end.

        Args:
            waited: seconds after which it is given up; None: the descriptor is writable.

        Raises:
            ConnectionLost: refused, unreachable, or given up.
        """
        code = self._refusal if self.ended else self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise ConnectionLost(f"{self._where}: {os.strerror(code)}")
        if waited is not None:
            raise ConnectionLost(f"{self._where}: {_no_answer(waited)}")
        return Wire(self._sock)

    def close(self) -> None:
        """Give it up. Idempotent."""
        self._sock.close()


def start_connecting(connector: Connector) -> Connecting | None:
    """Start to connect without a wait. None: only ``open_wire`` can do what this connector needs, or say what is wrong.

    That is a name to look up, a choice of hosts, a proxy, TLS, or a file to read.
    """
    url = connector.url
    if url.protocol == "local" or url.tls or len(url.hosts) > 1 or connector.proxy or connector.source:
        return None
    found = _read_address(*url.hosts[0])
    try:
        return Connecting(place(*url.hosts[0]), found[0][0], found[0][4]) if found else None
    except OSError:
        return None


def _share(deadline: float, left: int) -> float:
    """Return the seconds for one of so many that are left."""
    return max(0.001, (deadline - time.monotonic()) / left)


def _open_host(  # noqa: PLR0917 - all that is known of one try
    connector: Connector,
    at: tuple[str, int],
    context: ssl.SSLContext | None,
    deadline: float,
    timeout: float,
    tried: int,
) -> Wire:
    where = place(*at)
    proxy = find_proxy(connector, at[0])
    target = at if proxy is None else (proxy.host, proxy.port or 0)
    found = _resolve(*target, place(*target), deadline)
    first = tried % len(found)
    addresses = found[first:] + found[:first]
    refusals: list[str] = []
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)  # an OSError for a family this machine does not have
            _set_options(sock)
            share = _share(deadline, len(addresses) - position)
            until = time.monotonic() + share
            sock.settimeout(share)
            sock.connect(address)
            if proxy is not None:
                tunnel(sock, proxy, where, until)
            if context is None:
                return Wire(sock)
            from gofer.messaging.tls import shake_hands

            return Wire(sock, shake_hands(sock, context, connector, at, until))
        except BaseException as error:
            if sock is not None:
                sock.close()
            if not isinstance(error, OSError):
                raise
            refusals.append(_reason(error, timeout))
    by = "" if proxy is None else f" by the proxy {place(*target)}"
    raise ConnectionLost(f"{where}{by}: {'; '.join(dict.fromkeys(refusals)) or 'no address'}")


def _read_address(host: str, port: int) -> list[Any]:
    """Return the address that a host is written as; nothing if it is a name."""
    literal = host.encode() if host.isascii() else host  # for text Python loads its tables of all alphabets
    try:
        return socket.getaddrinfo(literal, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []


def _resolve(host: str, port: int, where: str, deadline: float) -> list[Any]:
    """Look up the host's addresses, no longer than to the deadline."""
    if found := _read_address(host, port):
        return found
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
    return _no_answer(timeout) + (f": {text}" if "handshake" in text else "")


def _no_answer(timeout: float) -> str:
    return f"no answer within {timeout:g} s"
