"""Put a relay in front of a broker: a process of its own that can be frozen, killed, or made to talk nonsense.

It knows nothing of any protocol, so it makes every broker a bad network. The file is also the program that runs as
that process, and then imports nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from gofer.messaging.url import URL

__all__ = ["Relay"]

_GARBAGE = b"\xff\xfe" * 2048
_BUFFER = 65536


class Relay:
    """Run a relay to the broker at ``target``; ``url`` is where it listens. A context manager. Not thread-safe.

    ``chunk``: the most bytes it passes on at a time, None for no limit.
    """

    def __init__(self, target: URL, *, chunk: int | None = None) -> None:
        self._target = target
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._chunk = chunk
        self.url = target

    def start(self) -> None:
        """Start the process and set ``url``.

        Raises:
            RuntimeError: it did not start.
        """
        listen: str | None = None
        connect: object = [self._target.host, self._target.port]
        if self._target.protocol == "local":
            self._directory = tempfile.TemporaryDirectory(prefix="relay")
            listen, connect = os.path.join(self._directory.name, "relay.sock"), self._target.path
        order = json.dumps({"listen": listen, "connect": connect, "chunk": self._chunk})
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        word = self._process.stdout.readline().split()
        if not word:
            self.close()
            raise RuntimeError("the relay did not start")
        if listen is not None:
            self.url = replace(self._target, path=listen)
        else:
            self.url = replace(self._target, host="127.0.0.1", port=int(word[0]))

    def freeze(self) -> None:
        """Stop it: connections stay open, nothing passes, and soon nothing more is taken."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after ``freeze``."""
        self._signal(signal.SIGCONT)

    def corrupt(self) -> None:
        """Have it write 4 KiB of 0xFF and 0xFE to every client, between what the broker says."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Kill it: every connection through it is cut, new ones are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Kill it and remove what it left. Idempotent."""
        self.kill()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("the relay does not run")
        self._process.send_signal(number)


class _Way:
    """One end of a relayed connection: what is read here goes out at ``peer``."""

    def __init__(self, sock: socket.socket, *, client: bool) -> None:
        self.sock = sock
        self.client = client
        self.out = bytearray()
        self.ended = False
        self.peer: _Way = self


class _Program:
    """The relay itself: one loop, bounded buffers, so that a slow side slows the other."""

    def __init__(self, listener: socket.socket, target: str | tuple[str, int], chunk: int) -> None:
        self._listener = listener
        self._target = target
        self._chunk = chunk
        self._selector = selectors.DefaultSelector()
        self._ways: list[_Way] = []
        self._waker, self._wakes = socket.socketpair()
        for sock in (self._waker, self._wakes):
            sock.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno())
        signal.signal(signal.SIGUSR1, lambda _number, _frame: None)

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, "accept")
        self._selector.register(self._waker, selectors.EVENT_READ, "corrupt")
        self._selector.register(sys.stdin, selectors.EVENT_READ, "end")
        while True:
            for key, mask in self._selector.select():
                if key.data == "end":
                    return
                if key.data == "accept":
                    self._accept()
                elif key.data == "corrupt":
                    self._corrupt()
                elif isinstance(key.data, _Way) and key.data in self._ways:
                    self._serve(key.data, mask)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            far.close()
            return
        ends = (_Way(near, client=True), _Way(far, client=False))
        for end, other in (ends, ends[::-1]):
            end.peer = other
            end.sock.setblocking(False)
            if end.sock.family != socket.AF_UNIX:
                end.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ways.append(end)
            self._selector.register(end.sock, selectors.EVENT_READ, end)

    def _corrupt(self) -> None:
        self._waker.recv(4096)
        for way in self._ways:
            if way.client:
                way.out += _GARBAGE
                self._watch(way)

    def _serve(self, way: _Way, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE and way.out:
                del way.out[: way.sock.send(way.out[: self._chunk])]
            if mask & selectors.EVENT_READ:
                data = way.sock.recv(self._chunk)
                way.ended = not data
                way.peer.out += data
        except BlockingIOError:
            pass
        except OSError:
            self._drop(way)
            return
        if (way.ended and not way.peer.out) or (way.peer.ended and not way.out):
            self._drop(way)
            return
        self._watch(way)
        self._watch(way.peer)

    def _watch(self, way: _Way) -> None:
        mask = 0 if way.ended or len(way.peer.out) >= _BUFFER else selectors.EVENT_READ
        if way.out:
            mask |= selectors.EVENT_WRITE
        if way.sock in self._selector.get_map():
            self._selector.unregister(way.sock)
        if mask:
            self._selector.register(way.sock, mask, way)

    def _drop(self, way: _Way) -> None:
        for end in (way, way.peer):
            if end.sock in self._selector.get_map():
                self._selector.unregister(end.sock)
            end.sock.close()
            self._ways.remove(end)


def _main(order: str) -> None:
    wanted = json.loads(order)
    if wanted["listen"] is not None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(wanted["listen"])
        target: str | tuple[str, int] = wanted["connect"]
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = wanted["connect"]
        target = (host, port)
    listener.listen(64)
    program = _Program(listener, target, wanted["chunk"] or _BUFFER)
    print(listener.getsockname()[1] if listener.family == socket.AF_INET else "ready", flush=True)
    program.run()


if __name__ == "__main__":
    _main(sys.argv[1])
