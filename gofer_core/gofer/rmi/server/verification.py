"""Checks on a message before anything else sees it: size, signature, shape, version, addressee, age.

The broker counts a message's time to live from when it has queued it. Before that the message may have waited in a
socket that nobody read, because the broker was frozen or blocked its publishers. So the document tells when it expires.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from binascii import a2b_base64
from typing import TYPE_CHECKING, Any, NamedTuple

from gofer.errors import ConfigError, DocumentError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import HEAD, TAIL
from gofer.messaging.address import Address
from gofer.messaging.auth import fault_of, signer_of, text_of
from gofer.messaging.document import (
    EXPIRED,
    Head,
    Request,
    Signed,
    decode_request,
    encode,
    fields_of,
    head,
    seconds_of,
    shown,
    unwrap,
)
from gofer.messaging.stamped import SKEW
from gofer.rmi.server.nonces import Nonce
from gofer.rmi.server.reply_encoder import Refusal

if TYPE_CHECKING:
    from gofer.rmi.server.service import Service

__all__ = ["ALLOWANCE", "Refused", "Verification", "Verified", "too_late"]

log = logging.getLogger(__name__)

#: Seconds that the clocks of a caller and an agent may differ before a request counts as late. A caller that waits,
#: and whose clock is off by more, is told by the rejection, and sends its request again by the agent's clock.
ALLOWANCE = 2.0

#: Seconds for which a signature is remembered whose own authenticator does not say how long it is good for.
_REMEMBERED = 7 * 86400.0


_FIELD = re.compile(r'[\s,]*"(\w{1,64})"\s*:\s*')
_LAST_SN = re.compile(rb'"sn"\s*:\s*"([0-9A-Za-z._:-]{1,128})"')
#: No number is too long for it.
_SCANNER = json.JSONDecoder(parse_int=len)


class Refused(Exception):
    """A message is not taken as a request.

    ``trusted``: it is what it claims to be, and may be answered as any request; else only with care. ``sn``,
    ``replyto`` and ``data`` are those of the document as far as they could be told.
    """

    def __init__(
        self, refusal: Refusal, *, sn: str | None, replyto: str | None, data: Any = None, trusted: bool = False
    ) -> None:
        super().__init__(refusal)
        self.refusal = refusal
        self.sn = sn
        self.replyto = replyto
        self.data = data
        self.trusted = trusted


class Verified(NamedTuple):
    """A request, who signed it (None: nobody is named), and what tells a copy of it (None: nothing does)."""

    request: Request
    identity: str | None
    nonce: Nonce | None


class Verification:
    """Reads the requests of one plugin. Without an authenticator a signature is taken off and not looked at."""

    def __init__(self, service: Service) -> None:
        self._name = service.name
        self._complain = LimitedLog(log)
        self._limit = service.max_message
        self._authenticator = service.authenticator
        self._addresses = frozenset((service.address, *service.audience))
        self._keys = {Address.parse(one).key for one in self._addresses}
        # What the signatures are remembered under that it believes: those of other kinds, or ages, are others.
        kind, age = type(self._authenticator), getattr(self._authenticator, "max_age", _REMEMBERED)
        self._kind = f"({kind.__module__}.{kind.__qualname__}, {age:g} s)"

    def read(self, body: bytes, cut: int = 0) -> Verified:
        """Return a request that was verified.

        Args:
            cut: so many bytes are left out of the middle of the body: see :class:`Delivery`.

        Raises:
            Refused: with code ``model.size``, ``security.authentication``, ``security.expired``, ``model.invalid``,
                ``model.version`` or ``security.addressee``.
        """
        size = len(body) + cut
        if cut or size > self._limit:
            found = _head_of_ends(body)
            raise Refused(
                Refusal("model.size", "MODEL: document too large", f"{size} bytes, allowed: {self._limit}"),
                sn=found.sn,
                replyto=found.replyto,
            )
        signed, signer = unwrap(body), None
        inner = text_of(body, signed)
        if self._authenticator is not None:
            try:
                signer = signer_of(signed, inner, self._authenticator)
            except DocumentError as bad:
                if (fault := fault_of(bad)) is not None:
                    text = "plugin %s: its authenticator failed: %s"
                    self._complain(logging.ERROR, text, self._name, type(fault).__name__, error=fault)
                found = head(inner)
                raise Refused(_refusal(bad), sn=found.sn, replyto=found.replyto) from None
        try:
            request = decode_request(inner)
        except DocumentError as bad:
            raise self._malformed(inner, bad) from None
        if self._authenticator is None:
            return Verified(request, None, None)
        self._check_addressee(request)
        return Verified(request, signer, self._nonce(signed, inner, request, signer))

    def _nonce(self, signed: Signed | None, inner: bytes, request: Request, signer: str | None) -> Nonce | None:
        name = f"{signer or 'nobody'} {self._kind}"
        read: Any = getattr(self._authenticator, "stamp", None)
        if read is not None and signed is not None:
            stamp = read(a2b_base64(signed.signature))
            good_for = getattr(self._authenticator, "max_age", _REMEMBERED) + SKEW
            return Nonce(stamp.nonce, stamp.time + good_for, signer=name, good_for=good_for)
        if request.sn is None:
            return None  # two that are the same may well be two
        # What is published again may be signed alike: the book tells whether it is known.
        digest = hashlib.sha256(inner).digest()[:16]
        # When it was signed nobody can say: it is good from its arrival on.
        until = time.time() + _REMEMBERED
        return Nonce(digest, until, exact=not request.again, signer=name, good_for=_REMEMBERED)

    def _malformed(self, inner: bytes, bad: DocumentError) -> Refused:
        found = head(inner)
        # With the right shape and only another version it is a request, and its sender may have its data back.
        versioned = bad.code == "model.version"
        return Refused(
            _refusal(bad),
            sn=found.sn,
            replyto=found.replyto,
            data=fields_of(inner).get("data") if versioned else None,  # not found where an unknown field is no JSON
            trusted=versioned or self._authenticator is not None,
        )

    def _check_addressee(self, request: Request) -> None:
        """Refuse what was signed for somebody else: a copy of it that was sent to us."""
        routing = request.routing
        to = routing[1] if routing is not None and len(routing) == 2 else None
        try:
            if isinstance(to, str) and (to in self._addresses or Address.parse(to).key in self._keys):
                return
        except ConfigError:
            pass  # no address at all: nobody's, as below
        raise Refused(
            Refusal("security.addressee", "SECURITY: signed for another address", shown(to)),
            sn=request.sn,
            replyto=request.replyto,
        )


def _refusal(bad: DocumentError) -> Refusal:
    details = bad.details if bad.details is None else str(bad.details).encode("utf-8", "backslashreplace").decode()
    return Refusal(bad.code, bad.description, details)


def _head_of_ends(body: bytes) -> Head:
    """Do as ``head`` with the ends of a large document: the fields at its beginning, and the sn at its end.

    Callers of ours write the sn first, those of 2.12 last but one.
    """
    found: dict[str, Any] = {}
    text = body[:HEAD].decode("utf-8", "ignore")
    at = text.find("{") + 1
    while (field := _FIELD.match(text, at)) is not None:
        try:
            found[field[1]], at = _SCANNER.raw_decode(text, field.end())
        except (ValueError, RecursionError):
            break  # it goes on where nothing is left
    if "sn" not in found and (ends := _LAST_SN.findall(body[-TAIL:])):
        found["sn"] = ends[-1].decode()
    return head(encode({name: found[name] for name in ("sn", "replyto") if isinstance(found.get(name), str)}))


def too_late(request: Request, ttl: float | None, max_age: float | None, now: float) -> Refusal | None:
    """Say why a request is not to be run, None if it is.

    Args:
        ttl: the message's time to live, as the adapter tells it.
        max_age: seconds that one without a time to live may be old; None: no limit.
        now: the time, in seconds since 1970.
    """
    live = _seconds(request.ttl) if ttl is None else ttl
    expires = request.expires
    if expires is None:
        limit = max_age if live is None else live
        sent = None if limit is None else seconds_of(request.timestamp)
        if limit is None or sent is None or now - sent <= limit + 1.0 + ALLOWANCE:  # it is in whole seconds
            return None
        if live is None:
            return _expired(f"it was sent {now - sent:.0f} s ago, and max_age is {limit:g} s")
        expires = sent + limit
    elif now - expires <= ALLOWANCE:
        return None
    of = "" if live is None else f" of {round(live, 1):g} s"
    return _expired(f"its ttl{of} was over {now - expires:.1f} s ago")


def _expired(why: str) -> Refusal:
    return Refusal(EXPIRED, "the request arrived too late and was not run", f"{why}, by the clocks of caller and agent")


def _seconds(value: Any) -> float | None:
    """Return a field of the document if it is a number of seconds: nobody but us says what is in it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < math.inf else None
