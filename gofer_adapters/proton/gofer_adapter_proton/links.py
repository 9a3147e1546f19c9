"""Sessions and links: each with one purpose, so that one that fails costs nothing else.

Brokers end a whole session for what is wrong with one link, so each purpose has a session of its own. No object of
proton leaves this module and the adapter: none is thread-safe, not even when the last reference to it goes away.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator

from gofer.messaging.adapter import Event
from proton import Connection, Link, Message, ProtonException, Receiver, Sender, Session, Terminus, symbol
from proton import Delivery as Transfer

from gofer_adapter_proton.brokers import Broker, Question
from gofer_adapter_proton.errors import Refused

__all__ = ["Home", "Lane", "Steps", "Task"]

_MOST_TASKS = 16
_LONGEST_ANSWER = 1 << 20

#: Questions to the broker, one after the other.
Steps = Generator[Question, Message | None, None]


class Home:
    """What all lanes of one connection share.

    Attributes:
        events: what has happened.
        lanes: by their sessions and links; None: nobody waits for what comes there.
        idle: sessions that nobody uses.
        pairs: sessions that nobody uses, and their links to the broker's management.
        dead: sessions that the broker has ended, and when.
        lingering: lanes that end soon, and since when.
        waiting: tasks that begin when others, which are ``running``, have ended.
        unconfirmed: messages that somebody waits for.
        now: the time as last handed in.
    """

    def __init__(self, connection: Connection, broker: Broker) -> None:
        self.connection, self.broker = connection, broker
        self.events: list[Event] = []
        self.lanes: dict[Session | Link, Lane | None] = {}
        self.idle: list[Session] = []
        self.pairs: list[tuple[Session, Sender, Receiver]] = []
        self.dead: deque[tuple[float, Session]] = deque()
        self.lingering: deque[tuple[float, Lane]] = deque()
        self.waiting: deque[Lane] = deque()
        self.running: set[Lane] = set()
        self.unconfirmed: set[int] = set()
        self.names = itertools.count(1)
        self.sessions, self.most_sessions = 0, 1
        self.urgent, self.now = False, 0.0

    def begin_waiting(self) -> None:
        """Begin tasks, as many as may run side by side."""
        while self.waiting and len(self.running) < _MOST_TASKS:
            lane = self.waiting.popleft()
            self.running.add(lane)
            lane.go()

    def over(self, lane: Lane) -> None:
        """Note that a task has ended."""
        self.running.discard(lane)
        self.begin_waiting()

    def ended(self, session: Session) -> None:
        """Note that the peer has ended a session, and tell its lane."""
        lane = self.lanes.pop(session, None)
        refused = Refused.of(session.remote_condition, "the broker ended the session")
        self.urgent = True
        self.idle = [other for other in self.idle if other != session]
        self.pairs = [pair for pair in self.pairs if pair[0] != session]
        for link in [link for link in self.lanes if isinstance(link, Link) and link.session == session]:
            del self.lanes[link]
        self.dead.append((self.now, session))
        if lane is not None:
            lane.forget()
            lane.on_lost(refused)

    def bury(self, before: float) -> None:
        """Answer the end of sessions that were ended before a time, and free their numbers; end lanes that linger.

        Not at once: proton takes the number for the next session, and RabbitMQ may still take that for the old one.
        """
        while self.dead and self.dead[0][0] <= before:
            _, session = self.dead.popleft()
            session.close()
            session.free()
            self.sessions -= 1
        while self.lingering and self.lingering[0][0] <= before:
            self.lingering.popleft()[1].end()

    def detached(self, link: Link) -> None:
        """Note that the peer has detached a link, and tell its lane if that did not do it before."""
        lane = self.lanes.pop(link, None)
        refused = Refused.of(link.remote_condition, "the broker closed the link")
        self.urgent = True
        link.close()
        link.free()
        if lane is not None:
            lane.end(link)
            lane.on_lost(refused)


class Lane:
    """A session with one purpose. Subclasses handle what happens on its links.

    Sessions are used again and never ended by us: proton gives a new one the number of one that has ended on our side
    alone, which confuses RabbitMQ.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._session: Session | None = None
        self._links: list[Link] = []

    def go(self) -> None:
        """Begin: it is this one's turn."""

    def begin(self) -> Session:
        """Begin the session, if there is none.

        Raises:
            Refused: the connection has no more.
        """
        home = self.home
        home.urgent = True
        if self._session is None:
            if home.sessions >= home.most_sessions and home.dead:
                home.bury(home.dead[0][0])
            if home.idle:
                self._session = home.idle.pop()
            elif home.sessions >= home.most_sessions:
                raise Refused("", f"all {home.most_sessions} sessions of the connection are in use")
            else:
                home.sessions += 1
                self._session = home.connection.session()
                self._session.open()
            home.lanes[self._session] = self
        return self._session

    def attach(self, link: Sender | Receiver) -> None:
        """Open a link, whose ends are set."""
        self._links.append(link)
        self.home.lanes[link] = self
        link.open()

    def forget(self) -> None:
        """Drop the session and its links. What still comes for them is ignored."""
        self._links, self._session = [], None

    def end(self, gone: Link | None = None) -> None:
        """Detach the links, but for one that is gone, and leave the session to others."""
        session = self._session
        if session is not None:
            self.home.urgent = True
            for link in self._links:
                if link != gone:
                    self.home.lanes[link] = None  # until the peer has detached it, too
                    link.close()
            self.home.lanes[session] = None
            self.home.idle.append(session)
        self.forget()

    def on_attached(self, link: Link) -> None:
        """Handle the peer's agreement to a link."""

    def on_flow(self, link: Link) -> None:
        """Handle credit, or the end of it."""

    def on_delivery(self, transfer: Transfer, link: Link) -> None:
        """Handle a message, or what became of one."""

    def on_lost(self, refused: Refused) -> None:
        """Handle the end, which the peer made; the session is gone already."""


class Task(Lane):
    """Asks one question at a time. One that fails ends its session, and costs only itself."""

    def __init__(self, home: Home, steps: Steps) -> None:
        """Start it, at once or when others have ended."""
        super().__init__(home)
        self._steps = steps
        self._request: Message | None = None
        self._probed = ""
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None
        self._input = b""
        home.waiting.append(self)
        home.begin_waiting()

    def go(self) -> None:
        """Ask the first question."""
        self._go_on(None)

    def begin(self) -> Session:
        """Begin the session; one with links to the broker's management, if there is one."""
        if self._session is None and self.home.pairs:
            self._session, self._sender, self._receiver = self.home.pairs.pop()
            self.home.lanes.update(dict.fromkeys((self._session, self._sender, self._receiver), self))
        return super().begin()

    def forget(self) -> None:
        """Drop the session and its links."""
        super().forget()
        self._sender = self._receiver = self._request = None
        self._probed, self._input = "", b""

    def end(self, gone: Link | None = None) -> None:
        """Detach what was probed, and leave the session and the links to management to others."""
        session, sender, receiver = self._session, self._sender, self._receiver
        if session is None or sender is None or receiver is None or gone is not None:
            super().end(gone)
            return
        super().end()
        self.home.idle.remove(session)
        self.home.pairs.append((session, sender, receiver))

    def _go_on(self, outcome: Message | Refused | None) -> None:
        """Ask the next question: at the beginning, after an answer, or in a new session after a refusal."""
        while True:
            try:
                question = self._steps.throw(outcome) if isinstance(outcome, Refused) else self._steps.send(outcome)
            except StopIteration:
                self.end()
                self.home.over(self)
                return
            try:
                session = self.begin()
            except Refused as refused:
                outcome = refused
                continue
            if isinstance(question, tuple):
                self._probe(session, *question)
            else:
                self._request = question
                if self._sender is None:
                    self._open_pair(session)
                self._ask()
            return

    def _probe(self, session: Session, address: str, receive: bool) -> None:
        self._probed = f"{next(self.home.names)}"
        link = session.receiver(self._probed) if receive else session.sender(self._probed)
        (link.source if receive else link.target).address = address
        self.attach(link)

    def _open_pair(self, session: Session) -> None:
        """Attach a link to the broker's management, and one from there for the answers."""
        name, broker = f"{next(self.home.names)}", self.home.broker
        self._sender, self._receiver = session.sender(name), session.receiver(name)
        self._sender.target.address = broker.management
        self._sender.snd_settle_mode = Link.SND_SETTLED
        if broker.dynamic:
            self._receiver.source.dynamic = True
        else:
            self._sender.source.address = self._receiver.source.address = broker.management
            self._receiver.target.address = name if broker.management != "/management" else broker.management
            self._sender.properties = self._receiver.properties = {symbol("paired"): True}
        for link in (self._sender, self._receiver):
            self.home.lanes[link] = self  # and it is no link of the lane's own, which ends with it
            link.open()

    def _ask(self) -> None:
        """Send the request, when both links are there."""
        sender, receiver, request = self._sender, self._receiver, self._request
        if request is None or sender is None or receiver is None or min(sender.credit, receiver.credit) <= 0:
            return
        if self.home.broker.dynamic:
            if not receiver.remote_source.address:
                return
            request.reply_to = receiver.remote_source.address
        elif not request.reply_to:
            request.reply_to = receiver.name
        self._request = None
        self.home.urgent = True
        transfer = sender.delivery(f"{next(self.home.names)}")
        # proton leaves the body out when it is None, and RabbitMQ does not bear that.
        sender.stream(request.encode() + (b"\x00\x53\x77\x40" if request.body is None else b""))
        transfer.settle()

    def on_attached(self, link: Link) -> None:
        """Take a probe's answer; a link without an address is followed by its end, and the reason."""
        end = link.remote_target if link.is_sender else link.remote_source
        if link.name == self._probed and end.type != Terminus.UNSPECIFIED:
            self._probed = ""
            self._go_on(None)
        else:
            if link.name != self._probed and isinstance(link, Receiver):
                link.flow(1)  # not before: the credit counts from a number that the broker tells with this
                self.home.urgent = True
            self._ask()

    def on_flow(self, link: Link) -> None:
        """Send what waits for credit."""
        self._ask()

    def on_delivery(self, transfer: Transfer, link: Link) -> None:
        """Take an answer."""
        if not isinstance(link, Receiver) or link != self._receiver:
            return
        while data := link.recv(transfer.pending):
            self._input += data
        if transfer.partial and len(self._input) <= _LONGEST_ANSWER:
            return
        link.advance()
        transfer.update(Transfer.ACCEPTED)
        transfer.settle()
        link.flow(1)
        answer, data = Message(), self._input
        self._input = b""
        try:
            answer.decode(data)
        except ProtonException as error:
            self.end()
            self._go_on(Refused("", f"the broker's answer cannot be read: {error}"))
        else:
            self._go_on(answer)

    def on_lost(self, refused: Refused) -> None:
        """Take the refusal."""
        self._go_on(refused)
