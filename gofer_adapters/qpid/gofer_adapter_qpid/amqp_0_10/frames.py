"""Frames, segments and assemblies (chapter "Transport", sections "Assemblies, segments and frames" and "Frame format").

A control or a command is an assembly: a segment for itself and, with message.transfer, one for the header and one for
the body. A segment is cut into frames where it is longer than a frame may be.
"""

from __future__ import annotations

from struct import Struct

from gofer_adapter_qpid.amqp_0_10.errors import ProtocolError

__all__ = [
    "BODY",
    "COMMAND",
    "CONTROL",
    "HEADER",
    "MIN_MAX_FRAME_SIZE",
    "PROTOCOL_HEADER",
    "WHOLE",
    "Assembler",
    "Body",
]
__all__ += ["FrameReader", "Ends", "assembly_frames", "frame"]

PROTOCOL_HEADER = b"AMQP\x01\x01\x00\x0a"
#: The types of segments.
CONTROL, COMMAND, HEADER, BODY = range(4)
MIN_MAX_FRAME_SIZE = 4096
#: Flags of a frame. One with all of them is an assembly of its own.
_FIRST_SEGMENT, _LAST_SEGMENT, _FIRST_FRAME, _LAST_FRAME = 8, 4, 2, 1
WHOLE = 15

_HEAD = 12
#: More bytes than this are no control, command or header.
_LONGEST_SEGMENT = 1 << 20
# Flags, segment type, size with this header, reserved, track, channel, reserved.
_pack_head = Struct(">BBHxBH4x").pack
_unpack_head = Struct(">BBHBBHI").unpack_from


def frame(flags: int, kind: int, channel: int, payload: bytes) -> bytes:
    """Encode a frame. Controls go on track 0, the rest on track 1."""
    return _pack_head(flags, kind, _HEAD + len(payload), kind != CONTROL, channel) + payload


def assembly_frames(channel: int, max_size: int, segments: list[tuple[int, bytes]]) -> list[bytes]:
    """Encode an assembly as frames of at most ``max_size`` bytes; what is returned is to be joined.

    Args:
        segments: types and contents, in order.
    """
    room, found, last = max_size - _HEAD, [], len(segments) - 1
    for number, (kind, content) in enumerate(segments):
        of_segment = (0 if number else _FIRST_SEGMENT) | (_LAST_SEGMENT if number == last else 0)
        size, start = len(content), 0
        while True:
            part = content if not start and size <= room else content[start : start + room]
            end = start + len(part)
            flags = of_segment | (0 if start else _FIRST_FRAME) | (_LAST_FRAME if end == size else 0)
            found.append(_pack_head(flags, kind, _HEAD + len(part), kind != CONTROL, channel))
            found.append(part)
            if end == size:
                break
            start = end
    return found


class FrameReader:
    """Cuts bytes into frames. ``max_size``: the largest frame that was agreed."""

    def __init__(self) -> None:
        self.max_size = 65_535
        self._rest = b""
        self._greeted = False

    def read(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        """Take bytes; return the frames that are whole: flags, segment type, channel, payload.

        Raises:
            ProtocolError: these are no frames of AMQP 0-10.
        """
        if self._rest:
            data = self._rest + data
        offset, length, found = 0, len(data), []
        if not self._greeted:
            start = data[: len(PROTOCOL_HEADER)]
            if start != PROTOCOL_HEADER[: len(start)]:
                version = "-".join(map(str, start[5:8]))
                what = f"it speaks AMQP {version}" if start[:4] == b"AMQP" else f"not AMQP: {data[:40]!r}"
                raise ProtocolError(what)
            self._greeted = length >= len(PROTOCOL_HEADER)
            offset = len(PROTOCOL_HEADER) if self._greeted else 0
        while self._greeted and length - offset >= _HEAD:
            flags, kind, size, _, track, channel, _ = _unpack_head(data, offset)
            if flags > WHOLE or kind > BODY or not _HEAD <= size <= self.max_size or (track & 15) != (kind != CONTROL):
                raise ProtocolError(f"not a frame: {data[offset : offset + 40]!r}")
            if length - offset < size:
                break
            found.append((flags, kind, channel, data[offset + _HEAD : offset + size]))
            offset += size
        self._rest = data[offset:]
        return found


class Ends:
    """What is kept of a body: all up to ``limit`` bytes (None: no limit); of a longer one only its ends.

    ``head`` and ``tail``: so many bytes of its beginning and its end.
    """

    __slots__ = ("head", "limit", "tail")

    def __init__(self, limit: int | None, head: int, tail: int) -> None:
        self.limit, self.head, self.tail = limit, head, tail


class Body:
    """A body that comes in frames."""

    __slots__ = ("_cut", "_ends", "_parts", "_tail", "size")

    def __init__(self, ends: Ends) -> None:
        self._ends, self._tail, self._cut, self.size = ends, b"", False, 0
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Take the next part; drop the middle when the body is over the limit."""
        ends = self._ends
        self.size += len(part)
        if self._cut:
            self._tail = (self._tail + part)[-ends.tail :]
        elif part:
            self._parts.append(part)
            if ends.limit is not None and self.size > max(ends.limit, ends.head + ends.tail):
                whole = b"".join(self._parts)
                self._parts, self._tail, self._cut = [whole[: ends.head]], whole[-ends.tail :], True

    def finish(self) -> tuple[bytes, int]:
        """Return what is kept, and how many bytes are left out of its middle."""
        parts = self._parts
        kept = parts[0] if len(parts) == 1 and not self._cut else b"".join((*parts, self._tail))
        return kept, self.size - len(kept)


class Assembler:
    """Puts the frames of one channel's track together to an assembly.

    ``method`` and ``header`` are its first two segments, ``body`` is the third; ``whole`` says that all have come.
    """

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._parts: list[bytes] = []
        self._size = 0
        self._kind = -1  # of the segment whose frames are coming; -1: none
        self._reset()

    def _reset(self) -> None:
        self.method = self.header = b""
        self.body: Body | None = None
        self.whole, self._last_kind = True, -1

    def add(self, flags: int, kind: int, payload: bytes) -> bool:
        """Take a frame; return whether the assembly is whole.

        Raises:
            ProtocolError: the frame does not follow the one before it.
        """
        if self.whole:
            self._reset()
            self.whole = False
        first = bool(flags & _FIRST_FRAME)
        fits = kind == self._kind
        if first:
            fits = kind <= COMMAND if self._last_kind < 0 else kind > max(self._last_kind, COMMAND)
        if first == (self._kind >= 0) or not fits or bool(flags & _FIRST_SEGMENT) != (kind <= COMMAND):
            raise ProtocolError(f"a frame with the flags {flags:#x} of a segment {kind} where none can come")
        if kind == BODY:
            if self.body is None:
                self.body = Body(self._ends)
            self.body.add(payload)
        else:
            self._parts.append(payload)
            self._size += len(payload) + 1  # empty frames take memory, too
        self._kind = kind
        if flags & _LAST_FRAME:
            self._end_segment(kind)
            self.whole = bool(flags & _LAST_SEGMENT)
        elif self._size > _LONGEST_SEGMENT:
            raise ProtocolError(f"a control, command or header of more than {_LONGEST_SEGMENT} bytes")
        return self.whole

    def _end_segment(self, kind: int) -> None:
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._kind, self._last_kind, self._parts, self._size = -1, kind, [], 0
        if kind == HEADER:
            self.header = content
        elif kind != BODY:
            self.method = content
