"""Messages between the agent and the process of one forked call: a kind, a length, and so many bytes of JSON."""

from __future__ import annotations

import struct

__all__ = ["CALL", "KILL", "PROGRESS", "RAISED", "TERMINATE", "VALUE", "Frames", "head"]

CALL = b"c"  # what to call; to the child
PROGRESS = b"p"  # its total, completed and details
VALUE = b"v"  # the method's value: the end
RAISED = b"x"  # what the method raised, as the ``result`` of a reply: the end

# What the agent says of a call to the helper that has forked for it.
KILL = b"K"  # kill its process group
TERMINATE = b"T"  # the same by SIGTERM, and by SIGKILL a little later

_HEAD = struct.Struct("!cQ")


def head(kind: bytes, length: int) -> bytes:
    """Return what goes before a body of so many bytes."""
    return _HEAD.pack(kind, length)


class Frames:
    """Puts messages together from what was read. One thread."""

    def __init__(self, limit: int | None = None) -> None:
        """Start with nothing read. ``limit``: the most bytes of a body; None: any."""
        self._limit = limit
        self._read = bytearray()
        self._wanted: tuple[bytes, int] | None = None

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """Take what was read, and return the messages that are whole now: kind and body.

        Raises:
            ValueError: a body is over the limit.
        """
        self._read += data
        whole: list[tuple[bytes, bytes]] = []
        while True:
            if self._wanted is None:
                if len(self._read) < _HEAD.size:
                    return whole
                kind, length = _HEAD.unpack_from(self._read)
                if self._limit is not None and length > self._limit:
                    raise ValueError(f"a message of {length} bytes, and {self._limit} is the limit")
                del self._read[: _HEAD.size]
                self._wanted = kind, length
            kind, length = self._wanted
            if len(self._read) < length:
                return whole
            whole.append((kind, bytes(memoryview(self._read)[:length])))
            del self._read[:length]
            self._wanted = None
