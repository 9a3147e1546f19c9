"""A consumer of replies: it calls a listener with each reply that comes to a queue."""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, NamedTuple

from gofer.errors import ConnectionLost, DocumentError, MessagingError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import Bind, DeclareQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.auth import fault_of
from gofer.messaging.connector import Connector
from gofer.messaging.document import shown
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection, Waiter
from gofer.messaging.url import URL
from gofer.rmi.client.notices import (
    Accepted,
    Failed,
    Notice,
    Progress,
    Rejected,
    Started,
    Succeeded,
    read_reply,
)
from gofer.rmi.client.options import Options

__all__ = ["Listener", "ReplyConsumer"]

log = logging.getLogger(__name__)

#: Replies that the broker delivers before earlier ones are accepted: few, so that consumers share fairly.
_PREFETCH = 10
#: Seconds for a start, and for one operation.
_START = 20.0
_OPERATION = 10.0
#: Serial numbers of ended requests that are remembered.
_REMEMBERED = 10_000


class Listener:
    """Handles replies. Override the methods you need; a listener needs neither this base class nor all methods."""

    def accepted(self, reply: Accepted) -> None:
        """Handle: the agent has the request."""

    def started(self, reply: Started) -> None:
        """Handle: the method was started."""

    def progress(self, reply: Progress) -> None:
        """Handle: the method reports its progress."""

    def rejected(self, reply: Rejected) -> None:
        """Handle: the agent refused the request. Nothing follows."""

    def succeeded(self, reply: Succeeded) -> None:
        """Handle: the method returned. Nothing follows."""

    def failed(self, reply: Failed) -> None:
        """Handle: the method raised. Nothing follows."""


_KINDS = tuple(kind.kind for kind in (Accepted, Started, Progress, Rejected, Succeeded, Failed))


def _check_listener(listener: object) -> None:
    """Check that something can be told of replies.

    Raises:
        TypeError: it cannot; the text says what can.
    """
    if isinstance(listener, type):
        raise TypeError(f"a listener is an object: pass {listener.__name__}(), not the class")
    methods = [listener] if callable(listener) else [getattr(listener, kind, None) for kind in _KINDS]
    if not any(map(callable, methods)):
        raise TypeError(
            f"a listener is a callable, or an object with some of the methods {', '.join(_KINDS)}; "
            f"a {type(listener).__name__} is not and has none"
        )
    for method in methods:
        if inspect.iscoroutinefunction(method):
            raise TypeError(f"a listener is called, not awaited: {method!r} is async")


def _notify(listener: Any, notice: Notice) -> None:
    """Call a listener, or its method for the notice's kind, if it has one."""
    method = listener if callable(listener) else getattr(listener, notice.kind, None)
    if method is not None:
        method(notice)


class _Item(NamedTuple):
    """A delivery, and how often the listener has raised for it."""

    delivery: Delivery
    tries: int = 0


class ReplyConsumer:
    """Calls a listener with what comes to a queue of replies. A context manager, which stops it.

    Started and stopped by one thread at a time; the listener is called in a thread of the consumer's own, one reply at
    a time, and may make calls itself. A reply is accepted at the broker when the listener has returned, so that none is
    lost to a crash; one may then come twice. Of each request the listener is told one end (a result or a rejection),
    and no status after it. Several consumers of one queue share its replies.

    When the listener raises, that is logged. A status is not repeated. An end is repeated after each of ``pauses`` and,
    when that did not help, put into the durable queue ``<queue>.failed``, which another consumer may read.

    Args:
        queue: the queue's name, as given to the option ``reply``; of ``exchange/queue`` the queue is bound to that
            exchange. Or a :class:`~gofer.messaging.adapter.DeclareQueue`, or whatever else has a ``name``. It is
            declared if it is missing (durable, unless a DeclareQueue says otherwise) and never deleted.
        url: the broker's URL, or a Connector.
        authenticator: validates the replies, as the option of that name; the others are dropped.
        pauses: seconds before each further try of what the listener raised for.

    Raises:
        ConfigError: the URL or the address cannot be read.
        TypeError: no such authenticator, or queue.
    """

    def __init__(
        self,
        queue: str | DeclareQueue | Any,
        url: str | URL | Connector = "amqp://localhost",
        *,
        authenticator: Any = None,
        pauses: Iterable[float] = (1.0, 5.0, 25.0),
    ) -> None:
        self._connector = Connector.of(url)
        self._queue, self._exchange = _declaration(queue)
        self._failed = Address.parse(f"/{self._queue.name}.failed")
        self._authenticator = Options().having({"authenticator": authenticator}).authenticator
        self._pauses = tuple(pauses)
        self._ended: dict[str, None] = {}  # the serial numbers of ended requests, over all starts
        self._complain = LimitedLog(log)
        self._connection: ThreadConnection | None = None
        self._thread: threading.Thread | None = None
        self._waiter = Waiter()
        self._stopping = False
        self._inbox: deque[_Item] = deque()
        self._later: list[tuple[float, _Item]] = []

    @property
    def running(self) -> bool:
        """Whether the listener gets replies. While it is true, a lost connection is made again."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, listener: Any) -> ReplyConsumer:
        """Declare the queue, and call the listener from now on; return when the broker has agreed.

        Args:
            listener: something callable, called with each reply; or an object with some of the methods of
                :class:`Listener`.

        Raises:
            TypeError: the listener is neither.
            RuntimeError: it was started before.
            MessagingError: there is no connection, or the broker refused.
        """
        _check_listener(listener)
        if self.running:
            raise RuntimeError(f"{self!r} was started before")
        self._stopping = False
        connection, name = pool.acquire(self._connector), self._queue.name
        subscription = Subscription(
            name,
            _PREFETCH,
            self._on_delivery,
            self._prepare,
            lambda why: log.warning("no replies from %r for now: %s", name, why),
        )
        arguments = (listener, connection, subscription)
        thread = threading.Thread(target=self._run, args=arguments, name=f"gofer-replies-{name}", daemon=True)
        try:
            connection.subscribe(subscription, _START)
            thread.start()
        except BaseException:
            pool.release(connection)
            raise
        self._connection, self._thread = connection, thread
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Call the listener no more, and give the other replies back to the broker. Idempotent.

        Args:
            timeout: seconds to wait for the listener to return; it is not waited for in its own thread.

        Returns:
            Whether it has ended.
        """
        thread = self._thread
        if thread is None or self._connection is None or self._connection.abandoned:  # a forked child's is the parent's
            return True
        self._stopping = True
        self._waiter.wake()
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def __enter__(self) -> ReplyConsumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<ReplyConsumer {self._queue.name!r} at {self._connector.url}>"

    # -- in the driver's thread: quick --------------------------------------------------------------------------------

    def _prepare(self) -> Steps:
        differs = yield self._queue
        if differs:
            log.info("the queue for replies is used as it is: %s", differs)
        if self._exchange:
            yield Bind(self._queue.name, self._exchange, self._queue.name)

    def _on_delivery(self, delivery: Delivery) -> None:
        self._inbox.append(_Item(delivery))
        self._waiter.wake()

    # -- in the consumer's own thread ---------------------------------------------------------------------------------

    def _run(self, listener: Any, connection: ThreadConnection, subscription: Subscription) -> None:
        try:
            while not self._stopping:
                due = self._later[0][0] if self._later else None
                connection.wait(lambda: self._inbox or self._stopping, due, self._waiter)
                item = None if self._stopping else self._next()
                latest = max(subscription.number or 0, subscription.making or 0)
                if item is not None and item.delivery.subscription >= latest:  # the broker sends what is older again
                    self._handle(item, listener, connection)
        except ConnectionLost:
            if not self._stopping:
                log.debug("%r: the connection was closed", self)  # at the end of the process
        finally:
            self._give_back(connection, subscription)

    def _next(self) -> _Item | None:
        if self._later and self._later[0][0] <= monotonic():
            return self._later.pop(0)[1]
        return self._inbox.popleft() if self._inbox else None

    def _handle(self, item: _Item, listener: Any, connection: ThreadConnection) -> None:
        """Call the listener with a reply, and accept it unless it must be repeated."""
        body = item.delivery.body
        try:
            received = read_reply(body)
            if self._authenticator is not None:
                received.verify(self._authenticator)
        except DocumentError as bad:
            text = "%r: a reply is dropped: %s: %s"
            self._complain(logging.WARNING, text, self, bad, shown(repr(body[:200])), error=fault_of(bad))
            connection.reject(item.delivery)
            return
        notice = received.notice
        if notice.sn not in self._ended:
            if not self._notified(listener, notice) and notice.done and not self._keep(item, connection):
                return
            if notice.done and notice.sn is not None:
                self._remember(notice.sn)
        connection.accept(item.delivery)
        connection.wait_written(_OPERATION)  # the listener may be busy with the next one for long

    def _notified(self, listener: Any, notice: Notice) -> bool:
        """Call the listener; return whether it has returned."""
        try:
            _notify(listener, notice)
        except BaseException as raised:  # whatever a listener does, the next reply is told
            log.error("the listener raised for %s of request %s", notice.kind, shown(str(notice.sn)), exc_info=raised)
            return False
        return True

    def _keep(self, item: _Item, connection: ThreadConnection) -> bool:
        """Keep an end that the listener raised for: for another try, or (True) in the other queue."""
        if item.tries < len(self._pauses):
            pause = self._pauses[item.tries]
        else:
            try:
                self._set_aside(item.delivery.body, connection)
            except MessagingError as refused:
                log.error("%r: a reply cannot be moved away, and is delivered again: %s", self, refused)
                pause = max(self._pauses, default=1.0)
            else:
                return True
        self._later.append((monotonic() + pause, item._replace(tries=item.tries + 1)))
        self._later.sort(key=lambda one: one[0])
        return False

    def _set_aside(self, body: bytes, connection: ThreadConnection) -> None:
        connection.ask(DeclareQueue(self._failed.key), _OPERATION)
        outcome, reason = connection.publish_confirmed(self._failed, body, _OPERATION)
        if outcome is not Outcome.CONFIRMED:
            raise ConnectionLost(f"{self._failed.key!r} did not take it: {outcome.value} {reason}")
        log.error("%r: the reply was put into %r", self, self._failed.key)

    def _remember(self, sn: str) -> None:
        self._ended[sn] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    def _give_back(self, connection: ThreadConnection, subscription: Subscription) -> None:
        """End the subscription, and give back what the listener was not told of. Nothing is delivered after that."""
        try:
            connection.unsubscribe(subscription, _OPERATION)
        except MessagingError as lost:
            log.debug("%r: not cancelled: %s", self, lost)  # then the broker gives them to others itself
        for item in (*self._inbox, *(item for _, item in self._later)):
            connection.release(item.delivery)
        self._inbox.clear()
        self._later.clear()
        pool.release(connection)


def _declaration(given: str | DeclareQueue | Any) -> tuple[DeclareQueue, str]:
    """Read which queue is meant, and the exchange it is bound to."""
    if isinstance(given, DeclareQueue):
        Address.parse(given.name)
        return given, ""
    name = given if isinstance(given, str) else getattr(given, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"a queue is given by its name, or as a DeclareQueue, not as a {type(given).__name__}")
    exchange, key = Address.parse(name)
    return DeclareQueue(key), exchange
