"""Frames between the local adapter and the local broker.

A frame is four bytes of length, most significant first, and that many bytes of MessagePack: an array whose first item
is the frame's kind. The client begins with ``Hello``, the broker answers ``Welcome``, or ``Failure`` and closes. Every
operation carries the client's number for it and is answered, in the order asked, by ``Done`` or ``Denied``; every
``Send`` by ``Answer``. Seconds are floats. A frame longer than ``MAX_FRAME`` ends the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from typing import Generic, TypeVar

import msgspec

from gofer.messaging.adapter.base import Outcome

__all__ = [
    "VERSION",
    "MAX_FRAME",
    "MAX_BODY",
    "FrameReader",
    "ProtocolError",
    "put",
    "to_broker",
    "to_client",
    "Hello",
    "DeclareQueue",
    "DeleteQueue",
    "PurgeQueue",
    "DeclareExchange",
    "DeleteExchange",
    "Bind",
    "Unbind",
    "Subscribe",
    "Cancel",
    "Send",
    "Settle",
    "Bye",
    "Beat",
    "Welcome",
    "Failure",
    "Done",
    "Denied",
    "Answer",
    "Deliver",
    "Lost",
    "Operation",
    "FromClient",
    "FromBroker",
]

VERSION = 1
MAX_FRAME = 32 * 1024 * 1024
#: What a body may be at most: a frame without the largest other fields.
MAX_BODY = MAX_FRAME - 4096

_LENGTH = struct.Struct(">I")
_encode_into = msgspec.msgpack.Encoder().encode_into


class ProtocolError(Exception):
    """The peer says what is no frame. The text tells what is wrong with it."""


class Hello(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """The first frame of a client. ``heartbeat``: seconds, 0 for none; who is silent for two of them is dead."""

    version: int
    heartbeat: float = 0.0


class DeclareQueue(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Make a queue. Done with None, or with a sentence on how the one that exists differs."""

    number: int
    name: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    expires: float | None
    kind: str


class DeleteQueue(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Delete a queue, perhaps only if it is unused or empty."""

    number: int
    name: str
    if_unused: bool
    if_empty: bool


class PurgeQueue(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Drop what waits in a queue."""

    number: int
    name: str


class DeclareExchange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Make an exchange. Done as ``DeclareQueue``."""

    number: int
    name: str
    kind: str
    durable: bool
    auto_delete: bool


class DeleteExchange(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Delete an exchange."""

    number: int
    name: str


class Bind(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Bind a queue to an exchange."""

    number: int
    queue: str
    exchange: str
    key: str


class Unbind(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Undo a binding."""

    number: int
    queue: str
    exchange: str
    key: str


class Subscribe(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Ask for a queue's messages. Done with the subscription's number. A body over ``limit`` bytes is cut."""

    number: int
    queue: str
    prefetch: int
    exclusive: bool
    limit: int | None = None


class Cancel(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """End a subscription. One that does not exist is no error."""

    number: int
    subscription: int


class Send(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Put a message to an exchange, ``""`` for the default one."""

    token: int
    exchange: str
    key: str
    ttl: float | None
    body: bytes


class Settle(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Settle a delivery: ``verdict`` is 0 to accept, 1 to release, 2 to reject. An unknown tag is ignored."""

    tag: int
    verdict: int


class Bye(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The last frame of a client."""


class Beat(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """Nothing but a sign of life, from either side."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The first frame of the broker. ``instance`` names this run of it: its messages live no longer."""

    version: int
    instance: str


class Failure(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """The last frame of the broker to a client that it does not want, or that broke the protocol."""

    reason: str


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """An operation is done."""

    number: int
    value: int | str | None = None


class Denied(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """An operation is not done: ``missing`` when a queue or an exchange does not exist."""

    number: int
    missing: bool
    reason: str


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """What became of a message. The outcome travels as its value."""

    token: int
    outcome: Outcome
    reason: str = ""


class Deliver(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """A message for a subscription. So many bytes as ``cut`` says are left out of the middle of its body."""

    subscription: int
    tag: int
    redelivered: bool
    ttl: float | None
    body: bytes
    cut: int = 0


class Lost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """A subscription ended, because its queue did."""

    subscription: int
    reason: str


Operation = (
    DeclareQueue | DeleteQueue | PurgeQueue | DeclareExchange | DeleteExchange | Bind | Unbind | Subscribe | Cancel
)
FromClient = Hello | Operation | Send | Settle | Bye | Beat
FromBroker = Welcome | Failure | Done | Denied | Answer | Deliver | Lost | Beat

T = TypeVar("T")


def to_broker() -> FrameReader[FromClient]:
    """Return a reader of what clients say."""
    decoder: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)
    return FrameReader(decoder)


def to_client() -> FrameReader[FromBroker]:
    """Return a reader of what the broker says."""
    decoder: msgspec.msgpack.Decoder[FromBroker] = msgspec.msgpack.Decoder(FromBroker)
    return FrameReader(decoder)


def put(out: bytearray, frame: FromClient | FromBroker) -> None:
    """Append a frame to a buffer.

    Raises:
        ValueError, TypeError: a field that cannot be encoded; the buffer is as before.
    """
    start = len(out)
    try:
        out += b"\0\0\0\0"
        _encode_into(frame, out, -1)
        length = len(out) - start - 4
        if length > MAX_FRAME:
            raise ValueError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
        _LENGTH.pack_into(out, start, length)
    except BaseException:
        del out[start:]
        raise


class FrameReader(Generic[T]):
    """Cut what was read into frames. Not thread-safe."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decode = decoder.decode
        self._rest = bytearray()

    def feed(self, data: memoryview) -> Iterator[T]:
        """Yield the frames that are complete with this data. It must be iterated to its end before the next call.

        Raises:
            ProtocolError: what is no frame; those before it have been yielded.
        """
        if not self._rest:
            used = yield from self._cut(data)
            self._rest += data[used:]
            return
        self._rest += data
        if len(self._rest) < 4 or len(self._rest) < 4 + self._length(self._rest, 0):
            return
        rest, self._rest = self._rest, bytearray()
        with memoryview(rest) as view:
            used = yield from self._cut(view)
            self._rest += view[used:]

    def _cut(self, data: memoryview) -> Generator[T, None, int]:
        at, end = 0, len(data)
        while end - at >= 4:
            stop = at + 4 + self._length(data, at)
            if stop > end:
                break
            try:
                frame = self._decode(data[at + 4 : stop])
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise ProtocolError(f"a frame that cannot be read: {error}") from error
            at = stop
            yield frame
        return at

    def _length(self, data: bytearray | memoryview, at: int) -> int:
        length: int = _LENGTH.unpack_from(data, at)[0]
        if length > MAX_FRAME:
            raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
        return length
