"""Messages that do not become requests: rejected, if their sender can be told, and dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from gofer.errors import ConfigError
from gofer.limit import Limit, LimitedLog
from gofer.messaging.address import Address
from gofer.messaging.document import head, shown, unwrap
from gofer.rmi.request import Received
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.nonces import Seen
from gofer.rmi.server.reply_encoder import CannotSign, Refusal
from gofer.rmi.server.reply_publisher import Settled
from gofer.rmi.server.verification import Refused

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery

__all__ = ["Rejections", "start_of"]

log = logging.getLogger(__name__)


class Rejections:
    """Answers and drops what one queue's consumer does not take as requests. Only the thread that reads."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._strangers = Limit(10, 50)  # answers to documents that nobody has vouched for, a second
        self._complain = LimitedLog(log, rate=10, burst=50)

    def refuse(self, delivery: Delivery, refused: Refused) -> None:
        """Answer a message that was refused before it became a request, if its sender can be told."""
        channel = self._channel
        channel.counters.add("rejected")
        channel.counters.time(("rejected", refused.refusal.code))
        details = refused.refusal.details
        why = refused.refusal.code if details is None else f"{refused.refusal.code}: {shown(str(details))}"
        try:
            address = Address.parse(refused.replyto) if refused.replyto else None
        except ConfigError:
            address = None
        if address is None:
            self.drop(delivery, why)
            return
        if not refused.trusted and (address.exchange or not self._strangers.allows()):
            self.drop(delivery, f"{why}; not answered")
            return
        try:
            body = channel.encoder.rejected(refused.sn, str(address), refused.data, refused.refusal)
        except CannotSign as failed:
            self.drop(delivery, f"{why}; and the rejection cannot be signed: {failed}")
            return
        text, code = "plugin %s: rejected (%s): %s: %s", refused.refusal.code
        self._complain(logging.INFO, text, channel.service.name, code, shown(str(details)), _Start(delivery.body))
        if refused.trusted:

            def done(settled: Settled, _: str) -> None:
                if settled is not Settled.UNSENT:
                    channel.link.accept(delivery)

            channel.publisher.post(address, body, done, "a rejection")
        # Nobody has vouched for this one: it is told once, and takes nobody's place among the results that wait.
        elif not channel.link.publish_nowait(
            address, body, settled=lambda outcome, reason: channel.link.accept(delivery)
        ):
            self.drop(delivery, f"{why}; not answered: the link is down or full")

    def replayed(self, request: Received, seen: Seen, *, in_flight: bool) -> None:
        """Refuse a copy of a signed request, one that is in flight or one that has ended; or what may be one."""
        unsure = seen.unsure
        sentence = "SECURITY: a copy of a signed request" if unsure is None else "SECURITY: it may be a copy of another"
        refusal = Refusal("security.replayed", sentence, unsure or "sent before with this signature")
        # While the request is in flight its caller waits for that: a rejection would be taken for its end.
        replyto = None if in_flight else request.document.replyto
        self.refuse(request.delivery, Refused(refusal, sn=request.sn, replyto=replyto))

    def late(self, request: Received, refusal: Refusal, acknowledge: Callable[[Received], None]) -> None:
        """Reject a request that came too late. Told once: most likely nobody waits, and a great many may come."""
        channel, sent = self._channel, 0
        channel.counters.add("rejected")
        channel.counters.time(("rejected", refusal.code))
        self._complain(logging.WARNING, "plugin %s: %r is not run: %s", channel.service.name, request, refusal.details)
        if request.replyto is not None:
            try:
                body = channel.encoder.rejected(request.sn, str(request.replyto), request.data, refusal)
            except CannotSign as failed:
                text = "%r of plugin %s is not answered: cannot sign: %s"
                self._complain(logging.ERROR, text, request, channel.service.name, failed)
            else:
                sent = channel.link.publish_nowait(request.replyto, body, settled=lambda *_: acknowledge(request))
        if not sent:
            acknowledge(request)

    def drop(self, delivery: Delivery, why: str) -> None:
        """Acknowledge a message that nobody can be answered for."""
        channel = self._channel
        text = "plugin %s: a message is dropped (%s): %s"
        self._complain(logging.WARNING, text, channel.service.name, why, _Start(delivery.body))
        channel.counters.add("dropped")
        channel.link.accept(delivery)


class _Start:
    """Where a message begins, told only if the line is written."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __str__(self) -> str:
        return start_of(self._body)


def start_of(body: bytes) -> str:
    """Show where a message begins. Not of one that may hold a secret or a password: of that, who and what it is."""
    lowered = body.lower()
    # JSON may spell any letter as \\u....
    if b"secret" not in lowered and b"pam" not in lowered and b"password" not in lowered and b"\\u" not in lowered:
        return shown(body[:800].decode("utf-8", "replace"))
    signed = unwrap(body)
    found = head(body if signed is None else signed.message.encode("utf-8", "surrogatepass"))
    return f"{len(body)} bytes, sn {shown(found.sn)}, replyto {shown(found.replyto)}"
