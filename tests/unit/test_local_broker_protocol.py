"""Frames of the local broker's protocol: cut anywhere they are the same, and nothing else passes for one."""

from __future__ import annotations

import struct

import msgspec
import pytest
from gofer.messaging.adapter.base import Outcome
from gofer.messaging.broker import protocol
from hypothesis import given
from hypothesis import strategies as st

FRAMES: list[protocol.FromBroker] = [
    protocol.Welcome(1, "instance"),
    protocol.Deliver(1, 2, True, None, b"\x00\xff" * 40),
    protocol.Deliver(1, 3, False, 0.25, b""),
    protocol.Answer(7, Outcome.TAKEN),
    protocol.Answer(8, Outcome.RETURNED, "there is no queue 'Straße'"),
    protocol.Done(3, "a sentence"),
    protocol.Done(4, 5),
    protocol.Denied(5, True, "missing"),
    protocol.Lost(1, "deleted"),
    protocol.Beat(),
    protocol.Failure("enough"),
]


def encoded(frames: list[protocol.FromBroker]) -> bytes:
    out = bytearray()
    for frame in frames:
        protocol.put(out, frame)
    return bytes(out)


@given(st.lists(st.sampled_from(FRAMES), max_size=20), st.data())
def test_frames_are_the_same_wherever_they_are_cut(frames: list[protocol.FromBroker], data: st.DataObject) -> None:
    text = encoded(frames)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=30).map(sorted))
    reader = protocol.to_client()
    came: list[protocol.FromBroker] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        came += reader.feed(memoryview(text)[start:end])
    assert came == frames


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frames_are_a_protocol_error_or_wait_for_more(text: bytes) -> None:
    for reader in (protocol.to_client(), protocol.to_broker()):
        try:
            frames = list(reader.feed(memoryview(text)))
        except protocol.ProtocolError:
            continue  # any other exception fails the test
        assert all(isinstance(frame, msgspec.Struct) for frame in frames)


def test_frames_before_the_first_wrong_one_are_given() -> None:
    text = encoded(FRAMES[:3]) + struct.pack(">I", 2) + b"\xc1\xc1"
    came = protocol.to_client().feed(memoryview(text))
    assert [next(came) for _ in range(3)] == FRAMES[:3]
    with pytest.raises(protocol.ProtocolError, match="cannot be read"):
        next(came)


def test_a_length_over_the_limit_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(protocol.ProtocolError, match=r"33554433 bytes is over the limit of 33554432"):
        list(protocol.to_broker().feed(memoryview(struct.pack(">I", protocol.MAX_FRAME + 1))))


def test_deep_nesting_is_a_protocol_error() -> None:
    body = b"\x91" * 100_000
    with pytest.raises(protocol.ProtocolError):
        list(protocol.to_broker().feed(memoryview(struct.pack(">I", len(body)) + body)))


@pytest.mark.parametrize(
    "frame",
    [
        protocol.Send(1, "", "\ud800", None, b"x"),
        protocol.Send(1, "", "key", None, object()),  # type: ignore[arg-type]  # what cannot be encoded, on purpose
        protocol.Send(1, "", "key", None, bytes(protocol.MAX_FRAME)),
    ],
    ids=["lone surrogate", "no bytes", "too large"],
)
def test_what_cannot_be_sent_leaves_the_buffer_as_it_was(frame: protocol.Send) -> None:
    out = bytearray(b"before")
    with pytest.raises((ValueError, TypeError)):
        protocol.put(out, frame)
    assert out == b"before"


def test_the_largest_body_fits_a_frame_in_both_directions() -> None:
    body = bytes(protocol.MAX_BODY)
    name = "\N{SNOWMAN}" * 85  # 255 bytes
    protocol.put(bytearray(), protocol.Send(2**63 - 1, name, name, 1e300, body))
    protocol.put(bytearray(), protocol.Deliver(2**63 - 1, 2**63 - 1, True, 1e300, body))


def test_a_later_version_may_add_fields() -> None:
    text = msgspec.msgpack.encode([1, 1, 5.0, "more"])
    assert list(protocol.to_broker().feed(memoryview(struct.pack(">I", len(text)) + text))) == [protocol.Hello(1, 5.0)]
