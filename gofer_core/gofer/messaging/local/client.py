"""A client of the local broker: its socket, its buffers, whether it is alive, and the messages that it holds."""

from __future__ import annotations

import socket
from math import inf

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import HEAD, TAIL, Closed, Confirmed, Delivery, Done, Opened, SubscriptionLost
from gofer.messaging.local import wire
from gofer.messaging.local.model import Model
from gofer.messaging.local.queues import Consumer, Message

__all__ = ["Client"]

#: Bytes that wait for a client: with more it gets no deliveries, and with much more it is not read from either.
_ENOUGH = 1 << 20
_TOO_MUCH = 8 << 20

#: Seconds for a new client to say hello, and for one that is sent away to read why.
_GREETING = 10.0
_FAREWELL = 1.0


class Client:
    """One connection. It neither blocks nor raises; ``over`` says that it must be closed.

    Who has something to be written is put into ``dirty``.
    """

    def __init__(self, sock: socket.socket, model: Model, instance: str, dirty: dict[Client, None]) -> None:
        """Take over a non-blocking socket."""
        self.sock = sock
        self.out = bytearray()
        self.over = self._leaving = self._starved = False
        self.mask = 0
        self._heard_at = self._spoke_at = self._since = model.clock()
        self._model = model
        self._consumers: dict[int, Consumer] = {}
        self._held: dict[int, tuple[Consumer, Message]] = {}
        self._tags = 0
        self._instance = instance
        self._dirty = dirty
        self._reader = wire.Reader()
        self._heartbeat: float | None = None  # until it has said hello

    # -- for the loop ----------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether it wants to be read from."""
        return not self._leaving and len(self.out) < _TOO_MUCH

    def receive(self) -> bool:
        """Read once, and do what is asked. Returns whether that may have set new deadlines."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.over |= not data
        self._heard_at = self._model.clock()
        deadlines = not data
        for frame in self._reader.feed(data):
            if not self._leaving:
                deadlines |= not isinstance(frame, wire.Publish | wire.Settle | wire.Beat)
                self._obey(frame)
        return deadlines

    def write(self) -> None:
        """Write what the socket takes, and take deliveries again if it took enough."""
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
                self._spoke_at = self._model.clock()
        except BlockingIOError:
            pass  # the rest when it takes more
        except OSError:
            self.over = True
        if self._leaving:
            self.over |= not self.out
        elif self._starved and len(self.out) < _ENOUGH // 2:
            self._starved = False
            self.ready()

    def check(self, now: float) -> float:
        """See to heartbeats and deadlines; all that came until ``now`` has been read. Returns when to come again."""
        if self._leaving or self._heartbeat is None:
            end = self._since + (_FAREWELL if self._leaving else _GREETING)
            self.over |= now >= end
            return end
        if not self._heartbeat:
            return inf
        # What it takes is a sign of life as well: with a full buffer we do not read from it.
        dead_at = max(self._heard_at, self._spoke_at if not self.reads else 0.0) + 2 * self._heartbeat
        self.over |= now >= dead_at
        beat_at = self._spoke_at + self._heartbeat / 2
        if now >= beat_at:
            beat_at = now + self._heartbeat / 2
            if not self.out:
                self.say(wire.Beat())
        return min(beat_at, dead_at)

    def leave(self, error: MessagingError | None) -> None:
        """Say goodbye, with the reason why it is sent away. What it holds goes back at once."""
        if not self._leaving:
            self._leaving = True
            self._since = self._model.clock()
            self.close()
            self.say(Closed(error))

    # -- its buffer ------------------------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether deliveries may be put into its buffer."""
        self._starved |= len(self.out) >= _ENOUGH
        return not self._starved

    def say(self, frame: wire.Frame) -> None:
        """Put a frame into its buffer."""
        wire.put(self.out, frame)
        self._dirty[self] = None

    # -- frames ----------------------------------------------------------------------------------------------

    def _obey(self, frame: object) -> None:
        match frame:
            case wire.Hello(version) if version != wire.VERSION:
                self._refuse(
                    f"this broker speaks version {wire.VERSION} of its protocol and the client version {version}:"
                    " both must run the same release of gofer"
                )
            case wire.Hello(heartbeat=heartbeat) if not 0 <= heartbeat <= 86400:
                self._refuse(f"a heartbeat of {heartbeat} s is not between 0 and 86400")
            case wire.Hello(heartbeat=heartbeat) if self._heartbeat is None:
                self._heartbeat = heartbeat
                self.say(Opened(self._instance))
            case wire.Wrong(reason):
                self._refuse(reason)
            case wire.Publish(token, exchange, key, body, ttl) if self._heartbeat is not None:
                self.say(Confirmed(token, *self._model.publish(exchange, key, body, ttl)))
            case wire.Settle(tag, back) if self._heartbeat is not None:
                self.settle(tag, back=back)
            case wire.Ask(id, operation) if self._heartbeat is not None:
                self.ask(id, operation)
            case wire.Beat() if self._heartbeat is not None:
                pass  # that it came is all it says
            case wire.Bye():
                self.leave(None)
            case _:
                self._refuse(f"{type(frame).__name__} is not what a client says here")

    def _refuse(self, reason: str) -> None:
        self.leave(AdapterError(reason))

    # -- subscriptions and deliveries ------------------------------------------------------------------------

    def ask(self, id: int, operation: api.Operation) -> None:
        """Do an operation, and tell what came of it."""
        value: str | None = None
        try:
            match operation:
                case api.Subscribe():
                    self._subscribe(operation)
                case api.Cancel(number):
                    if number in self._consumers:
                        self._leave(self._consumers.pop(number))
                case _:
                    value = self._model.do(operation, self)
        except (NotFound, AdapterError) as error:
            self.say(Done(id, None, error))
        else:
            self.say(Done(id, value))
            self.ready()

    def settle(self, tag: int, *, back: bool) -> None:
        """Settle a delivery: it goes back to its queue, or is done with. An unknown tag is ignored."""
        if tag in self._held:
            consumer, message = self._held.pop(tag)
            if back:
                consumer.queue.put_back(message)
            else:
                consumer.queue.forget(message)
            consumer.credit += 1
            consumer.queue.ready(consumer)

    def ready(self) -> None:
        """Have messages delivered again, after the client took none for a while, or after a subscription."""
        for consumer in tuple(self._consumers.values()):
            consumer.queue.ready(consumer)

    def close(self) -> None:
        """End it: what is held goes back, what is the session's own is deleted. Idempotent."""
        held, self._held = self._held, {}
        for consumer, message in held.values():
            consumer.queue.put_back(message)
        while self._consumers:
            self._leave(self._consumers.popitem()[1])
        self._model.disown(self)
        for queue in {consumer.queue: None for consumer, _ in held.values()}:
            queue.dispatch()

    def _subscribe(self, wanted: api.Subscribe) -> None:
        queue = self._model.queue(wanted.queue, self)
        if wanted.number in self._consumers:
            raise AdapterError(f"there is a subscription {wanted.number} already")
        if queue.sole:
            raise AdapterError(f"queue {wanted.queue!r} has an exclusive subscriber")
        if wanted.exclusive and queue.consumers:
            raise AdapterError(f"queue {wanted.queue!r} has other subscribers, so none can be exclusive")
        consumer = self._consumers[wanted.number] = Consumer(wanted.number, queue, self, wanted.prefetch, wanted.limit)
        queue.consumers[consumer] = None
        queue.sole = wanted.exclusive

    def _leave(self, consumer: Consumer) -> None:
        consumer.queue.leave(consumer)
        if consumer.queue.spec.auto_delete and not consumer.queue.consumers:
            self._model.drop(consumer.queue, "went with its last subscriber")

    # -- for the queues: see Taker ---------------------------------------------------------------------------

    def take(self, consumer: Consumer, message: Message) -> None:
        """Hold a message and hand it on."""
        self._tags += 1
        self._held[self._tags] = (consumer, message)
        body, cut = message.body, 0
        if consumer.limit is not None and len(body) > max(consumer.limit, HEAD + TAIL):
            body, cut = body[:HEAD] + body[-TAIL:], len(body) - HEAD - TAIL
        self.say(Delivery(consumer.number, body, message.redelivered, message.ttl, self._tags, cut))

    def lose(self, consumer: Consumer, reason: str) -> None:
        """Forget a subscription whose queue is gone, and tell the client."""
        del self._consumers[consumer.number]
        self.say(SubscriptionLost(consumer.number, reason))
