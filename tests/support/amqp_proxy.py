"""A proxy before a broker that can hold back one of its answers, as a slow broker would."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace

from gofer.messaging.url import URL

__all__ = ["SlowAnswer"]


class SlowAnswer:
    """Passes on what both sides say, frame by frame, but for one answer of the broker. A context manager.

    ``held`` is set when a frame with these bytes in it came from the broker; it is passed on by ``release``. All other
    frames pass it by, as they may: those of other channels.
    """

    def __init__(self, target: URL, answer: bytes) -> None:
        self.held = threading.Event()
        self._released = threading.Event()
        self._target = target
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.url = replace(target, host="127.0.0.1", port=self._listener.getsockname()[1])

    def __enter__(self) -> SlowAnswer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        for sock in (self._listener, *self._sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # its peer has hung up
        for thread in self._threads:
            thread.join(10)
        for sock in (self._listener, *self._sockets):
            sock.close()

    def release(self) -> None:
        """Pass the answer on."""
        self._released.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            far = socket.create_connection((self._target.host, self._target.port or 5672), 10)
            far.settimeout(None)
            self._sockets += [near, far]
            lock = threading.Lock()
            for work, *ends in ((self._pass_on, near, far), (self._filter, far, near, lock)):
                self._threads.append(threading.Thread(target=work, args=ends))
                self._threads[-1].start()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            return  # cut

    def _filter(self, source: socket.socket, to: socket.socket, lock: threading.Lock) -> None:
        rest = b""
        try:
            while data := source.recv(65536):
                rest += data
                while len(rest) >= 8 and len(rest) >= (end := 8 + int.from_bytes(rest[3:7])):
                    frame, rest = rest[:end], rest[end:]
                    if self._answer in frame and not self.held.is_set():
                        self._threads.append(threading.Thread(target=self._hold, args=(frame, to, lock)))
                        self._threads[-1].start()
                    else:
                        with lock:
                            to.sendall(frame)
            to.shutdown(socket.SHUT_WR)
        except OSError:
            return  # cut

    def _hold(self, frame: bytes, to: socket.socket, lock: threading.Lock) -> None:
        self.held.set()
        self._released.wait()
        try:
            with lock:
                to.sendall(frame)
        except OSError:
            return  # nobody is there any more
