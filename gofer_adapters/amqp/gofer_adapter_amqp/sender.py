"""Which channel a message is sent on: one shared by all, or one where its failure touches no other."""

from __future__ import annotations

from collections import deque

from gofer.messaging.adapter.base import Outcome

from gofer_adapter_amqp.channels import Message, Publisher
from gofer_adapter_amqp.connection import Connection
from gofer_adapter_amqp.errors import NOT_FOUND, ClosedByBroker

__all__ = ["Sender"]

_PREDECLARED = ("", "amq.direct", "amq.fanout", "amq.topic")
_LANES = 8


class _Lane:
    """A channel that carries one message at a time, and those that wait for it."""

    def __init__(self, *, probes: bool) -> None:
        self.probes = probes
        self.publisher: Publisher | None = None
        self.current: Message | None = None
        self.waiting: deque[Message] = deque()


class Sender:
    """Sends messages; waits for nothing.

    A broker closes the channel on which something is sent to an exchange that does not exist, and forgets all that was
    on its way there. So the first message to each exchange goes alone, on a lane; its confirm proves the exchange, and
    those after it go on the shared channel. Messages to one exchange keep their order. There are at most 16 lanes: many
    unknown exchanges take turns, and cannot use up the connection's channels. What needs no confirm has a shared
    channel of its own: confirms, and the writing to disk behind them, are had by channel.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._proven = set(_PREDECLARED)
        self._shared: Publisher | None = None
        self._plain: Publisher | None = None
        self._lanes: dict[int, _Lane] = {}

    def send(self, message: Message, *, isolated: bool, confirm: bool) -> None:
        """Send a message on the channel that is right for it.

        Raises:
            ValueError: a name longer than 255 bytes.
        """
        exchange = message.exchange
        if exchange in self._proven and not isolated:
            self._share(message, confirm)
            return
        for name in (exchange, message.key):
            if len(name.encode()) > 255:  # said now: a message that waits for its lane has nobody to tell
                raise ValueError(f"longer than 255 bytes: {name[:60]!r}")
        number = message.token % _LANES if isolated else _LANES + hash(exchange) % _LANES
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane(probes=not isolated)
        lane.waiting.append(message)
        if lane.current is None:
            self._advance(number)

    def forget(self, token: int) -> None:
        """Have no event for a message that was sent without confirm."""
        if self._plain is not None:
            self._plain.forget(token)

    def prove(self, exchange: str) -> None:
        """Note that the exchange exists."""
        self._proven.add(exchange)

    def doubt(self, exchange: str) -> None:
        """Note that the exchange may be gone."""
        if exchange not in _PREDECLARED:
            self._proven.discard(exchange)

    def _share(self, message: Message, confirm: bool = True) -> None:
        if confirm:
            if self._shared is None:
                self._shared = Publisher(self._connection, self._shared_closed)
            self._shared.publish(message)
        else:
            if self._plain is None:
                self._plain = Publisher(self._connection, self._plain_closed, confirm=False)
            self._plain.publish(message)

    def _plain_closed(self, error: ClosedByBroker) -> Outcome:
        self._plain = None
        return self._lost(error)

    def _shared_closed(self, error: ClosedByBroker) -> Outcome:
        self._shared = None
        return self._lost(error)

    def _lost(self, error: ClosedByBroker) -> Outcome:
        if error.code == NOT_FOUND:  # one of them was deleted, and the words that name it are the broker's own
            self._proven = set(_PREDECLARED)
        return Outcome.LOST

    def _advance(self, number: int) -> None:
        """Send what comes next on a lane, or give the lane up."""
        lane = self._lanes[number]
        lane.current = None
        if lane.probes:
            waiting, lane.waiting = lane.waiting, deque()
            for message in waiting:
                if message.exchange in self._proven:
                    self._share(message)
                else:
                    lane.waiting.append(message)
        if not lane.waiting:
            del self._lanes[number]
            if lane.publisher is not None:
                lane.publisher.close_soon()
            return
        message = lane.current = lane.waiting.popleft()
        if lane.publisher is None:
            lane.publisher = self._lane_publisher(number, lane)
        lane.publisher.publish(message)

    def _lane_publisher(self, number: int, lane: _Lane) -> Publisher:
        def closed(error: ClosedByBroker) -> Outcome:
            lane.publisher = None
            if error.code == NOT_FOUND:
                if lane.current is not None:
                    self.doubt(lane.current.exchange)
                return Outcome.RETURNED
            return Outcome.REFUSED

        def idle() -> None:
            if lane.publisher is not None and lane.current is not None:
                self.prove(lane.current.exchange)
            self._advance(number)

        return Publisher(self._connection, closed, idle)
