"""The socket under py-amqp: non-blocking, with an outbox and a read buffer of its own."""

from __future__ import annotations

import select
import socket
import ssl
import time

__all__ = ["Transport"]

_READ_SIZE = 65536
_READ_LIMIT = 4 * _READ_SIZE


class Transport:
    """What py-amqp writes frames to, and where received bytes wait to be cut into frames. Not thread-safe.

    ``write`` only fills ``outbox``, ``flush`` empties it as far as the socket takes it; ``receive`` fills ``inbox``.
    ``lost`` is the error that ended the connection, kept instead of raised so that what was read before it is used.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connected = True  # read by py-amqp
        self.outbox = bytearray()
        self.inbox = b""
        self.lost: Exception | None = None
        self.last_read = self.last_write = time.monotonic()
        self._tls = isinstance(sock, ssl.SSLSocket)

    def connect(self) -> None:
        """Greet the peer. py-amqp calls this; the connection itself is there already."""
        self.outbox += b"AMQP\x00\x00\x09\x01"

    def write(self, data: bytes | memoryview) -> None:
        """Append frames to the outbox. The data is copied: py-amqp hands over a buffer that it uses again."""
        self.outbox += data

    def flush(self) -> None:
        """Write what the socket takes.

        Raises:
            OSError: the connection is gone.
        """
        outbox = self.outbox
        while outbox:
            try:
                taken = self.sock.send(outbox)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            self.last_write = time.monotonic()
            del outbox[:taken]

    def receive(self) -> None:
        """Read what the socket has, at most 256 KiB."""
        total = 0
        try:
            while total < _READ_LIMIT:
                data = self.sock.recv(_READ_SIZE)
                if not data:
                    self.lost = ConnectionResetError("closed by the broker")
                    break
                self.inbox += data
                total += len(data)
                if len(data) < _READ_SIZE and not self._tls:  # TLS hands out one record at a time
                    break
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # read dry
        except OSError as error:
            self.lost = error
        if total:
            self.last_read = time.monotonic()

    @property
    def pending(self) -> bool:
        """Whether bytes wait that the descriptor does not show (inside TLS)."""
        return isinstance(self.sock, ssl.SSLSocket) and self.lost is None and self.sock.pending() > 0

    def wait(self, until: float) -> None:
        """Wait until the socket can be read or takes what is in the outbox, no longer than to a monotonic time."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | (select.POLLOUT if self.outbox else 0))
        poll.poll(max(0.0, until - time.monotonic()) * 1000)

    def close(self) -> None:
        """Close the descriptor, without a word to the peer. Idempotent."""
        self.connected = False
        self.sock.close()
