"""What goes between the agent, the helper process of a plugin, and the process of one forked call.

Messages of a call are a kind, a length, and so many bytes of JSON. What a process logs goes among what it prints, into
the agent's log: each record as one or several lines of its own after a mark, with its level, its logger and its text. A
line is short enough for the kernel to write it in one piece, for all children of a plugin share the pipe.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Iterator

__all__ = ["CALL", "KILL", "PROGRESS", "RAISED", "TERMINATE", "VALUE", "LineHandler", "Messages", "head", "log_line"]

log = logging.getLogger(__name__)

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


class Messages:
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


# -- logs --------------------------------------------------------------------------------------------------

_MARK = "\x1egofer-log "
_PIECE = 600  # characters of text in a line: no more than 3600 bytes, of the 4096 that are written in one piece
_NAME = 60  # characters of a logger's name


class LineHandler(logging.Handler):
    """Writes records to standard error, for the agent to read. For the helper process and its children."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the agent's says the rest

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            for piece in _pieces(self.format(record)):
                said = json.dumps([record.levelno, record.name[:_NAME], record.created, piece], ensure_ascii=False)
                os.write(2, f"{_MARK}{said}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001 - a record whose text cannot be made is told by its own handler
            self.handleError(record)


def log_line(plugin: str, line: str) -> str:
    """Log a line that a helper process, or a child of it, has written; return its text."""
    printed, mark, said = line.partition(_MARK)
    if printed or not mark:
        log.info("plugin %s: %s", plugin, printed)
    if not mark:
        return line
    try:
        level, name, created, text = json.loads(said)
        record = logging.makeLogRecord(
            {
                "name": str(name),
                "levelno": int(level),
                "levelname": logging.getLevelName(int(level)),
                "msg": str(text).encode("utf-8", "backslashreplace").decode(),
                "created": float(created),
                "msecs": float(created) % 1 * 1000,
            }
        )
    except (ValueError, TypeError):
        log.info("plugin %s: %s", plugin, said)
        return said
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
    return str(record.msg)


def _pieces(text: str) -> Iterator[str]:
    """Split a text where lines end, or else where a piece would be too long."""
    piece: list[str] = []
    size = 0
    for line in text.split("\n"):
        for at in range(0, max(1, len(line)), _PIECE):
            part = line[at : at + _PIECE]
            if piece and size + len(part) > _PIECE:
                yield "\n".join(piece)
                piece, size = [], 0
            piece.append(part)
            size += len(part) + 1
    yield "\n".join(piece)
