"""The adapter of the local broker: ``local://`` or ``local:///path/to.sock``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from gofer.errors import AdapterError
from gofer.messaging.adapter.base import (
    Adapter,
    Delivery,
    Event,
    ExchangeSpec,
    Outcome,
    QueueSpec,
    Settled,
    SubscriptionLost,
)
from gofer.messaging.address import Address
from gofer.messaging.broker import protocol
from gofer.messaging.broker.connection import Connection
from gofer.messaging.broker.paths import default_path
from gofer.messaging.broker.session import ACCEPT, REJECT, RELEASE
from gofer.messaging.connector import Connector

__all__ = ["LocalAdapter"]


class LocalAdapter(Adapter):
    """A connection to the local broker, by a Unix socket. Messages live as long as the broker's process does."""

    durable: ClassVar[bool] = False

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self.path = os.path.abspath(connector.url.path or default_path(os.environ))
        self._connection = Connection(self.path, connector.heartbeat)
        self._subscriptions: set[int] = set()
        self._mark = object()  # tells our deliveries from those of other connections

    # -- connection ------------------------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        self._connection.open(timeout)

    def close(self) -> None:
        self._connection.close()

    def abandon(self) -> None:
        self._connection.end("it was abandoned")

    @property
    def instance(self) -> str | None:
        return self._connection.instance

    @property
    def blocked(self) -> str | None:
        return None

    def fileno(self) -> int:
        return self._connection.sock.fileno()

    @property
    def unwritten(self) -> int:
        return self._connection.unwritten

    @property
    def pending(self) -> bool:
        return self._connection.pending

    def flush(self) -> None:
        self._connection.flush()

    def process(self) -> Sequence[Event]:
        connection = self._connection
        connection.read()
        events = [self._event(frame) for frame in connection.inbox]
        connection.inbox.clear()
        return events

    def tick(self) -> None:
        self._connection.tick()

    # -- nodes -----------------------------------------------------------------------------------------------

    def declare_queue(self, queue: QueueSpec, timeout: float) -> str | None:
        fields = (queue.name, queue.durable, queue.exclusive, queue.auto_delete, queue.expires, queue.kind)
        answer = self._ask(protocol.DeclareQueue(self._number(), *fields), timeout)
        return None if answer is None else str(answer)

    def delete_queue(self, name: str, timeout: float, *, if_unused: bool = False, if_empty: bool = False) -> None:
        self._ask(protocol.DeleteQueue(self._number(), name, if_unused, if_empty), timeout)

    def purge_queue(self, name: str, timeout: float) -> None:
        self._ask(protocol.PurgeQueue(self._number(), name), timeout)

    def declare_exchange(self, exchange: ExchangeSpec, timeout: float) -> str | None:
        fields = (exchange.name, exchange.kind, exchange.durable, exchange.auto_delete)
        answer = self._ask(protocol.DeclareExchange(self._number(), *fields), timeout)
        return None if answer is None else str(answer)

    def delete_exchange(self, name: str, timeout: float) -> None:
        self._ask(protocol.DeleteExchange(self._number(), name), timeout)

    def bind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        self._ask(protocol.Bind(self._number(), queue, exchange, key), timeout)

    def unbind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        self._ask(protocol.Unbind(self._number(), queue, exchange, key), timeout)

    def _number(self) -> int:
        return self._connection.number()

    def _ask(self, operation: protocol.Operation, timeout: float) -> int | str | None:
        return self._connection.ask(operation, timeout)

    # -- receiving -------------------------------------------------------------------------------------------

    def subscribe(
        self, queue: str, prefetch: int, timeout: float, *, exclusive: bool = False, limit: int | None = None
    ) -> int:
        if not 1 <= prefetch <= 65535:
            raise ValueError(f"a prefetch of {prefetch} is not between 1 and 65535")
        answer = self._ask(protocol.Subscribe(self._number(), queue, prefetch, exclusive, limit), timeout)
        if not isinstance(answer, int):
            raise AdapterError(f"local broker at {self.path}: it gave the subscription to {queue!r} no number")
        self._subscriptions.add(answer)
        return answer

    def cancel(self, subscription: int, timeout: float) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.discard(subscription)
            self._ask(protocol.Cancel(self._number(), subscription), timeout)

    def accept(self, delivery: Delivery) -> None:
        self._settle(delivery, ACCEPT)

    def release(self, delivery: Delivery) -> None:
        self._settle(delivery, RELEASE)

    def reject(self, delivery: Delivery) -> None:
        self._settle(delivery, REJECT)

    def _settle(self, delivery: Delivery, verdict: int) -> None:
        tag = delivery.tag
        if isinstance(tag, _Tag) and tag.mark is self._mark:
            self._connection.put(protocol.Settle(tag.number, verdict))

    # -- sending ---------------------------------------------------------------------------------------------

    def send(
        self,
        token: int,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        isolated: bool = False,
        durable: bool = True,
        confirm: bool = True,
    ) -> None:
        exchange, key = address
        # Only text of more than 63 characters can have more than 255 bytes, and that is cheaper to know.
        if any(len(name) > 63 and len(name.encode()) > 255 for name in address):
            raise ValueError(f"address {exchange[:60]!r}, {key[:60]!r} has a name of more than 255 bytes")
        if len(body) > protocol.MAX_BODY:
            reason = f"a body of {len(body)} bytes is over the local broker's limit of {protocol.MAX_BODY}"
            self._connection.inbox.append(protocol.Answer(token, Outcome.REFUSED, reason))
            return
        self._connection.put(protocol.Send(token, exchange, key, ttl, body))

    def forget(self, token: int) -> None:
        """Do nothing: this broker settles every message, and quickly."""

    def _event(self, frame: protocol.Deliver | protocol.Answer | protocol.Lost) -> Event:
        if isinstance(frame, protocol.Deliver):
            tag = _Tag(self._mark, frame.tag)
            return Delivery(frame.subscription, frame.body, frame.redelivered, frame.ttl, tag, frame.cut)
        if isinstance(frame, protocol.Answer):
            return Settled(frame.token, frame.outcome, frame.reason)
        self._subscriptions.discard(frame.subscription)
        return SubscriptionLost(frame.subscription, frame.reason)


class _Tag(NamedTuple):
    """A delivery's number, and the mark of its connection."""

    mark: object
    number: int
