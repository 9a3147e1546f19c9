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
_SEQUENCE, _SET, _OID, _UTC_TIME, _TIME, _VERSION = 0x30, 0x31, 0x06, 0x17, 0x18, 0xA0
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
    tag, content, _ = _value(der, 0)
    _expect(tag, _SEQUENCE)
    tag, tbs, _ = _value(content, 0)
    _expect(tag, _SEQUENCE)
    position = 0
    if tbs[0] == _VERSION:
        _, _, position = _value(tbs, position)
    for _ in range(3):  # serial number, algorithm, issuer
        _, _, position = _value(tbs, position)
    tag, validity, position = _value(tbs, position)
    _expect(tag, _SEQUENCE)
    _, subject, _ = _value(tbs, position)
    kind, starts, middle = _value(validity, 0)
    other, ends, _ = _value(validity, middle)
    return Certificate(_common_name(subject), _time(kind, starts), _time(other, ends))


def _value(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Return a value's tag, its content, and where the next one begins."""
    tag, size = data[position], data[position + 1]
    start = position + 2
    if size & 0x80:
        count = size & 0x7F
        if not 0 < count <= 4:
            raise ValueError("a length is not DER")
        size = int.from_bytes(data[start : start + count])
        start += count
    if start + size > len(data):
        raise ValueError("it is cut short")
    return tag, data[start : start + size], start + size


def _expect(tag: int, wanted: int) -> None:
    if tag != wanted:
        raise ValueError(f"has the tag {tag:#x} where a certificate has {wanted:#x}")


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


def _common_name(subject: bytes) -> str:
    name, position = "", 0
    while position < len(subject):
        _, several, position = _value(subject, position)
        inner = 0
        while inner < len(several):
            _, pair, inner = _value(several, inner)
            tag, oid, after = _value(pair, 0)
            if tag == _OID and oid == _COMMON_NAME:
                kind, text, _ = _value(pair, after)
                name = text.decode("utf-16-be" if kind == 0x1E else "utf-8", "replace")
    return name
