"""The bodies of requests in the database: they were verified when they came. Pure."""

from __future__ import annotations

import msgspec

from gofer.messaging.auth import verify
from gofer.messaging.document import Request, decode_request

__all__ = ["decode", "light", "silenced"]

_encode = msgspec.json.Encoder().encode


def decode(body: bytes) -> Request:
    """Read a request.

    Raises:
        DocumentError: it is none.
    """
    return decode_request(verify(body, None)[0])


def light(document: Request) -> bytes:
    """Write what is needed of a request to answer it; nothing where that cannot be written."""
    request = msgspec.structs.replace(document.request, cntr=None, args=None, kws=None, kwargs=None)
    return _written(msgspec.structs.replace(document, request=request, secret=None, pam=None))


def silenced(body: bytes) -> bytes:
    """Write a request so that it runs as ever, and is not answered."""
    return _written(msgspec.structs.replace(decode(body), replyto=None)) or body


def _written(document: Request) -> bytes:
    try:
        return _encode(document)
    except (UnicodeEncodeError, msgspec.MsgspecError):  # lone surrogates, which only the original's encoder writes
        return b""
