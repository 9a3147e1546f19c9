"""Where goferd's log lines go, and what they look like: text for people and journals, or JSON, one object a line."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from gofer.agent.log_handler import NonBlockingHandler
from gofer.errors import ConfigError

__all__ = ["JournalFormatter", "JsonFormatter", "LineFormatter", "LogSetup", "configure", "is_journal"]

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class LineFormatter(logging.Formatter):
    """``2026-11-22T20:15:03.123Z INFO gofer.agent: message``, in UTC; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        """Take no options: one look for all."""
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a short way for most, which have no traceback: there is one for each request."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{_iso(record)} {record.levelname} {record.name}: {record.getMessage()}"

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
        elif record.exc_text:
            line["trace"] = record.exc_text
        return json.dumps(line)


def configure(
    levels: Mapping[str, int], *, file: Path | None = None, json_lines: bool = False, environ: Mapping[str, str]
) -> LogSetup:
    """Set up logging for this process, in place of whatever was set up before.

    Args:
        levels: the level of each logger, by name; ``root`` is the root logger, INFO where it is not named.
        file: the file to append to, reopened when it was moved away; None: standard error.
        json_lines: JSON instead of text.
        environ: ``JOURNAL_STREAM`` there tells whether standard error is the journal.

    Returns:
        What sets it up again, where a plugin has changed it.

    Raises:
        ConfigError: the file cannot be opened; the text names it.
    """
    try:
        handler = NonBlockingHandler(file)
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
    setup = LogSetup(handler, levels)
    setup.repair()
    logging.captureWarnings(capture=True)
    # Not shown by any of the formats, and each costs time on every request's line.
    logging.logProcesses = logging.logMultiprocessing = False
    return setup


class LogSetup:
    """What was set up, kept against code that takes the logging of the whole process for its own."""

    def __init__(self, handler: NonBlockingHandler, levels: Mapping[str, int]) -> None:
        self._handler = handler
        self._levels = {"root": logging.INFO, **levels}
        # gofer's own level is not left to the root logger, which is anybody's to change.
        self._levels.setdefault("gofer", self._levels["root"])

    def repair(self) -> list[str]:
        """Set up again what is not as it was, and tell what that is: a few words each. Any thread."""
        root, ours = logging.getLogger(), logging.getLogger("gofer")
        found = self._repair_loggers(root, ours)
        # Straight to the handler, not by way of the root logger: what a plugin puts there may raise, block or be torn
        # down. What it has put there stays.
        if ours.handlers != [self._handler] or ours.propagate:
            ours.handlers[:] = [self._handler]
            ours.propagate = False
            found.append("the handlers of gofer's logger were changed")
        if self._handler not in root.handlers:
            root.addHandler(self._handler)
            found.append("the root logger's handler was removed")
        if self._handler.level or self._handler.filters:
            self._handler.setLevel(logging.NOTSET)
            self._handler.filters.clear()
            found.append("the handler was told to drop lines")
        for name, level in self._levels.items():
            logger = root if name == "root" else logging.getLogger(name)
            if logger.level != level:
                logger.setLevel(level)
                found.append(f"the level of {name} was changed")
        return list(dict.fromkeys(found))

    def _repair_loggers(self, root: logging.Logger, ours: logging.Logger) -> list[str]:
        found = []
        if root.manager.disable:
            logging.disable(logging.NOTSET)
            found.append("logging was disabled")
        below = [one for name, one in list(root.manager.loggerDict.items()) if name.startswith("gofer.")]
        for one in [ours, *(one for one in below if isinstance(one, logging.Logger))]:
            if one.disabled or one.filters:
                one.disabled = False
                one.filters.clear()
                found.append("loggers of gofer were disabled")
            if one is not ours and not one.propagate:
                one.propagate = True
                found.append("loggers of gofer were cut off")
            if one.name not in self._levels and one.level:
                one.setLevel(logging.NOTSET)
                found.append("the levels of gofer's loggers were changed")
        if found:  # dictConfig disables all loggers that there are, those of other plugins, too
            for other in list(root.manager.loggerDict.values()):
                if isinstance(other, logging.Logger):
                    other.disabled = False
        return found


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
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
