"""Clients of the local broker: one that says what a test wants, and the adapter, driven until it has an event."""

from __future__ import annotations

import select
import socket
import time

from gofer.messaging.adapter.base import Settled
from gofer.messaging.adapter.local import LocalAdapter
from gofer.messaging.address import Address
from gofer.messaging.broker import protocol
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

__all__ = ["WAIT", "Raw", "connected", "event", "send"]

#: Seconds that any one thing may take.
WAIT = 30.0


class Raw:
    """A client that says exactly what the test wants, and reads only when it is told to."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        self.sock.connect(path)
        self._reader = protocol.to_client()
        self._frames: list[protocol.FromBroker] = []

    def say(self, *frames: protocol.FromClient) -> None:
        out = bytearray()
        for frame in frames:
            protocol.put(out, frame)
        self.sock.sendall(out)

    def hear(self) -> protocol.FromBroker | None:
        """Return the next frame, None at the end."""
        while not self._frames:
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._frames += self._reader.feed(memoryview(data))
        return self._frames.pop(0)

    def hear_until(self, wanted: type[protocol.FromBroker]) -> protocol.FromBroker:
        while not isinstance(frame := self.hear(), wanted):
            assert frame is not None, f"the end came before {wanted.__name__}"
        return frame


def connected(path: str) -> LocalAdapter:
    adapter = LocalAdapter(Connector(URL.parse(f"local://{path}")))
    adapter.connect(WAIT)
    return adapter


def event(adapter: LocalAdapter) -> object:
    """Drive the adapter until it has an event, and return it; there must be no second one."""
    deadline = time.monotonic() + WAIT
    while True:
        adapter.flush()
        events = adapter.process()
        if events:
            (only,) = events
            return only
        assert time.monotonic() < deadline
        select.select([adapter.fileno()], [adapter.fileno()] if adapter.unwritten else [], [], 0.1)


def send(adapter: LocalAdapter, queue: str, body: bytes) -> Settled:
    adapter.send(1, Address("", queue), body)
    settled = event(adapter)
    assert isinstance(settled, Settled)
    return settled
