"""A client of the local broker: its connection, its subscriptions, and the messages that it holds."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Any

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import HEAD, TAIL, Closed, Confirmed, Delivery, Done, Opened, SubscriptionLost
from gofer.messaging.local import wire
from gofer.messaging.local.state import Consumer, Message, State

__all__ = ["Client"]

#: Bytes that may wait for a client: with more it gets no deliveries, and nothing is read from it. And bytes that are
#: collected before they are written in the middle of a turn.
_FULL = 1 << 20
_COLLECTED = 1 << 16

#: Seconds for a new client to say hello, and for a refused one to read the reason.
_HELLO = 10.0
_LAST_WORDS = 1.0


class Client(asyncio.Protocol):
    """One connection; the event loop calls it. All output of one turn of the loop is one write."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._consumers: dict[int, Consumer] = {}
        self._held: dict[int, tuple[Consumer, Message]] = {}
        self._tags = 0
        self._reader = wire.Reader()
        self._output = bytearray()
        self._greeted = self._leaving = False
        #: Whether it receives deliveries now; ``ready`` follows when it does again.
        self.receives = True
        self._silent = 0  # half heartbeats without a sign of life
        self._waiting = 0  # bytes that waited for it at the last heartbeat

    # -- for the loop ----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Wait for its hello, unless it belongs to another user."""
        self._transport: asyncio.Transport = transport
        self._loop = asyncio.get_running_loop()
        transport.set_write_buffer_limits(high=_FULL)
        self._timer = self._loop.call_later(_HELLO, self.abort)
        credentials = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, user, _ = struct.unpack("3i", credentials)
        if user not in (0, os.geteuid()):
            self.leave(AdapterError(f"user {user} may not use this broker: it belongs to user {os.geteuid()}"))

    def data_received(self, data: bytes) -> None:
        """Handle its frames."""
        self._silent = 0
        for frame in self._reader.feed(data):
            if not self._leaving:
                self._handle(frame)

    def pause_writing(self) -> None:
        """Stop deliveries and reading: the client does not read."""
        self.receives = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with both."""
        self.receives = True
        if not self._leaving:
            self._transport.resume_reading()
            self.ready()

    def connection_lost(self, error: Exception | None) -> None:
        """Requeue the messages that it held."""
        self._timer.cancel()
        self.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def leave(self, error: MessagingError | None) -> None:
        """Close the connection when the client has read the reason. Its messages are requeued at once."""
        self._leaving = True
        self.close()
        self.send(Closed(error))
        self._write()
        self._transport.close()
        self._timer.cancel()
        self._timer = self._loop.call_later(_LAST_WORDS, self.abort)

    def _beat(self, heartbeat: float) -> None:
        """Send a heartbeat, or end a client that was silent for two of them."""
        waiting, before = self._transport.get_write_buffer_size(), self._waiting
        self._waiting = waiting
        if waiting < before:
            self._silent = 0  # nothing is read from a full one: that it reads is its sign of life
        self._silent += 1  # counted, not timed: the broker itself may have stood still
        if self._silent > 4:
            self.abort()
            return
        if not waiting:
            self.send(wire.Heartbeat())
        self._timer = self._loop.call_later(heartbeat / 2, self._beat, heartbeat)

    # -- its output ------------------------------------------------------------------------------------------

    def send(self, frame: wire.Frame) -> None:
        """Send a frame."""
        if not self._output:
            self._loop.call_soon(self._write)
        wire.write(self._output, frame)
        if len(self._output) > _COLLECTED:
            self._write()

    def _write(self) -> None:
        if self._output:
            output, self._output = self._output, bytearray()
            self._transport.write(output)

    # -- frames ----------------------------------------------------------------------------------------------

    def _handle(self, frame: object) -> None:
        match frame:
            case wire.Hello(version) if version != wire.VERSION:
                self._refuse(
                    f"this broker speaks version {wire.VERSION} of its protocol and the client version {version}:"
                    " both must run the same release of gofer"
                )
            case wire.Hello(heartbeat=heartbeat) if not 0 <= heartbeat <= 86400:
                self._refuse(f"a heartbeat of {heartbeat} s is not between 0 and 86400")
            case wire.Hello(heartbeat=heartbeat) if not self._greeted:
                self._greeted = True
                self._timer.cancel()
                self.send(Opened())
                if heartbeat:
                    self._timer = self._loop.call_later(heartbeat / 2, self._beat, heartbeat)
            case wire.BadFrame(reason):
                self._refuse(reason)
            case wire.Close():
                self.leave(None)
            case wire.Publish(token, exchange, key, body, ttl) if self._greeted:
                self.send(Confirmed(token, *self._state.publish(exchange, key, body, ttl)))
            case wire.Settle(tag, requeue) if self._greeted:
                self.settle(tag, requeue=requeue)
            case wire.Ask(id, operation) if self._greeted:
                self.ask(id, operation)
            case wire.Heartbeat() if self._greeted:
                pass  # it has come: that is all
            case _:
                self._refuse(f"{type(frame).__name__} is not what a client sends here")

    def _refuse(self, reason: str) -> None:
        self.leave(AdapterError(reason))

    # -- subscriptions and deliveries ------------------------------------------------------------------------

    def ask(self, id: int, operation: api.Operation) -> None:
        """Do an operation, and send its value or its error."""
        value: str | None = None
        error: MessagingError | None = None
        try:
            match operation:
                case api.Subscribe():
                    self._subscribe(operation)
                case api.Cancel(number):
                    if number in self._consumers:
                        self._cancel(self._consumers.pop(number))
                case _:
                    value = self._state.do(operation, self)
        except (NotFound, AdapterError) as refused:
            error = refused
        self.send(Done(id, value, error))
        self.ready()

    def settle(self, tag: int, *, requeue: bool) -> None:
        """Settle a delivery: put it back into its queue, or drop it. An unknown tag is ignored."""
        if tag in self._held:
            consumer, message = self._held.pop(tag)
            if requeue:
                consumer.queue.requeue(message)
            else:
                consumer.queue.forget(message)
            consumer.credit += 1
            consumer.queue.ready(consumer)

    def ready(self) -> None:
        """Go on with deliveries, after the client took none for a while, or after a subscription."""
        for consumer in tuple(self._consumers.values()):
            consumer.queue.ready(consumer)

    def close(self) -> None:
        """Requeue the messages that it holds, and delete its exclusive queues. Idempotent."""
        held, self._held = self._held, {}
        for consumer, message in held.values():
            consumer.queue.requeue(message)
        while self._consumers:
            self._cancel(self._consumers.popitem()[1])
        self._state.disown(self)
        for queue in {consumer.queue: None for consumer, _ in held.values()}:
            queue.dispatch()

    def _subscribe(self, operation: api.Subscribe) -> None:
        queue = self._state.queue(operation.queue, self)
        if operation.number in self._consumers:
            raise AdapterError(f"there is a subscription {operation.number} already")
        if queue.exclusive:
            raise AdapterError(f"queue {operation.queue!r} has an exclusive subscriber")
        if operation.exclusive and queue.consumers:
            raise AdapterError(f"queue {operation.queue!r} has other subscribers, so none can be exclusive")
        consumer = Consumer(operation.number, queue, self, operation.prefetch, operation.limit)
        self._consumers[operation.number] = consumer
        queue.consumers[consumer] = None
        queue.exclusive = operation.exclusive

    def _cancel(self, consumer: Consumer) -> None:
        consumer.queue.remove(consumer)
        if consumer.queue.spec.auto_delete and not consumer.queue.consumers:
            self._state.drop(consumer.queue, "went with its last subscriber")

    # -- for the queues: see Receiver ---------------------------------------------------------------------------

    def deliver(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and deliver it."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        body, cut = message.body, 0
        if consumer.limit is not None and len(body) > max(consumer.limit, HEAD + TAIL):
            body, cut = body[:HEAD] + body[-TAIL:], len(body) - HEAD - TAIL
        self.send(Delivery(consumer.number, body, message.redelivered, message.ttl, self._tags, cut))

    def subscription_lost(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the client."""
        del self._consumers[consumer.number]
        self.send(SubscriptionLost(consumer.number, reason))
