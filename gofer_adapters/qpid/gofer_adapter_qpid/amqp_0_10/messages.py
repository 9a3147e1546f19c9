"""The bytes of message transfers (class "message"), which are nearly all that a running connection carries.

They are the same that :mod:`codec` writes and reads, by codes of their own, as a call has four of them.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from gofer_adapter_qpid.amqp_0_10.codec import decode_structs, encode_struct, encode_value
from gofer_adapter_qpid.amqp_0_10.errors import ProtocolError
from gofer_adapter_qpid.amqp_0_10.tables import STRUCTS

__all__ = ["TRANSFER", "Message", "Transfer", "encode_header", "encode_transfer", "read_destination", "read_header"]

#: How the code of a message.transfer is encoded.
TRANSFER = b"\x04\x01"

_DELIVERY = STRUCTS["message.delivery-properties"]
_MESSAGE = STRUCTS["message.message-properties"]
_REDELIVERED, _PRIORITY, _MODE, _TTL = 4, 8, 16, 32
_ROUTING_KEY = 1 << 9
_head = Struct(">IH").unpack_from
_flags = Struct("<H").unpack_from
_ttl = Struct(">Q").unpack_from
_timed = Struct(">IHHBBQ").pack
_plain = Struct(">IHHBB").pack
_content = Struct(">IHHQ").pack
# The flags as they stand on the wire, where the first field's is the lowest bit of the first byte.
_TIMED, _PLAIN = (int.from_bytes((_PRIORITY | _MODE | more | _ROUTING_KEY).to_bytes(2, "little")) for more in (_TTL, 0))


class Message(NamedTuple):
    """A message to be sent: the command and the header as ``encode_transfer`` and ``encode_header`` have them."""

    method: bytes
    header: bytes
    body: bytes


class Transfer(NamedTuple):
    """A message as the peer transfers it.

    ``id`` is its number in the session, by which it is accepted, released or rejected; ``ttl`` is in milliseconds;
    ``cut`` bytes are left out of the middle of ``body``. ``header`` is the header segment.
    """

    id: int
    destination: str
    body: bytes
    cut: int
    redelivered: bool
    ttl: int | None
    header: bytes

    def properties(self) -> dict[str, dict[str, object]]:
        """Decode all of the header: structs by their names.

        Raises:
            ProtocolError: it is not whole.
        """
        return decode_structs(self.header)


def encode_transfer(destination: str) -> bytes:
    """Encode the command of a transfer to an exchange, to be accepted or rejected explicitly, and acquired.

    Raises:
        ValueError: the name is longer than 255 bytes.
    """
    # Fields: the destination (absent: the default exchange), accept-mode explicit, acquire-mode pre-acquired.
    name = encode_value("str8", destination) if destination else b""
    return b"".join((TRANSFER, b"\x01\x00", b"\x07\x00" if name else b"\x06\x00", name, b"\x00\x00"))


def encode_header(routing_key: str, size: int, *, durable: bool, ttl: int | None = None, **properties: object) -> bytes:
    """Encode the header of a message of ``size`` bytes: its delivery-properties and message-properties.

    ``ttl`` is in milliseconds; ``properties`` are further fields of message.message-properties.

    Raises:
        ValueError: the key is longer than 255 bytes, or a property does not fit.
    """
    key = routing_key.encode()
    if len(key) > 255:
        raise ValueError(f"a routing key has at most 255 bytes, unlike {routing_key[:60]!r}")
    mode = 2 if durable else 1
    if ttl is None:
        delivery = _plain(7 + len(key), 0x0401, _PLAIN, 4, mode)
    else:
        delivery = _timed(15 + len(key), 0x0401, _TIMED, 4, mode, ttl)
    if properties:
        message = encode_struct(_MESSAGE, {"content_length": size, **properties})
    else:
        message = _content(12, 0x0403, 0x0100, size)
    return b"".join((delivery, bytes((len(key),)), key, message))


def read_destination(method: bytes) -> str:
    """Read the destination of a message.transfer.

    Raises:
        ProtocolError: the command is not whole.
    """
    if len(method) < 6 or method[2] != 1:
        raise ProtocolError("a message.transfer that is not whole")
    if not method[4] & 1:
        return ""
    name = method[7 : 7 + method[6]] if len(method) > 6 else None
    if name is None or len(name) != method[6]:
        raise ProtocolError("a message.transfer that is not whole")
    return name.decode(errors="replace")


def read_header(header: bytes) -> tuple[bool, int | None]:
    """Read from a header segment whether the message is redelivered, and its time to live in milliseconds.

    Raises:
        ProtocolError: it is not whole.
    """
    offset, length = 0, len(header)
    while offset < length:
        if length - offset < 8:
            raise ProtocolError("a header that is not whole")
        size, code = _head(header, offset)
        end = offset + 4 + size
        if size < 4 or end > length:
            raise ProtocolError("a header that is not whole")
        if code == _DELIVERY.code:
            (flags,) = _flags(header, offset + 6)
            if not flags & _TTL:
                return bool(flags & _REDELIVERED), None
            at = offset + 8 + bool(flags & _PRIORITY) + bool(flags & _MODE)
            if at + 8 > end:
                raise ProtocolError("a header that is not whole")
            return bool(flags & _REDELIVERED), _ttl(header, at)[0]
        offset = end
    return False, None
