"""What stands between a client and a broker: a relay, and an HTTP proxy with CONNECT. Both can be cut and silenced."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

__all__ = ["ConnectProxy", "Relay"]

_TIME = 20.0


class Relay:
    """Passes on what comes to ``port`` of 127.0.0.1 to a broker there. A context manager; threads of its own.

    ``stop`` cuts what is open and refuses what comes; ``start`` serves again, on the same port. ``connections`` counts.
    """

    def __init__(self, target: int = 0) -> None:
        self._target = target
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.connections = 0
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Serve."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        """Cut what is open, and refuse what comes."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _shut(listener)
            listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut what is open."""
        with self._lock:
            for sock in self._sockets:
                _shut(sock)

    @property
    def open(self) -> int:
        """How many connections there are at the moment."""
        with self._lock:
            return len(self._sockets) // 2

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(_TIME)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="relay")
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return  # stopped
            self.connections += 1
            self._run(self._serve, near)

    def _serve(self, near: socket.socket) -> None:
        with near:
            near.settimeout(_TIME)
            try:
                far = self._greet(near)
            except OSError:
                return  # it has hung up
            if far is not None:
                self._join(near, far)

    def _greet(self, near: socket.socket) -> socket.socket | None:
        """Return the connection to pass all on to."""
        return socket.create_connection(("127.0.0.1", self._target), _TIME)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        with far:
            ends = {near, far}
            for sock in ends:
                sock.settimeout(None)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._listener is None:
                    return  # stopped meanwhile
                self._sockets |= ends
            back = threading.Thread(target=_pump, args=(far, near), name="relay")
            back.start()
            _pump(near, far)
            back.join()
            with self._lock:
                self._sockets -= ends


class ConnectProxy(Relay):
    """An HTTP proxy that knows CONNECT and nothing else.

    Args:
        routes: where names lead, as ``host:port`` with a port of 127.0.0.1; other names are not found (502).
        login: ``user:password`` that it wants.

    ``asked`` is the targets that it was asked for. While ``says`` is not None it says that instead of its own answer,
    ``pace`` seconds for each byte, and then hangs up, or (``stays``) says nothing more.
    """

    def __init__(self, routes: Mapping[str, int], login: str | None = None) -> None:
        super().__init__()
        self.routes = dict(routes)
        self.login = login
        self.asked: list[str] = []
        self.says: bytes | None = None
        self.pace = 0.0
        self.stays = False
        self._ended = threading.Event()

    @property
    def url(self) -> str:
        """Its own URL, without a login."""
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        super().__exit__()

    def _greet(self, near: socket.socket) -> socket.socket | None:
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            byte = near.recv(1)
            if not byte:
                return None
            head += byte
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
        assert (method, version) == ("CONNECT", "HTTP/1.1")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        assert headers["host"] == target
        self.asked.append(target)
        if self.says is not None:
            return self._say(near, self.says)
        if self.login is not None:
            wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
            if headers.get("proxy-authorization") != wanted:
                return self._refuse(near, "407 Proxy Authentication Required")
        if target not in self.routes:
            return self._refuse(near, "502 Bad Gateway")
        try:
            far = socket.create_connection(("127.0.0.1", self.routes[target]), _TIME)
        except OSError:
            return self._refuse(near, "503 Service Unavailable")
        near.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 a-test\r\n\r\n")
        return far

    def _refuse(self, near: socket.socket, status: str) -> None:
        near.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nSorry".encode())

    def _say(self, near: socket.socket, words: bytes) -> None:
        for at in range(len(words)) if self.pace else ():
            near.sendall(words[at : at + 1])
            if self._ended.wait(self.pace):
                return
        if not self.pace:
            near.sendall(words)
        deadline = time.monotonic() + _TIME
        while self.stays and not self._ended.wait(0.01) and time.monotonic() < deadline:
            pass


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass  # cut: so is the other way, below
    for sock in (source, target):
        _shut(sock)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was first
