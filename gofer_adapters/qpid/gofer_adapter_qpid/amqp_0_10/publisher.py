"""Publishing (class "message": transfer, reject, stop, flow), with one outcome for each message."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from gofer_adapter_qpid.amqp_0_10.errors import SessionClosed
from gofer_adapter_qpid.amqp_0_10.messages import Message, encode_transfer
from gofer_adapter_qpid.amqp_0_10.session import Home, Session
from gofer_adapter_qpid.amqp_0_10.tasks import Steps, Tasks

__all__ = ["CONFIRMED", "REFUSED", "RETURNED", "UNKNOWN", "Outcomes", "Publisher", "Sent"]

#: Outcomes: the broker has the message in a queue; no exchange or no queue for it; the broker did not take it; the
#: session ended before the broker answered.
CONFIRMED, RETURNED, REFUSED, UNKNOWN = "confirmed", "returned", "refused", "unknown"

_PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.match", "amq.topic")


class Outcomes(Protocol):
    """Who is told what becomes of messages."""

    def on_outcome(self, token: int, outcome: str, text: str) -> None:
        """Handle the outcome of a message; ``text`` is the broker's reason."""

    def on_flow(self, allowed: bool) -> None:
        """Handle that the broker wants no messages for now (message.stop), or takes them again."""


class Sent(NamedTuple):
    """A message as it is published: its sender's number, its exchange, and whether the sender waits for the outcome."""

    token: int
    exchange: str
    message: Message
    confirm: bool


class Publisher:
    """Publishes messages, each by the right session.

    An error ends the session on which it happens, and the broker forgets all that was on its way there. Broker-J takes
    the name of a missing exchange for that of the default exchange. So each exchange is looked up before the first
    message to it. Later messages wait for that and keep their order. After it all share one session.
    """

    def __init__(self, home: Home, tasks: Tasks, outcomes: Outcomes) -> None:
        self._home, self._tasks, self._outcomes = home, tasks, outcomes
        self._shared = _SharedSession(home, outcomes)
        #: The exchanges that exist, as far as is known, each with the command that sends a message there.
        self._proven = {exchange: encode_transfer(exchange) for exchange in _PREDECLARED}
        self._looking: dict[str, deque[Sent]] = {}  # exchange -> those that wait until it is looked up

    def publish(  # noqa: PLR0917 - they are what a message has
        self, token: int, exchange: str, header: bytes, body: bytes, confirm: bool, isolated: bool
    ) -> None:
        """Send a message. Without ``confirm`` only a failure has an outcome, until ``forget``.

        Args:
            token: the sender's number for it.
            exchange: its name; empty: the default exchange.
            header: from ``encode_header``.
            body: the content.
            confirm: the sender waits for the outcome.
            isolated: send it on a session of its own.

        Raises:
            ValueError: the name is longer than 255 bytes.
        """
        method = self._proven.get(exchange) or encode_transfer(exchange)
        sent = Sent(token, exchange, Message(method, header, body), confirm)
        if isolated:
            self._tasks.start(self._send_alone(sent))
        elif exchange in self._looking:
            self._looking[exchange].append(sent)
        elif exchange in self._proven:
            self._send(sent)
        else:
            self._looking[exchange] = deque([sent])
            self._tasks.start(self._send_looked_up(exchange))

    def forget(self, token: int) -> None:
        """Have no outcome for a message that was sent without confirm."""
        self._shared.forget(token)

    def forget_exchange(self, exchange: str) -> None:
        """Look an exchange up before the next message to it: it was deleted."""
        if exchange not in _PREDECLARED:
            self._proven.pop(exchange, None)

    def flush(self) -> None:
        """Ask the broker to report what it has of messages that somebody waits for."""
        if self._shared.unsynced and self._shared.usable:
            self._shared.unsynced = False
            self._shared.send("execution.sync")

    def _send(self, sent: Sent) -> None:
        if not self._shared.usable:
            for exchange in list(self._proven) if self._shared.channel else []:
                self.forget_exchange(exchange)  # one that was deleted may have ended the session
            self._shared = _SharedSession(self._home, self._outcomes)
            if (closed := self._shared.open()) is not None:
                self._outcomes.on_outcome(sent.token, REFUSED, closed.text)
                return
        self._shared.publish(sent)

    def _send_looked_up(self, exchange: str) -> Steps:
        failure = yield from self._look_up(exchange)
        for sent in self._looking.pop(exchange):
            if failure is None:
                self._send(sent)
            else:
                self._outcomes.on_outcome(sent.token, *failure)

    def _send_alone(self, sent: Sent) -> Steps:
        outcome = yield from self._look_up(sent.exchange)
        if outcome is None:
            try:
                words = (yield sent.message).get("rejected")
                outcome = (CONFIRMED, "") if words is None else (RETURNED, words)
            except SessionClosed as closed:
                outcome = REFUSED, closed.text
        self._outcomes.on_outcome(sent.token, *outcome)

    def _look_up(self, exchange: str) -> Generator[Any, Any, tuple[str, str] | None]:
        """Look whether an exchange exists; return the outcome of messages to it if it does not."""
        if exchange in _PREDECLARED:
            return None
        self._proven.pop(exchange, None)
        try:
            found = yield "exchange.query", {"name": exchange}
        except SessionClosed as closed:
            return REFUSED, closed.text
        if found.get("not_found"):
            return RETURNED, f"there is no exchange {exchange!r}"
        self._proven[exchange] = encode_transfer(exchange)
        return None


class _SharedSession(Session):
    """The session that all messages share to exchanges that exist.

    ``unsynced``: the broker has not been asked to report messages that somebody waits for.
    """

    def __init__(self, home: Home, outcomes: Outcomes) -> None:
        super().__init__(home)
        self.unsynced = self._stopped = False
        self._outcomes = outcomes
        self._quiet: dict[int, int] = {}  # token -> number, of messages that nobody waits for
        self._rejected: dict[int, str] = {}

    def publish(self, sent: Sent) -> None:
        """Send a message."""
        number = self.transfer(*sent.message)
        self.waiting[number] = sent.token, sent.confirm
        if sent.confirm:
            self.unsynced = True
        else:
            self._quiet[sent.token] = number

    def forget(self, token: int) -> None:
        """Have no outcome for a message that nobody waits for."""
        self.waiting.pop(self._quiet.pop(token, -1), None)

    def on_completed(self, ids: list[int]) -> None:
        """Take the broker's report."""
        for id in ids:
            token, confirm = self.waiting.pop(id)
            if not confirm:
                del self._quiet[token]
            elif self._rejected and id in self._rejected:
                self._outcomes.on_outcome(token, RETURNED, self._rejected.pop(id))
            else:
                self._outcomes.on_outcome(token, CONFIRMED, "")

    def on_rejected(self, ids: list[int], text: str) -> None:
        """Note messages that had no route; their completion follows, at once where somebody waits for that."""
        for id in ids:
            token, confirm = self.waiting[id]
            if confirm:
                self._rejected[id] = text
            else:
                self.forget(token)
                self._outcomes.on_outcome(token, RETURNED, text)

    def on_flow(self, allowed: bool) -> None:
        """Hand it on."""
        if allowed == self._stopped:
            self._stopped = not allowed
            self._outcomes.on_flow(allowed)

    def on_closed(self, closed: SessionClosed) -> None:
        """Tell that the outcome of all is unknown that the broker had not reported."""
        for token, _ in self.waiting.values():
            self._outcomes.on_outcome(token, UNKNOWN, closed.text)
        self.on_flow(True)
