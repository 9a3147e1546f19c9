"""The local broker's loop: one thread, one Unix socket, and never a write that blocks."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from gofer.errors import AdapterError, MessagingError
from gofer.messaging.local.client import Client
from gofer.messaging.local.model import Model
from gofer.messaging.local.paths import Lock, listen, reachable

__all__ = ["Broker", "serving"]

_SCRATCH = 64 * 1024

#: Seconds: the longest wait, the shortest time between two looks at the deadlines, and the pause in accepting when
#: there are no descriptors left.
_LONGEST_WAIT = 3600.0
_SHORTEST_CHECK = 0.02
_ACCEPT_PAUSE = 0.5

_CREDENTIALS = struct.Struct("3i")


class Broker:
    """The broker at a path. A context manager, from ``open`` to ``close``.

    One thread uses it; ``stop`` may be called from any thread, and from a signal handler. ``total_limit`` and
    ``queue_limit`` are the bytes that all messages, and those of one queue, may take; over that, messages are refused.
    ``instance`` names this run.
    """

    def __init__(self, path: str, *, total_limit: int = 256 << 20, queue_limit: int = 128 << 20) -> None:
        self.path = os.path.abspath(path)
        self.instance = uuid.uuid4().hex
        self._model = Model(time.monotonic, total_limit=total_limit, queue_limit=queue_limit)
        self._clients: dict[Client, None] = {}
        self._dirty: dict[Client, None] = {}
        self._scratch = bytearray(_SCRATCH)
        self._check_at = 0.0
        self._accept_at: float | None = None
        self._stopped = False
        self._lock: Lock | None = None
        self._selector: selectors.BaseSelector | None = None
        self._listener: socket.socket | None = None
        self._waker: tuple[socket.socket, socket.socket] | None = None

    # -- life ------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the path and listen there. Its directory is made, with mode 0700, if it is missing.

        Raises:
            MessagingError: another broker is there (the text says which process), or the path cannot be used.
        """
        if self._lock is not None:
            raise MessagingError(f"the broker at {self.path} is open already")
        self._stopped = False
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            self._lock = Lock(f"{self.path}.lock")
            self._listener = listen(self.path)
            self._waker = socket.socketpair()
            for sock in self._waker:
                sock.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._listener, selectors.EVENT_READ, None)
            self._selector.register(self._waker[0], selectors.EVENT_READ, None)
        except OSError as error:
            self.close()
            raise MessagingError(f"the broker cannot listen at {self.path}: {error.strerror or error}") from error
        except MessagingError as error:
            self.close()
            raise MessagingError(f"the broker cannot listen at {self.path}: {error}") from error

    def close(self) -> None:
        """Close all connections and remove the socket. Messages are gone. Idempotent."""
        for client in tuple(self._clients):
            self._drop(client)
        for end in (self._listener, *(self._waker or ()), self._selector):
            if end is not None:
                end.close()
        if self._listener is not None:
            with reachable(self.path) as name:
                try:
                    os.unlink(name)
                except FileNotFoundError:
                    pass  # somebody cleaned up before us
        if self._lock is not None:
            self._lock.release()
        self._lock = self._listener = self._waker = self._selector = None

    def __enter__(self) -> Broker:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the loop --------------------------------------------------------------------------------------------

    def serve_forever(self) -> None:
        """Serve until ``stop``."""
        while not self._stopped:
            self.step(None)

    def stop(self) -> None:
        """Have ``serve_forever`` return soon."""
        self._stopped = True
        waker = self._waker
        if waker is not None:
            try:
                waker[1].send(b"\0")
            except OSError:
                pass  # it is closed already, or so full that it wakes in any case

    def step(self, timeout: float | None) -> None:
        """Wait at most ``timeout`` seconds for something to do, and do it. None: as long as it takes."""
        assert self._selector is not None, "the broker is not open"  # noqa: S101 - a mistake of the caller
        wait = min(_LONGEST_WAIT if timeout is None else timeout, self._check_at - time.monotonic())
        for key, mask in self._selector.select(max(wait, 0.0)):
            client: Client | None = key.data
            if client is not None:
                self._serve(client, mask)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                self._drain_waker()
        self._write()
        now = time.monotonic()
        if now >= self._check_at:
            self._check(now)

    def _serve(self, client: Client, mask: int) -> None:
        if client not in self._clients:
            return  # dropped by an earlier event of this round
        if mask & selectors.EVENT_WRITE:
            self._dirty[client] = None
        if mask & selectors.EVENT_READ and client.receive(self._scratch):
            self._check_at = 0.0
        if client.over:
            self._drop(client)

    def _write(self) -> None:
        while self._dirty:
            client, _ = self._dirty.popitem()
            if client in self._clients:
                client.write()
                self._watch(client)

    def _check(self, now: float) -> None:
        """Look after all deadlines: heartbeats, greetings, queues that expire."""
        due = _LONGEST_WAIT + now
        for client in tuple(self._clients):
            at = client.check(now)
            if client.over:
                self._drop(client)
            due = min(due, at)
        expires_at = self._model.expire()
        if expires_at is not None:
            due = min(due, expires_at)
        if self._accept_at is not None:
            if now >= self._accept_at:
                self._accept_again()
            else:
                due = min(due, self._accept_at)
        self._check_at = max(due, now + _SHORTEST_CHECK)
        self._write()

    # -- clients ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None and self._selector is not None  # noqa: S101, PT018 - open, see step
        try:
            while True:
                sock, _ = self._listener.accept()
                self._welcome(sock)
        except BlockingIOError:
            pass  # that were all
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            # The connection stays in the backlog, and the listener readable: look away for a while.
            self._selector.unregister(self._listener)
            self._accept_at = time.monotonic() + _ACCEPT_PAUSE
            self._check_at = 0.0

    def _accept_again(self) -> None:
        assert self._listener is not None and self._selector is not None  # noqa: S101, PT018 - open, see step
        self._accept_at = None
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        client = Client(sock, self._model, self.instance, self._dirty)
        self._clients[client] = None
        self._check_at = 0.0
        _, user, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user not in (0, os.geteuid()):
            client.leave(AdapterError(f"user {user} may not use this broker: it belongs to user {os.geteuid()}"))
        self._watch(client)

    def _watch(self, client: Client) -> None:
        """Wait for what the client waits for."""
        assert self._selector is not None  # noqa: S101 - open, see step
        if client.over:
            self._drop(client)
            return
        mask = (selectors.EVENT_READ if client.reads else 0) | (selectors.EVENT_WRITE if client.out else 0)
        if mask == client.mask:
            return
        if not client.mask:
            self._selector.register(client.sock, mask, client)
        elif mask:
            self._selector.modify(client.sock, mask, client)
        else:
            self._selector.unregister(client.sock)
        client.mask = mask

    def _drop(self, client: Client) -> None:
        """Close a connection. What it held goes back to its queues."""
        if client not in self._clients:
            return
        del self._clients[client]
        if client.mask and self._selector is not None:
            self._selector.unregister(client.sock)
        client.sock.close()
        client.session.close()
        self._check_at = 0.0

    def _drain_waker(self) -> None:
        assert self._waker is not None  # noqa: S101 - open, see step
        try:
            while self._waker[0].recv(4096):
                pass
        except BlockingIOError:
            pass  # that was all


@contextmanager
def serving(path: str) -> Iterator[Broker]:
    """Run a broker in a thread of this process, for tests. What its loop raises is raised at the end."""
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            broker.serve_forever()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that can be told
            failures.append(error)

    with Broker(path) as broker:
        thread = threading.Thread(target=serve, name=f"broker {path}")
        thread.start()
        try:
            yield broker
        finally:
            broker.stop()
            thread.join()
    if failures:
        raise failures[0]
