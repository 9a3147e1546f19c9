"""Sessions and links: each with one purpose, so that one that fails costs nothing else.

Brokers end a whole session for what is wrong with one link, so each purpose has a session of its own. No object of
proton leaves this package: none is thread-safe, not even when the last reference to it goes away.
"""

from __future__ import annotations

import itertools
import os
import socket
import uuid
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from gofer.messaging import adapter as api
from gofer.messaging.endings import ProtocolError
from proton import Collector, Connection, Link, Message, Session, Terminus, Transport, symbol
from proton import Delivery as Transfer

from gofer_adapter_proton.brokers import Ask, Broker, Refused, broker_of

__all__ = ["Hub", "Lane"]

_FRAME_MAX, _MOST_SESSIONS = 65_536, 1024
#: Seconds that what a broker has sent may be on its way.
_LATER = 1.0
#: Requests to the broker's management that may be on their way.
_MOST_REQUESTS = 100


class Hub:
    """Proton's side of one connection, and what all lanes of it share.

    Attributes:
        broker: known when the connection is ``opened``.
        failure: what ended the connection.
        events: what has happened.
        lanes: by their sessions and links.
        unconfirmed: messages that somebody waits for.
        names: for links and requests.
        now: the time as last handed in.
    """

    def __init__(self) -> None:
        self.connection, self.transport, self._collector = Connection(), Transport(), Collector()
        self.connection.collect(self._collector)
        self.broker, self.opened, self.now, self.urgent = Broker(), False, 0.0, False
        self.failure: Exception | None = None
        self.events: list[api.Event] = []
        self.lanes: dict[Session | Link, Lane] = {}
        self.unconfirmed: set[int] = set()
        self.names = map(str, itertools.count(1))
        self._requests = _Requests(self)
        self._sessions = 0
        self._idle: list[Session] = []
        self._later: deque[tuple[float, Callable[[], object]]] = deque()

    def open(self, hostname: str | None, idle_timeout: float) -> None:
        """Open the connection; ``hostname``: the virtual host."""
        self.connection.container = f"gofer-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self.connection.hostname = cast(str, hostname)
        self.connection.properties = {symbol("product"): "gofer"}
        self.transport.idle_timeout = idle_timeout
        self.transport.max_frame_size, self.transport.channel_max = _FRAME_MAX, _MOST_SESSIONS - 1
        self.transport.bind(self.connection)
        self.connection.open()

    def receive(self, data: bytes) -> None:
        """Have bytes taken apart, and handle what happened."""
        while data and self.failure is None:
            size = max(1, self.transport.capacity())  # or it is an error to push more
            self.transport.push(data[:size])
            data = data[size:]
            self.handle_events()

    def handle_events(self) -> None:
        """Give each event to the lane that it is about, and to ourselves."""
        while self.failure is None and (event := cast(Any, self._collector.peek())) is not None:
            event.dispatch(self.lanes.get(event.link))
            event.dispatch(self)
            self._collector.pop()

    def take(self) -> bytes:
        """Return what is to be sent."""
        while self._later and self._later[0][0] <= self.now:
            self._later.popleft()[1]()
        parts, transport = [], self.transport
        while (size := transport.pending()) > 0:
            parts.append(transport.peek(size) or b"")
            transport.pop(size)
        return b"".join(parts)

    def clear(self) -> None:
        """Drop sessions and links: the connection has ended."""
        self.lanes, self._idle, self._later, self._requests = {}, [], deque(), _Requests(self)

    # -- what proton tells --------------------------------------------------------------------------------------------

    def on_connection_remote_open(self, event: Any) -> None:
        """Learn who the broker is; one that refuses us says so in what follows."""
        told = {str(key): value for key, value in dict(event.connection.remote_properties or {}).items()}
        self.broker = broker_of(told, [str(one) for one in event.connection.remote_offered_capabilities or ()])
        refused = told.get("amqp:connection-establishment-failed")
        self.opened = not refused and self.transport.remote_max_frame_size != 0  # which Broker-J says when it refuses

    def on_connection_remote_close(self, event: Any) -> None:
        """Note the broker's goodbye, and answer it."""
        self.failure = Refused.of(event.connection.remote_condition, "the broker closed the connection")
        self.connection.close()

    def on_transport_error(self, event: Any) -> None:
        """Note what proton cannot make anything of."""
        self.failure = ProtocolError(str(self.transport.condition))

    def on_link_remote_close(self, event: Any) -> None:
        """Note that the peer has detached a link, and tell its lane if that did not do it before."""
        link, lane = event.link, self.lanes.get(event.link)
        if lane is not None:
            lane.end()
            lane.on_lost(Refused.of(link.remote_condition, "the broker closed the link"))
        link.close()
        link.free()

    on_link_remote_detach = on_link_remote_close

    def on_session_remote_close(self, event: Any) -> None:
        """Note that the peer has ended a session, and tell its lane."""
        session, lane = event.session, self.lanes.get(event.session)
        if lane is not None:
            lane.end()
        self._idle.remove(session)
        self.call_later(partial(self._free, session))
        if lane is not None:
            lane.on_lost(Refused.of(session.remote_condition, "the broker ended the session"))

    # -- what lanes need ----------------------------------------------------------------------------------------------

    def run(self, ask: Ask, outcome: Message | Refused | None = None) -> None:
        """Have the next question asked: at the beginning, or after an answer."""
        try:
            question = ask.throw(outcome) if isinstance(outcome, Refused) else ask.send(outcome)
        except StopIteration:
            return
        try:
            if isinstance(question, Message):
                self._requests.add(question, ask)
            else:
                _Probe(self, ask).link(*question).open()
        except Refused as refused:
            self.run(ask, refused)

    def begin(self, lane: Lane) -> Session:
        """Give a session to a lane.

        Sessions are used again and never ended by us: proton gives a new one the number of one that has ended on our
        side alone, which confuses RabbitMQ. For the same reason the end of one by the broker is answered late.

        Raises:
            Refused: the connection has no more.
        """
        if self._idle:
            session = self._idle.pop()
        elif self._sessions < min(_MOST_SESSIONS, self.transport.remote_channel_max + 1):
            session = self.connection.session()
            session.open()
            self._sessions += 1
        else:
            raise Refused("", f"all {self._sessions} sessions of the connection are in use")
        self.lanes[session] = lane
        return session

    def leave(self, session: Session) -> None:
        """Take back a session whose lane has ended."""
        del self.lanes[session]
        self._idle.append(session)

    def call_later(self, call: Callable[[], object]) -> None:
        """Call something when what is on its way has come."""
        self._later.append((self.now + _LATER, call))

    def _free(self, session: Session) -> None:
        session.close()
        session.free()
        self._sessions -= 1


class Lane:
    """A session with one purpose, from its first link on. Subclasses handle what happens on its links."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._session: Session | None = None
        self.links: list[Any] = []

    def link(self, address: str | None, receive: bool, name: str = "") -> Any:
        """Make a link from or to an address; the caller opens it.

        Raises:
            Refused: the connection has no more sessions.
        """
        if self._session is None:
            self._session = self.hub.begin(self)
        name = name or next(self.hub.names)
        link: Any = self._session.receiver(name) if receive else self._session.sender(name)
        (link.source if receive else link.target).address = address
        (link.target if receive else link.source).address = name
        self.links.append(link)
        self.hub.lanes[link], self.hub.urgent = self, True
        return link

    def end(self) -> None:
        """Detach the links, and leave the session to others."""
        for link in self.links:
            del self.hub.lanes[link]
            link.close()
        if self._session is not None:
            self.hub.leave(self._session)
            self.hub.urgent = True
        self.links, self._session = [], None

    def on_link_remote_open(self, event: Any) -> None:
        """Note the peer's agreement to a link; one without an address is followed by its end, and the reason."""
        end = event.link.remote_target if event.link.is_sender else event.link.remote_source
        if end.type != Terminus.UNSPECIFIED:
            self.on_attached(event.link)

    def on_attached(self, link: Any) -> None:
        """Handle the peer's agreement to a link."""

    def on_lost(self, refused: Refused) -> None:
        """Handle the end, which the peer made; the links are gone already."""


class _Probe(Lane):
    """A link that is attached to see whether that is possible."""

    def __init__(self, hub: Hub, ask: Ask) -> None:
        super().__init__(hub)
        self._ask = ask

    def on_attached(self, link: Any) -> None:
        self.end()
        self.hub.run(self._ask)

    def on_lost(self, refused: Refused) -> None:
        self.hub.run(self._ask, refused)


class _Requests(Lane):
    """Requests to the broker's management, by a link there and one back. An answer has the number of its request."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub)
        self._waiting: deque[Message] = deque()
        self._asked: dict[str, Ask] = {}

    def add(self, request: Message, ask: Ask) -> None:
        """Send a request, when there is credit for it."""
        if not self.links:
            management, name = self.hub.broker.management, next(self.hub.names)
            sender, receiver = self.link(management, False, name), self.link(management, True, name)
            sender.snd_settle_mode = Link.SND_SETTLED
            if request.reply_to:  # the broker pairs the two links, and replies to that which it came with
                sender.source.address = receiver.target.address = management
                sender.properties = receiver.properties = {symbol("paired"): True}
            else:
                receiver.source.address, receiver.source.dynamic = None, True
            sender.open()
            receiver.open()
        number = next(self.hub.names)
        request.id = request.correlation_id = number
        self._asked[number] = ask
        self._waiting.append(request)
        self.on_link_flow(None)

    def on_attached(self, link: Any) -> None:
        if link.is_receiver:
            link.flow(_MOST_REQUESTS)  # not before: the credit counts from a number that the broker tells with this
            self.hub.urgent = True
            self.on_link_flow(None)

    def on_link_flow(self, event: Any) -> None:
        """Send what waits, as far as there is credit."""
        sender, receiver = self.links
        while self._waiting and sender.credit > 0 and len(self._asked) - len(self._waiting) < receiver.credit:
            request = self._waiting.popleft()
            request.reply_to = request.reply_to or str(receiver.remote_source.address)
            self.hub.urgent = True
            transfer = sender.delivery(str(request.id))
            # proton leaves the body out when it is None, and RabbitMQ does not bear that.
            sender.stream(request.encode() + (b"\x00\x53\x77\x40" if request.body is None else b""))
            transfer.settle()

    def on_delivery(self, event: Any) -> None:
        """Take an answer."""
        transfer, link = event.delivery, event.link
        if transfer.partial:
            return
        answer = Message()
        answer.decode(link.recv(transfer.pending))
        link.advance()
        transfer.update(Transfer.ACCEPTED)
        transfer.settle()
        link.flow(1)
        ask = self._asked.pop(str(answer.correlation_id), None)
        if ask is not None:
            self.hub.run(ask, answer)
        self.on_link_flow(None)

    def on_lost(self, refused: Refused) -> None:
        asked, self._asked, self._waiting = self._asked, {}, deque()
        for ask in asked.values():
            self.hub.run(ask, refused)
