"""Subscriptions (class "message": subscribe, flow, accept, release, reject, cancel)."""

from __future__ import annotations

from typing import Any

from gofer_adapter_qpid.amqp_0_10.frames import Ends
from gofer_adapter_qpid.amqp_0_10.messages import Transfer
from gofer_adapter_qpid.amqp_0_10.session import Home, Session, to_ranges

__all__ = ["Subscription"]

_DESTINATION = "0"  # a session has one subscription, so all may have one name
_EXPLICIT = _PRE_ACQUIRED = 0  # accept-mode and acquire-mode
_MOST_RANGES = 8000  # of 8 bytes each, in a sequence-set, whose size is told by 16 bits
_WINDOW = 1  # flow-mode
_MESSAGES, _BYTES, _ALL_BYTES = 0, 1, 0xFFFFFFFF  # credit-unit; and no limit


class Subscription(Session):
    """A session with one subscription, whose messages are acquired and are to be accepted.

    ``due``: there is something for ``flush`` to send. ``alone``: the queue has no other consumer, as far as is known.
    With others, Broker-J may deliver what one of them has let go before it marks the message as redelivered.
    """

    def __init__(self, home: Home, ends: Ends | None = None) -> None:
        super().__init__(home, ends, holds=True)
        self.unsettled: set[int] = set()
        self.due, self.alone = False, True
        self._consumers = 1  # how many the queue had when it was last looked at
        self._accepted: list[int] = []

    def on_subscribed(self) -> None:
        """Handle that the broker has subscribed us."""

    def on_cancelled(self) -> None:
        """Handle that the subscription has ended: all that it had for us has come."""

    def subscribe(self, queue: str, prefetch: int, *, exclusive: bool = False, look: bool = False) -> None:
        """Subscribe to a queue, with at most ``prefetch`` messages unsettled at a time.

        ``look``: ask whether we are ``alone``, before the first message comes.
        """
        fields = {"queue": queue, "destination": _DESTINATION, "exclusive": exclusive}
        number = self.send("message.subscribe", sync=True, accept_mode=_EXPLICIT, acquire_mode=_PRE_ACQUIRED, **fields)
        self.waiting[number] = self.on_subscribed
        if look:
            self.send("queue.query", queue=queue)
        # A window: each message that is completed makes room for another. Credit that is granted by hand is lost at
        # Broker-J where another consumer is quicker.
        self.send("message.set-flow-mode", destination=_DESTINATION, flow_mode=_WINDOW)
        self.send("message.flow", destination=_DESTINATION, unit=_MESSAGES, value=prefetch)
        self.send("message.flow", destination=_DESTINATION, unit=_BYTES, value=_ALL_BYTES)

    def note_consumers(self, count: int) -> None:
        """Note how many consumers the queue has. One that has just gone may have left something."""
        self.alone = self._consumers == count == 1
        self._consumers = count

    def on_result(self, id: int, fields: dict[str, Any]) -> None:
        """Take the answer to the look."""
        self.note_consumers(fields.get("subscriber_count", 0))

    def cancel(self) -> None:
        """Ask for no more messages; what has come can still be settled."""
        self.waiting[self.send("message.cancel", sync=True, destination=_DESTINATION)] = self.on_cancelled

    def settle(self, number: int, how: str) -> None:
        """Settle a message that is not: ``accept`` it, by the next ``flush``, ``release`` or ``reject`` it."""
        if number not in self.unsettled:
            return
        self.unsettled.remove(number)
        self.held, self.due = self.held - 1, True
        if how == "accept":
            self._accepted.append(number)
        else:
            more = {"set_redelivered": True} if how == "release" else {"code": 0}
            self.send(f"message.{how}", transfers=[(number, number)], **more)

    def flush(self) -> None:
        """Accept what is accepted, by one command, and make room for as many messages."""
        self.due = False
        ranges, self._accepted = to_ranges(sorted(self._accepted)), []
        for start in range(0, len(ranges), _MOST_RANGES):
            self.send("message.accept", transfers=ranges[start : start + _MOST_RANGES])
        self.report()

    def on_transfer(self, transfer: Transfer) -> None:
        """Note that a message is to be settled."""
        self.unsettled.add(transfer.id)
