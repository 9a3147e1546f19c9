"""AMQP 0-10 on the wire: bytes worked out from the specification by hand, and what any value becomes and was."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Any

import pytest
from gofer_adapter_qpid.amqp_0_10 import ProtocolError, encode_header, encode_transfer
from gofer_adapter_qpid.amqp_0_10.codec import (
    Reader,
    decode_method,
    decode_structs,
    encode_method,
    encode_struct,
    encode_value,
)
from gofer_adapter_qpid.amqp_0_10.messages import read_destination, read_header
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS, CONTROLS, STRUCTS, TYPES, Layout
from hypothesis import given
from hypothesis import strategies as some
from support.repository import TOP

SPEC = TOP / "gofer_adapters/qpid/spec"
TABLES = TOP / "gofer_adapters/qpid/gofer_adapter_qpid/amqp_0_10/tables.py"

U = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")

# A type, a value, and the value's bytes.
VALUES: list[tuple[str, Any, str]] = [
    ("int8", -2, "fe"),
    ("uint8", 254, "fe"),
    ("char", b"A", "41"),
    ("boolean", True, "01"),
    ("boolean", False, "00"),
    ("int16", -2, "fffe"),
    ("uint16", 258, "0102"),
    ("int32", -2, "fffffffe"),
    ("uint32", 16909060, "01020304"),
    ("sequence-no", 16909060, "01020304"),
    ("float", 1.5, "3fc00000"),
    ("char-utf32", "€", "000020ac"),
    ("int64", -2, "fffffffffffffffe"),
    ("uint64", 258, "0000000000000102"),
    ("double", -2.0, "c000000000000000"),
    ("datetime", 1, "0000000000000001"),
    ("bin8", b"\xfe", "fe"),
    ("bin16", b"\x01\x02", "0102"),
    ("bin128", bytes(range(16)), "000102030405060708090a0b0c0d0e0f"),
    ("uuid", U, "00112233445566778899aabbccddeeff"),
    ("dec32", b"\x02\x00\x00\x00\x07", "0200000007"),
    ("vbin8", b"ab", "02 6162"),
    ("str8-latin", "é", "01 e9"),
    ("str8", "é", "02 c3a9"),
    ("str8-utf16", "é", "02 00e9"),
    ("vbin16", b"ab", "0002 6162"),
    ("str16-latin", "é", "0001 e9"),
    ("str16", "é", "0002 c3a9"),
    ("str16-utf16", "é", "0002 00e9"),
    ("vbin32", b"ab", "00000002 6162"),
    ("sequence-set", [], "0000"),
    ("sequence-set", [(0, 5), (7, 7)], "0010 00000000 00000005 00000007 00000007"),
    ("map", {}, "00000004 00000000"),
    # The size of count and entries; the count; the key; the value's code and the value.
    ("map", {"a": "b"}, "0000000a 00000001 01 61 95 0001 62"),
    ("map", {"n": 1, "x": None}, "00000012 00000002 01 6e 31 0000000000000001 01 78 f0"),
    ("list", [True, "b"], "0000000a 00000002 08 01 95 0001 62"),
    ("map", {"l": [b"z"]}, "00000015 00000001 01 6c a9 0000000a 00000001 a0 00000001 7a"),
    # The size of code, count and values; one code for all of them.
    ("array", ["en_US"], "0000000c 95 00000001 0005 656e5f5553"),
    ("array", [], "00000005 95 00000000"),
    ("session.header", {"sync": True}, "01 01"),
    ("message.reply-to", {"exchange": "e", "routing_key": "k"}, "0006 0300 01 65 01 6b"),
]

# A control or a command, whether it asks for a report, its fields, and its bytes: the codes of class and command; for a
# command the session header (its size, its flag); two bytes of packing flags, lowest bit first; and the fields.
METHODS: list[tuple[str, bool, dict[str, Any], str]] = [
    (
        "connection.start-ok",
        False,
        {"client_properties": {"a": "b"}, "mechanism": "PLAIN", "response": b"\0u\0p", "locale": "en_US"},
        "0102 0f00 0000000a000000010161950001 62 05504c41494e 00000004 00750070 05656e5f5553",
    ),
    ("connection.tune-ok", False, {"channel_max": 256, "heartbeat": 10}, "0106 0500 0100 000a"),
    ("connection.open", False, {"virtual_host": "v"}, "0107 0100 01 76"),
    ("connection.heartbeat", False, {}, "010a 0000"),
    ("connection.close", False, {"reply_code": 200}, "010b 0100 00c8"),
    ("session.attach", False, {"name": b"s"}, "0201 0100 0001 73"),
    ("session.command-point", False, {"command_id": 0, "command_offset": 0}, "0207 0300 00000000 0000000000000000"),
    (
        "session.completed",
        False,
        {"commands": [(0, 5)], "timely_reply": True},
        "020a 0300 0008 00000000 00000005",
    ),
    ("session.flush", False, {"completed": True}, "020c 0400"),
    ("execution.sync", False, {}, "0301 0100 0000"),
    (
        "execution.exception",
        False,
        {"error_code": 404, "command_id": 7, "description": "no"},
        "0303 0100 2300 0194 00000007 0002 6e6f",
    ),
    ("message.accept", False, {"transfers": [(1, 2)]}, "0402 0100 0100 0008 00000001 00000002"),
    (
        "message.release",
        True,
        {"transfers": [(3, 3)], "set_redelivered": True},
        "0404 0101 0300 0008 00000003 00000003",
    ),
    (
        "message.subscribe",
        True,
        {"queue": "q", "destination": "0", "accept_mode": 0, "acquire_mode": 0, "exclusive": True},
        "0407 0101 1f00 01 71 01 30 00 00",
    ),
    ("message.flow", False, {"destination": "0", "unit": 1, "value": 0xFFFFFFFF}, "040a 0100 0700 0130 01 ffffffff"),
    ("queue.declare", True, {"queue": "q1", "durable": True}, "0801 0101 0900 02 7131"),
    (
        "exchange.bind",
        True,
        {"queue": "q", "exchange": "e", "binding_key": "k"},
        "0704 0101 0700 01 71 01 65 01 6b",
    ),
]


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def layout_of(name: str) -> Layout:
    return CONTROLS.get(name) or COMMANDS[name]


# -- byte for byte ----------------------------------------------------------------------------------------------------


def test_the_tables_are_those_that_the_specification_gives() -> None:
    done = subprocess.run([sys.executable, SPEC / "generate.py"], check=True, capture_output=True, text=True)
    assert done.stdout == TABLES.read_text()


@pytest.mark.parametrize(("name", "value", "wire"), VALUES)
def test_a_value_has_these_bytes(name: str, value: Any, wire: str) -> None:
    assert encode_value(name, value) == hexed(wire)
    reader = Reader(hexed(wire))
    assert reader.value(name) == value
    assert not reader.left


@pytest.mark.parametrize(("name", "sync", "fields", "wire"), METHODS)
def test_a_method_has_these_bytes(name: str, sync: bool, fields: dict[str, Any], wire: str) -> None:
    layout = layout_of(name)
    assert encode_method(layout, fields, sync=sync) == hexed(wire)
    assert decode_method(hexed(wire), command=name in COMMANDS) == (layout, sync, fields)


def test_the_flag_of_the_ninth_field_is_in_the_second_byte() -> None:
    properties = {"redelivered": True, "ttl": 5, "routing_key": "k"}
    wire = hexed("0000000e 0401 2402 0000000000000005 01 6b")
    assert encode_struct(STRUCTS["message.delivery-properties"], properties) == wire
    assert decode_structs(wire) == {"message.delivery-properties": properties}
    assert read_header(wire) == (True, 5)


def test_a_message_is_written_as_the_codec_writes_it() -> None:
    transfer = {"accept_mode": 0, "acquire_mode": 0}
    assert encode_transfer("") == encode_method(COMMANDS["message.transfer"], transfer)
    assert encode_transfer("é") == encode_method(COMMANDS["message.transfer"], {"destination": "é", **transfer})
    for durable, ttl in ((True, None), (False, 90_000)):
        delivery = {"priority": 4, "delivery_mode": 2 if durable else 1, "ttl": ttl, "routing_key": "ключ"}
        expected = encode_struct(STRUCTS["message.delivery-properties"], delivery)
        plain = expected + encode_struct(STRUCTS["message.message-properties"], {"content_length": 7})
        assert encode_header("ключ", 7, durable=durable, ttl=ttl) == plain
        more = {"content_length": 7, "message_id": U, "application_headers": {"a": 1}}
        full = expected + encode_struct(STRUCTS["message.message-properties"], more)
        assert encode_header("ключ", 7, durable=durable, ttl=ttl, message_id=U, application_headers={"a": 1}) == full


def test_a_type_that_only_its_code_tells_is_read_by_its_width() -> None:
    wire = hexed("00000011 00000003 01 61 1f 0102 01 62 8f 01 7a 01 63 ff")
    assert Reader(wire).value("map") == {"a": b"\x01\x02", "b": b"z", "c": b""}


def test_a_struct_of_a_later_version_may_have_more_at_its_end() -> None:
    wire = hexed("0000000c 0701 0200 0102030405060708")
    assert Reader(wire).struct(STRUCTS["exchange.exchange-query-result"]) == {"durable": True}
    assert Reader(wire).value("struct32") == ("exchange.exchange-query-result", {"durable": True})
    assert Reader(hexed("00000003 7777 01")).value("struct32") == ("0x7777", {"content": b"\x01"})


# -- any value --------------------------------------------------------------------------------------------------------

integers = some.integers(-(1 << 63), (1 << 64) - 1)
texts = some.text(some.characters(exclude_categories=["Cs"]), max_size=50)
leaves = some.none() | some.booleans() | integers | some.floats(allow_nan=False) | texts | some.binary() | some.uuids()
tree = some.recursive(
    leaves, lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text("aé€", max_size=20), inner)
)
maps = some.dictionaries(some.text("abcé", max_size=20), tree, max_size=5)
numbers = some.integers(0, (1 << 32) - 1)
_OF_TYPE: dict[str, some.SearchStrategy[Any]] = {
    "bit": some.just(True),
    "uint8": some.integers(0, 255),
    "uint16": some.integers(0, 65535),
    "uint32": numbers,
    "sequence-no": numbers,
    "uint64": some.integers(0, (1 << 64) - 1),
    "datetime": some.integers(0, (1 << 64) - 1),
    "str8": texts,
    "str16": texts,
    "vbin16": some.binary(),
    "vbin32": some.binary(),
    "uuid": some.uuids(),
    "map": maps,
    "array": some.lists(texts, max_size=4) | some.lists(some.uuids(), max_size=4),
    "sequence-set": some.lists(some.tuples(numbers, numbers), max_size=5),
    "message.reply-to": some.fixed_dictionaries({}, optional={"exchange": texts, "routing_key": texts}),
}


def fields_of(layout: Layout) -> some.SearchStrategy[dict[str, Any]]:
    simple = {name: _OF_TYPE[type] for name, type in layout.fields if type in _OF_TYPE}
    return some.fixed_dictionaries({}, optional=simple)


@given(some.data(), some.sampled_from(sorted([*CONTROLS, *COMMANDS])), some.booleans())
def test_any_method_comes_back_as_it_was(data: some.DataObject, name: str, sync: bool) -> None:
    layout, command = layout_of(name), name in COMMANDS
    fields = data.draw(fields_of(layout))
    wire = encode_method(layout, fields, sync=sync)
    assert decode_method(wire, command=command) == (layout, sync and command, fields)
    for end in range(len(wire)):
        with pytest.raises(ProtocolError):
            decode_method(wire[:end], command=command)
    with pytest.raises(ProtocolError):
        decode_method(wire + b"\0", command=command)


@given(some.data(), some.sampled_from(sorted(name for name, layout in STRUCTS.items() if layout.size)))
def test_any_struct_comes_back_as_it_was(data: some.DataObject, name: str) -> None:
    fields = data.draw(fields_of(STRUCTS[name]))
    assert Reader(encode_struct(STRUCTS[name], fields)).struct(STRUCTS[name]) == fields


@given(texts, some.booleans(), some.none() | some.integers(0, (1 << 64) - 1), some.booleans())
def test_the_quick_reader_of_headers_sees_what_the_codec_sees(
    key: str, redelivered: bool, ttl: int | None, first: bool
) -> None:
    delivery = encode_struct(
        STRUCTS["message.delivery-properties"], {"redelivered": redelivered, "ttl": ttl, "routing_key": key}
    )
    message = encode_struct(STRUCTS["message.message-properties"], {"content_length": 3})
    header = delivery + message if first else message + delivery
    assert read_header(header) == (redelivered, ttl)
    found = decode_structs(header)["message.delivery-properties"]
    assert (bool(found.get("redelivered")), found.get("ttl")) == (redelivered, ttl)


# -- what is wrong ----------------------------------------------------------------------------------------------------


@given(some.binary(max_size=80), some.booleans())
def test_any_bytes_are_a_method_or_a_protocol_error(data: bytes, command: bool) -> None:
    for reads in (
        lambda: decode_method(data, command=command),
        lambda: decode_structs(data),
        lambda: read_header(data),
        lambda: read_destination(data),
        *(lambda name=name: Reader(data).value(name) for name in (*TYPES, *STRUCTS)),  # type: ignore[misc] # a default
    ):
        try:
            reads()
        except ProtocolError:
            pass


@given(some.data(), some.sampled_from(sorted(COMMANDS)))
def test_a_spoilt_method_is_a_method_or_a_protocol_error(data: some.DataObject, name: str) -> None:
    wire = bytearray(encode_method(COMMANDS[name], data.draw(fields_of(COMMANDS[name]))))
    wire[data.draw(some.integers(2, len(wire) - 1))] = data.draw(some.integers(0, 255))
    try:
        decode_method(bytes(wire), command=True)
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "wire",
    [
        "ffffffff 00000001",  # a size that is not there
        "00000008 ffffffff 01 61 f0 00",  # more entries than bytes
        "00000006 00000001 01 61",  # a key without a value
        "00000007 00000001 01 61 bb",  # no such type
        "0000000a 00000001 01 61 f0 000000",  # something behind the last entry
    ],
)
def test_a_map_that_is_not_whole_is_refused(wire: str) -> None:
    with pytest.raises(ProtocolError):
        Reader(hexed(wire)).value("map")


def test_values_that_take_no_bytes_cannot_be_many() -> None:
    with pytest.raises(ProtocolError, match="4294967295 values"):
        Reader(hexed("00000005 f0 ffffffff")).value("array")


def test_values_cannot_lie_deeper_than_they_may() -> None:
    for depth, read in ((31, True), (40, False), (3000, False)):
        value: Any = "inside"
        wire = b"\x95\x00\x06inside"
        for _ in range(depth):
            wire = b"\xa9" + (4 + len(wire)).to_bytes(4) + (1).to_bytes(4) + wire
            value = [value]
        if read:
            assert Reader(wire).tagged() == value
        else:
            with pytest.raises(ProtocolError, match="inside one another"):
                Reader(wire).tagged()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uint8", 256),
        ("uint8", "1"),
        ("str8", "€" * 86),
        ("str8", "\ud800"),
        ("str16", b"bytes"),
        ("vbin16", "text"),
        ("bin16", b"three"),
        ("uuid", "text"),
        ("map", {"k": object()}),
        ("map", {"k" * 256: 1}),
        ("map", {"k": 1 << 64}),
        ("array", ["text", 1]),
        ("sequence-set", [1]),
        ("message.reply-to", {"nonsense": 1}),
    ],
)
def test_what_does_not_fit_is_a_value_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_value(name, value)
    with pytest.raises(ValueError, match="nonsense"):
        encode_method(COMMANDS["queue.query"], {"nonsense": 1})
    with pytest.raises(ValueError, match="at most 255 bytes"):
        encode_header("k" * 256, 0, durable=True)
