"""Queues, exchanges and plain documents, for programs that manage agents' queues, or exchange documents with agents::

    from gofer.messaging import NotFound, Queue

    queue = Queue("web-42", "amqp://broker.example.com")
    queue.declare()
    try:
        queue.purge()
        queue.delete()
    except NotFound:
        pass  # another program has deleted it

Each method waits for the broker's answer, some seconds at most. All objects use the connections of the process. Any
thread may use them. A ``url`` may be a :class:`~gofer.messaging.Connector`; the default is ``amqp://localhost``.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from time import monotonic
from typing import Any, Self

from gofer.errors import AdapterError, ConnectionLost, DocumentError, MessagingError, NotFound
from gofer.limit import LimitedLog
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.auth import Authenticator, sign, verify
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, Document, decode_fields, encode
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.messaging.url import URL

__all__ = ["Consumer", "Exchange", "Message", "Producer", "Queue", "Reader"]

log = logging.getLogger(__name__)

_URL = "amqp://localhost"
#: Seconds for the broker to answer.
_TIMEOUT = 30.0

#: What is raised for a message that was not taken.
_FAILURES: dict[Outcome, tuple[type[MessagingError], str]] = {
    Outcome.RETURNED: (NotFound, "there is no queue at"),
    Outcome.REFUSED: (AdapterError, "the broker refused a message to"),
    Outcome.UNKNOWN: (ConnectionLost, "no word from the broker about a message to"),
}

_Where = str | URL | Connector | None


class _Node:
    """A queue or an exchange."""

    def __init__(self, name: str | None = None, url: _Where = None) -> None:
        self.name = name or str(uuid.uuid4())
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _ask(self, operation: api.Operation, url: _Where) -> None:
        connection = pool.acquire(Connector.of(url or self.url or _URL))
        try:
            differs = connection.ask(operation, _TIMEOUT)
        finally:
            pool.release(connection, linger=True)
        if differs:
            log.info("%r is used as it is: %s", self, differs)


class Queue(_Node):
    """A queue. Set ``durable``, ``auto_delete``, ``exclusive`` or ``expiration`` (seconds) before ``declare``.

    Args:
        name: None: a new, unique name.
    """

    durable, auto_delete, exclusive = True, False, False
    expiration: float | None = None

    def declare(self, url: _Where = None) -> Self:
        """Make sure that it exists. An existing queue is used as it is.

        Raises:
            MessagingError: no connection, or the broker refuses.
        """
        self._ask(api.DeclareQueue(self.name, self.durable, self.exclusive, self.auto_delete, self.expiration), url)
        return self

    def delete(self, url: _Where = None) -> None:
        """Delete it, and the messages that wait in it. Raises NotFound, and as ``declare``."""
        self._ask(api.DeleteQueue(self.name), url)

    def purge(self, url: _Where = None) -> None:
        """Drop the messages that wait in it. Raises NotFound, and as ``declare``."""
        self._ask(api.PurgeQueue(self.name), url)


class Exchange(_Node):
    """An exchange. ``policy`` is ``direct``, ``topic`` or ``fanout``."""

    durable, auto_delete = True, False

    def __init__(self, name: str, policy: str = "direct", url: _Where = None) -> None:
        super().__init__(name, url)
        self.policy = policy

    def declare(self, url: _Where = None) -> Self:
        """Make sure that it exists. Raises as ``Queue.declare``."""
        self._ask(api.DeclareExchange(self.name, self.policy, self.durable, self.auto_delete), url)
        return self

    def delete(self, url: _Where = None) -> None:
        """Delete it. Raises NotFound, and as ``declare``."""
        self._ask(api.DeleteExchange(self.name), url)

    def bind(self, queue: Queue, url: _Where = None) -> None:
        """Have it route messages for the queue's name to the queue. Raises NotFound: one of both is missing."""
        self._ask(api.Bind(queue.name, self.name, queue.name), url)

    def unbind(self, queue: Queue, url: _Where = None) -> None:
        """Undo ``bind``."""
        self._ask(api.Unbind(queue.name, self.name, queue.name), url)


class _Endpoint:
    """It has a connection between ``open`` and ``close``, or inside a ``with`` block."""

    #: Signs documents that are sent, and verifies those that are read. None: no signatures.
    authenticator: Authenticator | None = None

    def __init__(self, url: _Where = None) -> None:
        self._connector = Connector.of(url or _URL)
        self._connection: ThreadConnection | None = None

    def open(self) -> None:
        """Connect. May be repeated. Raises MessagingError: there is no connection."""
        if self._connection is None:
            self._connection = pool.acquire(self._connector)
            try:
                self._start(self._connection)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Give back the connection. May be repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._stop(connection)
            pool.release(connection, linger=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, connection: ThreadConnection) -> None:
        connection.open(monotonic() + _TIMEOUT)

    def _stop(self, connection: ThreadConnection) -> None:
        """Undo ``_start``."""

    @property
    def _open(self) -> ThreadConnection:
        if self._connection is None:
            raise ConnectionLost(f"{type(self).__name__} is not open")
        return self._connection


class Producer(_Endpoint):
    """Sends documents."""

    def send(self, address: str, ttl: float | None = None, **body: Any) -> str:
        """Send a document with these fields, and wait until the broker has it.

        Args:
            address: ``queue`` or ``exchange/queue``.
            ttl: seconds after which the broker may drop it.

        Returns:
            Its serial number.

        Raises:
            NotFound: the address leads to no queue.
            MessagingError: it was not sent, or refused.
        """
        sn = str(uuid.uuid4())
        data = encode({"sn": sn, "version": VERSION, "routing": [None, address], **body})
        if self.authenticator is not None:
            data = sign(data, self.authenticator)
        outcome, reason = self._open.publish_confirmed(Address.parse(address), data, _TIMEOUT, ttl=ttl)
        if outcome is not Outcome.CONFIRMED:
            error, text = _FAILURES[outcome]
            raise error(f"{text} {address!r}: {reason}")
        return sn


class Message:
    """A message that was read. The broker holds it until ``ack``, ``reject``, or the end of its reader."""

    def __init__(self, connection: ThreadConnection, delivery: Delivery, held: dict[Delivery, None]) -> None:
        self._connection, self._delivery, self._held = connection, delivery, held
        held[delivery] = None

    @property
    def body(self) -> bytes:
        """The bytes of the message."""
        return self._delivery.body

    def ack(self) -> None:
        """Acknowledge the message."""
        self._held.pop(self._delivery, None)
        self._connection.accept(self._delivery)
        self._connection.wait_written(_TIMEOUT)

    def reject(self, requeue: bool = True) -> None:
        """Requeue the message, or drop it."""
        self._held.pop(self._delivery, None)
        (self._connection.release if requeue else self._connection.reject)(self._delivery)


class Reader(_Endpoint):
    """Reads messages of a queue, one at a time.

    Raises NotFound when it is opened and there is no such queue.
    """

    def __init__(self, queue: Queue | str, url: _Where = None) -> None:
        self.queue = Queue(queue) if isinstance(queue, str) else queue
        super().__init__(url or self.queue.url)
        self._inbox: deque[Delivery] = deque()
        self._held: dict[Delivery, None] = {}  # returned by get, and not settled
        self._waiter = Waiter()
        self._subscription: Subscription | None = None

    def _start(self, connection: ThreadConnection) -> None:
        self._subscription = Subscription(self.queue.name, 1, self._take, on_made=self._inbox.clear)
        connection.subscribe(self._subscription, _TIMEOUT)

    def _stop(self, connection: ThreadConnection) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                connection.unsubscribe(subscription, _TIMEOUT)
            except MessagingError as gone:
                log.debug("%r: %s", subscription, gone)  # the broker requeues unacknowledged messages
        for delivery in (*self._held, *self._inbox):
            connection.release(delivery)
        self._held.clear()
        self._inbox.clear()

    def _take(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._waiter.wake()

    def get(self, timeout: float | None = None) -> Message | None:
        """Wait for a message, for ``timeout`` seconds (None: no limit); return None if there was none."""
        connection = self._open
        deadline = None if timeout is None else monotonic() + timeout
        connection.wait(lambda: self._inbox, deadline, self._waiter)
        return Message(connection, self._inbox.popleft(), self._held) if self._inbox else None

    def next(self, timeout: float | None = 90.0) -> tuple[Document | None, Any]:
        """Wait for a document; return it and the function that acknowledges it, or (None, None).

        Raises:
            DocumentError: it cannot be read or verified; it has been dropped.
        """
        message = self.get(timeout)
        if message is None:
            return None, None
        try:
            inner, _ = verify(message.body, self.authenticator)
            document = Document(decode_fields(inner))
        except DocumentError:
            message.reject(requeue=False)
            raise
        return document, message.ack

    def search(self, sn: str, timeout: float = 90.0) -> Document | None:
        """Wait for the document with a serial number, and acknowledge it. Documents before it are dropped."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            document, ack = self.next(left)
            if document is not None:
                ack()
                if document.sn == sn:
                    return document
        return None


class Consumer:
    """Reads a queue in a thread of its own, and calls ``dispatch`` of a subclass with each document.

    A document is acknowledged when ``dispatch`` has returned. Its exceptions are logged, and the next document follows.
    """

    def __init__(self, queue: Queue | str, url: _Where = None) -> None:
        self.reader = Reader(queue, url)
        self._complain = LimitedLog(log)  # of messages that anybody may send
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def dispatch(self, document: Document) -> None:
        """Handle a document."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin to read. Raises NotFound: there is no such queue."""
        self.reader.open()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=f"gofer-consumer-{self.reader.queue.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end when ``dispatch`` has returned."""
        self._stopping.set()
        self.reader._waiter.wake()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    document, ack = self.reader.next(1.0)
                except DocumentError as bad:
                    self._complain(logging.WARNING, "%r: a message is dropped: %s", self.reader.queue, bad)
                    continue
                if document is not None:
                    try:
                        self.dispatch(document)
                    except Exception:  # the next document follows
                        log.exception("%r: dispatch failed", self.reader.queue)
                    ack()
        except ConnectionLost as closed:
            log.debug("%r: %s", self.reader.queue, closed)
        finally:
            self.reader.close()
