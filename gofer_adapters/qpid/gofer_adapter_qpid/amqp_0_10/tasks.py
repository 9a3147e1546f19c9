"""Tasks: commands that are sent one after the other, each after the answer to the one before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from gofer_adapter_qpid.amqp_0_10.errors import SessionClosed
from gofer_adapter_qpid.amqp_0_10.frames import Ends
from gofer_adapter_qpid.amqp_0_10.messages import Message, Transfer
from gofer_adapter_qpid.amqp_0_10.session import Home, Session
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS

__all__ = ["Fields", "Question", "Steps", "Tasks", "drain"]

Fields = dict[str, Any]


#: A command and its fields, or a message.
Question = tuple[str, Fields] | Message
#: Questions, one after the other. A step is sent the command's result; ``rejected`` stands in it with the peer's words
#: where it did not take a message, and ``transfers`` is how many messages have come on its session. Or SessionClosed is
#: thrown into it: the peer refused; what it asks next goes on a new session.
Steps = Generator[Question, Fields, None]


def drain(queue: str) -> Generator[Question, Fields, None]:
    """Take and drop what waits in a queue. Broker-J's own queue.purge drops what is delivered, too."""
    to: Fields = {"destination": "drain"}
    yield "message.subscribe", {"queue": queue, "accept_mode": 1, "acquire_mode": 0, **to}  # accepted as it is sent
    before, count = -1, 0
    while count != before:
        before = count
        yield "message.flow", {"unit": 0, "value": 1000, **to}  # messages: a broker numbers only so many at a time
        yield "message.flow", {"unit": 1, "value": 0xFFFFFFFF, **to}  # bytes: no limit
        count = (yield "message.flush", to)["transfers"]


class Tasks:
    """Runs tasks side by side, at most ``most`` of them; the others wait."""

    def __init__(self, home: Home, most: int = 64) -> None:
        self._home, self._most, self._running = home, most, 0
        self._waiting: deque[Steps] = deque()

    def start(self, steps: Steps) -> None:
        """Start a task, at once or when others have ended."""
        self._waiting.append(steps)
        self._start_waiting()

    def go_on(self, steps: Steps, session: _TaskSession | None, outcome: Fields | SessionClosed | None) -> None:
        """Ask a task's next question: at its beginning, after an answer, or after a refusal."""
        while True:
            try:
                question = steps.throw(outcome) if isinstance(outcome, SessionClosed) else steps.send(outcome)  # type: ignore[arg-type] # None begins it
            except StopIteration:
                if session is not None:
                    session.close()
                self._running -= 1
                self._start_waiting()
                return
            outcome = None
            if session is None or not session.usable:
                session = _TaskSession(self._home, self, steps)
                outcome = session.open()
            if outcome is None:
                session.ask(question)
                return

    def _start_waiting(self) -> None:
        while self._waiting and self._running < self._most:
            self._running += 1
            self.go_on(self._waiting.popleft(), None, None)


class _TaskSession(Session):
    """A session that a task has for itself, so that an error costs nobody else."""

    def __init__(self, home: Home, tasks: Tasks, steps: Steps) -> None:
        super().__init__(home, Ends(0, 1, 1))  # of messages that come only the number counts
        self._tasks, self._steps = tasks, steps
        self._answer: Fields = {"transfers": 0}
        self._asked = -1  # the number of the command whose result is waited for

    def ask(self, question: Question) -> None:
        """Send a command or a message, whose answer goes to the task."""
        self._answer.pop("rejected", None)
        if isinstance(question, Message):
            self.waiting[self.transfer(*question)] = self._done
            self.send("execution.sync")
        else:
            name, fields = question
            number = self.send(name, sync=True, **fields)
            if COMMANDS[name].result is None:
                self.waiting[number] = self._done
            else:
                self._asked = number

    def on_result(self, id: int, fields: Fields) -> None:
        """Take the result; the command's completion, before or after it, says nothing more."""
        if id == self._asked:
            self._asked = -1
            self._tasks.go_on(self._steps, self, fields)

    def on_transfer(self, transfer: Transfer) -> None:
        """Count a message."""
        self._answer["transfers"] += 1

    def on_rejected(self, ids: list[int], text: str) -> None:
        """Note that a message had no route; its completion follows."""
        self._answer["rejected"] = text

    def on_closed(self, closed: SessionClosed) -> None:
        """Take the refusal."""
        self._tasks.go_on(self._steps, self, closed)

    def _done(self) -> None:
        self._tasks.go_on(self._steps, self, self._answer)
