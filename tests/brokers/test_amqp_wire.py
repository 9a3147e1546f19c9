"""The frames that the amqp adapter makes and reads by itself are those that py-amqp reads and makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_handler
from amqp.serialization import dumps, loads
from gofer.messaging.adapter import Outgoing
from gofer.messaging.address import Address
from gofer_adapter_amqp import wire
from hypothesis import given
from hypothesis import strategies as st

FRAME_MAX = 4096

names = st.text(max_size=60)
short = st.text(max_size=60)


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """Cut the data into frames: kind, channel, payload."""
    cut, offset = [], 0
    while offset < len(data):
        kind, channel, size = wire.frame_head(data, offset)
        assert data[offset + 7 + size] == 0xCE
        assert size + 8 <= FRAME_MAX
        cut.append((kind, channel, data[offset + 7 : offset + 7 + size]))
        offset += 8 + size
    return cut


@given(
    exchange=names,
    key=names,
    token=st.integers(0, 2**63),
    ttl=st.none() | st.integers(1, 2**32 - 1),
    durable=st.booleans(),
    body=st.binary(max_size=100) | st.sampled_from([4087, 4088, 4089, 8176, 8177, 50_000]).map(bytes),
)
def test_a_published_message_is_what_py_amqp_would_send(  # noqa: PLR0917 - hypothesis names them
    exchange: str, key: str, token: int, ttl: int | None, durable: bool, body: bytes
) -> None:
    # What py-amqp reads are messages that come back; a published one differs by its method alone.
    method, *content = frames(
        wire.publish_frames(7, FRAME_MAX, Outgoing(token, Address(exchange, key), body, durable=durable), (ttl, None))
    )
    arguments, _ = loads("Bssbb", method[2], 4)
    assert (method[:2], method[2][:4]) == ((1, 7), bytes((0, 60, 0, 40)))
    assert arguments == [0, exchange, key, True, False]
    came: list[Any] = []
    take = frame_handler(SimpleNamespace(bytes_recv=0), lambda *found: came.append(found[3]))
    for frame in [(1, 7, bytes((0, 60, 0, 50)) + dumps("Bsss", (312, "NO_ROUTE", "", ""))), *content]:
        take(frame)
    (message,) = came
    expected = {"content_encoding": "utf-8", "delivery_mode": 2 if durable else 1, "message_id": str(token)}
    if ttl is not None:
        expected["expiration"] = str(ttl)
    assert message.properties == expected
    assert (message.body or b"") == body


@given(
    properties=st.fixed_dictionaries(
        {},
        optional={
            "content_type": short,
            "content_encoding": short,
            "application_headers": st.dictionaries(short, short | st.integers(-(2**31) + 1, 2**31 - 1), max_size=3),
            "delivery_mode": st.integers(1, 2),
            "priority": st.integers(0, 9),
            "correlation_id": short,
            "reply_to": short,
            "expiration": st.integers(0, 2**32).map(str) | short,
            "message_id": short,
            "timestamp": st.integers(0, 2**32),
            "type": short,
            "app_id": short,
        },
    )
)
def test_properties_are_found_among_all_others(properties: dict[str, Any]) -> None:
    header = b"\x00\x3c\x00\x00" + (5).to_bytes(8) + amqp.Message(b"", **properties)._serialize_properties()
    wanted = properties.get("expiration", "")
    plain = wanted.isascii() and wanted.isdigit()
    assert wire.expiration(header) == (int(wanted) / 1000 if plain else None)
    assert wire.message_id(header) == properties.get("message_id", "").encode()
    assert wire.body_size(header) == 5


@given(rubbish=st.binary(max_size=300))
def test_properties_that_are_rubbish_are_none(rubbish: bytes) -> None:
    header = b"\x00\x3c\x00\x00" + (5).to_bytes(8) + rubbish.ljust(2, b"\0")
    assert isinstance(wire.expiration(header), float | None)
    assert isinstance(wire.message_id(header), bytes)


@given(tag=st.integers(1, 2**64 - 1), consumer=short, redelivered=st.booleans())
def test_a_delivery_is_read(tag: int, consumer: str, redelivered: bool) -> None:
    method = bytes((0, 60, 0, 60)) + dumps("sLbss", (consumer, tag, redelivered, "exchange", "key"))
    assert wire.signature(method) == spec.Basic.Deliver
    assert wire.tag_and_flag(method) == (tag, redelivered)


@given(number=st.sampled_from([80, 120]), tag=st.integers(0, 2**64 - 1), multiple=st.booleans())
def test_a_confirm_is_read(number: int, tag: int, multiple: bool) -> None:
    assert wire.tag_and_flag(bytes((0, 60, 0, number)) + dumps("Lb", (tag, multiple))) == (tag, multiple)


def test_a_return_is_read() -> None:
    assert wire.reply(bytes((0, 60, 0, 50)) + dumps("Bsss", (312, "NO_ROUTE", "", "key"))) == (312, "NO_ROUTE")


@pytest.mark.parametrize(("method", "number"), [("ack", 80), ("reject", 90)])
def test_a_settlement_is_what_py_amqp_would_send(method: str, number: int) -> None:
    ((kind, channel, payload),) = frames(wire.settle_frame(3, (60, number), 2**40, 1))
    assert (kind, channel) == (1, 3)
    assert payload == bytes((0, 60, 0, number)) + dumps("Lb", (2**40, True)), method


@given(family=st.integers(0, 2**16 - 1), number=st.integers(0, 2**16 - 1), text=short, flag=st.booleans())
def test_any_other_method_is_made_of_py_amqps_arguments(family: int, number: int, text: str, flag: bool) -> None:
    ((kind, channel, payload),) = frames(wire.method_frame(9, (family, number), "sb", text, flag))
    assert (kind, channel, wire.signature(payload)) == (1, 9, (family, number))
    assert loads("sb", payload, 4)[0] == [text, flag]
