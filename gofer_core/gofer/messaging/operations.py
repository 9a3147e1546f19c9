"""What a broker is asked, and its answers: each operation is answered once, in time or with an error."""

from __future__ import annotations

import enum
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Adapter, Cancel, Operation, Subscribe
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Steps

__all__ = ["MOST_PATIENCE", "OPERATION", "Answer", "Operations", "State", "copy_error"]

log = logging.getLogger(__name__)

#: Called with an operation's value, or its error.
Answer = Callable[[Any, Exception | None], None]

#: Seconds for the broker to answer one operation.
OPERATION = 10.0
#: How many times as long a login or a subscription may take in the end, after tries that took too long.
MOST_PATIENCE = 4


class State(enum.Enum):
    """The states of a connection."""

    DOWN = "down"
    CONNECTING = "connecting"
    LOGIN = "logging in"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(slots=True)
class _PendingOperation:
    """An operation that the broker has not answered. ``answer`` is None after the deadline: nobody waits any more."""

    operation: Operation
    answer: Answer | None
    deadline: float


class Operations:
    """A connection as its operations see it: whether it is there, and what it has not answered yet."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.state = State.DOWN
        self.adapter: Adapter | None = None
        #: The time, as last handed in.
        self.now = 0.0
        #: When something was last asked, published or delivered.
        self.used_at = 0.0
        #: Why there is no connection: the error of the last try, or of the loss.
        self.error: MessagingError | None = None
        #: Why the broker takes no messages for now, in its words.
        self.blocked: str | None = None
        self._blocked_at = 0.0
        self._final = False
        self._commanded = False  # the adapter, since its events were last handled
        self._ids = itertools.count(1)
        self._pending: dict[int, _PendingOperation] = {}

    def describe(self) -> str:
        """Tell in a few words how the connection is: open, blocked, or why it is not there."""
        if self._final:
            return "closed"
        if self.state is State.OPEN:
            return "open" if self.blocked is None else f"blocked by the broker ({self.blocked})"
        return f"no connection ({self.error})" if self.error else "no connection yet"

    def ask(self, operation: Operation, answer: Answer | None, timeout: float = OPERATION) -> None:
        """Ask the broker for something; ``answer`` is called once. None: nobody waits for it.

        A missed deadline fails this operation alone: the connection stays. Deadlines stand still while the broker has
        blocked the connection.
        """
        adapter = self.adapter
        if adapter is None or self.state not in (State.OPEN, State.CLOSING):
            self._call(answer, None, ConnectionLost(f"{self.connector.url}: {self.describe()}"))
            return
        self.used_at, self._commanded = self.now, True
        number = next(self._ids)
        self._pending[number] = _PendingOperation(operation, answer, self.now + timeout)
        try:
            adapter.ask(number, operation)
        except (ValueError, TypeError) as wrong:
            del self._pending[number]
            self._call(answer, None, wrong)

    def run(self, steps: Steps, answer: Answer, timeout: float = OPERATION) -> None:
        """Run the operations of a generator one after another; ``answer`` gets its return value or its error.

        Args:
            timeout: seconds for each operation.
        """

        def advance(value: Any, error: Exception | None) -> None:
            try:
                operation = steps.send(value) if error is None else steps.throw(error)
            except StopIteration as end:
                self._call(answer, end.value, None)
            except (MessagingError, ValueError, TypeError) as failed:
                self._call(answer, None, failed)
            else:
                self.ask(operation, advance, timeout)

        advance(None, None)

    def _answered(self, event: api.Done) -> None:
        pending = self._pending.pop(event.id, None)
        if pending is None:
            return
        if pending.answer is not None:
            self._call(pending.answer, event.value, event.error)
        elif event.error is None and isinstance(pending.operation, Subscribe):  # too late: another try was started
            self.ask(Cancel(pending.operation.number), None)

    def _expire(self) -> None:
        for pending in list(self._pending.values()):
            if pending.deadline <= self.now:
                answer, pending.answer, pending.deadline = pending.answer, None, inf
                asked = type(pending.operation).__name__
                error = ConnectionLost(f"{self.connector.url}: the broker did not answer {asked} in time")
                self._call(answer, None, error)

    def _block(self, reason: str | None) -> None:
        if self.blocked is None and reason is not None:
            self._blocked_at = self.now
        elif self.blocked is not None and reason is None:
            for pending in self._pending.values():
                pending.deadline += self.now - self._blocked_at
        self.blocked = reason

    def _call(self, callback: Callable[..., object] | None, *arguments: Any) -> None:
        try:
            if callback is not None:
                callback(*arguments)
        except Exception:  # a callback's fault harms no other user
            log.exception("%s: a callback failed", self.connector.url)


def copy_error(error: MessagingError) -> MessagingError:
    """Copy an error before it is raised: each raise adds its frames to the error, and keeps them alive."""
    try:
        return type(error)(*error.args)
    except TypeError:  # a class of an adapter, with arguments of its own
        return AdapterError(str(error))
