"""Frames of the local broker's protocol: cut anywhere they are the same, and nothing else passes for one."""

from __future__ import annotations

import msgspec
import pytest
from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.adapter import Closed, Confirmed, Delivery, Done, Opened, Outcome, SubscriptionLost
from gofer.messaging.local import wire
from hypothesis import given
from hypothesis import strategies as st

FRAMES: list[wire.Frame] = [
    Opened(),
    Delivery(1, b"\x00\xff" * 40, True, None, 2, 80),
    Delivery(1, b"", False, 0.25, 3, 0),
    Confirmed(7, Outcome.CONFIRMED),
    Confirmed(8, Outcome.RETURNED, "there is no queue 'Straße'"),
    Done(3, "a sentence"),
    Done(4),
    Done(5, None, NotFound("missing")),
    SubscriptionLost(1, "deleted"),
    wire.Heartbeat(),
    Closed(AdapterError("enough")),
    Closed(ConnectionLost("for now")),
    Closed(None),
]


def encoded(frames: list[wire.Frame]) -> bytes:
    out = bytearray()
    for frame in frames:
        wire.write(out, frame)
    return bytes(out)


def shown(frames: list[wire.Frame]) -> list[str]:
    """Return frames as text: errors, and deliveries, are not equal to others like them."""
    return [repr(frame) for frame in frames]


def framed(text: bytes) -> bytes:
    return len(text).to_bytes(4) + text


@given(st.lists(st.sampled_from(FRAMES), max_size=20), st.data())
def test_frames_are_the_same_wherever_they_are_cut(frames: list[wire.Frame], data: st.DataObject) -> None:
    text = encoded(frames)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=30).map(sorted))
    reader = wire.Reader()
    came: list[wire.Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        came += reader.feed(text[start:end])
    assert shown(came) == shown(frames)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_frames_are_malformed_or_wait_for_more(text: bytes) -> None:
    for start in (text, framed(text), framed(b"\x81\xa4type\xa9Heartbeat" + text)):
        assert all(isinstance(frame, msgspec.Struct) for frame in wire.Reader().feed(start))


def test_frames_before_the_first_wrong_one_are_given() -> None:
    came = wire.Reader().feed(encoded(FRAMES[:3]) + framed(b"\xc1\xc1") + encoded(FRAMES[:3]))
    assert shown(came[:3]) == shown(FRAMES[:3])
    (last,) = came[3:]
    assert isinstance(last, wire.BadFrame)
    assert "cannot be read" in last.reason


def malformed(text: bytes) -> str:
    """Return what a reader says of something that is no frame."""
    (only,) = wire.Reader().feed(text)
    assert isinstance(only, wire.BadFrame)
    return only.reason


def test_a_length_over_the_limit_is_refused_before_anything_is_kept() -> None:
    assert "33554433 bytes are over 33554432" in malformed((33554433).to_bytes(4))


def test_deep_nesting_is_malformed() -> None:
    assert malformed(framed(b"\x91" * 100_000))


@pytest.mark.parametrize(
    "frame",
    [wire.Publish(1, "", "\ud800", b"x"), wire.Publish(1, "", "key", object())],  # type: ignore[arg-type]  # on purpose
    ids=["lone surrogate", "no bytes"],
)
def test_what_cannot_be_sent_leaves_the_buffer_as_it_was(frame: wire.Publish) -> None:
    out = bytearray(b"before")
    with pytest.raises((ValueError, TypeError)):
        wire.write(out, frame)
    assert out == b"before"


def test_the_largest_body_fits_a_frame_in_both_directions() -> None:
    body = bytes(wire.MAX_BODY)
    name = "\N{SNOWMAN}" * 85  # 255 bytes
    largest = 2**63 - 1
    frames: list[wire.Frame] = [
        wire.Publish(largest, name, name, body, 1e300),
        Delivery(largest, body, True, 1e300, largest, len(body)),
    ]
    for frame in frames:
        out = bytearray()
        wire.write(out, frame)
        assert not isinstance(wire.Reader().feed(out)[0], wire.BadFrame)


def test_a_later_version_may_add_fields() -> None:
    text = msgspec.msgpack.encode({"type": "Hello", "version": 4, "heartbeat": 5.0, "more": "more"})
    assert wire.Reader().feed(framed(text)) == [wire.Hello(4, 5.0)]
