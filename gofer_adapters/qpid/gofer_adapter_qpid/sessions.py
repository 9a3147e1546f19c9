"""The sessions of the adapter: one for each operation, one for each subscription, and one for what is published."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api

from gofer_adapter_qpid.amqp_0_10 import Connection, Ends, Session, SessionClosed, Transfer, encode_transfer, to_ranges
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS

__all__ = ["Consumer", "Home", "Message", "Publisher", "Steps", "Task", "error_of"]

_MOST_TASKS = 64
_PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.topic")
_NOT_FOUND = 404
# Broker-J counts bytes down and does not know "no limit": more are granted when so many were delivered.
_MANY_BYTES, _ALL_BYTES = 1 << 30, 0xFFFFFFFF
_DESTINATION = "gofer"  # each subscription has a session of its own, so all may have one name

Fields = dict[str, Any]


class Message(NamedTuple):
    """A message as it is published: its sender's number, its exchange, and its segments."""

    token: int
    exchange: str
    method: bytes
    header: bytes
    body: bytes
    confirm: bool


#: Commands, one after the other, or messages. It is sent the command's result, or ``rejected`` with the broker's words
#: when a message had no route; or it is thrown SessionClosed.
Steps = Generator[tuple[str, Fields] | Message, Fields, None]


def error_of(closed: SessionClosed) -> MessagingError:
    """Return the error of the operation that a session was closed for."""
    return NotFound(closed.text) if closed.code == _NOT_FOUND else AdapterError(closed.text)


class Home(Connection):
    """A connection with what its sessions share: ``events`` is what has happened, ``tasks`` those that are to start."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.events: list[api.Event] = []
        self.tasks: deque[Task] = deque()
        self.running: set[Task] = set()

    def start_tasks(self) -> None:
        """Start tasks, as many as may run side by side."""
        while self.tasks and len(self.running) < _MOST_TASKS:
            self.tasks.popleft().go_on(None)


class Task:
    """Asks one question at a time, on a session that carries nothing else. One that fails costs only itself."""

    def __init__(self, home: Home, steps: Steps) -> None:
        """Start it, at once or when others have ended."""
        self._home, self._steps = home, steps
        self._session: _TaskSession | None = None
        home.tasks.append(self)
        home.start_tasks()

    def go_on(self, outcome: Fields | SessionClosed | None) -> None:
        """Ask the next question: at the beginning, after an answer, or on a new session after a refusal."""
        while True:
            try:
                question = self._steps.throw(outcome) if isinstance(outcome, SessionClosed) else self._steps.send(outcome)  # type: ignore[arg-type] # None begins it
            except StopIteration:
                self._home.running.discard(self)
                if self._session is not None:
                    self._session.close()
                return
            outcome = None
            if self._session is None or not self._session.usable:
                self._session = _TaskSession(self._home, self)
                outcome = self._session.open()
            if outcome is None:
                self._home.running.add(self)
                self._session.ask(question)
                return


class _TaskSession(Session):
    """The session of a task."""

    def __init__(self, home: Home, task: Task) -> None:
        super().__init__(home)
        self._task = task
        self._answer: Fields = {}

    def ask(self, question: tuple[str, Fields] | Message) -> None:
        """Send a command or a message, whose answer goes to the task."""
        self._answer = {}
        if isinstance(question, Message):
            self.waiting[self.transfer(question.method, question.header, question.body)] = True
            self.send("execution.sync")
        else:
            name, fields = question
            self.waiting[self.send(name, sync=True, **fields)] = COMMANDS[name].result is None

    def on_completed(self, ids: list[int]) -> None:
        """Take the end of a command that has no result."""
        if self.waiting.pop(ids[0]):
            self._task.go_on(self._answer)

    def on_result(self, id: int, fields: Fields) -> None:
        """Take the result."""
        if self.waiting.pop(id, None) is False:
            self._task.go_on(fields)

    def on_rejected(self, ids: list[int], text: str) -> None:
        """Note that a message had no route; its completion follows."""
        self._answer = {"rejected": text}

    def on_closed(self, closed: SessionClosed) -> None:
        """Take the refusal."""
        self._task.go_on(closed)


class Consumer(Session):
    """A subscription: a session of its own. ``due``: there is something for ``flush`` to send.

    It is the first half of each delivery's ``tag``; the second is the message's number. It is opened once, so its
    deliveries cannot be taken for those of another. After its end it lives until all are settled.
    """

    home: Home

    def __init__(self, home: Home, id: int, asked: api.Subscribe) -> None:
        super().__init__(home, Ends(asked.limit, api.HEAD, api.TAIL))
        self.queue, self.active, self.due = asked.queue, False, False
        self._subscription, self._ended = asked.number, False
        self._subscribing: int | None = id
        self._cancelling: list[int] = []
        self._unsettled: dict[int, int] = {}  # the message's number -> its size
        self._accepted: list[int] = []
        self._credit = self._bytes = 0  # to be granted again
        if (closed := self.open()) is not None:
            self.on_closed(closed)
            return
        more: Fields = {"accept_mode": 0, "acquire_mode": 0, "exclusive": asked.exclusive}  # explicit, pre-acquired
        self._ask("message.subscribe", queue=asked.queue, destination=_DESTINATION, **more)
        self.send("message.set-flow-mode", destination=_DESTINATION, flow_mode=0)  # credit
        self._grant(0, asked.prefetch)
        self._grant(1, _ALL_BYTES)

    def cancel(self, *ids: int) -> None:
        """End the subscription; the session stays for what is not settled."""
        if self._ended:
            self.home.events += [api.Done(id) for id in ids]
            return
        if self._subscribing is None and not self._cancelling and ids:
            self.active = False
            self._ask("message.cancel", destination=_DESTINATION)
        self._cancelling += ids

    def lost(self, reason: str) -> None:
        """End the subscription: its queue is gone."""
        self._unsettled.clear()
        self._end(reason)

    def settle(self, number: int, how: str) -> None:
        """Settle a message that is not: ``accept`` it, by the next ``flush``, ``release`` or ``reject`` it."""
        size = self._unsettled.pop(number, None)
        if size is None:
            return
        self._credit, self._bytes, self.due = self._credit + 1, self._bytes + size, True
        if how == "accept":
            self._accepted.append(number)
            return
        # Marked as redelivered, a request that was released is not taken for one that somebody has sent again.
        more = {"set_redelivered": True} if how == "release" else {"code": 0}
        self.send(f"message.{how}", transfers=[(number, number)], **more)

    def flush(self) -> None:
        """Accept what is accepted, by one command, and have as many messages more."""
        self.due = False
        if self._accepted:
            self.send("message.accept", transfers=to_ranges(sorted(self._accepted)))
            self._accepted = []
        if self.active:
            self._grant(0, self._credit)
            if self._bytes >= _MANY_BYTES:
                self._grant(1, self._bytes)
                self._bytes = 0
        self._credit = 0
        self._close_when_settled()

    def on_transfer(self, transfer: Transfer) -> None:
        """Hand the message on as an event."""
        id, _, body, cut, redelivered, ttl, _ = transfer
        self._unsettled[id] = len(body) + cut
        seconds = None if ttl is None else ttl / 1000
        self.home.events.append(api.Delivery(self._subscription, body, redelivered, seconds, (self, id), cut))

    def on_completed(self, ids: list[int]) -> None:
        """Take the answers to subscribing and cancelling."""
        if self._subscribing is None:
            self._end("")
            return
        self.home.events.append(api.Done(self._subscribing))
        waiting, self._subscribing, self._cancelling, self.active = self._cancelling, None, [], True
        self.cancel(*waiting)

    def on_closed(self, closed: SessionClosed) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        self._unsettled.clear()
        if self._subscribing is not None:
            self.home.events.append(api.Done(self._subscribing, error=error_of(closed)))
            self._ended = True
        self._end(closed.text)

    def _ask(self, name: str, **fields: Any) -> None:
        self.waiting[self.send(name, sync=True, **fields)] = None

    def _grant(self, unit: int, value: int) -> None:
        if value:
            self.send("message.flow", destination=_DESTINATION, unit=unit, value=value)

    def _end(self, reason: str) -> None:
        if not self._ended and not self._cancelling:
            self.home.events.append(api.SubscriptionLost(self._subscription, reason))
        self.home.events += [api.Done(id) for id in self._cancelling]
        self._cancelling, self._ended, self.active = [], True, False
        self._close_when_settled()

    def _close_when_settled(self) -> None:
        if self._ended and not self._unsettled and not self._accepted:
            self.close()


class _SharedSession(Session):
    """A session that all messages share to exchanges that exist. ``waiting``: their tokens, and whether one confirms."""

    home: Home

    def __init__(self, home: Home, proven: dict[str, bytes]) -> None:
        super().__init__(home)
        self.plain: dict[int, int] = {}  # token -> number, of messages that nobody waits for
        self.unsynced = self._stopped = False
        self._proven = proven
        self._rejected: dict[int, str] = {}

    def publish(self, message: Message) -> None:
        """Send a message."""
        number = self.transfer(message.method, message.header, message.body)
        self.waiting[number] = message.token, message.confirm
        if message.confirm:
            self.unsynced = True
        else:
            self.plain[message.token] = number

    def forget(self, token: int) -> None:
        """Have no event for a message that nobody waits for."""
        self.waiting.pop(self.plain.pop(token, -1), None)

    def on_completed(self, ids: list[int]) -> None:
        """Take the broker's report of the messages that it has, or has not taken."""
        events = self.home.events
        for id in ids:
            token, confirm = self.waiting[id]
            if self._rejected and id in self._rejected:
                events.append(api.Confirmed(token, api.Outcome.RETURNED, self._rejected.pop(id)))
            elif confirm:
                events.append(api.Confirmed(token, api.Outcome.CONFIRMED))
            if not confirm:
                self.plain.pop(token, None)

    def on_rejected(self, ids: list[int], text: str) -> None:
        """Note messages that had no route; their completion follows, at once where somebody waits for that."""
        for id in ids:
            token, confirm = self.waiting[id]
            if confirm:
                self._rejected[id] = text
            else:
                self.home.events.append(api.Confirmed(token, api.Outcome.RETURNED, text))
                self.forget(token)

    def on_flow(self, allowed: bool) -> None:
        """Tell that the broker takes no messages: a queue, or its memory, is full."""
        self._stopped = not allowed
        self.home.events.append(api.Blocked(None if allowed else "the broker asks to send no messages for now"))

    def on_closed(self, closed: SessionClosed) -> None:
        """Tell that the outcome of all is unknown that the broker had not confirmed."""
        for id in list(self._proven):
            if id not in _PREDECLARED:
                del self._proven[id]
        unknown = [api.Confirmed(token, api.Outcome.UNKNOWN, closed.text) for token, _ in self.waiting.values()]
        self.home.events += unknown
        if self._stopped:
            self.on_flow(True)


class Publisher:
    """Publishes messages, each by the right session.

    Broker-J takes the name of an exchange that does not exist for that of the default exchange. So each exchange is
    looked up before the first message to it; those after it wait for that, and keep their order. An error ends the
    session on which it happens, and forgets all that was on its way there.

    ``proven``: the exchanges that exist, as far as is known, each with the command that sends a message there.
    """

    def __init__(self, home: Home) -> None:
        self.proven = {exchange: encode_transfer(exchange) for exchange in _PREDECLARED}
        self._home = home
        self._shared = _SharedSession(home, self.proven)
        self._probing: dict[str, deque[Message]] = {}  # exchange -> those that wait until it is looked up

    def publish(self, message: Message, *, isolated: bool) -> None:
        """Send a message."""
        exchange = message.exchange
        if isolated:
            Task(self._home, self._send_alone(message))
        elif exchange in self._probing:
            self._probing[exchange].append(message)
        elif exchange in self.proven:
            self._send(message)
        else:
            self._probing[exchange] = deque([message])
            Task(self._home, self._probe(exchange))

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        self._shared.forget(token)

    def flush(self) -> None:
        """Ask for the confirmation of what was sent."""
        if self._shared.unsynced and self._shared.usable:
            self._shared.unsynced = False
            self._shared.send("execution.sync")

    def _send(self, message: Message) -> None:
        if not self._shared.usable:
            self._shared = _SharedSession(self._home, self.proven)
            if (closed := self._shared.open()) is not None:
                self._confirm(message, api.Outcome.REFUSED, closed.text)
                return
        self._shared.publish(message)

    def _probe(self, exchange: str) -> Steps:
        outcome = yield from self._look(exchange)
        for message in self._probing.pop(exchange):
            if outcome is None:
                self._send(message)
            else:
                self._confirm(message, *outcome)

    def _send_alone(self, message: Message) -> Steps:
        outcome = yield from self._look(message.exchange)
        if outcome is None:
            try:
                words = (yield message).get("rejected")
                outcome = (api.Outcome.CONFIRMED, "") if words is None else (api.Outcome.RETURNED, words)
            except SessionClosed as closed:
                outcome = api.Outcome.REFUSED, closed.text
        self._confirm(message, *outcome)

    def _look(self, exchange: str) -> Generator[Any, Fields, tuple[api.Outcome, str] | None]:
        """Look whether an exchange exists; return what becomes of messages to it if it does not."""
        if exchange in _PREDECLARED:
            return None
        try:
            if not (yield "exchange.query", {"name": exchange}).get("not_found"):
                self.proven[exchange] = encode_transfer(exchange)
                return None
            self.proven.pop(exchange, None)
            return api.Outcome.RETURNED, f"no exchange {exchange!r}"
        except SessionClosed as closed:
            return api.Outcome.REFUSED, closed.text

    def _confirm(self, message: Message, outcome: api.Outcome, words: str) -> None:
        self._home.events.append(api.Confirmed(message.token, outcome, words))
