"""A connected socket that never blocks, plain or TLS, and the means to wake a thread that polls it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from gofer.messaging.tls import Session

__all__ = ["Wakeup", "Wire"]

#: Bytes to read, and to write, at a time. Reading 256 KiB at a time cost 50 µs for a short message, not 5: such memory
#: comes from the system, and goes back to it.
_READ = 64 * 1024
_WRITE = 256 * 1024
#: What the system counts with.
_COUNT = struct.Struct("i")


class Wire:
    """A socket that never blocks, with a buffer for unsent bytes, and with TLS if need be. One thread at a time."""

    def __init__(self, sock: socket.socket, session: Session | None = None) -> None:
        """Own a connected socket. ``session``: of TLS, after its handshake."""
        sock.setblocking(False)
        self.sock = sock
        #: What to poll: for reading always, for writing while there is something in the buffer.
        self.descriptor = sock.fileno()
        self.session = session
        #: Whether the peer has said anything.
        self.heard = False
        #: How many bytes the socket has taken.
        self.taken = 0
        self._early = b"" if session is None else session.decrypt(b"")  # what came with the end of the handshake
        #: What waits for the socket.
        self.buffer = bytearray()

    def fileno(self) -> int:
        """Return the descriptor; -1 when closed."""
        return self.sock.fileno()

    def progress(self) -> tuple[int, int]:
        """Return how many bytes the peer's system has taken, as far as this one tells, and how many have to wait."""
        try:
            waiting = _COUNT.unpack(fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size)))[0]
        except (OSError, ValueError):  # not of this kind of socket; closed meanwhile
            waiting = 0
        return self.taken - waiting, waiting + len(self.buffer)

    def read(self) -> bytes:
        """Return the bytes that have arrived; b"": none for now. The first call is made without a poll.

        Raises:
            OSError: the connection has ended, and all its bytes have been returned.
        """
        if self._early:
            data, self._early = self._early, b""
            return data
        if self.session is not None and self.session.ended is not None:
            raise self.session.ended
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionResetError("closed by the peer")
        if self.session is not None:
            data = self.session.decrypt(data)
        elif not self.heard and data[0] in (0x15, 0x16) and data[1:2] == b"\x03":  # as no protocol of a broker begins
            raise ConnectionResetError("the peer expects TLS on this port. Write amqps://, or use the port without TLS")
        self.heard = True
        return data

    def write(self, data: bytes = b"") -> None:
        """Write unsent bytes and ``data``, as far as the socket takes them; keep the rest.

        Raises:
            OSError: the connection has ended.
        """
        if self.session is not None:
            data = self.session.encrypt(data)
        unsent = self.buffer
        try:
            if not unsent:
                sent = self.sock.send(data) if data else 0
                self.taken += sent
                if sent < len(data):
                    unsent += memoryview(data)[sent:]
                return
            unsent += data
            while unsent:
                with memoryview(unsent) as view:
                    sent = self.sock.send(view[:_WRITE])
                self.taken += sent
                del unsent[:sent]
        except BlockingIOError:
            if not unsent:
                unsent += data

    def close(self) -> None:
        """Close the socket, without a word to the peer. Idempotent."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wakeup:
    """Ends the wait of a thread that polls ``fileno()``. Any thread sets it; a platform without eventfd has a pipe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may set it in the thread that is setting it
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return the descriptor that is readable when it was set."""
        return self._read

    def set(self) -> None:
        """End the wait, or the next one. Does nothing once it is closed."""
        with self._lock:
            if self._write >= 0:
                try:
                    os.write(self._write, b"\1\0\0\0\0\0\0\0")
                except BlockingIOError:
                    pass  # set often enough already

    def clear(self) -> None:
        """Reset it, before its reason is handled."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass  # it was not set

    def close(self) -> None:
        """Close the descriptors. Idempotent."""
        with self._lock:  # else a thread could write to a file that was opened under the same number
            self.abandon()

    def abandon(self) -> None:
        """Close in a forked child: no lock is taken, as the thread that held it may not exist there."""
        descriptors, self._read, self._write = {self._read, self._write}, -1, -1
        for descriptor in descriptors - {-1}:
            os.close(descriptor)
