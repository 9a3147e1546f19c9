"""Values, structs, controls and commands as bytes (part "Encodings" of the specification).

In Python, binaries are bytes, texts str, integers and datetimes (seconds since 1970) int, a map a dict, a list or an
array a list, a sequence set a list of pairs of its first and last numbers, a struct a dict of its fields. A field that
is absent, or a bit that is not set, does not stand in that dict.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from struct import Struct, error
from typing import Any

from gofer_adapter_qpid.amqp_0_10.errors import ProtocolError
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS, CONTROLS, STRUCTS, TYPES, Layout

__all__ = ["Reader", "decode_method", "decode_structs", "encode_method", "encode_struct", "encode_value"]

#: Maps, lists, arrays and structs inside one another; what is deeper is refused.
_DEPTH = 32

_FIXED: dict[str, Struct] = {
    name: Struct(f">{letter}")
    for name, letter in (
        ("int8", "b"), ("uint8", "B"), ("char", "c"), ("boolean", "?"), ("int16", "h"), ("uint16", "H"),
        ("int32", "i"), ("uint32", "I"), ("float", "f"), ("sequence-no", "I"), ("int64", "q"), ("uint64", "Q"),
        ("double", "d"), ("datetime", "Q"),
    )
}  # fmt: skip
_TEXTS = {
    "str8-latin": "latin-1", "str8": "utf-8", "str8-utf16": "utf-16-be",
    "str16-latin": "latin-1", "str16": "utf-8", "str16-utf16": "utf-16-be", "char-utf32": "utf-32-be",
}  # fmt: skip
_SIZES = {1: Struct(">B"), 2: Struct(">H"), 4: Struct(">I")}
_NAMES = {type.code: name for name, type in TYPES.items() if type.code is not None}
# The width of types that only their codes tell, by the code's upper four bits (negative: of the size before them).
_WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, -1, -2, -4, None, 5, 9, None, 0)
_CONTROLS, _COMMANDS, _STRUCTS = (
    {layout.code: layout for layout in table.values()} for table in (CONTROLS, COMMANDS, STRUCTS)
)
_RANGE = Struct(">II")

Fields = Mapping[str, Any]


# -- encoding ---------------------------------------------------------------------------------------------------------


def encode_value(name: str, value: Any) -> bytes:
    """Encode a value as a type or struct of the tables, without the type's code.

    Raises:
        ValueError: the value does not fit, or is of another type.
    """
    try:
        return _encode(name, value)
    except (error, TypeError, AttributeError, UnicodeError, OverflowError, RecursionError) as wrong:
        raise ValueError(f"{str(value)[:60]!r} is no {name}: {wrong}") from None


def encode_struct(layout: Layout, fields: Fields) -> bytes:
    """Encode a struct with its size and code, as far as it has those.

    Raises:
        ValueError: a value that does not fit, or a field that the struct does not have.
    """
    flags, parts, count = 0, [], 0
    for position, (name, type) in enumerate(layout.fields):
        value = fields.get(name)
        if value is not None:
            count += 1
            if type != "bit":
                flags |= 1 << position
                parts.append(encode_value(type, value))
            elif value:
                flags |= 1 << position
    if count != sum(value is not None for value in fields.values()):
        raise ValueError(f"{layout.name} has no {', '.join(fields.keys() - dict(layout.fields).keys())}")
    code = layout.code.to_bytes(2) if layout.size == 4 else b""
    # The first field's flag is the lowest bit of the first byte.
    content = b"".join((code, flags.to_bytes(layout.pack, "little"), *parts))
    return _sized(layout.size, content) if layout.size else content


def encode_method(layout: Layout, fields: Fields, *, sync: bool = False) -> bytes:
    """Encode a control or a command with its code; a command has the session header, with the flag ``sync``.

    Raises:
        ValueError: as of ``encode_struct``.
    """
    header = (b"\x01\x01" if sync else b"\x01\x00") if layout.name in COMMANDS else b""
    return b"".join((layout.code.to_bytes(2), header, encode_struct(layout, fields)))


def _sized(width: int, content: bytes) -> bytes:
    return _SIZES[width].pack(len(content)) + content


def _encode(name: str, value: Any) -> bytes:
    fixed = _FIXED.get(name)
    if fixed is not None:
        packed: bytes = fixed.pack(value)
        return packed
    if name in STRUCTS:
        return encode_struct(STRUCTS[name], value)
    type = TYPES[name]
    if name in _TEXTS:
        content: bytes = value.encode(_TEXTS[name])
    elif name == "uuid":
        content = value.bytes
    elif name == "sequence-set":
        content = b"".join(_RANGE.pack(low & 0xFFFFFFFF, high & 0xFFFFFFFF) for low, high in value)
    elif name == "map":
        items = (_sized(1, key.encode()) + _tagged(each) for key, each in value.items())
        content = b"".join((len(value).to_bytes(4), *items))
    elif name == "list":
        content = b"".join((len(value).to_bytes(4), *map(_tagged, value)))
    elif name == "array":
        content = _array(value)
    else:
        content = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else _refuse(name, value)
    if type.prefix:
        return _sized(type.prefix, content)
    if len(content) != type.width:
        raise ValueError(f"a {name} has {type.width} bytes, not {len(content)}")
    return content


def _refuse(name: str, value: Any) -> bytes:
    raise TypeError(f"not {type(value).__name__}")


def _array(values: Any) -> bytes:
    """Encode an array: one code, then the values. One without values has the code of a text."""
    names = {_type_of(value) for value in values} or {"str16"}
    if len(names) != 1:
        raise ValueError(f"an array has values of one type, not of {', '.join(sorted(names))}")
    (name,) = names
    return b"".join((_code(name), len(values).to_bytes(4), *(_encode(name, value) for value in values)))


def _tagged(value: Any) -> bytes:
    """Encode a value of a map or a list: its code first."""
    name = _type_of(value)
    return _code(name) + (b"" if value is None else _encode(name, value))


def _code(name: str) -> bytes:
    return bytes((TYPES[name].code or 0,))


def _type_of(value: Any) -> str:
    """Return the type as which a Python value goes into a map."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "int64" if -(1 << 63) <= value < 1 << 63 else "uint64"
    known: dict[type, str] = {
        bool: "boolean", float: "double", str: "str16", bytes: "vbin32", type(None): "void", dict: "map", list: "list",
        uuid.UUID: "uuid",
    }  # fmt: skip
    if type(value) not in known:
        raise ValueError(f"a map takes no {type(value).__name__}")
    return known[type(value)]


# -- decoding ---------------------------------------------------------------------------------------------------------


class Reader:
    """Reads values one after the other from bytes of a peer. All methods raise ProtocolError."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        self.data, self.offset = data, offset
        self._depth = 0

    @property
    def left(self) -> int:
        """The number of bytes that are not read."""
        return len(self.data) - self.offset

    def take(self, size: int) -> bytes:
        """Read so many bytes."""
        if size > self.left:
            raise ProtocolError(f"{size} bytes are announced where {self.left} are left")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def number(self, width: int) -> int:
        """Read an unsigned integer of so many bytes."""
        return int.from_bytes(self.take(width))

    def value(self, name: str) -> Any:
        """Read a value of a type or struct of the tables."""
        fixed = _FIXED.get(name)
        if fixed is not None:
            return fixed.unpack(self.take(fixed.size))[0]
        if name in ("bit", "void"):
            return True if name == "bit" else None
        if name in STRUCTS:
            return self.struct(STRUCTS[name])
        type = TYPES[name]
        content = self.take(self.number(type.prefix) if type.prefix else type.width)
        compound = _COMPOUNDS.get(name)
        return self._simple(name, content) if compound is None else self._compound(name, content, compound)

    def _simple(self, name: str, content: bytes) -> Any:
        if name in _TEXTS:
            # A text that was cut in the middle of a character is readable, too.
            return content.decode(_TEXTS[name], errors="replace")
        return uuid.UUID(bytes=content) if name == "uuid" else content

    def _compound(self, name: str, content: bytes, read: Callable[[Reader], Any]) -> Any:
        if self._depth >= _DEPTH:
            raise ProtocolError(f"more than {_DEPTH} values inside one another")
        inner = Reader(content)
        inner._depth = self._depth + 1
        found = read(inner)
        if inner.left:
            raise ProtocolError(f"a {name} has {inner.left} bytes too many")
        return found

    def tagged(self) -> Any:
        """Read a value that its code stands before."""
        return self._coded(self.number(1))

    def struct(self, layout: Layout) -> dict[str, Any]:
        """Read a struct; its size and code, as far as it has them, as well."""
        if not layout.size:
            return self.fields(layout)
        inner = Reader(self.take(self.number(layout.size)))
        inner._depth = self._depth + 1
        if layout.size == 4 and inner.number(2) != layout.code:
            raise ProtocolError(f"not a {layout.name}")
        # What a later version of the struct has at its end is passed over.
        return inner.fields(layout)

    def fields(self, layout: Layout) -> dict[str, Any]:
        """Read the packing flags and fields of a struct, a control or a command."""
        if self._depth > _DEPTH:
            raise ProtocolError(f"more than {_DEPTH} values inside one another")
        flags = int.from_bytes(self.take(layout.pack), "little") if layout.pack else -1
        if layout.pack and flags >> len(layout.fields):
            raise ProtocolError(f"{layout.name} has no field with the flags {flags:#06x}")
        return {name: self.value(type) for position, (name, type) in enumerate(layout.fields) if flags >> position & 1}

    def _coded(self, code: int) -> Any:
        name = _NAMES.get(code)
        if name is not None:
            return self.value(name)
        width = _WIDTHS[code >> 4]
        if width is None:
            raise ProtocolError(f"{code:#04x} is no type")
        return self.take(width if width >= 0 else self.number(-width))

    def _map(self) -> dict[str, Any]:
        return {self.value("str8"): self.tagged() for _ in range(self._count(2))}

    def _list(self) -> list[Any]:
        return [self.tagged() for _ in range(self._count(1))]

    def _array(self) -> list[Any]:
        if not self.left:  # so some brokers write one without values
            return []
        code = self.number(1)
        return [self._coded(code) for _ in range(self._count(1 if code < 0xF0 else 0))]

    def _count(self, least: int) -> int:
        """Read how many values follow, of at least so many bytes each."""
        count = self.number(4)
        if count * least > self.left or (not least and count > 1):
            raise ProtocolError(f"{count} values are announced in {self.left} bytes")
        return count

    def _ranges(self) -> list[tuple[int, int]]:
        if self.left % 8:
            raise ProtocolError("a sequence set ends in the middle of a range")
        return list(_RANGE.iter_unpack(self.take(self.left)))

    def _struct32(self) -> tuple[str, dict[str, Any]]:
        code = self.number(2)
        layout = _STRUCTS.get(code) if code else None
        if layout is None:
            return f"{code:#06x}", {"content": self.take(self.left)}
        fields = self.fields(layout)
        self.take(self.left)
        return layout.name, fields


_COMPOUNDS: dict[str, Callable[[Reader], Any]] = {
    "map": Reader._map,
    "list": Reader._list,
    "array": Reader._array,
    "sequence-set": Reader._ranges,
    "struct32": Reader._struct32,
}


def decode_method(payload: bytes, *, command: bool) -> tuple[Layout, bool, dict[str, Any]]:
    """Decode a control or a command: what it is, its flag ``sync``, and its fields.

    Raises:
        ProtocolError: it is none, or not whole.
    """
    reader = Reader(payload)
    code = reader.number(2)
    layout = (_COMMANDS if command else _CONTROLS).get(code)
    if layout is None:
        raise ProtocolError(f"{'command' if command else 'control'} {code:#06x} is unknown")
    sync = command and bool(reader.struct(STRUCTS["session.header"]))
    fields = reader.fields(layout)
    if reader.left:
        raise ProtocolError(f"{layout.name} has {reader.left} bytes too many")
    return layout, sync, fields


def decode_structs(payload: bytes) -> dict[str, dict[str, Any]]:
    """Decode a header segment: structs by their names. One that the tables do not have is named by its code.

    Raises:
        ProtocolError: it is not whole.
    """
    reader, found = Reader(payload), {}
    while reader.left:
        name, fields = reader.value("struct32")
        found[name] = fields
    return found
