"""A network that misbehaves, between a client and its broker: it stalls, cuts, truncates, drips, and loses bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gofer.messaging.local.paths import path_of
from gofer.messaging.url import URL

__all__ = ["Direction", "Filter", "Proxy"]

#: Takes what one side has sent on a connection, in its order, and returns what the other side gets. It is also called
#: with nothing, now and then: it may return what it has kept.
Filter = Callable[[bytes], bytes]

_LOOK = 0.02  # seconds between two looks at what the test wants
_AT_A_TIME = 1 << 16  # bytes that are read at a time; what a connection has to pass on is all it keeps
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass
class Direction:
    """What happens to bytes in one direction, on all connections. A test changes it at any time.

    ``stalled``: nothing is read or passed on; the sender's buffers fill. ``swallows``: all is read and thrown away.
    ``piece`` and ``pause``: at most so many bytes are passed on at a time (0: any number), and then none for so many
    seconds, or for a part of them after a part. ``limit``: so many bytes more are passed on, then the connection is
    cut (None: no limit).
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
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _AT_A_TIME)
            # Certificates are for the name that the target has.
            host = target.host if target.host == "localhost" else "127.0.0.1"
            self.url = replace(target, host=host, port=self._listener.getsockname()[1])
        self._listener.setblocking(False)
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[bool]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Proxy:
        self._loop.call_soon_threadsafe(self._loop.add_reader, self._listener, self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()
        if self._folder is not None:
            self._folder.cleanup()

    def cut(self) -> None:
        """End all connections at once, with a reset where the socket has one; returns when that is done."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    async def _cut(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

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
        for sock in (near, far):
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._loop.create_task(self._serve(near, far))
        self._connections.add(connection)
        # Not in the task: one that is cut at once does not even begin.
        connection.add_done_callback(partial(self._end, near, far))

    async def _serve(self, near: socket.socket, far: socket.socket) -> bool:
        """Pass on what both sides say until one has ended, and all it has said is passed on; tell whether it is so."""
        to_client, to_broker = (None if make is None else make() for make in self._filters)
        flows = [
            self._loop.create_task(_pass_on(near, far, self.to_broker, to_broker)),
            self._loop.create_task(_pass_on(far, near, self.to_client, to_client)),
        ]
        try:
            ended, _ = await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            return not any(flow.exception() for flow in ended)
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)

    def _end(self, near: socket.socket, far: socket.socket, connection: asyncio.Task[bool]) -> None:
        self._connections.discard(connection)
        is_cut = connection.cancelled() or not connection.result()
        for sock in (near, far):
            if is_cut and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            sock.close()


async def _pass_on(source: socket.socket, target: socket.socket, direction: Direction, filter: Filter | None) -> None:
    """Pass on what one side says to the other, to its end.

    Raises:
        OSError: one of them is broken, or the limit was reached.
    """
    while (data := await _read(source, direction, look=filter is not None)) != b"":
        if data is None:
            data = b"" if filter is None else filter(b"")
        elif direction.swallows:
            continue
        elif filter is not None:
            data = filter(data)
        while data:
            if direction.stalled:
                await asyncio.sleep(_LOOK)
                continue
            size = direction.piece or len(data)
            part = data[: size if direction.limit is None else min(size, direction.limit)]
            await asyncio.get_running_loop().sock_sendall(target, part)
            data = data[len(part) :]
            direction.passed += len(part)
            if direction.limit is not None:
                direction.limit -= len(part)
                if direction.limit <= 0:
                    raise ConnectionResetError("its limit was reached")
            if direction.pause:
                await asyncio.sleep(direction.pause * len(part) / size)


async def _read(source: socket.socket, direction: Direction, *, look: bool) -> bytes | None:
    """Read what there is; None: it is stalled, or, with ``look``, there was nothing for a moment; empty: the end."""
    loop = asyncio.get_running_loop()
    looked = asyncio.Event()
    # Nothing more: a thousand idle connections that look all the time would leave no time to the test.
    timer = loop.call_later(_LOOK, looked.set) if look or direction.stalled else None
    if not direction.stalled:
        loop.add_reader(source, looked.set)
    try:
        await looked.wait()
    finally:
        if timer is not None:
            timer.cancel()
        loop.remove_reader(source)
    try:
        return None if direction.stalled else source.recv(_AT_A_TIME)
    except BlockingIOError:
        return None
