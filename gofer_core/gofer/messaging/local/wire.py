"""The protocol between the local adapter and the local broker: it carries the operations and events of adapters.

A frame is four bytes of length, most significant first, and so many bytes of MessagePack: a map of a struct's fields,
and of its name under ``type``. The client begins with ``Hello``. The broker answers ``Opened``, or ``Closed`` before it
hangs up. ``Done`` answers ``Ask``, ``Confirmed`` answers ``Publish``, and ``Closed`` answers ``Close``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import Closed, Confirmed, Delivery, Done, Opened, Operation, SubscriptionLost

__all__ = ["MAX_BODY", "VERSION", "Ask", "BadFrame", "Close", "Frame", "Heartbeat", "Hello", "Publish", "Reader"]
__all__ += ["Settle", "write"]

VERSION = 4
#: Bytes that a frame takes at most beside a body. (Names have up to 255, and reasons are cut.)
_ROOM = 4096
#: What the broker takes at most as a body.
MAX_BODY = 32 * 1024 * 1024 - _ROOM


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first frame of a client. ``heartbeat``: seconds, 0 for none.

    Its fields keep their names in all versions: each side can read the version of the other.
    """

    version: int
    heartbeat: float = 0.0


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Ask for an operation."""

    id: int
    operation: Operation


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Publish a message at an exchange, ``""`` for the default one."""

    token: int
    exchange: str
    key: str
    body: bytes
    ttl: float | None = None


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Settle a delivery: requeue it, or drop it. An unknown tag is ignored."""

    tag: int
    requeue: bool


class Close(msgspec.Struct, frozen=True, tag=True):
    """Close the connection: the last frame of a client."""


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """A sign of life, from either side."""


class BadFrame(msgspec.Struct, frozen=True):
    """Stands for bytes that are no frame, with the reason. It is never sent."""

    reason: str


_ClientFrame = Hello | Ask | Publish | Settle | Close
_BrokerFrame = Opened | Done | Delivery | Confirmed | SubscriptionLost | Closed
Frame = _ClientFrame | _BrokerFrame | Heartbeat  # either side sends heartbeats

_ERRORS: dict[str, type[MessagingError]] = {error.__name__: error for error in (AdapterError, ConnectionLost, NotFound)}


def _write_error(error: Any) -> tuple[str, str]:
    if not isinstance(error, MessagingError):
        raise TypeError(f"{type(error).__name__} cannot be sent to or by the local broker")
    return type(error).__name__, str(error)[: _ROOM // 8]


def _read_error(kind: type, value: Any) -> Any:
    if kind is object:
        return value  # a delivery's tag
    name, text = value
    return _ERRORS.get(name, AdapterError)(str(text))


_encode = msgspec.msgpack.Encoder(enc_hook=_write_error).encode
_decode = msgspec.msgpack.Decoder(Frame, dec_hook=_read_error).decode


def write(out: bytearray, frame: Frame) -> None:
    """Append a frame to a buffer.

    Raises:
        ValueError, TypeError: a field that cannot be encoded; the buffer is as before.
    """
    text = _encode(frame)
    out += len(text).to_bytes(4)
    out += text


class Reader:
    """Cuts what was read into frames. A body has at most ``MAX_BODY`` bytes."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Any]:
        """Return the frames that are complete with this data. ``BadFrame`` is the last, if what follows is none."""
        frames: list[Any] = []
        self._rest += data
        at, total = 0, len(self._rest)
        with memoryview(self._rest) as view:
            while total - at >= 4:
                start = at + 4
                length = int.from_bytes(view[at:start])
                try:
                    if length > MAX_BODY + _ROOM:
                        raise ValueError(f"its {length} bytes are over {MAX_BODY + _ROOM}")
                    if start + length > total:
                        break
                    at = start + length
                    frames.append(_decode(view[start:at]))
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    frames.append(BadFrame(f"a frame that cannot be read: {error}"))
                    at = total
        del self._rest[:at]
        return frames
