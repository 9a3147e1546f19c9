"""Peers that speak TLS up to a point, and then fall silent or hang up."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Answers", "peer", "server_context"]

_WAIT = 20.0


def server_context(certificate: Path, key: Path, *, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Make a server's context; ``version``: it speaks no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@dataclass(frozen=True)
class Answers:
    """How many bytes of its TLS output, or flights, a peer sends before it stops; None: all. ``hang_up``: it closes."""

    sent: int | None = None
    hang_up: bool = False
    flights: int | None = None


@contextmanager
def peer(context: ssl.SSLContext, answers: Answers, seen: list[int] | None = None) -> Iterator[int]:
    """Serve connections on a port of 127.0.0.1, each up to a point; note in ``seen`` the bytes sent so far."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return  # the test is over
                sock.settimeout(_WAIT)
                threads.append(threading.Thread(target=_serve, args=(sock, context, answers, seen)))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join(_WAIT)
            for thread in threads:
                thread.join(_WAIT)


def _serve(sock: socket.socket, context: ssl.SSLContext, answers: Answers, seen: list[int] | None) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(incoming, outgoing, server_side=True)
    left = 1 << 30 if answers.sent is None else answers.sent
    total, flights, done = 0, 0, False
    with sock:
        try:
            while left > 0:
                try:
                    secure.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    pass
                output = outgoing.read()
                total += len(output)
                sock.sendall(output[:left])
                left -= len(output)
                if output and seen is not None:
                    seen.append(total)
                flights += bool(output)
                if done or left <= 0 or flights == answers.flights:
                    break
                data = sock.recv(65536)
                if not data:
                    return
                incoming.write(data)
            if answers.hang_up:
                if not total:
                    sock.recv(65536)  # the greeting: unread, it would make the end a reset
                return
            while sock.recv(65536):
                pass  # it hears, and says nothing
        except OSError:
            return  # the client has gone
