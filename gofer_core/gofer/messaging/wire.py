"""A connected socket that never blocks, plain or TLS, and the means to wake a thread that polls it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gofer.messaging.tls import SecureSocket

__all__ = ["Wakeup", "Wire"]

#: Bytes to read at a time, and TLS records (of 16 KiB at most) in a row before others get their turn.
_CHUNK = 256 * 1024
_RECORDS = 8
#: What the system counts with.
_COUNT = struct.Struct("i")


class Wire:
    """A socket with a buffer for unsent bytes. One thread at a time."""

    def __init__(self, sock: socket.socket | SecureSocket) -> None:
        """Own a connected, non-blocking socket."""
        self._sock: Any = sock
        #: Whether it speaks TLS.
        self.secure = type(sock) is not socket.socket
        #: Whether the peer has said anything.
        self.heard = False
        self._ended: OSError | None = None
        self._unsent = bytearray()
        #: How many bytes the socket has taken.
        self.taken = 0

    def fileno(self) -> int:
        """Return the descriptor to poll: for reading always, for writing while ``unsent`` is not 0; -1 when closed."""
        descriptor: int = self._sock.fileno()
        return descriptor

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket."""
        return len(self._unsent) + (self._sock.unsent if self.secure else 0)

    def progress(self) -> tuple[int, int]:
        """Return how many bytes the peer's system has taken, as far as this one tells, and how many have to wait."""
        waiting = self._sock.unsent if self.secure else 0
        try:
            waiting += _COUNT.unpack(fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size)))[0]
        except (OSError, ValueError):  # not of this kind of socket; closed meanwhile
            pass
        return self.taken - waiting, waiting + len(self._unsent)

    def read(self) -> bytes:
        """Return the bytes that have arrived; b"": none for now.

        Raises:
            OSError: the connection has ended, and all its bytes have been returned.
        """
        if self._ended is not None:
            raise self._ended
        parts: list[bytes] = []
        try:
            for _ in range(_RECORDS if self.secure else 1):
                data = self._sock.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("closed by the peer")
                if not self.heard:
                    self._hear(data)
                parts.append(data)
                if self.secure and not self._sock.pending:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            if not parts:
                raise
            self._ended = error  # raised by the next call, after this was taken
        return b"".join(parts)

    def _hear(self, data: bytes) -> None:
        """Look at the first bytes: no protocol of a broker begins as an answer of TLS does."""
        self.heard = True
        if not self.secure and data[0] in (0x15, 0x16) and data[1:2] == b"\x03":
            raise ConnectionResetError("the peer expects TLS on this port. Write amqps://, or use the port without TLS")

    @property
    def pending(self) -> bool:
        """Whether there are bytes to read that a poll does not show."""
        return bool(self.secure and (self._sock.pending or self._ended))

    def write(self, data: bytes = b"") -> None:
        """Write unsent bytes and ``data``, as far as the socket takes them; keep the rest.

        Raises:
            OSError: the connection has ended.
        """
        unsent = self._unsent
        if self.secure and not self._sock.flush():
            unsent += data
            return
        try:
            if not unsent:
                sent = self._sock.send(data) if data else 0
                self.taken += sent
                if sent < len(data):
                    unsent += memoryview(data)[sent:]
                return
            unsent += data
            while unsent:
                with memoryview(unsent) as view:
                    sent = self._sock.send(view[:_CHUNK])
                self.taken += sent
                del unsent[:sent]
        except BlockingIOError:
            if not unsent:
                unsent += data

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._sock.close()


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
