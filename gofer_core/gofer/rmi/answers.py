"""The replies of one plugin as bytes: statuses and results, signed if the plugin signs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from gofer.errors import ResultTooLarge
from gofer.messaging.auth import Authenticator, sign
from gofer.messaging.document import VERSION, encode, timestamp
from gofer.rmi.exceptions import to_result
from gofer.rmi.request import Received

__all__ = ["Answers", "CannotSign", "Refusal"]


class CannotSign(Exception):
    """The authenticator has failed; what cannot be signed is not sent."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is rejected."""

    code: str
    description: str
    details: Any = None


class Answers:
    """Writes replies. Any thread.

    Args:
        origin: the address of the plugin.
        limit: the most bytes of a reply.
    """

    def __init__(self, origin: str, authenticator: Authenticator | None, limit: int) -> None:
        self.origin = origin
        self._authenticator = authenticator
        self._limit = limit

    def status(self, request: Received, status: str) -> bytes:
        """Write ``accepted`` or ``started``."""
        return self._write(self._envelope(request.sn, request.document.replyto, request.data, status=status))

    def progress(self, request: Received) -> bytes:
        """Write the progress of a request as it is now."""
        progress = request.progress
        return self._write(
            self._envelope(
                request.sn,
                request.document.replyto,
                request.data,
                status="progress",
                total=progress.total,
                completed=progress.completed,
                details=progress.details,
            )
        )

    def rejected(self, sn: str | None, replyto: str, data: Any, refusal: Refusal) -> bytes:
        """Write a rejection; without its data where those make it too large."""
        envelope = self._envelope(
            sn,
            replyto,
            data,
            status="rejected",
            code=refusal.code,
            description=refusal.description,
            details=refusal.details,
        )
        body = self._write(envelope)
        return body if len(body) <= self._limit else self._write({**envelope, "data": None})

    def result(self, request: Received, result: bytes) -> tuple[bytes, bytes, ResultTooLarge | None]:
        """Write a result.

        Args:
            result: what goes under ``result``, encoded.

        Returns:
            The reply; the encoded result in it, which is another one when that was too large; and then why.
        """
        body = self._result(request, request.data, result)
        if len(body) <= self._limit:
            return body, result, None
        large = ResultTooLarge(f"the reply has {len(body)} bytes, and {self._limit} is the limit")
        result = encode(to_result(large))
        body = self._result(request, request.data, result)
        if len(body) > self._limit:
            body = self._result(request, None, result)
        return body, result, large

    def _result(self, request: Received, data: Any, result: bytes) -> bytes:
        return self._write(self._envelope(request.sn, request.document.replyto, data, result=msgspec.Raw(result)))

    def _envelope(self, sn: str | None, replyto: str | None, data: Any, **more: Any) -> dict[str, Any]:
        return {
            "sn": sn,
            "version": VERSION,
            "routing": (None, replyto),
            "origin": self.origin,
            "timestamp": timestamp(),
            "data": data,
            **more,
        }

    def _write(self, envelope: Mapping[str, Any]) -> bytes:
        try:
            body = encode(envelope)
        except UnicodeEncodeError:  # data with lone surrogates, which only the original's encoder writes
            body = _escaped(envelope)
        if self._authenticator is None:
            return body
        try:
            return sign(body, self._authenticator)
        except Exception as broken:
            raise CannotSign(f"{type(broken).__name__}: {broken}") from broken


def _escaped(envelope: Mapping[str, Any]) -> bytes:
    def known(value: Any) -> Any:
        if isinstance(value, msgspec.Raw):
            return json.loads(bytes(value))
        raise TypeError(f"not JSON: {type(value).__name__}")

    return json.dumps(envelope, default=known).encode()
