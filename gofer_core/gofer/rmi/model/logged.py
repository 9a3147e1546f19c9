"""What forked methods log: from their process, among what it prints, into the agent's log, as it was meant there.

Each record goes as one or several lines of its own, after a mark: JSON of its level, its logger and its text. A line is
short enough for the kernel to write it in one piece, for all children of a plugin share the pipe.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

__all__ = ["LineHandler", "hear"]

log = logging.getLogger(__name__)

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


def hear(plugin: str, line: str) -> str:
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
