"""The links that carry messages, to us and from us."""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from gofer.messaging.adapter import Confirmed, Delivery, Done, Outcome, Subscribe, SubscriptionLost
from proton import UNDESCRIBED, Array, Data, symbol
from proton import Delivery as Transfer

from gofer_adapter_proton.brokers import NOT_FOUND, Ask, Refused
from gofer_adapter_proton.links import Hub, Lane
from gofer_adapter_proton.messages import Incoming

__all__ = ["Consumer", "Publisher"]

#: Seconds that a queue, once seen, is taken to exist, where the broker says nothing of messages to a missing one.
_SEEN = 2.0
#: What may become of a message. Broker-J closes the link of one that it cannot route, where it may not reject it.
_NAMES: Any = [symbol(f"amqp:{name}:list") for name in ("accepted", "rejected", "released")]
_OUTCOMES = Array(cast(Any, UNDESCRIBED), Data.SYMBOL, *_NAMES)


class Consumer(Lane):
    """A subscription: one link from a queue. After its end it lives until all that it delivered is settled."""

    def __init__(self, hub: Hub, id: int, asked: Subscribe) -> None:
        super().__init__(hub)
        self.ended = False
        self.unsettled: dict[object, Transfer] = {}  # by tag
        self._asked, self._settled = asked, 0
        self._subscribing: int | None = id
        self._cancelling: list[int] = []
        self._incoming = Incoming(asked.limit)
        hub.run(self._subscribe())

    def _subscribe(self) -> Ask:
        try:
            if self.hub.broker.makes_queues:
                yield from self.hub.broker.look(self._asked.queue)
            self.link(self.hub.broker.source(self._asked.queue), receive=True).open()
        except Refused as refused:
            self.on_lost(refused)

    def cancel(self, id: int) -> None:
        """End the subscription, when the broker has sent what it had begun to; the link stays for what is unsettled."""
        self._cancelling.append(id)
        if self.ended:
            self._finish()
        elif self._subscribing is None and len(self._cancelling) == 1:
            self._drain()

    def _drain(self) -> None:
        (link,) = self.links
        self.hub.urgent = True
        if self.hub.broker.drains:
            link.drain(0)
            self.on_link_flow(None)
        else:
            link.flow(-link.credit)
            self._finish()

    def settle(self, tag: object, state: Any, failed: bool = False) -> None:
        """Settle a delivery, unless that is done."""
        transfer = self.unsettled.pop(tag, None)
        if transfer is not None:
            transfer.local.failed = failed
            transfer.update(state)
            transfer.settle()
            self._settled += 1
            self.hub.urgent = self.hub.urgent or state != Transfer.ACCEPTED
            if self.ended:
                self._finish()
            self._give_credit()

    def _give_credit(self) -> None:
        wanted = self._settled and not self._cancelling and not self.ended
        if wanted and self.links[0].credit <= self._asked.prefetch // 2:
            self.links[0].flow(self._settled)
            self._settled = 0

    def on_attached(self, link: Any) -> None:
        """Note that the broker agrees."""
        link.flow(self._asked.prefetch)  # not before: the credit counts from a number that the broker tells with this
        self.hub.urgent = True
        self.hub.events.append(Done(cast(int, self._subscribing)))
        self._subscribing = None
        if self._cancelling:
            self._drain()

    def on_link_flow(self, event: Any) -> None:
        """See whether the broker has given back the credit."""
        if self._cancelling and self.hub.broker.drains and self.links[0].credit <= 0:
            self._finish()

    def on_delivery(self, event: Any) -> None:
        """Read what came of a message, and hand it on when it is whole."""
        transfer, link, incoming = event.delivery, event.link, self._incoming
        while data := link.recv(transfer.pending):
            incoming.feed(data)
        if transfer.partial:
            return
        self._incoming = Incoming(self._asked.limit)
        link.advance()
        if transfer.aborted or self.ended:
            transfer.update(Transfer.RELEASED)
            transfer.settle()
            self._settled += 1
        else:
            body, told = bytes(incoming.body), {"count": incoming.count > 0, "first": not incoming.first, None: None}
            redelivered, cut = told[self.hub.broker.redelivery], incoming.body.size - len(body)
            tag = object()  # nothing of proton's, and of this connection alone
            self.unsettled[tag] = transfer
            self.hub.events.append(Delivery(self._asked.number, body, redelivered, incoming.ttl, tag, cut))
        self._give_credit()
        self.on_link_flow(event)

    def on_lost(self, refused: Refused) -> None:
        """End the subscription. The broker has taken back what was not settled."""
        self.unsettled.clear()
        if self._subscribing is not None:
            self.hub.events.append(Done(self._subscribing, error=refused.error()))
        elif not self.ended and not self._cancelling:
            self.hub.events.append(SubscriptionLost(self._asked.number, refused.text))
        self._finish()

    def _finish(self) -> None:
        self.hub.events += [Done(id) for id in self._cancelling]
        self._cancelling, self.ended = [], True
        if not self.unsettled:
            # What is on its way must be given back, or it is stuck.
            self.end() if self.hub.broker.drains else self.hub.call_later(self.end)


class Publisher(Lane):
    """A link to one address (None: to any), with what waits for credit and what is on its way.

    Args:
        alone: one message at a time, so that none suffers from another.
        watched: the queue behind the address, where the broker does not say that it is missing.
    """

    def __init__(self, hub: Hub, target: str | None, alone: bool, watched: str | None) -> None:
        super().__init__(hub)
        self.seen_at = -_SEEN
        self._target, self._alone, self._watched = target, alone, watched
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._sent: set[int] = set()
        self._checking = self._attached = False

    @property
    def busy(self) -> bool:
        """Whether there are messages that the broker has not confirmed."""
        return bool(self._waiting or self._sent)

    def publish(self, token: int, data: bytes) -> None:
        """Send a message, when there is credit for it and its queue was seen."""
        self._waiting.append((token, data))
        if self._watched is not None and not self._checking and self.hub.now - self.seen_at >= _SEEN:
            self._checking = True
            self.hub.run(self._check(self._watched))
        self.on_link_flow(None)

    def _check(self, queue: str) -> Ask:
        try:
            yield from self.hub.broker.look(queue)
            self.seen_at = self.hub.now
        except Refused as refused:
            self._fail(refused)
        self._checking = False
        self.on_link_flow(None)

    def on_link_flow(self, event: Any) -> None:
        """Send what waits, as far as there is credit."""
        if self._checking or not self._waiting:
            return
        if not self.links:
            try:
                link = self.link(self._target, receive=False)
            except Refused as refused:
                self._fail(refused)
                return
            link.source.outcomes.put_object(_OUTCOMES)
            link.open()
            self._attached = False
        (link,) = self.links
        while self._waiting and link.credit > 0 and not (self._alone and self._sent):
            (token, data), limit = self._waiting.popleft(), link.remote_max_message_size
            if limit and len(data) > limit:
                self._confirm(token, Outcome.REFUSED, f"it has {len(data)} bytes; the broker takes {limit}")
                continue
            self.hub.urgent = True
            self._sent.add(token)
            link.delivery(str(token))
            link.stream(data)
            link.advance()

    def on_attached(self, link: Any) -> None:
        """Note that the broker agrees."""
        self._attached = True

    def on_delivery(self, event: Any) -> None:
        """Take the broker's word about a message."""
        transfer: Transfer = event.delivery
        state, token = transfer.remote_state, int(transfer.tag)
        if transfer.settled or state:
            self._sent.discard(token)
            if state == Transfer.ACCEPTED:
                self._confirm(token, Outcome.CONFIRMED, "")
            elif state == Transfer.REJECTED:
                self._refuse(token, Refused.of(transfer.remote.condition, "the broker refused it"))
            else:
                self._confirm(token, Outcome.RETURNED, "there is no queue for it")
            transfer.settle()
            self.on_link_flow(None)

    def on_lost(self, refused: Refused) -> None:
        """Tell what is known of the messages: they were refused with the link; or nothing."""
        tokens, attached = list(self._sent), self._attached
        self._sent.clear()
        if not tokens or not attached:  # those that wait would only see the same again
            tokens += [token for token, _ in self._waiting]
            self._waiting.clear()
        for token in tokens:
            if attached and not self._alone:
                self._confirm(token, Outcome.UNKNOWN, refused.text)
            else:
                self._refuse(token, refused)
        self.on_link_flow(None)

    def _fail(self, refused: Refused) -> None:
        while self._waiting:
            self._refuse(self._waiting.popleft()[0], refused)

    def _refuse(self, token: int, refused: Refused) -> None:
        self._confirm(token, Outcome.RETURNED if refused.condition == NOT_FOUND else Outcome.REFUSED, refused.text)

    def _confirm(self, token: int, outcome: Outcome, reason: str) -> None:
        if token in self.hub.unconfirmed:
            self.hub.unconfirmed.remove(token)
            self.hub.events.append(Confirmed(token, outcome, reason))
