"""Documents: the bodies of messages.

JSON in UTF-8, as gofer 2.12 writes and reads it. A :class:`Request` goes to an agent; a :class:`Reply` (a status or a
result) comes back. Unknown fields are ignored. Every other deviation raises :class:`~gofer.errors.DocumentError` with a
code and a sentence, never another exception.
"""

from __future__ import annotations

import calendar
import json
import math
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from gofer.errors import DocumentError
from gofer.messaging.value import MAX_DEPTH

__all__ = ["EXPIRED", "MAX_CONTAINERS", "VERSION", "Document", "Head", "Invocation", "Reply", "Request", "Result"]
__all__ += ["Signed", "check_size", "decode_fields", "decode_reply", "decode_request", "encode", "head", "seconds_of"]
__all__ += ["shown", "timestamp", "unwrap"]

VERSION = "2.0"
#: The rejection code of a request that arrived after its time to live.
EXPIRED = "request.expired"

#: Limits of a request, beside its bytes: the agent decodes in a thread that all plugins share. Lists and objects cost
#: far more than their bytes (16 MiB of empty lists took 12 s and 1 GB); so do integers of thousands of digits.
MAX_CONTAINERS = 500_000
_MAX_DIGITS = 100_000  # of all integers of more than 200 digits together
_MAX_NAME = 255  # characters of a class or a method

_SMALL = 4096  # bytes of a document whose brackets are counted in no time
_ENDS = 65536  # bytes from either end of a document within which a wrapper has its signature
_NO_BRACKETS = bytes(set(range(256)) - set(b'"[{'))
_LONG_NUMBERS = re.compile(rb"[0-9]{200,}+")
_DIGITS_AS_0 = bytes(ord("0") if chr(byte) in "0123456789" else 0 for byte in range(256))
_200_DIGITS = b"0" * 200

_SN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,127}")
_PLAIN_VERSION = re.compile(r"[0-9A-Za-z.]{1,20}")
_T = TypeVar("_T")


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """The method to call. ``cntr`` holds the constructor's [[args], {keywords}], None when the stub was not called.

    Keyword arguments are read from ``kws`` and from ``kwargs``: old agents know only the second, old callers the first.
    """

    classname: str
    method: str
    cntr: tuple[list[Any] | None, dict[str, Any] | None] | None = None
    args: list[Any] | None = None
    kws: dict[str, Any] | None = None
    kwargs: dict[str, Any] | None = None

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments, whichever field they came in."""
        if self.kwargs:
            return {**self.kws, **self.kwargs} if self.kws else self.kwargs
        return self.kws or {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request's envelope.

    ``wait`` is how long its caller waits, in seconds: statuses are then held back so that a fast call is two messages.
    ``again``: it may have been published before. ``timeout`` limits its execution, in seconds. ``timestamp`` is when it
    was sent, ``ttl`` the seconds until it expires, and ``expires`` that time, in seconds since 1970 by the caller's
    clock. ``traceparent`` and ``tracestate`` are those of W3C Trace Context, from callers that trace their calls.
    Callers of gofer 2.12 send none of these.
    """

    sn: str | None = None
    version: str | None = None
    routing: list[Any] | None = None
    replyto: str | None = None
    request: Invocation
    data: Any = None
    secret: Any = None
    pam: Any = None
    wait: float | None = None
    again: bool = False
    timeout: float | None = None
    timestamp: Any = None
    ttl: Any = None
    expires: float | None = None
    traceparent: Any = None
    tracestate: Any = None

    def __repr__(self) -> str:
        # Neither the secret nor the password: this may get into a log.
        return f"<Request {shown(self.sn)}: {shown(self.request.classname)}.{shown(self.request.method)}>"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended: ``retval``, or an exception in the other fields (then ``exval`` is its remote trace)."""

    retval: Any = None
    exval: str | None = None
    xmodule: str | None = None
    xclass: str | None = None
    xstate: dict[str, Any] | None = None
    xargs: list[Any] | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A status (``accepted``, ``rejected``, ``started``, ``progress``) or, with ``result``, the end of a request."""

    sn: str | None = None
    version: str | None = None
    routing: list[Any] | None = None
    origin: str | None = None
    timestamp: str | None = None
    data: Any = None
    status: str | None = None
    result: Result | None = None
    code: str | None = None
    description: str | None = None
    details: Any = None
    total: Any = None
    completed: Any = None


class Signed(msgspec.Struct, frozen=True):
    """The wrapper of a signed document: its exact text, and the signature in base64."""

    message: str
    signature: str


class Head(NamedTuple):
    """The readable fields of a document that was refused: each is None unless it has the right shape."""

    sn: str | None
    replyto: str | None


class _Some(msgspec.Struct, frozen=True):
    sn: msgspec.Raw = msgspec.Raw(b"null")
    replyto: msgspec.Raw = msgspec.Raw(b"null")


_encoder = msgspec.json.Encoder()
_request = msgspec.json.Decoder(Request)
_reply = msgspec.json.Decoder(Reply)
_fields = msgspec.json.Decoder(dict[str, Any])
_some = msgspec.json.Decoder(_Some)


def encode(document: Mapping[str, Any]) -> bytes:
    """Write a document whose values were checked by :func:`gofer.messaging.value.plain`."""
    return _encoder.encode(document)


def decode_request(body: bytes) -> Request:
    """Read a request.

    Raises:
        DocumentError: ``model.invalid``, with what does not fit and where; ``model.version`` for another version.
    """
    check_size(body)
    request = _decode(_request, body)
    if request.sn is not None and _SN.fullmatch(request.sn) is None:
        raise _invalid("sn is not a serial number", shown(request.sn))
    for name, text in (("classname", request.request.classname), ("method", request.request.method)):
        if len(text) > _MAX_NAME:
            raise _invalid(f"{name} is longer than {_MAX_NAME} characters", shown(text, 60))
    for name, seconds in (("wait", request.wait), ("timeout", request.timeout)):
        if seconds is not None and not 0 <= seconds < math.inf:
            raise _invalid(f"{name} is not a number of seconds, 0 or more", str(seconds))
    if request.expires is not None and not math.isfinite(request.expires):
        raise _invalid("expires is not a time in seconds since 1970", str(request.expires))
    if request.version != VERSION:
        found = str(request.version)
        raise DocumentError(
            "model.version",
            "MODEL: document version not matched",
            f"expected:{VERSION}, found:{found if _PLAIN_VERSION.fullmatch(found) else shown(found, 40)}",
        )
    return request


def decode_reply(body: bytes) -> Reply:
    """Read a status or a result.

    Raises:
        DocumentError: ``model.invalid``, with what does not fit and where.
    """
    return _decode(_reply, body)


def decode_fields(body: bytes) -> dict[str, Any]:
    """Read any document.

    Raises:
        DocumentError: ``model.invalid``: it is none, or it is nested too deep.
    """
    return _decode(_fields, body)


def unwrap(body: bytes) -> Signed | None:
    """Return the wrapper if the body is a signed document, None if it is a plain one (or no document at all)."""
    ends = body if len(body) <= 2 * _ENDS else body[:_ENDS] + body[-_ENDS:]  # all of 10 MB would take 20 ms
    if b'"signature"' not in ends or b'"message"' not in ends:
        return None
    try:
        return msgspec.json.decode(body, type=Signed)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None


def head(body: bytes) -> Head:
    """Read from a refused document the fields that a rejection needs. Never raises."""
    sn: Any
    replyto: Any
    try:
        some = _some.decode(body)
        sn, replyto = _text(some.sn), _text(some.replyto)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        try:
            check_size(body)
            # len: no number is too long for it
            found = json.loads(body.decode(), parse_int=len)
        except (DocumentError, ValueError, RecursionError):
            return Head(None, None)
        if not isinstance(found, dict):
            return Head(None, None)
        sn, replyto = found.get("sn"), found.get("replyto")
    return Head(
        sn if isinstance(sn, str) and _SN.fullmatch(sn) else None,
        replyto if isinstance(replyto, str) and replyto else None,
    )


class Document(dict[str, Any]):
    """A document whose fields are attributes, too: ``document.result.retval``. One that is missing is None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self.get(name)
        return Document(value) if isinstance(value, dict) else value


def fields_of(body: bytes) -> Document:
    """Return the fields of a document's own text, for an authenticator; none of what is no document."""
    try:
        check_size(body)
        try:
            found = msgspec.json.decode(body)
        except msgspec.MsgspecError:  # NaN and lone surrogates, which only the encoder of gofer 2 writes
            found = json.loads(body.decode("utf-8", "surrogatepass"))
    except (DocumentError, ValueError, RecursionError):
        return Document()
    return Document(found) if isinstance(found, dict) else Document()


def _text(raw: msgspec.Raw) -> str | None:
    """Read a field if it is text. Other values are not decoded."""
    return msgspec.json.decode(raw, type=str) if bytes(raw).startswith(b'"') else None


def check_size(body: bytes) -> None:
    """Refuse a document whose values would cost far more than its bytes. Nothing is decoded.

    Raises:
        DocumentError: ``model.invalid``.
    """
    if len(body) > MAX_CONTAINERS and _has_brackets(body, MAX_DEPTH) and _count_brackets(body) > MAX_CONTAINERS:
        count = len(_outside_text(body, _NO_BRACKETS))
        if count > MAX_CONTAINERS:
            raise _invalid(f"{count} lists and objects, {MAX_CONTAINERS} are allowed")
    if len(body) > _MAX_DIGITS and _digits(body) > _MAX_DIGITS:
        count = _digits(_outside_text(body))
        if count > _MAX_DIGITS:
            raise _invalid(f"{count} digits in integers of 200 digits and more, {_MAX_DIGITS} are allowed")


def _digits(body: bytes) -> int:
    # Every 20th byte first: ten of these are digits in a row where 200 are. Then all: 0.5 ms for 1 MB, where the search
    # for numbers takes 35.
    if _200_DIGITS[::20] not in body[::20].translate(_DIGITS_AS_0):
        return 0
    if _200_DIGITS not in body.translate(_DIGITS_AS_0):
        return 0
    return sum(map(len, _LONG_NUMBERS.findall(body)))


def _count_brackets(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _has_brackets(body: bytes, most: int) -> bool:
    """Tell whether a document has more brackets than this, in texts or elsewhere."""
    if len(body) <= _SMALL:
        return _count_brackets(body) > most
    for bracket in (b"[", b"{"):  # from one to the next: in long texts that takes a hundredth of the time of count
        at = body.find(bracket)
        while at >= 0 and most >= 0:
            most -= 1
            at = body.find(bracket, at + 1)
    return most < 0


def _outside_text(body: bytes, without: bytes = b"") -> bytes:
    """Return the bytes of a document outside of its texts, except those in ``without``."""
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # now each quote begins or ends a text
    return b"".join(bare.translate(None, without).split(b'"')[::2])


def timestamp() -> str:
    """The time as replies carry it: UTC, ISO 8601, whole seconds."""
    return _timestamp_of(int(time.time()))


@lru_cache(maxsize=1)
def _timestamp_of(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def seconds_of(text: object) -> float | None:
    """Read a timestamp, in seconds since 1970. None: it is not a timestamp."""
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))) if isinstance(text, str) else None
    except ValueError:
        return None


def shown(text: object, most: int = 200) -> str:
    """Return text from the wire for a log or an error: its repr, cut to ``most`` characters."""
    cut = text[: most + 1] if isinstance(text, str) else text
    rendered = repr(cut) if isinstance(text, str) else str(text)
    return rendered if len(rendered) <= most else rendered[: most - 3] + "..."


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        document = decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as bad:
        document = _decode_leniently(decoder, body, bad)
    if len(body) > _SMALL or _count_brackets(body) > MAX_DEPTH:
        _check_depth(body)
    return document


def _decode_leniently(decoder: msgspec.json.Decoder[_T], body: bytes, bad: Exception) -> _T:
    """Read what only the encoder of gofer 2 writes (NaN, lone surrogates), or raise the first error."""
    if isinstance(bad, msgspec.ValidationError) and "out of range" not in str(bad):
        raise _invalid(str(bad)) from None
    try:
        # Decoded first: json.loads would take UTF-16 and UTF-32 too, and a byte order mark.
        document: _T = msgspec.convert(json.loads(body.decode()), decoder.type)
        return document
    except msgspec.ValidationError as invalid:
        raise _invalid(str(invalid)) from None
    except RecursionError:
        raise _invalid("nested too deep") from None
    except ValueError:
        raise _invalid(str(bad)) from None


def _check_depth(body: bytes) -> None:
    # Brackets in text count here too, so this only ever asks for a walk that was not needed.
    if not _has_brackets(body, MAX_DEPTH):
        return
    try:
        # The decoder has skipped unknown fields: they may be no JSON. len reads numbers of any length.
        layer: list[Any] = [json.loads(body.decode(), parse_int=len)]
    except (ValueError, RecursionError) as bad:
        raise _invalid(str(bad)) from None
    for _ in range(MAX_DEPTH + 4):  # the envelope's own levels come on top of a value's
        layer = [
            item
            for box in layer
            if isinstance(box, (list, dict))
            for item in (box.values() if isinstance(box, dict) else box)
        ]
        if not layer:
            return
    raise _invalid(f"nested deeper than {MAX_DEPTH}")


def _invalid(details: str, found: str | None = None) -> DocumentError:
    return DocumentError(
        "model.invalid", "MODEL: document not valid", details if found is None else f"{details}: {found}"
    )
