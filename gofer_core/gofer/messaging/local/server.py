"""The local broker's loop: one thread, one Unix socket, and never a write that blocks."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import inf

from gofer.errors import AdapterError, MessagingError
from gofer.messaging.local.client import Client
from gofer.messaging.local.model import Model
from gofer.messaging.local.paths import listening, locked

__all__ = ["Broker", "serving"]

#: Seconds: the longest wait, the shortest time between two looks at the deadlines, and the pause in accepting when
#: there are no descriptors left.
_LONGEST_WAIT = 3600.0
_SHORTEST_CHECK = 0.02
_ACCEPT_PAUSE = 0.5


class Broker:
    """The broker at a path, which it listens at inside the ``with`` block.

    One thread uses it; ``stop`` may be called from any thread, and from a signal handler. ``total_limit`` and
    ``queue_limit`` are the bytes that all messages, and those of one queue, may take; over that, messages are refused.
    ``instance`` names this run.
    """

    def __init__(self, path: str, *, total_limit: int = 256 << 20, queue_limit: int = 128 << 20) -> None:
        self.path = os.path.abspath(path)
        self.instance = uuid.uuid4().hex
        self._model = Model(time.monotonic, total_limit=total_limit, queue_limit=queue_limit)
        self._clients: dict[int, Client] = {}
        self._dirty: dict[Client, None] = {}
        self._check_at = 0.0
        self._accept_at = inf
        self._stopped = False
        self._waker = -1
        self._opened = ExitStack()

    def __enter__(self) -> Broker:
        """Take the path and listen there. Its directory is made, with mode 0700, if it is missing.

        Raises:
            MessagingError: another broker is there (the text says which process), or the path cannot be used.
        """
        with ExitStack() as opened:
            try:
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
                opened.enter_context(locked(f"{self.path}.lock"))
                self._listener = opened.enter_context(listening(self.path))
                self._poll = opened.enter_context(select.epoll())
                self._waker = os.eventfd(0)
            except (OSError, MessagingError) as error:
                why = getattr(error, "strerror", None) or error
                raise MessagingError(f"the broker cannot listen at {self.path}: {why}") from error
            opened.callback(os.close, self._waker)
            self._poll.register(self._listener, select.EPOLLIN)
            self._poll.register(self._waker, select.EPOLLIN)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections and remove the socket. Messages are gone."""
        for client in tuple(self._clients.values()):
            self._drop(client)
        self._waker = -1
        self._opened.close()

    def serve_forever(self) -> None:
        """Serve until ``stop``."""
        while not self._stopped:
            self.step(_LONGEST_WAIT)

    def stop(self) -> None:
        """Have ``serve_forever`` return soon."""
        self._stopped = True
        try:
            os.eventfd_write(self._waker, 1)
        except (OSError, ValueError):
            pass  # it is not open, so nobody sleeps

    def step(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for something to do, and do it."""
        now = time.monotonic()  # all that came until now is read before deadlines are held against that time
        wait = 0.0 if self._dirty else min(timeout, self._check_at - now)
        for descriptor, mask in self._poll.poll(max(0.0, wait)):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._clients:
                client = self._clients[descriptor]
                self._dirty[client] = None
                if mask & ~select.EPOLLOUT and client.receive():
                    self._check_soon()
        if now >= self._check_at:
            self._check(now)
        for client in tuple(self._dirty):  # who becomes so meanwhile has the next turn: nobody has all of them
            del self._dirty[client]
            client.write()
            self._watch(client)

    def _check(self, now: float) -> None:
        """Look after all deadlines: heartbeats, greetings, queues that expire."""
        if now >= self._accept_at:
            self._accept_at = inf
            self._poll.modify(self._listener, select.EPOLLIN)
        due = min(self._model.expire(), self._accept_at, now + _LONGEST_WAIT)
        for client in self._clients.values():
            due = min(due, client.check(now))
            self._dirty[client] = None
        self._check_at = max(due, now + _SHORTEST_CHECK)

    def _check_soon(self) -> None:
        self._check_at = min(self._check_at, time.monotonic() + _SHORTEST_CHECK)

    # -- clients ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        self._check_soon()
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # it has gone again
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            # The connection stays in the backlog, and the listener readable: look away for a while.
            self._poll.modify(self._listener, 0)
            self._accept_at = time.monotonic() + _ACCEPT_PAUSE
            return
        sock.setblocking(False)
        client = self._clients[sock.fileno()] = Client(sock, self._model, self.instance, self._dirty)
        self._poll.register(sock, 0)
        self._dirty[client] = None
        _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (0, os.geteuid()):
            client.leave(AdapterError(f"user {user} may not use this broker: it belongs to user {os.geteuid()}"))

    def _watch(self, client: Client) -> None:
        """Wait for what the client waits for."""
        mask = (select.EPOLLIN if client.reads else 0) | (select.EPOLLOUT if client.out else 0)
        if client.over:
            self._drop(client)
        elif mask != client.mask:
            self._poll.modify(client.sock, mask)
            client.mask = mask

    def _drop(self, client: Client) -> None:
        """Close a connection. What it held goes back to its queues."""
        del self._clients[client.sock.fileno()]
        client.sock.close()  # which takes it out of the poll, too
        client.close()
        self._dirty.pop(client, None)
        self._check_soon()


@contextmanager
def serving(path: str) -> Iterator[Broker]:
    """Run a broker in a thread of this process, for tests."""
    with Broker(path) as broker:
        thread = threading.Thread(target=broker.serve_forever, name=f"broker {path}")
        thread.start()
        try:
            yield broker
        finally:
            broker.stop()
            thread.join()
