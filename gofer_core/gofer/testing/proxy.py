"""A network that misbehaves, between a client and its broker: it stalls, cuts, truncates, drips, and loses bytes."""

from __future__ import annotations

import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from gofer.messaging.local.paths import path_of
from gofer.messaging.url import URL

__all__ = ["Direction", "Filter", "Proxy"]

#: Takes what one side has sent on a connection, in its order, and returns what the other side gets. It is also called
#: with nothing, now and then: it may return what it has kept.
Filter = Callable[[bytes], bytes]

_LOOK = 0.02  # seconds between two looks at what the test wants
_FULL = 1 << 16  # bytes that may wait in the proxy
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass
class Direction:
    """What happens to bytes in one direction, on all connections. A test changes it at any time.

    ``stalled``: nothing is read or passed on; the sender's buffers fill. ``swallows``: all is read and thrown away.
    ``piece`` and ``pause``: at most so many bytes are passed on at a time (0: any number), and then none for so many
    seconds. ``limit``: so many bytes more are passed on, then the connection is cut (None: no limit).
    """

    stalled: bool = False
    swallows: bool = False
    piece: int = 0
    pause: float = 0.0
    limit: int | None = None
    passed: int = 0


class Proxy:
    """Passes on what both sides say, as the two directions allow. A context manager; it has one thread.

    Args:
        target: the broker's URL, TCP or local. TLS goes through unopened.
        filters: make what changes the bytes of a new connection, to the client and to the broker; None: nothing does.
    """

    def __init__(
        self,
        target: URL,
        *,
        to_client: Callable[[], Filter] | None = None,
        to_broker: Callable[[], Filter] | None = None,
    ) -> None:
        self.to_client, self.to_broker = Direction(), Direction()
        #: How many connections were made so far.
        self.connections = 0
        #: Whether new connections are cut at once.
        self.refuses = False
        self._target = target
        self._filters = to_client, to_broker
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if target.protocol == "local":
            self._folder = tempfile.TemporaryDirectory(prefix="gofer-proxy-")
            path = Path(self._folder.name) / "proxy.sock"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen(64)
            self.url = replace(target, path=str(path))
        else:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
            # Small, as those of a slow line: what this system has taken seems to have arrived.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _FULL)
            # Certificates are for the name that the target has.
            host = target.host if target.host == "localhost" else "127.0.0.1"
            self.url = replace(target, host=host, port=self._listener.getsockname()[1])
        self._listener.setblocking(False)
        self._pairs: list[_Pair] = []
        self._ended = threading.Event()
        self._cut, self._is_cut = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._listener.close()
        if self._folder is not None:
            self._folder.cleanup()

    def cut(self) -> None:
        """End all connections at once, with a reset where the socket has one; returns when that is done."""
        self._is_cut.clear()
        self._cut.set()
        if not self._is_cut.wait(10):
            raise RuntimeError("the proxy hangs")

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                self._turn()
        finally:
            for pair in self._pairs:
                pair.close()

    def _turn(self) -> None:
        if self._cut.is_set():
            for pair in self._pairs:
                pair.close()
            self._pairs.clear()
            self._cut.clear()
            self._is_cut.set()
        poll, now, due = select.poll(), monotonic(), _LOOK
        poll.register(self._listener, select.POLLIN)
        for flow in [flow for pair in self._pairs for flow in pair.flows]:
            flow.filter_again()
            due = min(due, max(0.0, flow.next_at - now)) if flow.buffer else due
        masks: dict[int, int] = {}
        for pair in self._pairs:
            for flow in pair.flows:
                for descriptor, mask in flow.wants(now):
                    masks[descriptor] = masks.get(descriptor, 0) | mask
        for descriptor, mask in masks.items():
            poll.register(descriptor, mask)
        ready = dict(poll.poll(due * 1000))
        if self._listener.fileno() in ready:
            self._accept()
        for pair in self._pairs:
            pair.work(ready)
        self._pairs = [pair for pair in self._pairs if not pair.closed]

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except BlockingIOError:
            return  # it has gone meanwhile
        self.connections += 1
        if self.refuses:
            near.close()
            return
        try:
            if self._target.protocol == "local":
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(path_of(self._target)))
            else:
                far = socket.create_connection((self._target.host, self._target.port or 0), 5)
        except OSError:
            near.close()
            return
        to_client, to_broker = (None if make is None else make() for make in self._filters)
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flows = _Flow(near, far, self.to_broker, to_broker), _Flow(far, near, self.to_client, to_client)
        self._pairs.append(_Pair(near, far, flows))


class _Flow:
    """One direction of one connection."""

    def __init__(
        self, source: socket.socket, target: socket.socket, direction: Direction, filter: Filter | None
    ) -> None:
        self.source, self.target, self.direction, self.filter = source, target, direction, filter
        self.buffer = bytearray()
        self.next_at = 0.0
        self.ended = False

    def filter_again(self) -> None:
        """Take what the filter has kept until now."""
        if self.filter is not None and not self.ended:
            self.buffer += self.filter(b"")

    def wants(self, now: float) -> list[tuple[int, int]]:
        """Return which descriptors are waited for."""
        wanted = []
        if not self.direction.stalled:
            if not self.ended and len(self.buffer) < _FULL:
                wanted.append((self.source.fileno(), select.POLLIN))
            if self.buffer and now >= self.next_at:
                wanted.append((self.target.fileno(), select.POLLOUT))
        return wanted

    def read(self) -> None:
        """Take what the source has sent."""
        data = self.source.recv(_FULL)
        self.ended = not data
        if data and not self.direction.swallows:
            self.buffer += data if self.filter is None else self.filter(data)

    def write(self) -> bool:
        """Pass on what may be passed on; return whether the connection is to be cut now."""
        direction = self.direction
        size = direction.piece or len(self.buffer)
        if direction.limit is not None:
            size = min(size, direction.limit)
        sent = self.target.send(self.buffer[:size]) if size else 0
        del self.buffer[:sent]
        direction.passed += sent
        if direction.pause:
            self.next_at = monotonic() + direction.pause
        if direction.limit is not None:
            direction.limit -= sent
            return direction.limit <= 0
        return False


class _Pair:
    """A client's connection, and ours to the broker."""

    def __init__(self, near: socket.socket, far: socket.socket, flows: tuple[_Flow, _Flow]) -> None:
        self.sockets, self.flows, self.closed = (near, far), flows, False

    def work(self, ready: dict[int, int]) -> None:
        """Read and write what is ready; end when one side has ended and all it said was passed on."""
        if self.closed:
            return
        try:
            for flow in self.flows:
                source, target = ready.get(flow.source.fileno(), 0), ready.get(flow.target.fileno(), 0)
                if source & ~select.POLLOUT and not flow.ended and not flow.direction.stalled:
                    flow.read()
                if target & select.POLLOUT and flow.buffer and not flow.direction.stalled and flow.write():
                    self.close()
                    return
        except BlockingIOError:
            return  # at the next turn
        except OSError:
            self.close()
            return
        if any(flow.ended and not flow.buffer for flow in self.flows):
            self.close(at_once=False)

    def close(self, *, at_once: bool = True) -> None:
        """End both sides."""
        for sock in self.sockets:
            if at_once and not self.closed and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            sock.close()
        self.closed = True
