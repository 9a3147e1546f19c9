"""A proxy in front of an AMQP 0-9-1 broker that holds back one kind of answer, and lets all else pass."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable

__all__ = ["HoldingProxy"]

_DECLARE_OK = struct.pack(">HH", 50, 11)


class HoldingProxy:
    """Relays to a port of 127.0.0.1. A context manager.

    Once it was told to ``hold`` a queue, it keeps the next ``queue.declare-ok`` for that for some seconds, and passes
    all else meanwhile; ``held`` is set then, ``released`` afterwards.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._wanted: tuple[bytes, float] | None = None
        self.held, self.released = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def hold(self, queue: str, seconds: float) -> None:
        """Keep the next answer for the queue for so long."""
        self._wanted = (queue.encode(), seconds)

    def __enter__(self) -> HoldingProxy:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for sock in (self._listener, *self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was first
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(sock)
            self._start(self._pass_on, near, far)
            self._start(self._pass_frames, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass  # ended below
        self._close(source, target)

    def _pass_frames(self, source: socket.socket, target: socket.socket) -> None:
        """Pass what the broker says, frame by frame."""
        lock, rest = threading.Lock(), b""
        try:
            while data := source.recv(65536):
                rest += data
                passed = b""
                while len(rest) >= 7 and len(rest) >= (end := 8 + int.from_bytes(rest[3:7])):
                    frame, rest = rest[:end], rest[end:]
                    if self._is_wanted(frame):
                        self._start(self._keep, frame, target, lock)
                    else:
                        passed += frame
                with lock:
                    target.sendall(passed)
        except OSError:
            pass  # ended below
        self._close(source, target)

    def _is_wanted(self, frame: bytes) -> bool:
        wanted = self._wanted
        if wanted is None or frame[0] != 1 or frame[7:11] != _DECLARE_OK:
            return False
        return frame[12 : 12 + frame[11]] == wanted[0]

    def _keep(self, frame: bytes, target: socket.socket, lock: threading.Lock) -> None:
        assert self._wanted is not None
        _, seconds = self._wanted
        self._wanted = None
        self.held.set()
        deadline = time.monotonic() + seconds
        while not self._ended.wait(0.05) and time.monotonic() < deadline:
            pass
        try:
            with lock:
                target.sendall(frame)
        except OSError:
            pass  # it has gone meanwhile
        self.released.set()

    @staticmethod
    def _close(*sockets: socket.socket) -> None:
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
