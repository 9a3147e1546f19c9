"""Signatures that are safe against replay: they have a time, a nonce, and an age limit.

The text of such a signature is ``scheme.key.time.nonce.seal``: the name of the scheme; the key's id, or a certificate,
in base64url; the time in milliseconds since 1970; 16 random bytes in hex; and the MAC or signature, in base64url, over
the document's digest and all of these. The wrapper that it travels in is the one of all signed documents.
"""

from __future__ import annotations

import os
import re
import time
from abc import abstractmethod
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.messaging.auth import Authenticator, ValidationFailed
from gofer.suggest import did_you_mean

__all__ = ["MAX_AGE", "SKEW", "Expired", "Stamp", "StampedAuthenticator", "read_limits"]

#: The greatest age of a document in seconds, unless its request has a ``ttl``: days, because agents may be offline.
MAX_AGE = 7 * 86400.0
#: The seconds that two clocks may differ.
SKEW = 300.0

#: The two letters in which base64 in signatures differs from the usual one.
_URL_SAFE, _STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_MOST = 32768  # characters of a signature; a certificate of a long chain of names fits
_SHAPE = re.compile(r"([a-z0-9-]{1,32})\.([A-Za-z0-9_-]*)\.([0-9]{1,15})\.([0-9a-f]{32})\.([A-Za-z0-9_-]*)")


class Expired(ValidationFailed):
    """A document that was signed too long ago, or in the future."""

    code = "security.expired"


@dataclass(frozen=True, slots=True)
class Stamp:
    """The parts of a signature. ``time`` is in seconds since 1970; ``head`` is its text without the seal."""

    head: str
    key: bytes
    time: float
    nonce: bytes
    seal: bytes


class StampedAuthenticator(Authenticator):
    """Signs with a time and a nonce, and validates these. Subclasses bring the keys. Any thread.

    Args:
        max_age: the greatest age of a document in seconds; a request's own ``ttl`` shortens it.
        peers: the identities whose signatures are accepted; None: all that have a valid key.
    """

    #: The name of the scheme and its version, as it stands in signatures: small letters, digits and hyphens.
    scheme: str

    def __init__(self, *, max_age: float = MAX_AGE, peers: Iterable[str] | None = None) -> None:
        self.max_age = max_age
        self.peers = None if peers is None else frozenset(peers)

    @abstractmethod
    def seal(self, data: bytes, key: bytes) -> bytes:
        """Return the MAC or signature over ``data``, by the key that ``signer`` has named. Raising: nothing is sent."""

    @abstractmethod
    def signer(self) -> bytes:
        """Return the name of the key to sign with: its id, or its certificate."""

    @abstractmethod
    def check(self, key: bytes, data: bytes, seal: bytes) -> str:
        """Return the identity of the key's owner.

        Raises:
            ValidationFailed: the key is not known, not valid now, or the seal is not its own over ``data``.
        """

    def sign(self, digest: str) -> str:
        """See Authenticator."""
        return self.sign_at(digest, time.time())

    def sign_at(self, digest: str, seconds: float) -> str:
        """Sign as if it were another time (in seconds since 1970): for tests."""
        key = self.signer()
        head = f"{self.scheme}.{_text_of_key(key)}.{int(seconds * 1000)}.{os.urandom(16).hex()}"
        return f"{head}.{_text(self.seal(_sealed(head, digest), key))}"

    def validate(self, document: Any, digest: str, signature: str | bytes) -> str:
        """See Authenticator."""
        stamp = self.stamp(signature)
        identity = self.check(stamp.key, _sealed(stamp.head, digest), stamp.seal)
        if self.peers is not None and identity not in self.peers:
            raise ValidationFailed(f"signed by {identity[:100]!r}, which is not in peers")
        self._check_age(document, stamp.time)
        return identity

    def stamp(self, signature: str | bytes) -> Stamp:
        """Read a signature. The seal is not checked.

        Raises:
            ValidationFailed: it is not a signature of this scheme.
        """
        scheme, stamp = _read(signature if isinstance(signature, str) else signature.decode("latin-1"))
        if stamp is None or scheme != self.scheme:
            raise ValidationFailed(f"not a signature of the scheme {self.scheme}")
        return stamp

    def _check_age(self, document: Any, signed: float) -> None:
        limit = self.max_age
        ttl = document.get("ttl") if isinstance(document, (dict, Mapping)) else None  # a dict, nearly always
        if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) and 0 <= ttl < limit:
            limit = ttl
        age = time.time() - signed
        if age > limit + SKEW:
            allowed = f"{limit:.1f}".removesuffix(".0")
            raise Expired(f"signed {age:.0f} s ago, allowed: {allowed} s (and {SKEW:g} s between clocks)")
        if age < -SKEW:
            raise Expired(f"signed {-age:.0f} s in the future, allowed: {SKEW:g} s between clocks")


def read_limits(settings: Mapping[str, Any], allowed: Iterable[str], required: Iterable[str]) -> dict[str, Any]:
    """Check the names of settings, and read those that all stamped authenticators have: ``max_age`` and ``peers``.

    Returns:
        The arguments of :class:`StampedAuthenticator`.

    Raises:
        ConfigError: a setting is unknown, missing or blank, or not what it should be.
    """
    allowed = [*allowed, "max_age", "peers"]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise ConfigError(
            f"unknown key {unknown[0]!r}{did_you_mean(unknown[0], allowed)}; allowed: {', '.join(allowed)}"
        )
    missing = [name for name in required if not settings.get(name)]
    if missing:
        raise ConfigError(f"key {missing[0]!r} is missing; required: {', '.join(required)}")
    limits: dict[str, Any] = {}
    if "max_age" in settings:
        limits["max_age"] = parse_duration(settings["max_age"])
        if not limits["max_age"]:
            raise ConfigError("max_age must be more than 0 seconds, like 7d")
    if "peers" in settings:
        given = settings["peers"]
        peers = given.split(",") if isinstance(given, str) else list(given)
        limits["peers"] = [name for one in peers if (name := str(one).strip())]
        if not limits["peers"]:
            raise ConfigError("peers names nobody; allowed: identities with commas between, or no peers at all")
    return limits


def _sealed(head: str, digest: str) -> bytes:
    """Return the bytes that the seal covers."""
    return f"gofer\n{head}\n{digest}".encode()


@lru_cache(16)  # it is read when it is checked, and for its nonce
def _read(text: str) -> tuple[str, Stamp | None]:
    """Read a signature: its scheme and its parts; None: it has not the shape of one."""
    found = _SHAPE.fullmatch(text) if len(text) <= _MOST else None
    if found is None:
        return "", None
    head = text.rpartition(".")[0]
    key, seal = _bytes(found[2]), _bytes(found[5])
    return found[1], Stamp(head, key, int(found[3]) / 1000, bytes.fromhex(found[4]), seal)


def _text(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URL_SAFE, b"=").decode()


_text_of_key = lru_cache(16)(_text)


def _bytes(text: str) -> bytes:
    try:
        return a2b_base64(text.encode().translate(_STANDARD) + b"=" * (-len(text) % 4))
    except ValueError:
        raise ValidationFailed("not base64url") from None
