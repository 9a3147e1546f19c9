"""Signing and verifying documents.

A signed document travels as ``{"message": <its exact JSON text>, "signature": <base64>}``. The digest that
authenticators sign and validate is the lower-case hex sha256 of that text.
"""

from __future__ import annotations

import binascii
import hashlib
from abc import ABC, abstractmethod
from typing import Any

from gofer.errors import DocumentError
from gofer.messaging.document import Signed, encode, fields_of, unwrap

__all__ = ["Authenticator", "ValidationFailed", "fault_of", "sign", "signer_of", "text_of", "verify"]

_CODE = "security.authentication"
_SENTENCE = "SECURITY: message authentication failed"


class ValidationFailed(Exception):
    """A signature is not valid. The text is the reason; it goes into the rejection, and so does ``code``.

    ``document``: the document that is not valid, for the code that catches this. It is not sent.
    """

    code: object = _CODE  # a code of another form is ignored
    details: object = None  # for subclasses that never call __init__
    document: object = None

    def __init__(self, details: object = None, document: object = None) -> None:
        super().__init__(*(() if details is None else (details,)))
        self.details = details
        self.document = document


class Authenticator(ABC):
    """Signs documents that are sent, and validates documents that are received. Many threads use it.

    A descriptor, or a caller, may name it by its dotted path or by an entry point of ``gofer.authenticators``. Then its
    classmethod ``from_settings(settings, folder)`` makes it, from the section of its name; relative paths in there are
    relative to ``folder``. Without such a classmethod it is made without arguments.

    Signatures with a time and a nonce: subclass :class:`gofer.messaging.stamped.StampedAuthenticator`.
    """

    @abstractmethod
    def sign(self, digest: str) -> str | bytes:
        """Return the signature for a digest (hex text). Raising means that nothing is sent."""

    @abstractmethod
    def validate(self, document: Any, digest: str, signature: Any) -> str | None:
        """Return the signer's identity (None: it has none); raise ValidationFailed for a signature that is not valid.

        Args:
            document: the document, not verified yet, as a :class:`gofer.messaging.Document`.
            signature: the value that the signer's ``sign`` returned, as text; as bytes only if it is not UTF-8. So
                ``sign`` should return raw bytes in hex or base64.
        """


def sign(body: bytes, authenticator: Authenticator) -> bytes:
    """Wrap a document with its signature. Exceptions of the authenticator pass: cannot sign means not sent."""
    digest = hashlib.sha256(body).hexdigest()
    signature = authenticator.sign(digest)
    if isinstance(signature, str):
        signature = signature.encode()
    return encode({"message": body.decode(), "signature": binascii.b2a_base64(signature, newline=False).decode()})


def verify(body: bytes, authenticator: Authenticator | None) -> tuple[bytes, str | None]:
    """Unwrap a document, and verify it if there is an authenticator.

    Returns:
        The document's own text, and the signer's identity. Without an authenticator a wrapper is only taken off.

    Raises:
        DocumentError: not signed, or not validly; code ``security.authentication``. So is every exception of an
            authenticator: it fails closed.
    """
    signed = unwrap(body)
    inner = text_of(body, signed)
    if authenticator is None:
        return inner, None
    return inner, signer_of(signed, inner, authenticator)


def text_of(body: bytes, signed: Signed | None) -> bytes:
    """Return the document's own text: the body, or what its wrapper holds."""
    return body if signed is None else signed.message.encode("utf-8", "surrogatepass")


def signer_of(signed: Signed | None, inner: bytes, authenticator: Authenticator) -> str | None:
    """Return the identity of who has signed a document that was unwrapped; raise as ``verify`` does."""
    if signed is None:
        raise DocumentError(_CODE, _SENTENCE, "not signed")
    try:
        signature = _text(binascii.a2b_base64(signed.signature, strict_mode=True))
    except ValueError:
        raise DocumentError(_CODE, _SENTENCE, "signature is not base64") from None
    try:
        identity = authenticator.validate(fields_of(inner), hashlib.sha256(inner).hexdigest(), signature)
    except ValidationFailed as failed:
        code = failed.code if isinstance(failed.code, str) and failed.code.startswith("security.") else _CODE
        raise DocumentError(code, _SENTENCE, str(failed.details or failed) or "not valid") from failed
    except Exception as broken:
        raise DocumentError(_CODE, _SENTENCE, f"authenticator failed: {type(broken).__name__}") from broken
    if not isinstance(identity, str):
        return None
    if not identity.isprintable():  # it is logged and compared: invisible characters make it look like another
        raise DocumentError(_CODE, _SENTENCE, f"the identity {identity[:60]!r} has control characters in it")
    return identity


def fault_of(bad: DocumentError) -> BaseException | None:
    """Return what the authenticator raised that was no ValidationFailed, for the log; None: it made no mistake."""
    return None if isinstance(bad.__cause__, ValidationFailed) else bad.__cause__


def _text(signature: bytes) -> str | bytes:
    """Pass a signature as gofer 2.12 did: authenticators compare it with their own text."""
    try:
        return signature.decode()
    except UnicodeDecodeError:
        return signature
