"""Where goferd's log lines go, and what they look like: text for people and journals, or JSON, one object a line."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from logging.handlers import WatchedFileHandler
from pathlib import Path

from gofer.errors import ConfigError

__all__ = ["JsonFormatter", "JournalFormatter", "LineFormatter", "configure", "is_journal"]

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class LineFormatter(logging.Formatter):
    """``2026-11-22T20:15:03.123Z INFO gofer.agent: message``, in UTC; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        """Take no options: one look for all."""
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Return the record's time in ISO 8601, with milliseconds."""
        return _iso(record)


class JournalFormatter(logging.Formatter):
    """The same without the time, which the journal keeps itself, and with its priority in front of every line."""

    def __init__(self) -> None:
        """Take no options: one look for all."""
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines, each with the prefix that systemd takes for its priority."""
        prefix = f"<{_PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).split("\n"))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, and ``trace`` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        line = {
            "time": _iso(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(
    levels: Mapping[str, int], *, file: Path | None = None, json_lines: bool = False, environ: Mapping[str, str]
) -> None:
    """Set up logging for this process, in place of whatever was set up before.

    Args:
        levels: the level of each logger, by name; ``root`` is the root logger, INFO where it is not named.
        file: the file to append to, reopened when it was moved away; None: standard error.
        json_lines: JSON instead of text.
        environ: ``JOURNAL_STREAM`` there tells whether standard error is the journal.

    Raises:
        ConfigError: the file cannot be opened; the text names it.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(f"log file {file}: cannot be opened: {error.strerror}") from error
    if json_lines:
        handler.setFormatter(JsonFormatter())
    elif file is None and is_journal(environ, 2):
        handler.setFormatter(JournalFormatter())
    else:
        handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Straight to the handler, not by way of the root logger: what a plugin puts there may raise, block or be torn down.
    ours = logging.getLogger("gofer")
    ours.handlers[:] = [handler]
    ours.propagate = False
    root.setLevel(levels.get("root", logging.INFO))
    for name, level in levels.items():
        if name != "root":
            logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=True)
    # Not shown by any of the formats, and each costs time on every request's line.
    logging.logProcesses = logging.logMultiprocessing = False


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Tell whether a descriptor is the stream that systemd has connected to its journal (``JOURNAL_STREAM``)."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (colon and device.isdigit() and inode.isdigit()):
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def _iso(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
