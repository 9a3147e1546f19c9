"""Channels: opened without waiting for the answer, closed for one reason, their numbers used again late."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

from amqp import spec
from gofer.messaging.adapter import Event, Outcome, Outgoing
from gofer.messaging.body import Body
from gofer.messaging.endings import ProtocolError

from gofer_adapter_amqp import wire
from gofer_adapter_amqp.broker import Closed, Dialect

__all__ = ["Channel", "Channels", "Method", "Question", "Steps", "Task"]

OUTCOMES = {spec.Basic.Ack: (Outcome.CONFIRMED, ""), spec.Basic.Nack: (Outcome.REFUSED, "the broker refused it")}

_MOST_TASKS = 64
_DELIVER, _RETURN = spec.Basic.Deliver, spec.Basic.Return

#: A method, the format of its arguments, and those. The method with the next number answers it.
Method = tuple[tuple[int, int], str, tuple[object, ...]]
#: A method, several in one write, or a message, which a confirm answers.
Question = Method | list[Method] | Outgoing
#: Questions, one after the other. It is sent the last answer's payload, or that of basic.return when a message had no
#: route; or it is thrown Closed.
Steps = Generator[Question, bytes, None]


class Channels:
    """The channels of one connection and what they share.

    ``dialect`` is that of the broker, once it has said who it is; ``output`` is what is to be sent; ``events`` is what
    has happened; ``waiting`` are tasks that start when others have ended.
    """

    def __init__(self) -> None:
        self.dialect = Dialect({})
        self.output: list[bytes] = []
        self.events: list[Event] = []
        self.open: dict[int, Channel] = {}
        self.waiting: deque[Task] = deque()
        self.running: dict[Task, None] = {}  # in the order of their questions
        self.spare: Task | None = None  # one that has ended, whose channel the next one may take
        self.channel_max, self.frame_max, self.last_number = 65_535, 131_072, 0
        self.outcomes = dict(OUTCOMES)  # what basic.ack and basic.nack say of a message that we sent

    def start_waiting(self) -> None:
        """Start tasks, as many as may run side by side."""
        while self.waiting and len(self.running) < _MOST_TASKS:
            self.waiting.popleft().go_on(None)

    def close_spare(self) -> None:
        """Close the channel that was kept for another task."""
        spare, self.spare = self.spare, None
        if spare is not None:
            spare.close()


class Channel:
    """One channel. Subclasses handle answers, messages and the end. ``usable``: it is open for both sides.

    ``limit``: of the body of a larger message only the ends are kept. ``method``: of a message whose frames are coming.
    """

    limit: int | None = None
    asking: tuple[tuple[int, int], ...] = ()  # the methods that are to be answered

    def __init__(self, home: Channels) -> None:
        self.home = home
        self.number, self.usable = 0, False

    def open(self) -> Closed | None:
        """Open the channel, under the number unused for longest: frames of an earlier one must not reach it.

        Returns:
            Why it cannot be opened: the broker allows no more channels.
        """
        home = self.home
        for _ in range(home.channel_max):
            home.last_number = home.last_number % home.channel_max + 1
            if home.last_number not in home.open:
                self._begin(home.last_number)
                self.send(spec.Channel.Open, "s", "")
                return None
        return Closed(0, f"all {home.channel_max} channels of the connection are in use")

    def take(self, spare: Task) -> None:
        """Take the channel of a task that has ended: opening one costs a broker more than most questions do."""
        self.home.spare, spare.usable = None, False
        self._begin(spare.number)

    def _begin(self, number: int) -> None:
        # A message whose frames are still coming: its method, header, missing bytes, and the body so far.
        self.method = self._header = b""
        self._missing, self._body = 0, Body(None)
        self.number, self.usable = number, True
        self.home.open[number] = self

    def send(self, method: tuple[int, int], format: str = "", *arguments: object) -> None:
        """Send a method; ``format`` as in :func:`gofer_adapter_amqp.wire.method_frame`."""
        self.home.output.append(wire.method_frame(self.number, method, format, *arguments))

    def frames(self, message: Outgoing) -> bytes:
        """Return the frames of a message."""
        home = self.home
        expires = (None, None) if message.ttl is None else home.dialect.expiration(message.ttl)
        return wire.publish_frames(self.number, home.frame_max, message, expires)

    def close(self) -> None:
        """Close the channel. What still arrives on it is dropped."""
        if self.usable:
            self.usable = False
            self.send(spec.Channel.Close, "BsBB", 0, "", 0, 0)

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Handle a method that is neither a message's nor the channel's own."""
        raise ProtocolError(f"unexpected method {method} on channel {self.number}")

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Handle a message, delivered or returned."""

    def on_closed(self, closed: Closed) -> None:
        """Handle the end of the channel: the broker closed it."""

    def receive(self, kind: int, payload: bytes) -> None:
        """Take a frame: a method, or a message's header or body. What comes after our close is dropped."""
        if kind == 1:
            self._receive_method(wire.signature(payload), payload)
        elif self.usable:
            if not self.method or (kind == 3) != bool(self._header) or self._missing < 0:
                raise ProtocolError(f"a frame of kind {kind} outside a message")
            if kind == 2:
                self._header, self._missing, self._body = payload, wire.body_size(payload), Body(self.limit)
            else:
                self._missing -= len(payload)
                self._body.add(payload)
            if not self._missing:
                method, header, body = self.method, self._header, bytes(self._body)
                self.method, self._header, self._body = b"", b"", Body(None)
                self.on_message(method, header, body)

    def _receive_method(self, method: tuple[int, int], payload: bytes) -> None:
        if method == spec.Channel.Close:
            self.send(spec.Channel.CloseOk)
            if self.usable:  # else both close at once: the answer to ours follows, and the number is free after that
                self.usable = False
                del self.home.open[self.number]
                self.on_closed(Closed(*wire.reply(payload)))
        elif not self.usable:
            if method == spec.Channel.CloseOk:
                del self.home.open[self.number]
        elif self.method:
            raise ProtocolError(f"method {method} inside a message")
        elif method in (_DELIVER, _RETURN):
            self.method = payload
        elif method == spec.Channel.Flow:
            self.send(spec.Channel.FlowOk, "b", payload[4] & 1)
        elif method != spec.Channel.OpenOk:
            self.on_method(method, payload)


class Task(Channel):
    """A channel that asks one question at a time and carries nothing else.

    So one that the broker answers late delays no other. One that fails closes its channel, and costs only itself. One
    that succeeds leaves its channel to the next task, or to a consumer. ``published``: it has sent a message.
    """

    published = False

    def __init__(self, home: Channels, steps: Steps) -> None:
        """Start it, at once or when others have ended."""
        super().__init__(home)
        self._steps = steps
        self._answers: tuple[tuple[int, int], ...] = ()
        self._missing_answers = 0
        self._returned = b""
        home.waiting.append(self)
        home.start_waiting()

    def go_on(self, outcome: bytes | Closed | None) -> None:
        """Ask the next question: at the beginning, after an answer, or on a new channel after a refusal."""
        while True:
            try:
                question = self._steps.throw(outcome) if isinstance(outcome, Closed) else self._steps.send(outcome)  # type: ignore[arg-type] # None begins it
            except StopIteration:
                self.home.running.pop(self, None)
                home = self.home
                if self.usable and home.spare is None and len(home.open) < home.channel_max // 2:
                    home.spare = self
                self.close()
                return
            if self.usable or (outcome := self.open()) is None:
                break
        if isinstance(question, Outgoing):
            self.send(spec.Confirm.Select, "b", True)
            self.home.output.append(self.frames(question))
            self.asking, self._returned, self.published = (spec.Basic.Publish,), b"", True
            self._answers = (spec.Basic.Ack, spec.Basic.Nack)
        else:
            methods = question if isinstance(question, list) else [question]
            for method, format, arguments in methods:
                self.send(method, format, *arguments)
            self.asking = tuple(method for method, _, _ in methods)
            self._answers = tuple((number, index + 1) for number, index in self.asking)
        self._missing_answers = len(self.asking)
        self.home.running.pop(self, None)
        self.home.running[self] = None

    def open(self) -> Closed | None:
        """Take the channel of one that has ended, or open another."""
        spare = self.home.spare
        if spare is None:
            return super().open()
        self.published = spare.published
        self.take(spare)
        return None

    def close(self) -> None:
        """Close the channel, unless it is kept for the next."""
        if self.home.spare is not self:
            super().close()

    def on_method(self, method: tuple[int, int], payload: bytes) -> None:
        """Take the answer."""
        if method not in self._answers:
            super().on_method(method, payload)
        self._missing_answers -= 1
        if not self._missing_answers:
            self.go_on(self._returned or payload)

    def on_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Take a message that had no route; its confirm follows."""
        self._returned = method

    def on_closed(self, closed: Closed) -> None:
        """Take the refusal."""
        if self.home.spare is self:
            self.home.spare = None
        else:
            self.go_on(closed)
