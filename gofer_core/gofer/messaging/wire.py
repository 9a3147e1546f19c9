"""A connected socket that never blocks, plain or TLS, and the means to wake a thread that polls it."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

__all__ = ["Wakeup", "Wire"]

#: Bytes to read at a time, and TLS records (of 16 KiB at most) in a row before others get their turn.
_CHUNK = 256 * 1024
_RECORDS = 8


class Wire:
    """A socket with a buffer for what it has not taken. One thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        """Own a connected, non-blocking socket."""
        self._sock: Any = sock
        self._secure = type(sock) is not socket.socket
        self._later: tuple[type[OSError], ...] = (BlockingIOError,)
        if self._secure:
            import ssl  # two megabytes that plain connections do not need

            self._later = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._unsent = bytearray()

    def fileno(self) -> int:
        """Return what to wait on: for reading always, for writing while ``unsent`` is not 0; -1 when closed."""
        descriptor: int = self._sock.fileno()
        return descriptor

    @property
    def unsent(self) -> int:
        """How many bytes wait for the socket."""
        return len(self._unsent)

    def read(self) -> bytes:
        """Return what is there; b"": nothing for now.

        Raises:
            OSError: the connection has ended; what came before that has been returned.
        """
        parts: list[bytes] = []
        try:
            for _ in range(_RECORDS if self._secure else 1):
                data = self._sock.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("closed by the peer")
                parts.append(data)
        except self._later:
            pass
        except OSError:
            if not parts:
                raise  # else the next call raises it again
        return b"".join(parts)

    @property
    def pending(self) -> bool:
        """Whether there is something to read that the descriptor does not show."""
        return self._secure and self._sock.pending() > 0

    def write(self, data: bytes = b"") -> None:
        """Write what the socket takes of what it has not taken yet, and of ``data``; keep the rest.

        Raises:
            OSError: the connection has ended.
        """
        unsent = self._unsent
        try:
            if not unsent:
                sent = self._sock.send(data) if data else 0
                if sent < len(data):
                    unsent += memoryview(data)[sent:]
                return
            unsent += data
            while unsent:
                with memoryview(unsent) as view:
                    sent = self._sock.send(view[:_CHUNK])
                del unsent[:sent]
        except self._later:
            if not unsent:
                unsent += data

    def close(self) -> None:
        """Give back the descriptor, without a word to the peer. Idempotent."""
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
        """Take it back: its reason is about to be looked at."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            pass  # it was not set

    def close(self) -> None:
        """Give back the descriptors. Idempotent."""
        with self._lock:  # a thread that is about to set it must not write to a descriptor that was given out anew
            self.abandon()

    def abandon(self) -> None:
        """Close in a forked child: no lock is taken, as the thread that held it may not exist there."""
        descriptors, self._read, self._write = {self._read, self._write}, -1, -1
        for descriptor in descriptors - {-1}:
            os.close(descriptor)
