"""A client of the local broker: its socket, its buffers, and what its frames ask for."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import HEAD, TAIL, ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.broker import protocol
from gofer.messaging.broker.model import Model
from gofer.messaging.broker.queues import Message
from gofer.messaging.broker.session import ACCEPT, REJECT, Session

__all__ = ["Client"]

#: Bytes that wait for a client: with more it gets no deliveries, and with much more it is not read from either.
_ENOUGH = 1 << 20
_TOO_MUCH = 8 << 20

#: Seconds for a new client to say hello, and for one that is sent away to read why.
_GREETING = 10.0
_FAREWELL = 1.0


class Client:
    """One connection. It neither blocks nor raises; ``over`` says that it must be closed.

    ``heard_at`` and ``spoke_at``: when bytes last came from it and last went to it.
    """

    def __init__(self, sock: socket.socket, model: Model, instance: str, touched: Callable[[Client], None]) -> None:
        """Take over a non-blocking socket. ``touched`` is called when there is something to write."""
        self.sock = sock
        self.out = bytearray()
        self.over = False
        self.mask = 0
        self.heard_at = self.spoke_at = self._since = model.clock()
        self.session = Session(model, self)
        self._model = model
        self._instance = instance
        self._touched = touched
        self._reader = protocol.to_broker()
        self._greeted = False
        self._leaving = False
        self._starved = False
        self._heartbeat = 0.0

    # -- for the loop ----------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether it wants to be read from."""
        return not self._leaving and len(self.out) < _TOO_MUCH

    def receive(self, scratch: bytearray) -> bool:
        """Read once, and do what is asked. Returns whether an operation was among that."""
        try:
            count = self.sock.recv_into(scratch)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.over = True
            return False
        self.heard_at = self._model.clock()
        operated = False
        try:
            with memoryview(scratch)[:count] as data:
                for frame in self._reader.feed(data):
                    operated |= self._obey(frame)
                    if self._leaving or self.over:
                        break
        except protocol.ProtocolError as error:
            self.fail(str(error))
        return operated

    def write(self) -> None:
        """Write what the socket takes, and take deliveries again if it took enough."""
        try:
            while self.out:
                sent = self.sock.send(self.out)
                del self.out[:sent]
                self.spoke_at = self._model.clock()
        except BlockingIOError:
            pass  # the rest when it takes more
        except OSError:
            self.over = True
            return
        if not self.out and self._leaving:
            self.over = True
        elif self._starved and len(self.out) < _ENOUGH // 2:
            self._starved = False
            self.session.ready()

    def check(self, now: float) -> float | None:
        """See to heartbeats and deadlines. Returns when to come again, None for never."""
        if self._leaving or not self._greeted:
            end = self._since + (_FAREWELL if self._leaving else _GREETING)
            self.over = self.over or now >= end
            return end
        if not self._heartbeat:
            return None
        # What it takes is a sign of life as well: with a full buffer we do not read from it.
        dead_at = max(self.heard_at, self.spoke_at if not self.reads else 0.0) + 2 * self._heartbeat
        if now >= dead_at:
            if self._has_spoken():
                return now + self._heartbeat / 2
            self.over = True
            return now
        beat_at = self.spoke_at + self._heartbeat / 2
        if now < beat_at:
            return min(beat_at, dead_at)
        if not self.out:
            self._say(protocol.Beat())
        return min(now + self._heartbeat / 2, dead_at)

    def _has_spoken(self) -> bool:
        """Return whether something is there unread: then it was this process that stood still, not the client."""
        if not self.reads:
            return False
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def fail(self, reason: str) -> None:
        """Send it away with a reason. What it holds goes back at once."""
        if not self._leaving:
            self._say(protocol.Failure(reason))
            self._leaving = True
            self._since = self._model.clock()
            self.session.close()

    # -- for the session: see Peer ---------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether deliveries may be put into its buffer."""
        if len(self.out) < _ENOUGH:
            return True
        self._starved = True
        return False

    def deliver(self, subscription: int, tag: int, message: Message, limit: int | None) -> None:
        """Put a delivery into its buffer."""
        body, cut = message.body, 0
        if limit is not None and len(body) > max(limit, HEAD + TAIL):
            body, cut = body[:HEAD] + body[-TAIL:], len(body) - HEAD - TAIL
        self._say(protocol.Deliver(subscription, tag, message.redelivered, message.ttl, body, cut))

    def lost(self, subscription: int, reason: str) -> None:
        """Tell that a subscription ended."""
        self._say(protocol.Lost(subscription, reason))

    # -- frames ----------------------------------------------------------------------------------------------

    def _say(self, frame: protocol.FromBroker) -> None:
        protocol.put(self.out, frame)
        self._touched(self)

    def _obey(self, frame: protocol.FromClient) -> bool:
        """Do what a frame asks. Returns whether it was an operation (or the greeting), which may set new deadlines."""
        if not self._greeted:
            self._greet(frame)
            return True
        match frame:
            case protocol.Send():
                self._publish(frame)
            case protocol.Settle(tag, verdict):
                if ACCEPT <= verdict <= REJECT:
                    self.session.settle(tag, verdict)
                else:
                    self.fail(f"a settlement of no known kind: {verdict}")
            case protocol.Beat():
                pass  # that it came is all it says
            case protocol.Bye():
                self.over = True
            case protocol.Hello():
                self.fail("a second greeting")
            case _:
                self._answer(frame)
                return True
        return False

    def _publish(self, frame: protocol.Send) -> None:
        if len(frame.body) > protocol.MAX_BODY:
            outcome, reason = Outcome.REFUSED, f"a body of {len(frame.body)} bytes is over {protocol.MAX_BODY}"
        else:
            outcome, reason = self._model.publish(frame.exchange, frame.key, frame.body, frame.ttl)
        self._say(protocol.Answer(frame.token, outcome, reason))

    def _answer(self, frame: protocol.Operation) -> None:
        try:
            value = self._operate(frame)
        except NotFound as error:
            self._say(protocol.Denied(frame.number, True, str(error)))
        except AdapterError as error:
            self._say(protocol.Denied(frame.number, False, str(error)))
        else:
            self._say(protocol.Done(frame.number, value))
            if isinstance(frame, protocol.Subscribe):
                self.session.ready()

    def _greet(self, frame: protocol.FromClient) -> None:
        if not isinstance(frame, protocol.Hello):
            self.fail("a frame before the greeting")
        elif frame.version != protocol.VERSION:
            self.fail(
                f"this broker speaks version {protocol.VERSION} of its protocol and the client version {frame.version}:"
                " both must run the same release of gofer"
            )
        elif not 0 <= frame.heartbeat <= 86400:
            self.fail(f"a heartbeat of {frame.heartbeat} s is not between 0 and 86400")
        else:
            self._greeted = True
            self._heartbeat = frame.heartbeat
            self._say(protocol.Welcome(protocol.VERSION, self._instance))

    def _operate(self, frame: protocol.Operation) -> int | str | None:
        """Do an operation, and return its value."""
        model, session = self._model, self.session
        value: int | str | None = None
        match frame:
            case protocol.DeclareQueue(_, name, durable, exclusive, auto_delete, expires, kind):
                value = model.declare_queue(QueueSpec(name, durable, exclusive, auto_delete, expires, kind), session)
            case protocol.DeleteQueue(_, name, if_unused, if_empty):
                model.delete_queue(name, session, if_unused=if_unused, if_empty=if_empty)
            case protocol.PurgeQueue(_, name):
                model.purge_queue(name, session)
            case protocol.DeclareExchange(_, name, kind, durable, auto_delete):
                value = model.declare_exchange(ExchangeSpec(name, kind, durable, auto_delete))
            case protocol.DeleteExchange(_, name):
                model.delete_exchange(name)
            case protocol.Bind(_, queue, exchange, key):
                model.bind(queue, exchange, key, session)
            case protocol.Unbind(_, queue, exchange, key):
                model.unbind(queue, exchange, key, session)
            case protocol.Subscribe(_, queue, prefetch, exclusive, limit):
                value = session.subscribe(queue, prefetch, exclusive=exclusive, limit=limit)
            case protocol.Cancel(_, subscription):
                session.cancel(subscription)
        return value
