"""The consumer of one plugin's queue: each delivery is verified, recognised, and admitted, answered or refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gofer.errors import ConfigError, MessagingError
from gofer.messaging.address import Address
from gofer.messaging.subscription import Steps, Subscription
from gofer.rmi.request import ENDED, Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.nonces import Nonces, Seen
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.rejections import Rejections, start_of
from gofer.rmi.server.reply_encoder import Refusal
from gofer.rmi.server.verification import Refused, Verification, too_late

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery

__all__ = ["Consumer"]

log = logging.getLogger(__name__)


class Consumer:
    """Takes the requests of one plugin from its queue, and gives back what it does not start. Any thread.

    Args:
        registry, persistence, nonces, lifecycle: those of the agent.
    """

    def __init__(
        self, channel: Channel, registry: Registry, persistence: Persistence, nonces: Nonces, lifecycle: Lifecycle
    ) -> None:
        self.channel = channel
        self._link = channel.link
        self._registry = registry
        self._persistence = persistence
        self._nonces = nonces
        self._lifecycle = lifecycle
        self._rejections = Rejections(channel)
        self._verification = Verification(channel.service)
        self._parse = lru_cache(256)(Address.parse)
        #: Its place at the queue; None before ``start``.
        self.subscription: Subscription | None = None
        self._closed = False

    # -- deliveries: in the thread that reads the broker -----------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """Take a message."""
        if self._closed:
            self._link.release(delivery)
            return
        try:
            self._take(delivery)
        except Exception as wrong:  # noqa: BLE001 - logged, with limits: whoever has found it may send many
            # A mistake of ours. Given back, it would come again and again.
            channel, text = self.channel, "plugin %s: a message is dropped: %s"
            channel.complain(logging.ERROR, text, channel.service.name, start_of(delivery.body), error=wrong)
            channel.counters.add("dropped")
            self._link.reject(delivery)

    def _take(self, delivery: Delivery) -> None:
        try:
            document, identity, nonce = self._verification.read(delivery.body, delivery.cut)
        except Refused as refused:
            self._rejections.refuse(delivery, refused)
            return
        try:
            replyto = self._parse(document.replyto) if document.replyto else None
        except ConfigError as bad:
            self._rejections.drop(delivery, f"replyto: {bad}")
            return
        channel, now = self.channel, time.monotonic()
        request = Received(document, delivery, channel, now, replyto=replyto, identity=identity, nonce=nonce)
        seen = Seen.NEVER if nonce is None else self._nonces.note(nonce)
        if nonce is not None and seen is not Seen.NEVER and delivery.redelivered is False and nonce.exact:
            in_flight = request.sn is not None and self._registry.get(request.sn) is not None
            self._rejections.replayed(request, seen, in_flight=in_flight)
            return
        known = self._registry.arrive(request)
        if known is request:
            self._admit(request, seen)
        elif known is None:
            self._lifecycle.conflict(request)
        elif isinstance(known, bytes):
            channel.counters.add("repeated")
            self._lifecycle.answer_again(request, known)
        else:
            channel.counters.add("repeated")
            if known.channel is not request.channel:
                request.channel.leave(known)
                known.channel.enter(known)
                if known.state == ENDED:  # meanwhile
                    known.channel.leave(known)
            self._persistence.adopted(request, known)

    def _admit(self, request: Received, seen: Seen) -> None:
        if seen in (Seen.BEFORE, Seen.FORGOTTEN):
            # It has ended long ago, or somebody takes it from the queue and puts it back for us to run again.
            self._registry.forget(request)
            self._rejections.replayed(request, seen, in_flight=False)
            return
        # A request that is known was in time when it came first.
        max_age = self.channel.service.max_age
        refusal = too_late(request.document, request.delivery.ttl, max_age, time.time())
        if refusal is None:
            self._lifecycle.admit(request)
        else:
            self._registry.forget(request)
            self._rejections.late(request, refusal, self._persistence.acknowledge)

    # -- its life --------------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up the plugin's requests that the store holds. Before ``start``; may be repeated when it has failed.

        Raises:
            Unavailable: the store cannot be read; until it can be, no request of the plugin may be taken.
        """
        self._lifecycle.attach(self.channel)

    def start(
        self,
        queue: str,
        timeout: float | None,
        *,
        prepare: Callable[[], Steps] | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        """Subscribe to the queue; the arguments are those of :class:`Subscription`."""
        self._subscribe(queue, timeout, prepare, on_lost, exclusive=self.channel.exclusive)

    def _subscribe(self, queue: str, timeout: float | None, *callbacks: Any, exclusive: bool) -> None:
        prefetch, limit = self.channel.prefetch, self.channel.service.max_message
        self.subscription = Subscription(queue, prefetch, self.deliver, *callbacks, exclusive=exclusive, limit=limit)
        self._link.subscribe(self.subscription, timeout)

    def renew(self) -> None:
        """Follow a service whose authenticator or audience has changed."""
        self.channel.renew()
        self._verification = Verification(self.channel.service)

    def close(self, timeout: float) -> bool:
        """Take no more from the queue, and go on with what was accepted. ``stop`` follows.

        Returns:
            Whether all that was delivered and not accepted has been given back by now.
        """
        self._closed = True
        return self._unsubscribe(timeout)

    def catch_up(self, timeout: float) -> None:
        """Wait until the broker says that the queue, which was deleted, delivers no more: that comes last."""
        subscription = self.subscription
        try:
            self._link.wait(lambda: subscription is None or not subscription.active, time.monotonic() + timeout)
        except MessagingError as gone:
            log.debug("plugin %s: %s", self.channel.service.name, gone)

    def reject_all(self, refusal: Refusal) -> None:
        """Reject what comes from now on."""
        self.channel.refusal = refusal

    def refuse(self, refusal: Refusal, timeout: float) -> None:
        """Take from the queue again, alone, to reject all that comes.

        Raises:
            MessagingError: somebody else takes from it, or it cannot be read; nothing is taken then.
        """
        before = self.subscription
        assert before is not None  # noqa: S101 - it was started
        self.channel.refusal, self._closed = refusal, False
        try:
            self._subscribe(before.queue, timeout, exclusive=True)
        except MessagingError:
            self._closed = True
            raise

    def leave(self, refusal: Refusal | None = None) -> None:
        """Give back all that has not been started, or reject it; and what would start later, too. ``stop`` follows."""
        self._lifecycle.leave(self.channel, refusal)

    def halt(self) -> Callable[[float], None]:
        """Take no more, and start nothing more, at once. Calls that run go on. ``close`` and ``stop`` follow.

        Returns:
            What gives back all that has not started, and may take as many seconds as it is told.
        """
        self._closed = True
        self.channel.over = True

        def give_back(timeout: float) -> None:
            self._unsubscribe(timeout)  # first: the broker would deliver to this one again
            self.leave()

        return give_back

    def stop(self, timeout: float) -> list[Received]:
        """Take no more, give back what has not started, and wait for the rest, at most ``timeout`` seconds.

        The workers are left as they are. May be repeated.

        A result that no broker has taken is tried for one more second, and then kept until this is started again.

        Returns:
            What has not ended by then, or whose result no broker has taken. The broker still holds these, and delivers
            them again when the connection ends; a result that was not taken is then answered from memory.
        """
        deadline = time.monotonic() + timeout
        channel = self.channel
        self._closed = True
        self._unsubscribe(timeout)
        self.leave()
        channel.publisher.hurry()
        channel.wait(max(0.0, deadline - time.monotonic()))
        left = channel.opened()
        channel.publisher.wait(max(0.0, deadline - time.monotonic()))  # rejections, too
        channel.publisher.stop()
        self._nonces.flush(1.0)  # or the broker would deliver again what was answered
        channel.asking.stop()
        channel.admin.stop()
        self._lifecycle.detach(channel)
        return left

    def _unsubscribe(self, timeout: float) -> bool:
        if self.subscription is not None:
            try:
                self._link.unsubscribe(self.subscription, max(1.0, timeout))
            except MessagingError as gone:
                name = self.channel.service.name
                log.debug("plugin %s: its subscription went with the connection: %s", name, gone)
                return False
        return True
