"""Frames of AMQP 0-10: byte for byte, in pieces of any size, and what a peer may not send."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import repeat

import pytest
from gofer_adapter_qpid.amqp_0_10 import Ends, ProtocolError
from gofer_adapter_qpid.amqp_0_10.frames import (
    BODY,
    COMMAND,
    CONTROL,
    HEADER,
    PROTOCOL_HEADER,
    WHOLE,
    Assembler,
    Body,
    FrameReader,
    assembly_frames,
    frame,
)
from hypothesis import given
from hypothesis import strategies as some

Frame = tuple[int, int, int, bytes]
ALL = Ends(None, 0, 0)


def read_pieces(data: bytes, piece: int) -> list[Frame]:
    reader = FrameReader()
    return [frame for start in range(0, len(data), piece) for frame in reader.read(data[start : start + piece])]


def read(data: bytes, piece: int = 1 << 20) -> list[Frame]:
    return read_pieces(PROTOCOL_HEADER + data, piece)


def add(assembler: Assembler, frames: Iterable[tuple[int, int]], payload: bytes) -> None:
    for flags, kind in frames:
        assembler.add(flags, kind, payload)


def test_a_heartbeat_has_these_bytes() -> None:
    # Flags: first and last segment, first and last frame. Type: control. Size. Reserved. Track 0. Channel 0. Reserved.
    assert frame(WHOLE, CONTROL, 0, b"\x01\x0a\x00\x00") == bytes.fromhex("0f 00 0010 00 00 0000 00000000 010a0000")


def test_a_message_is_three_segments_on_track_1() -> None:
    data = b"".join(assembly_frames(5, 65535, [(COMMAND, b"c"), (HEADER, b"hh"), (BODY, b"body")]))
    assert data == bytes.fromhex(
        "0b 01 000d 00 01 0005 00000000 63"  # the first segment, whole
        "03 02 000e 00 01 0005 00000000 6868"  # a segment in the middle, whole
        "07 03 0010 00 01 0005 00000000 626f6479"  # the last segment, whole
    )


def test_a_segment_longer_than_a_frame_is_cut() -> None:
    frames = read(b"".join(assembly_frames(1, 4096, [(COMMAND, b"c"), (BODY, b"x" * 10_000)])))
    assert [(flags, len(payload)) for flags, _, _, payload in frames] == [(11, 1), (6, 4084), (4, 4084), (5, 1832)]


@given(some.lists(some.binary(max_size=9000), min_size=1, max_size=3), some.integers(1, 5000))
def test_an_assembly_comes_back_in_pieces_of_any_size(contents: list[bytes], piece: int) -> None:
    segments = list(zip((COMMAND, HEADER, BODY), contents, strict=False))
    assembler = Assembler(ALL)
    whole = [
        assembler.add(flags, kind, payload)
        for flags, kind, _, payload in read(b"".join(assembly_frames(9, 4096, segments)), piece)
    ]
    assert whole == [False] * (len(whole) - 1) + [True]
    found = [assembler.method, assembler.header, b"" if assembler.body is None else assembler.body.finish()[0]]
    assert found == contents + [b""] * (3 - len(contents))


@given(
    some.lists(some.integers(0, 3000), max_size=40),
    some.integers(0, 20_000),
    some.integers(1, 900),
    some.integers(1, 90),
)
def test_of_a_body_over_the_limit_only_the_ends_are_kept(parts: list[int], limit: int, head: int, tail: int) -> None:
    content = bytes(n * 7 % 251 for n in range(sum(parts)))
    body, start = Body(Ends(limit, head, tail)), 0
    for size in parts:
        body.add(content[start : start + size])
        start += size
    over = len(content) > max(limit, head + tail)
    kept = content[:head] + content[-tail:] if over else content
    assert body.finish() == (kept, len(content) - len(kept))


def test_a_body_over_the_limit_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        body = Body(Ends(100_000, 65_536, 4_096))
        for _ in range(1000):
            body.add(bytes(65_523))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert body.finish()[1] == 1000 * 65_523 - 65_536 - 4_096


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"HTTP/1.1 400 Bad Request", "not AMQP"),
        (b"AMQP\x00\x00\x09\x01", "it speaks AMQP"),
        (b"A" * 8, "not AMQP"),
    ],
)
def test_another_protocol_is_named(data: bytes, says: str) -> None:
    for size in range(1, len(data) + 1):
        with pytest.raises(ProtocolError, match=says):
            read_pieces(data, size)


@pytest.mark.parametrize(
    "head",
    [
        "1f 00 0010 00 00 0000 00000000",  # a flag that there is not
        "0f 04 0010 00 01 0000 00000000",  # a type that there is not
        "0f 00 000b 00 00 0000 00000000",  # smaller than its own head
        "0f 00 ffff 00 00 0000 00000000",  # larger than was agreed
        "0f 00 0010 00 01 0000 00000000",  # a control on the track of commands
        "0f 01 0010 00 00 0000 00000000",  # a command on the track of controls
    ],
)
def test_what_is_no_frame_is_refused(head: str) -> None:
    reader = FrameReader()
    reader.read(PROTOCOL_HEADER)
    reader.max_size = 8192
    with pytest.raises(ProtocolError, match="not a frame"):
        reader.read(bytes.fromhex(head) + bytes(4))


@pytest.mark.parametrize(
    "frames",
    [
        [(5, COMMAND)],  # it begins in the middle of a segment
        [(3, HEADER)],  # it begins with a header
        [(11, COMMAND), (11, COMMAND)],  # a second command before the first one's end
        [(10, COMMAND), (11, COMMAND)],  # a segment begins inside another
        [(10, COMMAND), (1, HEADER)],  # a segment goes on as another one
        [(11, COMMAND), (3, BODY), (7, HEADER)],  # the body before the header
        [(11, COMMAND), (3, HEADER), (7, HEADER)],  # two headers
    ],
)
def test_frames_out_of_order_are_refused(frames: list[tuple[int, int]]) -> None:
    assembler = Assembler(ALL)
    with pytest.raises(ProtocolError, match="where none can come"):
        add(assembler, frames, b"x")


@pytest.mark.parametrize("payload", [b"", b"x" * 65_523])
def test_a_command_without_end_takes_no_memory(payload: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer_adapter_qpid.amqp_0_10.frames._LONGEST_SEGMENT", 1 << 17)  # or it takes a second
    assembler = Assembler(ALL)
    assembler.add(10, COMMAND, payload)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than 131072 bytes"):
            add(assembler, repeat((8, COMMAND), 200_000), payload)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
