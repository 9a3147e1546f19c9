"""Replies as documents: what a method has returned or raised, statuses and rejections; written and signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.errors import ResultTooLarge
from gofer.messaging.auth import Authenticator, sign
from gofer.messaging.document import VERSION, encode, timestamp
from gofer.messaging.value import plain
from gofer.rmi.exceptions import encoded

if TYPE_CHECKING:
    from gofer.rmi.request import Received

__all__ = ["CannotSign", "Encoder", "Refusal", "of_error", "of_value"]

# An exception is not asked about itself, as its class may have an answer of its own: this is the real one.
_TRACEBACK = vars(BaseException)["__traceback__"]


class CannotSign(Exception):
    """The authenticator has failed; what cannot be signed is not sent."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is rejected."""

    code: str
    description: str
    details: Any = None

    def __str__(self) -> str:
        return f"{self.code}: {self.description}" + ("" if self.details is None else f" ({self.details})")


class Encoder:
    """Writes the replies of one plugin, signed if the plugin signs. Any thread.

    Args:
        origin: the address of the plugin.
        limit: the most bytes of a reply.
    """

    def __init__(self, origin: str, authenticator: Authenticator | None, limit: int) -> None:
        self._origin = origin
        self._authenticator = authenticator
        self._limit = limit

    def status(self, request: Received, status: str, **more: Any) -> bytes:
        """Write ``accepted``, ``started`` or ``progress``."""
        return self._write(self._envelope(request.sn, request.document.replyto, request.data, status=status, **more))

    def reply(
        self, request: Received, result: bytes | None
    ) -> tuple[bytes | CannotSign, bytes | None, ResultTooLarge | None]:
        """Write a result, or the refusal that the request has. Nothing, where nobody waits for it.

        Args:
            result: the value of ``result``, encoded; None: it is refused.

        Returns:
            The reply; the encoded result in it, which is another one when that was too large; and then why.
        """
        if request.replyto is None:
            return b"", result, None
        sn, replyto, data = request.sn, request.document.replyto, request.data
        try:
            if result is None:
                return self.rejected(sn, str(request.replyto), data, request.refusal), None, None
            body = self._write(self._envelope(sn, replyto, data, result=msgspec.Raw(result)))
            if len(body) <= self._limit:
                return body, result, None
            large = ResultTooLarge(f"the reply has {len(body)} bytes, and {self._limit} is the limit")
            told = encoded(large)
            return self._write_within(self._envelope(sn, replyto, data, result=msgspec.Raw(told))), told, large
        except CannotSign as failed:
            return failed, result, None

    def rejected(self, sn: str | None, replyto: str, data: Any, refusal: Refusal) -> bytes:
        """Write a rejection; without its data where those make it too large."""
        told = msgspec.structs.asdict(refusal)
        return self._write_within(self._envelope(sn, replyto, data, status="rejected", **told))

    def _write_within(self, envelope: dict[str, Any]) -> bytes:
        body = self._write(envelope)
        return body if len(body) <= self._limit else self._write({**envelope, "data": None})

    def _envelope(self, sn: str | None, replyto: str | None, data: Any, **more: Any) -> dict[str, Any]:
        return {
            "sn": sn,
            "version": VERSION,
            "routing": (None, replyto),
            "origin": self._origin,
            "timestamp": timestamp(),
            "data": data,
            **more,
        }

    def _write(self, envelope: Mapping[str, Any]) -> bytes:
        try:
            body = encode(envelope)
        except UnicodeEncodeError:  # data with lone surrogates, which only the original's encoder writes
            body = json.dumps(envelope, default=_unwrapped).encode()
        if self._authenticator is None:
            return body
        try:
            return sign(body, self._authenticator)
        except Exception as broken:
            raise CannotSign(f"{type(broken).__name__}: {broken}") from broken


def _unwrapped(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return json.loads(bytes(value))
    raise TypeError(f"not JSON: {type(value).__name__}")


def of_value(value: Any) -> bytes:
    """Write a value.

    Raises:
        BaseException: it is not plain JSON, or raises when it is looked at.
    """
    return encode({"retval": plain(value, "result")})


def of_error(raised: BaseException, crossed: tuple[BaseException, bytes] | None = None) -> bytes:
    """Write an exception, and take its traceback off: its frames refer to it.

    Args:
        crossed: what a method in a process of its own has raised, and how that process has written it.
    """
    try:
        return crossed[1] if crossed is not None and crossed[0] is raised else encoded(raised)
    finally:
        _TRACEBACK.__set__(raised, None)
