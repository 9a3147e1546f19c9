"""Clients of the local broker: one that says what a test wants, and the adapter, driven over its socket."""

from __future__ import annotations

import socket
from typing import Any

from gofer.messaging.adapter import Confirmed
from gofer.messaging.connector import Connector
from gofer.messaging.local import wire
from gofer.messaging.local.adapter import LocalAdapter
from gofer.messaging.url import URL
from gofer.testing._contract.driver import Driver

__all__ = ["WAIT", "Raw", "connected", "send"]

#: Seconds that any one thing may take.
WAIT = 30.0


class Raw:
    """A client that sends exactly what the test wants, and reads only when the test asks for it."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(path)
        self._reader = wire.Reader()
        self._frames: list[Any] = []

    def send(self, *frames: wire.Frame) -> None:
        out = bytearray()
        for frame in frames:
            wire.write(out, frame)
        self.sock.sendall(out)

    def receive(self) -> Any:
        """Return the next frame, None at the end."""
        while not self._frames:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def receive_until(self, wanted: type) -> Any:
        while not isinstance(frame := self.receive(), wanted):
            assert frame is not None, f"the end came before {wanted.__name__}"
        return frame


def connected(path: str | None = None) -> Driver:
    """Open a connection to a broker by the adapter; None: to the one at the usual place."""
    return Driver(LocalAdapter(Connector(URL.parse(f"local://{path or ''}")))).open(WAIT)


def send(driver: Driver, queue: str, body: bytes) -> Confirmed:
    """Publish a message, and return what became of it."""
    return driver.confirmed(driver.post(queue, body))
