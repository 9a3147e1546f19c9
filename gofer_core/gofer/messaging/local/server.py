"""The local broker: a Unix socket, and an event loop that serves it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from weakref import WeakSet

from gofer.errors import MessagingError
from gofer.messaging.endings import words
from gofer.messaging.local.client import Client
from gofer.messaging.local.paths import listening, locked
from gofer.messaging.local.state import State

__all__ = ["Broker", "serving"]

#: Seconds between two looks for expired queues.
_SWEEP = 0.5


class Broker:
    """The broker at a path. It listens there inside the ``with`` block.

    One thread uses it; any thread, and a signal handler, may call ``stop``. ``total_limit`` and ``queue_limit`` are the
    bytes that all messages, and those of one queue, may take; over that, messages are refused.
    """

    def __init__(self, path: str, *, total_limit: int = 256 << 20, queue_limit: int = 128 << 20) -> None:
        self.path = os.path.abspath(path)
        self._state = State(time.monotonic, total_limit=total_limit, queue_limit=queue_limit)
        self._clients: WeakSet[Client] = WeakSet()
        self._stopping = asyncio.Event()
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = ExitStack()

    def __enter__(self) -> Broker:
        """Listen at the path. Its directory is made, with mode 0700, if it is missing.

        Raises:
            MessagingError: another broker is there (the text names its process), or the path cannot be used.
        """
        with ExitStack() as opened:
            try:
                os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
                opened.enter_context(locked(f"{self.path}.lock"))
                self._listener = opened.enter_context(listening(self.path))
            except (OSError, MessagingError) as error:
                raise MessagingError(f"the broker cannot listen at {self.path}: {words(error)}") from error
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the socket. Messages are gone."""
        self._opened.close()

    def serve_forever(self) -> None:
        """Serve until ``stop``."""
        asyncio.run(self._serve())

    def stop(self) -> None:
        """Have ``serve_forever`` return soon."""
        self._stopped = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopped:
            return

        def connected() -> Client:
            client = Client(self._state)
            self._clients.add(client)
            return client

        # Not create_unix_server: on Python 3.13 it looks for the file by the socket's name, which may be a short one.
        server = await self._loop.create_server(connected, sock=self._listener)
        while not self._stopping.is_set():
            self._state.expire()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _SWEEP)
        server.close()
        for client in tuple(self._clients):
            client.abort()
        await asyncio.sleep(0)  # the sockets are closed in the next turn


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
