"""What takes answers of the broker, and may fail: each on a channel that carries nothing else meanwhile.

So one that the broker answers late delays no other, and one that fails, which costs its channel, costs only itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator

from amqp import spec
from gofer.errors import AdapterError

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import Closed
from gofer_adapter_amqp.channel import Channel, Channels

__all__ = ["Control", "Question", "Steps"]

_MOST = 64
_CONFIRMS = (spec.Basic.Ack, spec.Basic.Nack)

#: A method, the format of its arguments, and those, which the method with the next number answers; or a message, which
#: a confirm answers.
Question = tuple[tuple[int, int], str, tuple[object, ...]] | wire.Message
#: What is asked, one after the other. It is sent the answer's payload (of a message that is returned: the broker's
#: words), or thrown Closed when that closed the channel, or AdapterError when there is none.
Steps = Generator[Question, bytes, None]


class _ControlChannel(Channel):
    """A channel for one question at a time."""

    def __init__(self, home: Channels, go_on: Callable[[_ControlChannel, Steps, bytes | Closed], None]) -> None:
        super().__init__(home)
        self._go_on = go_on
        self._steps: Steps | None = None
        self._answers: tuple[tuple[int, int], ...] = ()
        self._confirms = False
        self._returned = b""

    def ask(self, steps: Steps, question: Question) -> None:
        """Ask; the answer is what it goes on with."""
        self._steps = steps
        if isinstance(question, wire.Message):
            if not self._confirms:
                self._confirms = True
                self.send(spec.Confirm.Select, "b", True)
            self._answers = _CONFIRMS
            self.home.output.append(wire.publish_frames(self.number, self.home.frame_max, question))
        else:
            (family, number), format, arguments = question
            self._answers = ((family, number + 1),)
            self.send((family, number), format, *arguments)

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take the answer."""
        if self._steps is None or method not in self._answers:
            super().on_method(method, payload)
        else:
            steps, self._steps = self._steps, None
            returned, self._returned = self._returned, b""
            self._go_on(self, steps, returned or payload)

    def on_message(self, method: bytes, header: bytes, body: bytes, size: int) -> None:
        """Take a message that had no route; its confirm follows."""
        self._returned = method

    def on_closed(self, closed: Closed) -> None:
        """Take the refusal."""
        if self._steps is not None:
            self._go_on(self, self._steps, closed)


class Control:
    """Runs steps side by side, on as many channels as they need, up to 64. One idle channel is kept."""

    def __init__(self, home: Channels) -> None:
        self._home = home
        self._running = 0
        self._idle: _ControlChannel | None = None
        self._waiting: deque[Steps] = deque()

    def run(self, steps: Steps) -> None:
        """Start steps, at once or when others have ended."""
        self._waiting.append(steps)
        self._start_waiting()

    def _start_waiting(self) -> None:
        while self._waiting and self._running < _MOST:
            self._running += 1
            self._go_on(None, self._waiting.popleft(), None)

    def _go_on(self, channel: _ControlChannel | None, steps: Steps, outcome: bytes | Exception | None) -> None:
        """Go on with steps: from their beginning, an answer, or an error."""
        try:
            question = steps.throw(outcome) if isinstance(outcome, Exception) else steps.send(outcome)  # type: ignore[arg-type] # None begins it
        except StopIteration:
            self._running -= 1
            if self._idle is None or not self._idle.usable:
                self._idle = channel
            elif channel is not None:
                channel.close()
            self._start_waiting()
            return
        if channel is None or not channel.usable:
            channel, self._idle = self._idle, None
        try:
            if channel is None or not channel.usable:
                channel = _ControlChannel(self._home, self._go_on)
        except AdapterError as error:
            self._go_on(None, steps, error)
        else:
            channel.ask(steps, question)
