"""Checks on a message before anything else sees it: size, signature, shape, version, addressee."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gofer.errors import ConfigError, DocumentError
from gofer.messaging.adapter import HEAD, TAIL
from gofer.messaging.address import Address
from gofer.messaging.auth import verify
from gofer.messaging.document import Head, Request, check_size, decode_request, encode, head, shown, unwrap
from gofer.messaging.stamped import SKEW
from gofer.rmi.answers import Refusal
from gofer.rmi.replays import Proof

if TYPE_CHECKING:
    from gofer.rmi.service import Service

__all__ = ["Refused", "Verification", "Verified"]

#: Seconds for which a signature is remembered whose own authenticator does not say how long it is good for.
_REMEMBERED = 7 * 86400.0


_FIELD = re.compile(r'[\s,]*"(\w{1,64})"\s*:\s*')
_LAST_SN = re.compile(rb'"sn"\s*:\s*"([0-9A-Za-z._:-]{1,128})"')
#: No number is too long for it.
_SCANNER = json.JSONDecoder(parse_int=len)


class _LargeHead(msgspec.Struct, frozen=True):
    sn: str | None = None
    replyto: str | None = None


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
    proof: Proof | None


class Verification:
    """Reads the requests of one plugin. Without an authenticator a signature is taken off and not looked at."""

    def __init__(self, service: Service) -> None:
        self._limit = service.max_message
        self._authenticator = service.authenticator
        self._keys = {Address.parse(one).key for one in (service.address, *service.audience)}

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
            found = _head_of_cut(body) if cut else _head_of_large(body)
            raise Refused(
                Refusal("model.size", "MODEL: document too large", f"{size} bytes, allowed: {self._limit}"),
                sn=found.sn,
                replyto=found.replyto,
            )
        signer: str | None = None
        inner = body
        try:
            if self._authenticator is None:
                inner, _ = verify(body, None)
            else:
                inner, signer = verify(body, self._authenticator, _mapping(body))
        except DocumentError as bad:
            signed = unwrap(body)
            found = head(body if signed is None else signed.message.encode("utf-8", "surrogatepass"))
            raise Refused(_refusal(bad), sn=found.sn, replyto=found.replyto) from None
        try:
            request = decode_request(inner)
        except DocumentError as bad:
            raise self._malformed(inner, bad) from None
        if self._authenticator is None:
            return Verified(request, None, None)
        self._check_addressee(request)
        return Verified(request, signer, self._proof(body, inner, request, signer))

    def _named(self, signer: str | None) -> str:
        """Name a signer, so that what one is remembered of is told from all others, and from other age limits."""
        kind = type(self._authenticator)
        age = getattr(self._authenticator, "max_age", _REMEMBERED)
        return f"{signer or 'nobody'} ({kind.__module__}.{kind.__qualname__}, {age:g} s)"

    def _proof(self, body: bytes, inner: bytes, request: Request, signer: str | None) -> Proof | None:
        read: Any = getattr(self._authenticator, "stamp", None)
        signed = unwrap(body)
        if read is not None and signed is not None:
            stamp = read(base64.b64decode(signed.signature))
            age = getattr(self._authenticator, "max_age", _REMEMBERED)
            return Proof(stamp.nonce, stamp.time + age + SKEW, signer=self._named(signer), good_for=age + SKEW)
        if request.sn is None:
            return None  # two that are the same may well be two
        # What is published again may be signed alike: the book tells whether it is known.
        digest = hashlib.sha256(inner).digest()[:16]
        # When it was signed nobody can say: it is good from its arrival on.
        until = time.time() + _REMEMBERED
        return Proof(digest, until, exact=not request.again, signer=self._named(signer), good_for=_REMEMBERED)

    def _malformed(self, inner: bytes, bad: DocumentError) -> Refused:
        found = head(inner)
        # With the right shape and only another version it is a request, and its sender may have its data back.
        versioned = bad.code == "model.version"
        return Refused(
            _refusal(bad),
            sn=found.sn,
            replyto=found.replyto,
            data=_mapping(inner).get("data") if versioned else None,  # not found where an unknown field is no JSON
            trusted=versioned or self._authenticator is not None,
        )

    def _check_addressee(self, request: Request) -> None:
        """Refuse what was signed for somebody else: a copy of it that was sent to us."""
        routing = request.routing
        to = routing[1] if routing is not None and len(routing) == 2 else None
        try:
            if isinstance(to, str) and Address.parse(to).key in self._keys:
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


def _mapping(body: bytes) -> dict[str, Any]:
    """Return the fields of a document, for an authenticator; none of what is no document."""
    signed = unwrap(body)
    text = body if signed is None else signed.message.encode("utf-8", "surrogatepass")
    try:
        check_size(text)
        found = json.loads(text.decode("utf-8", "surrogatepass"))
    except (DocumentError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _head_of_large(body: bytes) -> Head:
    """Do as ``head`` without making objects of all the rest."""
    try:
        found = msgspec.json.decode(body, type=_LargeHead)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return Head(None, None)
    return Head(found.sn if found.sn and len(found.sn) <= 128 and found.sn.isascii() else None, found.replyto or None)


def _head_of_cut(body: bytes) -> Head:
    """Do as ``head`` with what is left of a document: the fields at its beginning, and the sn at its end.

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
