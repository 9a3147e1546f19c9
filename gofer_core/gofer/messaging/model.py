"""Queues, exchanges and plain documents, for programs that manage the queues of agents or speak to them by themselves::

    from gofer.messaging import NotFound, Queue

    queue = Queue("web-42", "amqp://broker.example.com")
    queue.declare()
    try:
        queue.purge()
        queue.delete()
    except NotFound:
        pass  # somebody else has deleted it

Each waits for the broker's answer, some seconds at most. All use the connections of the process, and any thread may use
them. A ``url`` may be a :class:`~gofer.messaging.Connector`; without one it is ``amqp://localhost``.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from time import monotonic
from typing import Any, Self

import msgspec

from gofer.errors import AdapterError, ConnectionLost, DocumentError, MessagingError, NotFound
from gofer.messaging.adapter import (
    Bind,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Delivery,
    Operation,
    Outcome,
    PurgeQueue,
    Unbind,
)
from gofer.messaging.address import Address
from gofer.messaging.auth import Authenticator, sign, verify
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, encode
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.messaging.url import URL

__all__ = ["Consumer", "Document", "Exchange", "Message", "Producer", "Queue", "Reader"]

log = logging.getLogger(__name__)

_URL = "amqp://localhost"
#: Seconds for the broker to answer.
_PATIENCE = 30.0


class Document(dict[str, Any]):
    """A document whose fields are attributes, too: ``document.result.retval``. One that is missing is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self.get(name)
        return Document(value) if isinstance(value, dict) else value


class _Node:
    """What has a name at a broker."""

    def __init__(self, name: str | None, url: str | URL | Connector | None) -> None:
        self.name = name or str(uuid.uuid4())
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _ask(self, operation: Operation, url: str | URL | Connector | None) -> None:
        connection = pool.acquire(Connector.of(url or self.url or _URL))
        try:
            differs = connection.ask(operation, _PATIENCE)
        finally:
            pool.release(connection, linger=True)
        if differs:
            log.info("%r is used as it is: %s", self, differs)


class Queue(_Node):
    """A queue. Set ``durable``, ``auto_delete``, ``exclusive`` or ``expiration`` (seconds) before ``declare``.

    Args:
        name: None: one that nobody else has.
    """

    durable, auto_delete, exclusive = True, False, False
    expiration: float | None = None

    def __init__(self, name: str | None = None, url: str | URL | Connector | None = None) -> None:
        super().__init__(name, url)

    def declare(self, url: str | URL | Connector | None = None) -> Self:
        """Make sure that it exists; one that is there is used as it is.

        Raises:
            MessagingError: no connection, or the broker refuses.
        """
        self._ask(DeclareQueue(self.name, self.durable, self.exclusive, self.auto_delete, self.expiration), url)
        return self

    def delete(self, url: str | URL | Connector | None = None) -> None:
        """Delete it, and what waits in it. Raises NotFound, and as ``declare``."""
        self._ask(DeleteQueue(self.name), url)

    def purge(self, url: str | URL | Connector | None = None) -> None:
        """Drop what waits in it. Raises NotFound, and as ``declare``."""
        self._ask(PurgeQueue(self.name), url)


class Exchange(_Node):
    """An exchange. ``policy`` is ``direct``, ``topic`` or ``fanout``."""

    durable, auto_delete = True, False

    def __init__(self, name: str, policy: str = "direct", url: str | URL | Connector | None = None) -> None:
        super().__init__(name, url)
        self.policy = policy

    def declare(self, url: str | URL | Connector | None = None) -> Self:
        """Make sure that it exists. Raises as ``Queue.declare``."""
        self._ask(DeclareExchange(self.name, self.policy, self.durable, self.auto_delete), url)
        return self

    def delete(self, url: str | URL | Connector | None = None) -> None:
        """Delete it. Raises NotFound, and as ``declare``."""
        self._ask(DeleteExchange(self.name), url)

    def bind(self, queue: Queue, url: str | URL | Connector | None = None) -> None:
        """Have it route messages for the queue's name to the queue. Raises NotFound: one of both is missing."""
        self._ask(Bind(queue.name, self.name, queue.name), url)

    def unbind(self, queue: Queue, url: str | URL | Connector | None = None) -> None:
        """Undo ``bind``."""
        self._ask(Unbind(queue.name, self.name, queue.name), url)


class _Endpoint:
    """What uses a connection between ``open`` and ``close``, or in a ``with``."""

    #: Signs what is sent, and verifies what is read; None: nothing does.
    authenticator: Authenticator | None = None

    def __init__(self, url: str | URL | Connector | None) -> None:
        self._connector = Connector.of(url or _URL)
        self._connection: ThreadConnection | None = None

    def open(self) -> None:
        """Connect. May be repeated. Raises MessagingError: that is not possible."""
        if self._connection is None:
            self._connection = pool.acquire(self._connector)
            try:
                self._begin(self._connection)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Give back the connection. May be repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._end(connection)
            pool.release(connection, linger=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, connection: ThreadConnection) -> None:
        connection.open(monotonic() + _PATIENCE)

    def _end(self, connection: ThreadConnection) -> None:
        """Undo what ``_begin`` did."""

    @property
    def _open(self) -> ThreadConnection:
        if self._connection is None:
            raise ConnectionLost(f"{type(self).__name__} is not open")
        return self._connection


class Producer(_Endpoint):
    """Sends documents."""

    def __init__(self, url: str | URL | Connector | None = None) -> None:
        super().__init__(url)

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
        outcomes: list[tuple[Outcome, str]] = []
        deadline, waiter = monotonic() + _PATIENCE, Waiter()

        def settled(outcome: Outcome, reason: str) -> None:
            outcomes.append((outcome, reason))
            waiter.wake()

        connection = self._open
        connection.publish(Address.parse(address), data, deadline=deadline, ttl=ttl, settled=settled)
        connection.wait(lambda: outcomes, deadline, waiter)
        outcome, reason = outcomes[0] if outcomes else (Outcome.UNKNOWN, connection.state)
        if outcome is Outcome.RETURNED:
            raise NotFound(f"there is no queue at {address!r}: {reason}")
        if outcome is Outcome.REFUSED:
            raise AdapterError(f"the broker refused a message to {address!r}: {reason}")
        if outcome is Outcome.UNKNOWN:
            raise ConnectionLost(f"no word from the broker about a message to {address!r}: {reason}")
        return sn


class Message:
    """A message that was read. The broker holds it until ``ack`` or ``reject``, or until its reader is closed."""

    def __init__(self, connection: ThreadConnection, delivery: Delivery, held: dict[Delivery, None]) -> None:
        self._connection, self._delivery, self._held = connection, delivery, held
        held[delivery] = None

    @property
    def body(self) -> bytes:
        """What was sent."""
        return self._delivery.body

    def ack(self) -> None:
        """Tell the broker that the message is done with."""
        self._held.pop(self._delivery, None)
        self._connection.accept(self._delivery)
        self._connection.wait_written(_PATIENCE)

    def reject(self, requeue: bool = True) -> None:
        """Give it back to the queue, or drop it."""
        self._held.pop(self._delivery, None)
        (self._connection.release if requeue else self._connection.reject)(self._delivery)


class Reader(_Endpoint):
    """Reads messages of a queue, one at a time.

    Raises NotFound when it is opened and there is no such queue.
    """

    def __init__(self, queue: Queue | str, url: str | URL | Connector | None = None) -> None:
        self.queue = Queue(queue) if isinstance(queue, str) else queue
        super().__init__(url or self.queue.url)
        self._inbox: deque[Delivery] = deque()
        self._held: dict[Delivery, None] = {}  # handed out and not settled
        self._waiter = Waiter()
        self._subscription: Subscription | None = None

    def _begin(self, connection: ThreadConnection) -> None:
        self._subscription = Subscription(self.queue.name, 1, self._take, on_made=self._inbox.clear)
        connection.subscribe(self._subscription, _PATIENCE)

    def _end(self, connection: ThreadConnection) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                connection.unsubscribe(subscription, _PATIENCE)
            except MessagingError as gone:
                log.debug("%r: %s", subscription, gone)  # the broker takes back what was not acknowledged
        for delivery in (*self._held, *self._inbox):
            connection.release(delivery)
        self._held.clear()
        self._inbox.clear()

    def _take(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._waiter.wake()

    def get(self, timeout: float | None = None) -> Message | None:
        """Wait for a message, for so many seconds (None: without end); return None if there was none."""
        connection = self._open
        deadline = None if timeout is None else monotonic() + timeout
        connection.wait(lambda: self._inbox, deadline, self._waiter)
        return Message(connection, self._inbox.popleft(), self._held) if self._inbox else None

    def next(self, timeout: float | None = 90.0) -> tuple[Document | None, Any]:
        """Wait for a document; return it and what acknowledges it, or (None, None).

        Raises:
            DocumentError: it cannot be read or verified; it has been dropped.
        """
        message = self.get(timeout)
        if message is None:
            return None, None
        try:
            inner, _ = verify(message.body, None)
            document = Document(msgspec.json.decode(inner, type=dict[str, Any]))
            if self.authenticator is not None:
                verify(message.body, self.authenticator, document)
        except (DocumentError, msgspec.DecodeError) as bad:
            message.reject(requeue=False)
            raise bad if isinstance(bad, DocumentError) else DocumentError("model.invalid", str(bad)) from bad
        return document, message.ack

    def search(self, sn: str, timeout: float = 90.0) -> Document | None:
        """Wait for the document with a serial number, and acknowledge it. Others that come before are dropped."""
        deadline = monotonic() + timeout
        while (left := deadline - monotonic()) > 0:
            document, ack = self.next(left)
            if document is not None:
                ack()
                if document.sn == sn:
                    return document
        return None


class Consumer:
    """Reads a queue in a thread of its own, and hands each document to ``dispatch``, which a subclass has.

    A document is acknowledged when ``dispatch`` has returned. What that raises is logged, and the next one comes.
    """

    def __init__(self, queue: Queue | str, url: str | URL | Connector | None = None) -> None:
        self.reader = Reader(queue, url)
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
                    log.warning("%r: a message was dropped: %s", self.reader.queue, bad)
                    continue
                if document is not None:
                    try:
                        self.dispatch(document)
                    except Exception:  # whatever it does, the next one is handed on
                        log.exception("%r: dispatch failed", self.reader.queue)
                    ack()
        except ConnectionLost as closed:
            log.debug("%r: %s", self.reader.queue, closed)
        finally:
            self.reader.close()
