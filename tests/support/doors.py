"""The doors of management without an agent behind them, and who knocks there."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import ExitStack
from typing import Any

from gofer.agent.config import ManagementConfig
from gofer.agent.management.server import Management
from gofer.agent.management.wire import Drop, Request, Unusable, socket_of
from gofer.root import Root
from gofer.tools.agent_client import ask

__all__ = ["Doors", "Echo", "Relay", "drain", "read"]


class Echo:
    """Answers each request to drop something with that, as long as it may."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.let_go = threading.Event()

    def do(self, request: Request, caller: str) -> Any:
        self.callers.append(caller)
        assert isinstance(request, Drop)
        match request.sn:
            case "wait":
                assert self.let_go.wait(20)
            case "fail":
                raise ZeroDivisionError
            case "refuse":
                raise Unusable("not-found", "no such thing")
            case "much":
                return "x" * 16_000_000
        return {"do": request.sn}


class Doors:
    """Management without an agent behind it. A context manager."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.echo = Echo()
        self._started: list[Management] = []

    def start(self, **config: Any) -> Management:
        management = Management(self.root, ManagementConfig(**config), self.echo.do)
        management.start()
        self._started.append(management)
        return management

    def ask(self, do: str = "echo", wait: float = 20, **how: Any) -> Any:
        return ask(self.root, Drop(do), **{"host": None, "port": None, **how}, wait=wait)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(socket_of(self.root)))
        return connection

    def send(self, data: bytes) -> dict[str, Any]:
        """Send something, and return what comes back before the connection ends."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
            except BrokenPipeError:
                pass  # it is answered before all is read
            return read(connection)

    def __enter__(self) -> Doors:
        return self

    def __exit__(self, *raised: object) -> None:
        self.echo.let_go.set()
        for management in self._started:
            management.stop()


def read(connection: socket.socket) -> dict[str, Any]:
    said = b""
    while part := connection.recv(1 << 16):
        said += part
    assert said.endswith(b"\n")
    found = json.loads(said)
    assert isinstance(found, dict)
    return found


class Relay:
    """Takes one connection: relays it to a port, or says what it is told to, and keeps what was sent."""

    def __init__(self, port: int | None, *says: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(10)
        self.port = self._server.getsockname()[1]
        self._to = port
        self._says = says
        self.sent = b""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.join(10)
        self._server.close()

    def _run(self) -> None:
        connection = self._server.accept()[0]
        connection.settimeout(10)
        with connection, ExitStack() as stack:
            if self._to is None:
                for line in self._says:
                    connection.sendall(line)
                    if line.startswith(b'{"nonce'):
                        self.sent += connection.recv(1 << 16)
                connection.shutdown(socket.SHUT_WR)
                drain(connection)
                return
            other = stack.enter_context(socket.create_connection(("127.0.0.1", self._to), 10))
            connection.sendall(other.recv(1 << 16))
            self.sent = connection.recv(1 << 16)
            other.sendall(self.sent)
            connection.sendall(drain(other))


def drain(connection: socket.socket) -> bytes:
    said = b""
    try:
        while part := connection.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass  # what was sent had not been read
    return said
