"""Messages as AMQP 1.0 encodes them: written at once, read piece by piece.

Both are by hand: that took a tenth of the time of proton's own class, and a body that is too large is never in memory.
"""

from __future__ import annotations

from math import inf
from struct import Struct

from gofer.messaging.body import Body

__all__ = ["Incoming", "encode"]

# A time to live is an unsigned number of milliseconds in 32 bits: 49 days at most.
_LONGEST = 4_294_967_295

_DURABLE, _TRANSIENT = b"\x00\x53\x70\xc0\x02\x01\x41", b""
_TIMED = (b"\x00\x53\x70\xc0\x08\x03\x42\x40\x70", b"\x00\x53\x70\xc0\x08\x03\x41\x40\x70")
_length = Struct(">BI").pack
_HEADER, _DATA, _VALUE = 0x70, 0x75, 0x77
_LONGEST_HEADER = 1024
_BYTES = (0xA0, 0xA1, 0xB0, 0xB1)
# How many bytes a value has, by the upper half of its constructor. All others begin with their size.
_WIDTHS = {4: 0, 5: 1, 6: 2, 7: 4, 8: 8, 9: 16}
_CONSTANTS = {0x41: 1, 0x42: 0, 0x43: 0, 0x44: 0}


def encode(body: bytes, to: str | None, ttl: float | None, durable: bool) -> bytes:
    """Encode a message. A time to live over 49 days is more than the protocol takes: such a message is kept.

    Args:
        to: where it goes, if its link does not say so.
        ttl: seconds.
    """
    if ttl is not None and ttl * 1000 <= _LONGEST:
        head = _TIMED[durable] + round(max(1, ttl * 1000)).to_bytes(4)
    else:
        head = _DURABLE if durable else _TRANSIENT
    if to is not None:
        address = to.encode()
        fields = b"\x40\x40" + _length(0xB1, len(address)) + address
        head += b"\x00\x53\x73\xd0" + (len(fields) + 4).to_bytes(4) + b"\x00\x00\x00\x03" + fields
    size = bytes((0xA0, len(body))) if len(body) < 256 else _length(0xB0, len(body))
    return b"".join((head, b"\x00\x53\x75", size, body))


class Incoming:
    """A message that is being received. Of a body over the limit only the ends are kept.

    ``ttl``: seconds, as its sender set it. ``first``: nobody has had it, as its header says. ``count``: how often it
    was given back.
    """

    def __init__(self, limit: int | None) -> None:
        self.ttl: float | None = None
        self.first, self.count, self.body = False, 0, Body(limit)
        self._rest = b""  # the beginning of a section, of the last piece
        self._left, self._keep = 0.0, False  # missing bytes of the section that is being read; it is the body, or not

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        data, offset, self._rest = self._rest + piece, 0, b""
        while offset < len(data):
            if self._left:
                end = int(min(len(data), offset + self._left))
                if self._keep:
                    self.body.add(data[offset:end])
                self._left, offset = self._left - (end - offset), end
            else:
                try:
                    offset = self._begin(data, offset)
                except IndexError:  # not all of its beginning has come
                    self._rest = data[offset:]
                    return

    def _begin(self, data: bytes, offset: int) -> int:
        """Begin a section, and return where to go on."""
        wide = data[offset + 1] == 0x80
        kind, at = (data[offset + 9], offset + 10) if wide else (data[offset + 2], offset + 3)
        constructor = data[at]
        if data[offset] or not (wide or data[offset + 1] == 0x53) or constructor < 0x40:
            self._left, self._keep = inf, True  # it cannot be read any more: what comes is the body as it is
            return offset
        start, width = at + 1, _WIDTHS.get(constructor >> 4)
        if width is None:
            start += 4 if constructor & 0x10 else 1
            data[start - 1]
            width = int.from_bytes(data[at + 1 : start])
        if kind == _HEADER and width <= _LONGEST_HEADER:
            data[start + width - 1]
            self._read_header(data[start : start + width], constructor)
            return start + width
        self._left, self._keep = width, kind == _DATA or (kind == _VALUE and constructor in _BYTES)
        return start

    def _read_header(self, data: bytes, constructor: int) -> None:
        """Read a header: durable, priority, ttl in milliseconds, first acquirer, delivery count."""
        values: list[int | None] = []
        offset = 0 if constructor == 0x45 else 4 if constructor & 0x10 else 1
        while offset < len(data) and len(values) < 5:
            width = _WIDTHS.get(data[offset] >> 4, 0)
            raw = data[offset + 1 : offset + 1 + width]
            values.append(int.from_bytes(raw) if width else _CONSTANTS.get(data[offset]))
            offset += 1 + width
        _, _, ttl, first, count = [*values, *[None] * 5][:5]
        self.ttl = None if ttl is None else ttl / 1000
        self.first, self.count = bool(first), count or 0
