"""The client's end of the local broker's protocol: one socket, its buffers, and questions that are answered in time."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque

from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.broker import protocol
from gofer.messaging.broker.paths import reachable

__all__ = ["Connection"]

_READ = 64 * 1024
_READS = 4  # at most so many in one ``read``
_GOODBYE = 1.0  # seconds that ``close`` may take


class Connection:
    """A connection to the broker at a path. Used by one thread at a time; blocks only where there is a ``timeout``.

    What the broker says that is no answer is kept in ``inbox``, in its order. The end of the connection is raised only
    when the inbox is empty. After a ConnectionLost, and after an interrupt, it is finished.
    """

    def __init__(self, path: str, heartbeat: float) -> None:
        self.path = path
        self.inbox: deque[protocol.Deliver | protocol.Answer | protocol.Lost] = deque()
        self.instance: str | None = None
        self._heartbeat = heartbeat
        self._socket: socket.socket | None = None
        self._why: str | None = None  # it is not open, once it was tried
        self._broken: ConnectionLost | None = None  # it ended while reading or writing
        self._refusal: str | None = None  # the broker's last word
        self._reader = protocol.to_client()
        self._scratch = bytearray(_READ)
        self._out = bytearray()
        self._answers: dict[int, protocol.Done | protocol.Denied] = {}
        self._asked = 0
        self._read_at = self._wrote_at = 0.0

    # -- life ------------------------------------------------------------------------------------------------

    def open(self, timeout: float) -> None:
        """Connect and exchange greetings. Called once.

        Raises:
            ConnectionLost: nobody is there, or there is no answer in time.
            AdapterError: the broker, or the system, does not let us in.
        """
        if self._why is not None:
            raise AdapterError(f"this connection to {self.path} was opened before; a new one is a new object")
        deadline = time.monotonic() + timeout
        self._why = "it was not opened"
        self._socket = self._connect(timeout)
        self._read_at = self._wrote_at = time.monotonic()
        self.put(protocol.Hello(protocol.VERSION, self._heartbeat))
        try:
            while self.instance is None:
                self._wait(deadline, "an answer to the greeting")
        except ConnectionLost as error:
            if self._refusal is not None:
                raise AdapterError(f"local broker at {self.path}: {self._refusal}") from error
            raise

    def close(self) -> None:
        """Say goodbye, wait a second at most for the broker to have taken everything back, and end it. Idempotent."""
        if self._socket is None:
            return
        deadline = time.monotonic() + _GOODBYE
        try:
            self.put(protocol.Bye())
            while True:  # until the broker closes
                self._wait(deadline, "the end of the connection")
        except ConnectionLost:
            pass  # it ended, one way or the other
        finally:
            self.end("it was closed")

    def end(self, why: str) -> None:
        """Close the descriptor and forget everything. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._why = why
        self._out = bytearray()  # not cleared: in a forked child a write of another thread may stand in it for ever
        self.inbox.clear()

    # -- what does not block ---------------------------------------------------------------------------------

    @property
    def sock(self) -> socket.socket:
        """The socket. Raises ConnectionLost when it is not open."""
        if self._socket is None:
            raise self._error(self._why or "it was not opened")
        return self._socket

    @property
    def unwritten(self) -> int:
        """Bytes that wait to be written."""
        return len(self._out)

    @property
    def pending(self) -> bool:
        """Whether ``read`` has something to tell without reading."""
        return bool(self.inbox) or self._broken is not None

    def put(self, frame: protocol.FromClient) -> None:
        """Append a frame to what waits to be written.

        Raises:
            ConnectionLost: it is not open.
            ValueError, TypeError: a field that cannot be encoded.
        """
        if self._socket is None:
            raise self._error(self._why or "it was not opened")
        protocol.put(self._out, frame)

    def flush(self) -> None:
        """Write what the socket takes.

        Raises:
            ConnectionLost: it ended, and the inbox is empty.
        """
        sock = self.sock
        if self._out and self._broken is None:
            self._write(sock)
        if self._broken is not None and not self.inbox:
            raise self._lost(self._broken)

    def read(self) -> None:
        """Read a bounded amount into the inbox, unless something is there already.

        Raises:
            ConnectionLost: it ended, and the inbox is empty.
        """
        sock = self.sock
        if not self.pending:
            self._read(sock)
        if self._broken is not None and not self.inbox:
            raise self._lost(self._broken)

    def tick(self) -> None:
        """Send and check heartbeats.

        Raises:
            ConnectionLost: nothing was heard for two of them.
        """
        sock = self.sock
        if not self._heartbeat or self._broken is not None:
            return
        now = time.monotonic()
        # What is there unread shows that it was we who did not look.
        if now - self._read_at >= 2 * self._heartbeat and not _poll(sock, select.POLLIN, 0.0):
            raise self._lost(self._error(f"silent for {now - self._read_at:.1f} s, two heartbeats"))
        if now - self._wrote_at >= self._heartbeat / 2 and not self._out:
            self.put(protocol.Beat())
            self.flush()

    # -- what waits for an answer ----------------------------------------------------------------------------

    def number(self) -> int:
        """Return the number for the next operation."""
        self._asked += 1
        return self._asked

    def ask(self, operation: protocol.Operation, timeout: float) -> int | str | None:
        """Have an operation done, and return its value.

        Raises:
            NotFound, AdapterError: it was denied; the connection stays.
            ConnectionLost: it ended, or there is no answer in time.
        """
        deadline = time.monotonic() + timeout
        self.put(operation)
        while operation.number not in self._answers:
            self._wait(deadline, f"an answer to {type(operation).__name__}")
        answer = self._answers.pop(operation.number)
        if isinstance(answer, protocol.Done):
            return answer.value
        raise (NotFound if answer.missing else AdapterError)(answer.reason)

    def _wait(self, deadline: float, what: str) -> None:
        """Write and read once, having waited for the socket until the deadline at most."""
        sock = self.sock
        left = deadline - time.monotonic()
        if left <= 0:
            raise self._lost(self._error(f"timed out waiting for {what}"))
        try:
            ready = _poll(sock, select.POLLIN | (select.POLLOUT if self._out else 0), left)
        except BaseException:
            self.end("it was interrupted in a wait")
            raise
        if ready & select.POLLOUT:
            self._write(sock)
        if ready & ~select.POLLOUT and self._broken is None:
            self._read(sock)
        if self._broken is not None:
            raise self._lost(self._broken)

    # -- the socket ------------------------------------------------------------------------------------------

    def _connect(self, timeout: float) -> socket.socket:
        """Connect a socket, in time, and make it non-blocking."""
        try:
            sock = socket.socket(socket.AF_UNIX)
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        try:
            # A full backlog cannot be polled for; but a blocking connect obeys the time limit for sending.
            limit = divmod(max(int(timeout * 1_000_000), 1), 1_000_000)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *limit))
            with reachable(self.path) as name:
                sock.connect(name)
            sock.setblocking(False)
        except BaseException as error:
            sock.close()
            if isinstance(error, PermissionError):
                raise AdapterError(f"not permitted to use the local broker's socket {self.path}") from error
            if isinstance(error, BlockingIOError):
                raise self._error(f"it took no connection within {timeout:g} s") from error
            if isinstance(error, FileNotFoundError):
                raise self._error("there is no such socket; is the broker running?") from error
            if isinstance(error, OSError):
                raise self._error(error.strerror or str(error)) from error
            raise
        return sock

    def _error(self, why: str) -> ConnectionLost:
        return ConnectionLost(f"local broker at {self.path}: {why}")

    def _lost(self, error: ConnectionLost) -> ConnectionLost:
        """End it for this error, and return the error to raise."""
        self.end(f"the connection was lost ({error})")
        return error

    def _write(self, sock: socket.socket) -> None:
        try:
            while self._out:
                sent = sock.send(self._out)
                del self._out[:sent]
                self._wrote_at = time.monotonic()
        except BlockingIOError:
            pass  # the rest when it takes more
        except OSError as error:
            self._read(sock)  # what came before the end, perhaps with the reason for it
            if self._broken is None:
                self._broken = self._error(error.strerror or str(error))
        except BaseException:
            self.end("it was interrupted in a write")
            raise

    def _read(self, sock: socket.socket) -> None:
        try:
            for _ in range(_READS):
                count = sock.recv_into(self._scratch)
                if not count:
                    self._broken = self._error(self._refusal or "it closed the connection")
                    return
                self._read_at = time.monotonic()
                with memoryview(self._scratch)[:count] as data:
                    for frame in self._reader.feed(data):
                        self._keep(frame)
                if count < _READ:
                    return
        except BlockingIOError:
            pass  # that was all
        except protocol.ProtocolError as error:
            self._broken = self._error(f"it breaks the protocol: {error}")
        except OSError as error:
            self._broken = self._error(self._refusal or error.strerror or str(error))
        except BaseException:
            self.end("it was interrupted in a read")
            raise

    def _keep(self, frame: protocol.FromBroker) -> None:
        match frame:
            case protocol.Deliver() | protocol.Answer() | protocol.Lost():
                self.inbox.append(frame)
            case protocol.Done() | protocol.Denied():
                self._answers[frame.number] = frame
            case protocol.Welcome():
                self.instance = frame.instance
            case protocol.Failure():
                self._refusal = frame.reason
            case protocol.Beat():
                pass  # that it came is all it says


def _poll(sock: socket.socket, mask: int, timeout: float) -> int:
    """Wait for a socket at most ``timeout`` seconds, and return what it is ready for."""
    poll = select.poll()
    poll.register(sock, mask)
    return sum(event for _, event in poll.poll(timeout * 1000))
