"""What tests of links in bad company share: a broker to mistreat, links to it, and brokers that are rude."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gofer.messaging.adapter import DeclareQueue, Done, Opened
from gofer.messaging.connector import Connector
from gofer.messaging.local import wire
from gofer.messaging.pool import pool
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL

from support import forkserver

__all__ = ["Rude", "connected", "declare", "linked", "rude_broker", "run", "silent_broker"]


def connected(url: str, heartbeat: float = 5.0) -> Connector:
    """Make a connector that tries again soon."""
    return Connector(URL.parse(url), reconnect_max=0.5, heartbeat=heartbeat)


@contextmanager
def linked(connector: Connector) -> Iterator[ThreadConnection]:
    """Use the process's link for a connector."""
    link = pool.acquire(connector)
    try:
        yield link
    finally:
        pool.release(link)


def declare(link: ThreadConnection, queue: str) -> None:
    """Make sure that there is a queue."""
    link.ask(DeclareQueue(queue))


def run(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with what the tests can import."""
    return forkserver.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class Rude:
    """A local broker that hangs up on a kind of frame or operation, and counts its connections."""

    def __init__(self, path: str, on: type) -> None:
        self.connections = 0
        self._on = on
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(5)
                self.connections += 1
                try:
                    if not self._talk(sock):
                        return
                except OSError:
                    pass  # the client has gone

    def _talk(self, sock: socket.socket) -> bool:
        reader = wire.Reader()
        while data := sock.recv(65536):
            for frame in reader.feed(data):
                said = frame.operation if isinstance(frame, wire.Ask) else frame
                if isinstance(said, self._on | wire.Close):
                    return True
                out = bytearray()
                if isinstance(frame, wire.Hello):
                    wire.write(out, Opened())
                elif isinstance(frame, wire.Ask):
                    wire.write(out, Done(frame.id))
                sock.sendall(out)
        return False


@contextmanager
def rude_broker(path: str, on: type) -> Iterator[Rude]:
    rude = Rude(path, on)
    try:
        yield rude
    finally:
        with socket.socket(socket.AF_UNIX) as last:  # says nothing and hangs up: that ends it
            last.connect(path)
        rude._thread.join()
        rude._listener.close()


@contextmanager
def silent_broker(path: str) -> Iterator[str]:
    """Run what takes connections at a socket and says nothing; give its URL."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        yield f"local://{path}"
