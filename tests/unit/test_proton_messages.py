"""Messages of AMQP 1.0 as the proton adapter encodes and reads them, beside proton's own class."""

from __future__ import annotations

import random

import proton
import pytest
from gofer.messaging.adapter import HEAD, TAIL
from gofer_adapter_proton.messages import Incoming, encode
from hypothesis import given
from hypothesis import strategies as st

_BODIES = st.binary(max_size=600)


def read(data: bytes, limit: int | None = None, piece: int = 1 << 20) -> Incoming:
    """Read a message in pieces of a size."""
    incoming = Incoming(limit)
    for start in range(0, len(data), piece):
        incoming.feed(data[start : start + piece])
    return incoming


def _told(found: Incoming) -> tuple[object, ...]:
    return bytes(found.body), found.ttl, found.first, found.count


@given(
    _BODIES,
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300),
    st.none() | st.floats(0.001, 1e6),
    st.booleans(),
)
def test_proton_reads_what_is_encoded(body: bytes, to: str | None, ttl: float | None, durable: bool) -> None:
    message = proton.Message()
    message.decode(encode(body, to, ttl, durable))
    assert bytes(message.body) == body
    assert message.address == to
    assert message.durable is durable
    assert message.ttl == pytest.approx(ttl or 0.0, abs=0.001)


def test_a_time_to_live_that_is_too_long_is_none() -> None:
    message = proton.Message()
    message.decode(encode(b"x", None, 5e6, durable=True))
    assert (message.ttl, message.durable) == (0.0, True)


@given(_BODIES, st.integers(1, 40), st.none() | st.integers(1, 10**6), st.booleans(), st.integers(0, 300))
def test_what_proton_encodes_is_read_in_any_pieces(
    body: bytes, piece: int, milliseconds: int | None, first: bool, count: int
) -> None:
    message = proton.Message(
        body=body, inferred=True, id="id", reply_to="r", properties={"key": ["value", 3, {"deep": None}]}
    )
    message.instructions, message.annotations = {"x-a": 1}, {"x-b": "text" * 80}
    message.first_acquirer, message.delivery_count = first, count
    if milliseconds is not None:
        message.ttl = milliseconds / 1000
    found = read(message.encode(), piece=piece)
    assert (bytes(found.body), found.body.size, found.first, found.count) == (body, len(body), first, count)
    assert found.ttl == (None if milliseconds is None else message.ttl)  # proton may round it down


@pytest.mark.parametrize("value", ["grüße", b"bytes", "x" * 1000])
def test_a_body_that_is_one_value_is_read_as_its_bytes(value: str | bytes) -> None:
    found = read(proton.Message(body=value).encode())
    assert bytes(found.body) == (value.encode() if isinstance(value, str) else value)


def test_several_data_sections_are_one_body() -> None:
    data = b"".join(b"\x00\x53\x75\xa0" + bytes((len(part),)) + part for part in (b"one ", b"", b"two"))
    assert bytes(read(b"\x00\x80" + (0x70).to_bytes(8) + b"\x45" + data, piece=1).body) == b"one two"


@pytest.mark.parametrize("size", [0, 10, HEAD, HEAD + TAIL, HEAD + TAIL + 1, 300_000])
@pytest.mark.parametrize("sections", [1, 7])
@pytest.mark.parametrize("piece", [997, 65_536, 1 << 20])
def test_of_a_body_over_the_limit_only_the_ends_are_kept(size: int, sections: int, piece: int) -> None:
    body, step = random.Random(1).randbytes(size), size // sections + 1
    data = b"".join(
        b"\x00\x53\x75\xb0" + len(part).to_bytes(4) + part
        for part in (body[start : start + step] for start in range(0, size, step))
    )
    found = read(data, limit=100, piece=piece)
    assert found.body.size == size
    assert bytes(found.body) == (body if size <= HEAD + TAIL else body[:HEAD] + body[-TAIL:])


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_are_read_without_an_error_and_in_any_pieces_alike(data: bytes, piece: int) -> None:
    whole, again = read(data), read(data, piece=piece)
    assert _told(whole) == _told(again)
