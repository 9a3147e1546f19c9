"""The links that carry messages, to us and from us."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gofer.errors import AdapterError
from gofer.messaging.adapter import Confirmed, Delivery, Done, Outcome, Subscribe, SubscriptionLost
from gofer.messaging.address import Address
from proton import Data, Link, Receiver, Sender, Terminus
from proton import Delivery as Transfer

from gofer_adapter_proton.errors import NOT_FOUND, Refused
from gofer_adapter_proton.links import Home, Lane, Steps, Task
from gofer_adapter_proton.messages import Incoming, encode

__all__ = ["Consumer", "Publishers"]

#: Seconds that a queue, once seen, is taken to exist, where the broker says nothing of messages to a missing one.
_SEEN = 2.0
#: Links to addresses that are kept for their next message.
_MOST_LINKS = 24


class _Message(NamedTuple):
    token: int
    address: Address
    data: bytes


class Consumer(Lane):
    """A subscription: one link from a queue. After its end it lives until all that it delivered is settled."""

    def __init__(self, home: Home, id: int, asked: Subscribe, tag: object) -> None:
        super().__init__(home)
        self.ended, self._asked, self._tag = False, asked, tag
        self._subscribing: int | None = id
        self._cancelling: list[int] = []
        self._receiver: Receiver | None = None
        self._unsettled: dict[int, Transfer] = {}
        self._accepted: dict[int, Transfer] = {}
        self._count = self._settled = 0
        self._incoming: Incoming | None = None
        if home.broker.makes_queues:
            Task(home, self._look())
        else:
            self._subscribe()

    def _look(self) -> Steps:
        try:
            yield from self.home.broker.look(self._asked.queue)
        except Refused as refused:
            self.on_lost(refused)
        else:
            self._subscribe()

    def _subscribe(self) -> None:
        home = self.home
        try:
            self._receiver = self.begin().receiver(f"{next(home.names)}")
        except Refused as refused:
            self.on_lost(refused)
            return
        self._receiver.source.address = home.broker.source(self._asked.queue)
        self.attach(self._receiver)

    @property
    def over(self) -> bool:
        """Whether it has ended and all is settled."""
        return self.ended and self._session is None

    def forget(self) -> None:
        """Drop the session, the link and what was delivered."""
        super().forget()
        self._receiver = None
        self._unsettled.clear()
        self._accepted.clear()

    def cancel(self, *ids: int) -> None:
        """End the subscription, when the broker has sent what it had begun to; the link stays for what is unsettled."""
        if ids and self._subscribing is None and not self._cancelling and self._receiver is not None:
            self.home.urgent = True
            if self.home.broker.drains:
                self._receiver.drain(0)
            else:
                self._receiver.flow(-self._receiver.credit)
        self._cancelling += ids
        self._drained()

    def accept(self, number: int) -> None:
        """Accept a delivery, by the next ``flush``."""
        transfer = self._unsettled.pop(number, None)
        if transfer is not None:
            self._accepted[number] = transfer

    def settle(self, number: int, state: int, failed: bool = False) -> None:
        """Settle a delivery that is not."""
        transfer = self._unsettled.pop(number, None)
        if transfer is not None:
            self.home.urgent = True
            transfer.local.failed = failed
            transfer.update(state)
            transfer.settle()
            self._settled += 1
            self.flush()

    def give_back(self) -> None:
        """Give back all that is not settled, as delivered before: Artemis does not mark it at a goodbye."""
        for number in list(self._unsettled):
            self.settle(number, Transfer.MODIFIED, failed=True)

    def flush(self) -> None:
        """Accept what is to be accepted, in the order in which it came: so one frame tells all of it; give credit."""
        accepted, self._accepted = self._accepted, {}
        for number in sorted(accepted):
            accepted[number].update(Transfer.ACCEPTED)
            accepted[number].settle()
        self._settled += len(accepted)
        receiver = self._receiver
        wanted = self._settled and not self._cancelling and not self.ended
        if wanted and receiver is not None and receiver.credit <= self._asked.prefetch // 2:
            receiver.flow(self._settled)
            self._settled = 0
        self._close_when_settled()

    def on_attached(self, link: Link) -> None:
        """Note that the broker agrees; a link without a source is followed by its end, and the reason."""
        if self._subscribing is not None and self._receiver is not None:
            if link.remote_source.type == Terminus.UNSPECIFIED:
                return
            # Not before: the credit counts from a number that the broker tells with this.
            self.home.urgent = True
            self._receiver.flow(self._asked.prefetch)
            self.home.events.append(Done(self._subscribing))
            waiting, self._subscribing, self._cancelling = self._cancelling, None, []
            self.cancel(*waiting)

    def on_flow(self, link: Link) -> None:
        """See whether the broker has given back the credit."""
        self._drained()

    def on_delivery(self, transfer: Transfer, link: Link) -> None:
        """Read what came of a message, and hand it on when it is whole."""
        receiver = self._receiver
        if receiver is None:
            return
        if self._incoming is None:
            self._incoming = Incoming(self._asked.limit)
        incoming = self._incoming
        while data := receiver.recv(transfer.pending):
            incoming.feed(data)
        if transfer.partial:
            return
        self._incoming = None
        receiver.advance()
        if transfer.aborted:
            transfer.settle()
            self._settled += 1
        elif self.ended:  # it was on its way when the credit was taken back
            transfer.update(Transfer.RELEASED)
            transfer.settle()
        else:
            self._count += 1
            self._unsettled[self._count] = transfer
            body, told = incoming.body, self.home.broker.redelivered(incoming.first, incoming.count)
            tag = (self._tag, self._asked.number, self._count)
            self.home.events.append(
                Delivery(self._asked.number, body, told, incoming.ttl, tag, incoming.size - len(body))
            )
        self._drained()

    def on_lost(self, refused: Refused) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        if self._subscribing is not None:
            self.home.events.append(Done(self._subscribing, error=refused.error()))
            self._subscribing, self.ended = None, True
        self._finish(refused.text)

    def _drained(self) -> None:
        ending = self._cancelling and not self.ended and self._subscribing is None
        if ending and (self._receiver is None or self._receiver.credit <= 0):
            self._finish("")

    def _finish(self, reason: str) -> None:
        if not self.ended and not self._cancelling:
            self.home.events.append(SubscriptionLost(self._asked.number, reason))
        self.home.events += [Done(id) for id in self._cancelling]
        self._cancelling, self.ended = [], True
        self._close_when_settled()

    def _close_when_settled(self) -> None:
        if self.ended and not self._unsettled and not self._accepted and self._session is not None:
            if self.home.broker.drains:
                self.end()
            else:  # what is on its way must be given back, or it is stuck
                self.home.lingering.append((self.home.now, self))


class _Publisher(Lane):
    """A link to one address (None: to any), with what waits for credit and what is on its way.

    ``alone``: it is for one message, and ends after it. ``checking``: what waits goes when its queue has been seen.
    """

    def __init__(self, home: Home, target: str | None, alone: bool = False) -> None:
        super().__init__(home)
        self.waiting: deque[_Message] = deque()
        self.sent: dict[int, _Message] = {}
        self.seen_at, self.checking = -_SEEN, False
        self._target, self._alone = target, alone
        self._sender: Sender | None = None
        self._attached = False

    def go(self) -> None:
        """Send the one message."""
        self.pump()

    def forget(self) -> None:
        """Drop the session and the link."""
        super().forget()
        self._sender = None

    def pump(self) -> None:
        """Send what waits, as far as there is credit."""
        if self.checking or not self.waiting:
            return
        if self._sender is None:
            try:
                self._sender = self.begin().sender(f"{next(self.home.names)}")
            except Refused as refused:
                self._fail(Outcome.REFUSED, refused.text)
                return
            self._attached = False
            self._sender.source.address = self._sender.name
            # Broker-J closes the link of a message that it cannot route, where we do not say that it may reject it.
            outcomes = self._sender.source.outcomes
            outcomes.put_array(False, Data.SYMBOL)
            outcomes.enter()
            for outcome in ("accepted", "rejected", "released"):
                outcomes.put_symbol(f"amqp:{outcome}:list")
            outcomes.exit()
            if self._target is not None:
                self._sender.target.address = self._target
            self.attach(self._sender)
        sender = self._sender
        while self.waiting and sender.credit > 0:
            message, limit = self.waiting.popleft(), sender.remote_max_message_size
            if limit and len(message.data) > limit:
                self._confirm(message, Outcome.REFUSED, f"it has {len(message.data)} bytes; the broker takes {limit}")
                continue
            self.home.urgent = True
            self.sent[message.token] = message
            sender.delivery(f"{message.token}")
            sender.stream(message.data)
            sender.advance()

    def checked(self, refused: Refused | None) -> None:
        """Send what waits: its queue is there; or tell that it is not."""
        self.checking, self.seen_at = False, self.home.now if refused is None else -_SEEN
        if refused is not None:
            self._refuse(list(self.waiting), refused)
            self.waiting.clear()
        self.pump()

    def on_attached(self, link: Link) -> None:
        """Note that the broker agrees; a link without a target is followed by its end, and the reason."""
        self._attached = link.remote_target.type != Terminus.UNSPECIFIED

    def on_flow(self, link: Link) -> None:
        """Send what waited for credit."""
        self.pump()

    def on_delivery(self, transfer: Transfer, link: Link) -> None:
        """Take the broker's word about a message."""
        state = transfer.remote_state
        if not transfer.settled and not state:
            return
        message = self.sent.pop(int(transfer.tag), None)
        if message is not None:
            if state == Transfer.ACCEPTED:
                self._confirm(message, Outcome.CONFIRMED, "")
            elif state == Transfer.REJECTED:
                self._refuse([message], Refused.of(transfer.remote.condition, "the broker refused it"))
            else:
                self._confirm(message, Outcome.RETURNED, f"there is no queue for {message.address}")
        transfer.settle()
        if self._alone:
            self.end()
            self.home.over(self)

    def on_lost(self, refused: Refused) -> None:
        """Tell what is known of the messages: they were refused with the link; or nothing."""
        if self._attached and not self._alone:
            self._fail(Outcome.UNKNOWN, refused.text)
        else:
            messages = [*self.sent.values(), *self.waiting]
            self.sent.clear()
            self.waiting.clear()
            self._refuse(messages, refused)
        self.home.over(self)

    def _fail(self, outcome: Outcome, reason: str) -> None:
        for message in (*self.sent.values(), *self.waiting):
            self._confirm(message, outcome, reason)
        self.sent.clear()
        self.waiting.clear()

    def _refuse(self, messages: list[_Message], refused: Refused) -> None:
        outcome = Outcome.RETURNED if refused.condition == NOT_FOUND else Outcome.REFUSED
        for message in messages:
            self._confirm(message, outcome, refused.text)

    def _confirm(self, message: _Message, outcome: Outcome, reason: str) -> None:
        if message.token in self.home.unconfirmed:
            self.home.unconfirmed.remove(message.token)
            self.home.events.append(Confirmed(message.token, outcome, reason))


class Publishers:
    """Publishes messages: over one link to the broker's relay, or over a link for each address."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lanes: dict[str, _Publisher] = {}  # the one used last is the last
        self._alone: deque[_Publisher] = deque(maxlen=1024)

    def publish(
        self, token: int, address: Address, body: bytes, *, ttl: float | None, durable: bool, alone: bool
    ) -> None:
        """Send a message; ``alone``: where it can harm no other."""
        home, broker = self._home, self._home.broker
        try:
            target = broker.target(address)
        except AdapterError as error:
            home.events.append(Confirmed(token, Outcome.REFUSED, str(error)))
            return
        message = _Message(token, address, encode(body, target if broker.relay else None, ttl, durable))
        home.unconfirmed.add(token)
        if alone and broker.relay:
            lane = _Publisher(home, None, alone=True)
            lane.waiting.append(message)
            self._alone.append(lane)
            home.waiting.append(lane)
            home.begin_waiting()
            return
        key = "" if broker.relay else target
        lane = self._lanes.pop(key) if key in self._lanes else _Publisher(home, key or None)
        self._lanes[key] = lane
        self._end_idle()
        lane.waiting.append(message)
        if broker.silent_about(address) and not lane.checking and home.now - lane.seen_at >= _SEEN:
            lane.checking = True
            Task(home, self._check(lane, address))
        lane.pump()

    @property
    def busy(self) -> bool:
        """Whether there are messages that the broker has not confirmed."""
        return any(lane.waiting or lane.sent for lane in (*self._lanes.values(), *self._alone))

    def look_again(self) -> None:
        """Take no queue to exist any more: one was deleted."""
        for lane in self._lanes.values():
            lane.seen_at = -_SEEN

    def _check(self, lane: _Publisher, address: Address) -> Steps:
        try:
            yield from self._home.broker.look(address.key)
        except Refused as refused:
            lane.checked(refused)
        else:
            lane.checked(None)

    def _end_idle(self) -> None:
        for key, lane in list(self._lanes.items())[:-_MOST_LINKS]:
            if not (lane.sent or lane.waiting):
                lane.end()
                del self._lanes[key]
