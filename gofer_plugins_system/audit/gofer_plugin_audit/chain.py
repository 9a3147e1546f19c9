"""The lines of an audit log, each bound to the one before it, and whether a log is whole.

A line is JSON. Its last member, ``hash``, is the SHA-256 of all of the line before it. The member before that,
``prev``, is the hash of the line before; ``seq`` counts the lines. So nobody can change, remove or add a line in the
middle without making all later lines anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

__all__ = [
    "GENESIS",
    "RECOVERED",
    "Finding",
    "Record",
    "Verification",
    "line_of",
    "lines_of",
    "read_line",
    "torn_digest",
]

#: What stands for the hash of the line before the first one.
GENESIS = "0" * 64

#: The events that a file may begin with, and the one behind lines that were cut short.
_BEGINS = ("start", "continued")
RECOVERED = "recovered"

_LONGEST = 1 << 20
_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}\n?', re.DOTALL)


class Record(NamedTuple):
    """A line that is as it was written: its number, what happened, the hash of the line before, and its own."""

    seq: int
    event: str
    prev: str
    hash: str
    fields: Mapping[str, Any]


def line_of(seq: int, prev: str, event: str, fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """Write a line; return it, with its end, and its hash."""
    # In ASCII: a terminal may show it, and a lone surrogate is no reason to write nothing.
    text = json.dumps({"seq": seq, "event": event, **fields, "prev": prev}, separators=(",", ":"))
    covered = text[:-1].encode()
    digest = hashlib.sha256(covered).hexdigest()
    return covered + f',"hash":"{digest}"}}\n'.encode(), digest


def read_line(line: bytes) -> Record | None:
    """Read a line, with or without its end; None: it is not as it was written."""
    found = _LINE.fullmatch(line)
    if found is None or hashlib.sha256(found[1]).hexdigest().encode() != found[2]:
        return None
    try:
        fields = json.loads(found[1] + b"}")
        return Record(int(fields["seq"]), str(fields["event"]), str(fields["prev"]), found[2].decode(), fields)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Iterate over the lines of a file, whatever it is: one that is too long for a record comes in pieces."""
    return iter(lambda: file.readline(_LONGEST), b"")


def torn_digest(torn: bytes) -> str:
    """Return the hash by which a ``recovered`` line names the bytes before it that are no whole line."""
    return hashlib.sha256(torn).hexdigest()


class Finding(NamedTuple):
    """The first line that does not fit. ``kind`` is changed, missing or truncated; ``text`` says what is wrong."""

    file: str
    line: int
    kind: str
    text: str


class Verification:
    """Looks at the lines of a log, file by file, in their order. ``finding``: None as long as all fit.

    Args:
        expected: the number and the hash of a record that is known to have been written.
    """

    def __init__(self, expected: tuple[int, str] | None = None) -> None:
        self.finding: Finding | None = None
        self.notes: list[str] = []
        self.records = 0
        self.last: Record | None = None
        self._expected = expected
        self._torn: list[bytes] = []
        self._torn_at = 0
        self._first = True  # of its file

    def read(self, file: str, lines: Iterable[bytes]) -> None:
        """Look at the next file."""
        self._first = True
        number = 0
        for number, line in enumerate(lines, 1):
            record = read_line(line)
            if record is None:
                self._torn_at = self._torn_at or number
                self._torn.append(line)
                continue
            self.finding = self._look(file, number, record)
            if self.finding is not None:
                return
            self.last, self._first = record, False
            self.records += 1
        if self._torn:
            whole = self._torn[-1].endswith(b"\n")
            text = "this line is not as it was written" if whole else "the line is cut off, and nothing follows it"
            self.finding = Finding(file, self._torn_at, "changed" if whole else "truncated", text)
        elif number == 0:
            self.notes.append(f"{file} is empty")

    def end(self, file: str) -> None:
        """Look at where the last file ends."""
        seq, wanted = self._expected or (0, "")
        last = 0 if self.last is None else self.last.seq
        if self.finding is None and self.last is None and not seq:
            self.finding = Finding(file, 0, "truncated", "there is no record")
        elif self.finding is None and last < seq:
            text = f"the log ends with record {last}, and record {seq} ({wanted[:16]}…) was written"
            self.finding = Finding(file, 0, "truncated", text)
        elif self.finding is None and self.last is not None and self.last.event != "stop":
            self.notes.append(
                "the last record is no stop: the agent runs, or was killed, or the end is cut off; "
                "--expect tells, with a record that the agent's log has named"
            )

    def _look(self, file: str, number: int, record: Record) -> Finding | None:
        """Return what is wrong with a line that is as it was written, where it stands; None: nothing."""
        if self._torn:
            at, torn = self._torn_at, b"".join(self._torn).removesuffix(b"\n")
            self._torn, self._torn_at = [], 0
            if record.event != RECOVERED or record.fields.get("torn_sha256") != torn_digest(torn):
                return Finding(file, at, "changed", "this line is not as it was written")
            self.notes.append(f"{file}, line {at}: cut short by a crash or a full disk, and told by line {number}")
        elif self._first and record.event not in _BEGINS:
            text = f"record {record.seq} is no beginning of a file: the lines before it are gone"
            return Finding(file, number, "missing", text)
        kind, text = self._compare(file, record)
        return Finding(file, number, kind, text) if kind else None

    def _compare(self, file: str, record: Record) -> tuple[str, str]:
        """Compare a record with the one before it, and with the expected one; tell kind and text of what is wrong."""
        before = self.last
        if before is None:
            if record.seq != 1:
                self.notes.append(f"{file} begins with record {record.seq}; those before it are not looked at")
            elif record.prev != GENESIS:
                return "changed", "the first record names one before it"
        elif record.seq > before.seq + 1:
            one, last = before.seq + 1, record.seq - 1
            gone = f"record {one} is" if one == last else f"records {one} to {last} are"
            return "missing", f"{gone} missing before this line"
        elif record.seq <= before.seq:
            return "changed", f"record {record.seq} stands behind record {before.seq}"
        elif record.prev != before.hash:
            return "changed", f"record {before.seq}, before this line, is not the one that was written there"
        if self._expected is not None and record.seq == self._expected[0] and record.hash != self._expected[1]:
            return "changed", f"record {record.seq} is not the one with the expected hash"
        return "", ""
