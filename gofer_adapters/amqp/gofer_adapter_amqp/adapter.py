"""The amqp adapter: AMQP 0-9-1 by py-amqp, for RabbitMQ and whatever else speaks it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import amqp
from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.adapter.base import Delivery, Event
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.net import open_socket

from gofer_adapter_amqp.channels import Consumer, Message
from gofer_adapter_amqp.connection import Channel, Connection
from gofer_adapter_amqp.errors import login_error, place, reason, refusal
from gofer_adapter_amqp.nodes import Nodes, check_name
from gofer_adapter_amqp.sender import Sender

__all__ = ["AmqpAdapter"]

_T = TypeVar("_T")

# RabbitMQ takes no longer time to live than this (49 days); a message without one is kept, which a longer one allows.
_LONGEST_TTL = 4_294_967_295
_CLOSE_TIME = 1.0


class AmqpAdapter(Nodes):
    """One AMQP 0-9-1 connection. See :class:`gofer.messaging.adapter.base.Adapter` for what all methods promise.

    A subscription has a channel of its own, and so has publishing; what may fail (declaring, asking, a message to an
    exchange not seen before) never runs on either.
    """

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self._connection: Connection | None = None
        self._sender: Sender | None = None
        self._control: Channel | None = None
        self._consumers: dict[int, Consumer] = {}
        self._subscribed = 0
        self._finished: str | None = "not connected"

    # -- connection ------------------------------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        """Open the socket and log in."""
        if self._connection is not None:
            raise AdapterError("an adapter connects only once")
        deadline = time.monotonic() + timeout
        sock = open_socket(self.connector, timeout)
        self._connection = connection = Connection(sock, self.connector, f"gofer {socket.gethostname()} {os.getpid()}")
        connection.deadline = deadline
        try:
            connection.connect()
        except Exception as error:
            connection.wire.close()
            raise login_error(error, connection, self.connector, timeout) from error
        except BaseException:
            connection.wire.close()
            raise
        self._sender = Sender(connection)
        self._finished = None

    def close(self) -> None:
        """Say goodbye if the broker answers within a second, and close the socket."""
        connection, polite = self._connection, self._finished is None
        self._finished = "closed"
        if connection is None:
            return
        try:
            if polite:
                connection.deadline = time.monotonic() + _CLOSE_TIME
                connection.close_politely()
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection was to end, and does
            self._finished = f"closed, while {reason(error)}"
        finally:
            connection.wire.close()

    def abandon(self) -> None:
        """Close the descriptor."""
        self._finished = "abandoned"
        if self._connection is not None:
            self._connection.wire.close()

    @property
    def blocked(self) -> str | None:
        """The broker's alarm, in its words."""
        return None if self._connection is None else self._connection.blocked

    def fileno(self) -> int:
        """The socket's descriptor."""
        if self._connection is None or not self._connection.wire.connected:
            raise ConnectionLost(self._finished)
        return self._connection.wire.sock.fileno()

    @property
    def unwritten(self) -> int:
        """Bytes in the outbox."""
        return 0 if self._connection is None else len(self._connection.wire.outbox)

    @property
    def pending(self) -> bool:
        """Whether events, decrypted bytes or the end of the connection wait for ``process``."""
        connection = self._connection
        if connection is None:
            return False
        return bool(connection.events) or self._finished is not None or connection.wire.pending

    def flush(self) -> None:
        """Write what the socket takes."""
        connection = self._connection
        if self._finished is not None and connection is not None and connection.events:
            return  # process returns those first, and then raises
        connection = self._open()
        try:
            connection.wire.flush()
        except OSError as error:
            self._finished = reason(error)
            # The broker's last words may be there still: settlements, or why it closed. They are process's to return.
            self._read(connection)
            if not connection.events:
                raise ConnectionLost(self._finished) from error
        except BaseException as error:
            self._fail(error)
            raise

    def process(self) -> Sequence[Event]:
        """Read what is there."""
        connection = self._connection
        if connection is None:
            raise ConnectionLost(self._finished)
        if self._finished is None:
            self._read(connection)
        events = connection.events
        if events:
            connection.events = []
        elif self._finished is not None:
            raise ConnectionLost(self._finished)
        return events

    def tick(self) -> None:
        """Send a heartbeat if it is time, and look whether the broker is alive."""
        connection = self._open()
        try:
            connection.beat()
            connection.wire.flush()
        except BaseException as error:
            self._fail(error)
            raise

    # -- receiving -------------------------------------------------------------------------------------------------

    def subscribe(
        self, queue: str, prefetch: int, timeout: float, *, exclusive: bool = False, limit: int | None = None
    ) -> int:
        """Consume from a queue, on a channel of its own."""
        if not 1 <= prefetch <= 65535:
            raise ValueError(f"prefetch is between 1 and 65535, not {prefetch}")
        check_name(queue)
        connection = self._open()
        self._subscribed = number = self._subscribed + 1
        consumer = Consumer(connection, number, limit)

        def consume(channel: Channel) -> None:
            channel.send_method(amqp.spec.Basic.Qos, "lBb", (0, prefetch, False))
            channel.basic_consume(queue, consumer_tag=str(number), exclusive=exclusive)

        self._ask(consume, timeout, consumer)
        consumer.begin()
        self._consumers[number] = consumer
        return number

    def cancel(self, subscription: int, timeout: float) -> None:
        """Stop consuming; the channel stays for what is not settled."""
        self._open()
        consumer = self._consumers.pop(subscription, None)
        if consumer is None or consumer.ended:
            return
        consumer.ended = True
        try:
            self._ask(lambda channel: channel.basic_cancel(str(subscription)), timeout, consumer)
        except (NotFound, AdapterError):
            return  # the broker closed the channel meanwhile: it is ended
        consumer.end()

    def accept(self, delivery: Delivery) -> None:
        """Acknowledge."""
        self._settle(delivery, accept=True, requeue=False)

    def release(self, delivery: Delivery) -> None:
        """Reject, to be queued again."""
        self._settle(delivery, accept=False, requeue=True)

    def reject(self, delivery: Delivery) -> None:
        """Reject, to be dropped or dead-lettered."""
        self._settle(delivery, accept=False, requeue=False)

    # -- sending ---------------------------------------------------------------------------------------------------

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
        """Publish, mandatory, and persistent if it is durable."""
        if self._finished is not None or self._sender is None:
            raise ConnectionLost(self._finished)
        milliseconds: int | None = None
        if ttl is not None and ttl * 1000 <= _LONGEST_TTL:
            milliseconds = max(1, round(ttl * 1000))
        exchange, key = address
        try:
            message = Message(token, exchange, key, milliseconds, body, durable)
            self._sender.send(message, isolated=isolated, confirm=confirm)
        except (ValueError, AdapterError):  # raised before anything was sent
            raise
        except BaseException as error:
            self._fail(error)
            raise

    def forget(self, token: int) -> None:
        """Have no event for a message sent without confirm."""
        if self._sender is not None:
            self._sender.forget(token)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _open(self) -> Connection:
        if self._finished is not None or self._connection is None:
            raise ConnectionLost(self._finished)
        return self._connection

    def _has_types(self) -> bool:
        return (self._open().server_properties or {}).get("product") == "RabbitMQ"

    def _settle(self, delivery: Delivery, *, accept: bool, requeue: bool) -> None:
        if self._finished is not None:
            raise ConnectionLost(self._finished)
        consumer, tag = cast("tuple[Consumer, int]", delivery.tag)
        if consumer.home is not self._connection:
            return
        try:
            consumer.settle(tag, accept=accept, requeue=requeue)
        except BaseException as error:
            self._fail(error)
            raise

    def _read(self, connection: Connection) -> None:
        """Read; an error finishes the adapter, and is raised by ``process`` after the events that came before it."""
        try:
            connection.read()
        except Exception as error:  # noqa: BLE001 - kept, and raised by process
            self._finished = reason(error)
        except BaseException as error:
            self._fail(error)
            raise

    def _ask(self, question: Callable[[Channel], _T], timeout: float, channel: Channel | None = None) -> _T:
        """Run an operation that waits for the broker, on the control channel or on its own.

        What it breaks is only its channel; the next operation opens another.
        """
        connection = self._open()
        connection.deadline = time.monotonic() + timeout
        try:
            if channel is None:
                channel = self._control
                if channel is None or not channel.usable:
                    channel = self._control = Channel(connection)
            return question(channel)
        except AdapterError:  # no channel free
            raise
        except BaseException as error:
            # py-amqp says only that the channel is gone; the broker's words are the channel's to keep.
            if isinstance(error, amqp.RecoverableConnectionError) and channel is not None and channel.error is not None:
                raise refusal(channel.error) from channel.error
            if isinstance(error, TimeoutError):
                error = TimeoutError(f"{place(self.connector.url)}: no answer within {timeout:g} s")
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Finish the adapter: after an error, or an interrupt, inside a read or write nothing is sure any more.

        Raises:
            ConnectionLost: unless it was an interrupt, which goes on as it is.
        """
        self._finished = reason(error)
        if isinstance(error, Exception):
            raise ConnectionLost(self._finished) from error
