"""The operations on queues and exchanges. Each waits for the broker's answer, and breaks at most its own channel."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import TypeVar

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import Adapter, ExchangeSpec, QueueSpec

from gofer_adapter_amqp.connection import Channel
from gofer_adapter_amqp.errors import DIFFERS, ClosedByBroker
from gofer_adapter_amqp.sender import Sender

__all__ = ["Nodes", "check_name"]

_T = TypeVar("_T")


class Nodes(Adapter):
    """The part of the adapter that declares, deletes and binds."""

    _sender: Sender | None

    @abstractmethod
    def _ask(self, question: Callable[[Channel], _T], timeout: float, channel: Channel | None = None) -> _T:
        """Run an operation that waits, on the control channel or the one given, and translate what goes wrong."""

    @abstractmethod
    def _has_types(self) -> bool:
        """Whether the broker knows types of queues; others refuse the argument."""

    def declare_queue(self, queue: QueueSpec, timeout: float) -> str | None:
        """Declare a queue, or use the one that is there."""
        if queue.kind not in ("classic", "quorum"):
            raise ValueError(f"a queue's kind is classic or quorum, not {queue.kind!r}")
        name = queue.name
        check_name(name)
        arguments: dict[str, object] = {}
        if queue.expires is not None:
            arguments["x-expires"] = max(1, round(queue.expires * 1000))
        if queue.kind == "quorum" or self._has_types():
            arguments["x-queue-type"] = queue.kind  # a virtual host may have another default than classic
        return self._declare(
            lambda channel: channel.queue_declare(
                name,
                durable=queue.durable,
                exclusive=queue.exclusive,
                auto_delete=queue.auto_delete,
                arguments=arguments,
            ),
            lambda channel: channel.queue_declare(name, passive=True),
            timeout,
        )

    def delete_queue(self, name: str, timeout: float, *, if_unused: bool = False, if_empty: bool = False) -> None:
        """Delete a queue."""

        check_name(name)

        def delete(channel: Channel) -> None:
            # RabbitMQ deletes what is not there without a word.
            channel.queue_declare(name, passive=True, nowait=True)
            channel.queue_delete(name, if_unused=if_unused, if_empty=if_empty)

        self._ask(delete, timeout)

    def purge_queue(self, name: str, timeout: float) -> None:
        """Drop a queue's messages."""
        check_name(name)
        self._ask(lambda channel: channel.queue_purge(name), timeout)

    def declare_exchange(self, exchange: ExchangeSpec, timeout: float) -> str | None:
        """Declare an exchange, or use the one that is there."""
        if exchange.kind not in ("direct", "topic", "fanout"):
            raise ValueError(f"an exchange's kind is direct, topic or fanout, not {exchange.kind!r}")
        name = exchange.name
        check_name(name)
        difference = self._declare(
            lambda channel: channel.exchange_declare(
                name, exchange.kind, durable=exchange.durable, auto_delete=exchange.auto_delete
            ),
            lambda channel: channel.exchange_declare(name, exchange.kind, passive=True),
            timeout,
        )
        self._senders().prove(name)
        return difference

    def delete_exchange(self, name: str, timeout: float) -> None:
        """Delete an exchange."""

        check_name(name)

        def delete(channel: Channel) -> None:
            channel.exchange_declare(name, "direct", passive=True, nowait=True)
            channel.exchange_delete(name)

        self._ask(delete, timeout)
        self._senders().doubt(name)

    def bind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        """Bind a queue to an exchange."""
        _binding(queue, exchange, key)
        self._ask(lambda channel: channel.queue_bind(queue, exchange, key), timeout)
        self._senders().prove(exchange)

    def unbind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        """Undo a binding."""
        _binding(queue, exchange, key)

        def unbind(channel: Channel) -> None:
            channel.queue_declare(queue, passive=True, nowait=True)
            channel.exchange_declare(exchange, "direct", passive=True, nowait=True)
            channel.queue_unbind(queue, exchange, key)

        self._ask(unbind, timeout)

    def _declare(
        self, declare: Callable[[Channel], object], look: Callable[[Channel], object], timeout: float
    ) -> str | None:
        """Declare; return the broker's sentence when the node is there with other properties."""
        deadline = time.monotonic() + timeout
        try:
            self._ask(declare, timeout)
        except AdapterError as error:
            said = error.__cause__
            if not isinstance(said, ClosedByBroker) or said.code != DIFFERS:
                raise
            try:
                self._ask(look, deadline - time.monotonic())
            except NotFound:  # nothing there that would differ: the properties themselves are refused
                raise error from None
            return said.text
        return None

    def _senders(self) -> Sender:
        assert self._sender is not None  # noqa: S101 - made by connect, and every caller has passed _ask
        return self._sender


def check_name(name: str) -> None:
    """Refuse a name that no queue or exchange can have, by ValueError."""
    if not name:
        raise ValueError("the default exchange is not declared or bound, and a queue has a name")
    _short(name)


def _short(text: str) -> None:
    if len(text.encode()) > 255:
        raise ValueError(f"longer than 255 bytes: {text[:60]!r}")


def _binding(queue: str, exchange: str, key: str) -> None:
    check_name(queue)
    check_name(exchange)
    _short(key)
