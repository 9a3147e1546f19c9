"""What certificates say of themselves, read with the standard library: whose they are, and until when they are valid.

For warnings and messages, not for trust: nothing is verified here. The agent has no other means: the cryptography
library is too large for it, and Python's ssl tells only about certificates of authorities and of peers.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from calendar import timegm
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Certificate", "day", "read_certificates", "read_file"]

_MOST = 1 << 20
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _TIME, _BMP_STRING, _VERSION = 0x17, 0x18, 0x1E, 0xA0
_COMMON_NAME = bytes.fromhex("550403")


@dataclass(frozen=True, slots=True)
class Certificate:
    """``name``: the last CN of the subject, "" if it has none. ``starts``, ``ends``: seconds since 1970."""

    name: str
    starts: float
    ends: float


def read_file(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Read a file that may be anything: a FIFO, for one, must not hold up the reader.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or larger than 1 MiB.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"is {'a directory' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST + 1)
    finally:
        os.close(descriptor)
    if len(content) > _MOST:
        raise ValueError(f"is larger than {_MOST} bytes")
    return content, status


def read_certificates(pem: bytes) -> list[Certificate]:
    """Read all certificates of a PEM text, in their order.

    Raises:
        ValueError: one is damaged.
    """
    found = []
    for match in _PEM.finditer(pem):
        try:
            found.append(_certificate(base64.b64decode(b"".join(match[1].split()), validate=True)))
        except (binascii.Error, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"certificate {len(found) + 1} is damaged: {error}") from error
    return found


def day(seconds: float) -> str:
    """Write a time as the day that it is in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _certificate(der: bytes) -> Certificate:
    """Read what stands before the key: version, serial number, algorithm, issuer, validity, subject."""
    ((_, content),) = _values(der)
    fields = _values(_values(content)[0][1])
    if fields[0][0] == _VERSION:
        del fields[0]
    (starts, ends), subject = _values(fields[3][1]), fields[4][1]
    name = ""
    for _, several in _values(subject):
        for _, pair in _values(several):
            (_, oid), (kind, text) = _values(pair)
            if oid == _COMMON_NAME:
                name = text.decode("utf-16-be" if kind == _BMP_STRING else "utf-8", "replace")
    return Certificate(name, _time(*starts), _time(*ends))


def _values(data: bytes) -> list[tuple[int, bytes]]:
    """Return the tags and the contents of values in DER, one after the other."""
    found, position = [], 0
    while position < len(data):
        tag, size, start = data[position], data[position + 1], position + 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[position + 2 : start])
        position = start + size
        if position > len(data):
            raise ValueError("it is cut short")
        found.append((tag, data[start:position]))
    return found


def _time(tag: int, content: bytes) -> float:
    """Read a time: a year of two digits is one of 1950 to 2049."""
    if tag not in (_UTC_TIME, _TIME):
        raise ValueError("a time is not one")
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    # Not datetime's timestamp: years up to 9999 are allowed, and 99991231235959Z means "never".
    moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    return float(timegm(moment.timetuple()))
