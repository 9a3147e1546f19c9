"""Replies that nobody waits for: a consumer tells a listener what comes to a queue of replies::

from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer

with ReplyConsumer("tasks", "amqp://broker.example.com").start(listener):
    Agent("amqp://broker.example.com", "web-42", reply="tasks").Dog().bark("hello")
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.url import URL
from gofer.rmi.notices import (
    Accepted,
    Failed,
    Listener,
    Notice,
    Progress,
    Rejected,
    Started,
    Succeeded,
    check_listener,
)
from gofer.rmi.options import Options
from gofer.rmi.replies import Replies, aside

__all__ = [
    "ReplyConsumer",
    "Listener",
    "Notice",
    "Accepted",
    "Started",
    "Progress",
    "Rejected",
    "Succeeded",
    "Failed",
]

#: Seconds for a start.
_START = 20.0


class ReplyConsumer:
    """Tells a listener what comes to a queue of replies. A context manager, which stops it.

    Started and stopped by one thread at a time; the listener is called in a thread of the consumer's own, one reply at
    a time, and may make calls itself. A reply is accepted at the broker when the listener has returned, so that none is
    lost to a crash; one may then come twice. Of each request one end (a result or a rejection) is told, and after it no
    status. Several consumers of one queue share its replies.

    When the listener raises, that is logged. A status is then done with; an end is told again after each of ``pauses``
    and, when that did not help, put into the durable queue ``<queue>.failed``, which another consumer may read.

    Args:
        queue: the queue's name, as given to the option ``reply``; of ``exchange/queue`` the queue is bound to that
            exchange. Or a :class:`~gofer.messaging.adapter.DeclareQueue`, or whatever else has a ``name``. It is
            declared if it is missing (durable, unless a DeclareQueue says otherwise) and never deleted.
        url: the broker's URL, or a Connector.
        authenticator: validates the replies, as the option of that name; what is not valid is not told.
        pauses: seconds before each further try to tell what the listener raised for.

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
        self._spec, self._exchange = _queue(queue)
        self._authenticator = Options().having({"authenticator": authenticator}).authenticator
        self._pauses = tuple(pauses)
        self._ended: dict[str, None] = {}
        self._reader: Replies | None = None

    @property
    def running(self) -> bool:
        """Whether the listener is told of replies (a lost connection is made again all the while)."""
        return self._reader is not None and self._reader.thread.is_alive()

    def start(self, listener: Any) -> ReplyConsumer:
        """Declare the queue, and tell the listener from now on; return when the broker has agreed.

        Args:
            listener: something callable, called with each reply; or an object with some of the methods of
                :class:`Listener`.

        Raises:
            TypeError: the listener is neither.
            RuntimeError: it was started before.
            MessagingError: there is no connection, or the broker refused.
        """
        check_listener(listener)
        if self.running:
            raise RuntimeError(f"{self!r} was started before")
        link = pool.acquire(self._connector)
        try:
            reader = Replies(
                link,
                queue=self._spec,
                exchange=self._exchange,
                listener=listener,
                authenticator=self._authenticator,
                pauses=self._pauses,
                ended=self._ended,
            )
            link.subscribe(reader.subscription, _START)
            reader.thread.start()
        except BaseException:
            pool.release(link)
            raise
        self._reader = reader
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Tell nothing more, and give back to the broker what was not told. Idempotent.

        Args:
            timeout: seconds to wait for the listener to return; it is not waited for in its own thread.

        Returns:
            Whether it has ended.
        """
        reader = self._reader
        if reader is None or reader.link.abandoned:  # that is the parent's, in a forked child
            return True
        reader.stop()
        if reader.thread is threading.current_thread():
            return False
        reader.thread.join(timeout)
        return not reader.thread.is_alive()

    def __enter__(self) -> ReplyConsumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<ReplyConsumer {self._spec.name!r} at {self._connector.url}>"


def _queue(given: str | DeclareQueue | Any) -> tuple[DeclareQueue, str]:
    """Read which queue is meant, and the exchange it is bound to."""
    if isinstance(given, DeclareQueue):
        spec, exchange = given, ""
        Address.parse(given.name)
    else:
        name = given if isinstance(given, str) else getattr(given, "name", None)
        if not isinstance(name, str):
            raise TypeError(f"a queue is given by its name, or as a DeclareQueue, not as a {type(given).__name__}")
        exchange, key = Address.parse(name)
        spec = DeclareQueue(key)
    aside(spec.name)
    return spec, exchange
