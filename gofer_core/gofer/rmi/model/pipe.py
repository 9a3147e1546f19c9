"""What goes between the agent, the helper process of a plugin, and the process of one forked call.

Each call has a pair of sockets. The agent has one end; the process of the call has the other, and so has the helper,
which adds how that process ended. One more pair, the control connection, is between the agent and the helper.

A message is one byte, its kind, and a body. The sockets keep messages apart, so a process that is killed leaves no half
of one. A long body is sent in parts.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable

__all__ = [
    "BEGUN", "CALL", "EXIT", "FAILED", "FORK", "IMPORT", "IMPORTED", "KILL", "PROGRESS", "RAISED", "TERMINATE",
    "VALUE", "LogHandler", "Sender", "pair", "receive", "send",
]  # fmt: skip

# On the control connection, from the agent. The last three are followed by the number of a call.
IMPORT = b"i"  # what to import; the first message
FORK = b"f"  # with the descriptor of the call's connection
KILL = b"k"  # kill its process group
TERMINATE = b"t"  # the same by SIGTERM, and by SIGKILL a little later
# On the control connection, from the helper.
IMPORTED = b"I"  # what came of it

# On the connection of a call, from the agent.
CALL = b"c"  # what to call
# From the process of the call.
BEGUN = b"b"  # its process id: from now on the method may have run
PROGRESS = b"p"  # its total, completed and details
VALUE = b"v"  # the method's value: the end
RAISED = b"r"  # what the method raised, as the ``result`` of a reply: the end
# From the helper.
EXIT = b"e"  # its process has ended: the exit status; negative: the number of a signal
FAILED = b"x"  # there is no process, and why

# From the helper and from the process of a call.
_LOG = b"l"  # a log record: its level, its logger, its time, its text
_PART = b"+"  # the body goes on in the next message

_SIZE = 1 << 16  # bytes of one part: what a socket takes at a time


def pair() -> tuple[socket.socket, socket.socket]:
    """Make both ends of a connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, kind: bytes, body: bytes = b"") -> None:
    """Send a message. Waits until the other end has taken all but the last part."""
    rest = memoryview(body)
    while len(rest) > _SIZE:
        connection.sendmsg([_PART, rest[:_SIZE]])
        rest = rest[_SIZE:]
    connection.sendmsg([kind, rest])


def receive(connection: socket.socket, wait: Callable[[], object] = lambda: None) -> tuple[bytes, bytes]:
    """Return the kind and the body of the next message; empty: nobody has the other end any more.

    Args:
        wait: called before each part is read.
    """
    parts: list[bytes] = []
    while True:
        wait()
        try:
            message = connection.recv(_SIZE + 1)
        except ConnectionResetError:
            continue  # the other end was closed before all was read there; what came from there is still to be read
        kind, body = message[:1], message[1:]
        if kind == EXIT:  # perhaps in the middle of another message
            return kind, body
        parts.append(body)
        if kind == _LOG:
            _log(*json.loads(b"".join(parts)))
            parts.clear()
        elif kind != _PART:
            return kind, b"".join(parts)


class Sender:
    """Sends messages over a connection. Any thread; one message after another."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.RLock()  # a signal's handler may log while the same thread sends

    def send(self, kind: bytes, body: bytes) -> None:
        """Send a message. Waits until the other end has taken all but the last part."""
        with self._lock:
            send(self._connection, kind, body)


class LogHandler(logging.Handler):
    """Sends log records to the agent, which logs them as its own: by ``sender``, which each forked process sets."""

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the agent's says the rest
        self.sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; print it when the agent no longer listens."""
        try:
            text = self.format(record)
            try:
                self.sender.send(_LOG, json.dumps([record.levelno, record.name, record.created, text]).encode())
            except OSError:
                print(text, file=sys.stderr)
        except Exception:  # noqa: BLE001 - a record whose text cannot be made is told by its own handler
            self.handleError(record)


def _log(level: int, name: str, created: float, text: str) -> None:
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        record = logger.makeRecord(name, level, "", 0, text, (), None)
        record.created, record.msecs = created, created % 1 * 1000
        logger.handle(record)
