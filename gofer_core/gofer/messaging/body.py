"""A message's body while it is received: of one that is too large only the ends are kept."""

from __future__ import annotations

from math import inf

from gofer.messaging.adapter import HEAD, TAIL

__all__ = ["Body"]


class Body:
    """A body that comes in parts. ``size`` counts all of its bytes, also those that are not kept.

    Args:
        limit: in bytes; of a larger body, if it is larger than ``HEAD`` and ``TAIL`` together, the middle is dropped as
            soon as that is known. None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.size = 0
        self._limit = inf if limit is None else max(limit, HEAD + TAIL)
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Take the next part."""
        self.size += len(part)
        self._parts.append(part)
        if self.size > self._limit:
            kept = b"".join(self._parts)
            self._parts = [kept[:HEAD], kept[max(HEAD, len(kept) - TAIL) :]]

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)
