"""From a broker's delivery to a request that is new, or known; or to a refusal."""

from __future__ import annotations

from functools import lru_cache
from time import time
from typing import TYPE_CHECKING

from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.rmi.answers import Refusal
from gofer.rmi.book import Book, Known
from gofer.rmi.expiry import too_late
from gofer.rmi.refusing import Refusing
from gofer.rmi.replays import Replays, Seen
from gofer.rmi.request import Received
from gofer.rmi.verification import Refused, Verification

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery
    from gofer.rmi.receiver import Receiver

__all__ = ["Intake"]


class Intake:
    """Verifies and decodes what comes for one receiver, and looks it up in the book. Only the thread that reads."""

    def __init__(self, receiver: Receiver, book: Book, replays: Replays) -> None:
        self._receiver = receiver
        self._book = book
        self._replays = replays
        self._refusing = Refusing(receiver)
        self._verification = Verification(receiver.service)
        self._parse = lru_cache(256)(Address.parse)

    def renew(self) -> None:
        """Follow a service whose authenticator or audience has changed."""
        self._verification = Verification(self._receiver.service)

    def take(self, delivery: Delivery) -> None:
        """Take a message. What becomes a request is accepted, adopted or answered; all else is refused."""
        receiver = self._receiver
        try:
            document, identity, proof = self._verification.read(delivery.body, delivery.cut)
        except Refused as refused:
            self._refusing.refuse(delivery, refused)
            return
        try:
            replyto = self._parse(document.replyto) if document.replyto else None
        except ConfigError as bad:
            self._refusing.drop(delivery, f"replyto: {bad}")
            return
        request = Received(document, delivery, receiver, replyto=replyto, identity=identity, proof=proof)
        seen = Seen.NEVER if proof is None else self._replays.note(proof)
        if seen is not Seen.NEVER and delivery.redelivered is False and proof is not None and proof.exact:
            self._refusing.replayed(request, seen, in_work=self._is_known(request))
            return
        known, result, previous = self._book.arrive(request)
        if known is Known.NEW and seen in (Seen.BEFORE, Seen.FORGOTTEN):
            # It has ended long ago, or somebody takes it from the queue and puts it back for us to run again.
            self._book.forget(request)
            self._refusing.replayed(request, seen, in_work=False)
        elif known is Known.NEW:
            # One that is known was in time when it came first.
            refusal = too_late(document, delivery.ttl, receiver.service.max_age, time())
            if refusal is None:
                receiver.accept(request)
            else:
                self._book.forget(request)
                self._refusing.expired(request, refusal)
        elif known is Known.CONFLICT:
            receiver.execution.reject(
                request, Refusal("sn.conflict", "another request with this serial number is known", request.sn)
            )
        else:
            receiver.counters.add("repeated")
            if previous is not None:
                receiver.custody.adopted(previous)
            elif result is not None:
                receiver.execution.answer_again(request, result)

    def _is_known(self, request: Received) -> bool:
        return request.sn is not None and self._book.get(request.sn) is not None
