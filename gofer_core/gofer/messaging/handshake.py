"""How far a peer got in a TLS handshake, read from the bytes that it has sent."""

from __future__ import annotations

__all__ = ["Progress", "Stalled"]

_HANDSHAKE, _CHANGE_CIPHER, _ALERT, _ENCRYPTED = 22, 20, 21, 23
_MOST = 256 * 1024  # bytes that are looked at; a handshake is a few thousand

#: Messages that a server sends in the open, by their numbers. With TLS 1.3 all after the first are encrypted.
_NAMES = {
    2: "ServerHello",
    11: "certificate",
    22: "certificate status",
    12: "key exchange",
    13: "request for a client certificate",
    14: "ServerHelloDone",
    4: "session ticket",
}


class Stalled(TimeoutError):
    """The peer fell silent in the handshake. The text says at which step."""


class Progress:
    """Reads TLS records, as they come, for the messages in them."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        if len(self._data) < _MOST:
            self._data += data

    @property
    def foreign(self) -> str | None:
        """What the peer has said that is no TLS at all; None: it is TLS, or nothing."""
        data = bytes(self._data[:8])
        if not data or (data[0] in (_HANDSHAKE, _CHANGE_CIPHER, _ALERT, _ENCRYPTED) and data[1:2] in (b"", b"\x03")):
            return None
        if data.startswith(b"AMQP"):
            return "it answers with plain AMQP"
        if data.startswith(b"HTTP"):
            return "it answers with HTTP"
        return f"it answers {data!r}"

    def step(self, port: int) -> str:
        """Say after or within what the peer stopped, as the end of a sentence."""
        if not self._data:
            hint = f"Does port {port} speak TLS? Brokers have usually 5671 for TLS, and 5672 without"
            return f"before it answered the greeting (ClientHello). {hint}"
        open_part, last_kind, whole = self._records()
        last, partial = _messages(open_part)
        if last_kind == _ENCRYPTED:
            inside = "within" if whole else "in the middle of"
            return f"{inside} what it encrypts (its certificate, if it speaks TLS 1.3, and the end), after its {last}"
        if last_kind == _HANDSHAKE:
            return "in the middle of its last message (Finished)"
        if partial is not None or last is None:
            return f"in the middle of its {partial or 'first answer (ServerHello)'}"
        if last in ("ServerHelloDone", "session ticket"):
            return "after our key exchange (and client certificate, if it asked for one): it did not finish"
        return f"after its {last}"

    def _records(self) -> tuple[bytes, int | None, bool]:
        """Return the messages in the open, the kind of the last record that is encrypted, and whether all are whole."""
        data, position = bytes(self._data), 0
        open_part, changed, last = b"", False, None
        while len(data) - position >= 5:
            kind, size = data[position], int.from_bytes(data[position + 3 : position + 5])
            if kind == _ENCRYPTED or (kind == _HANDSHAKE and changed):
                last = kind
            elif kind == _HANDSHAKE:
                open_part += data[position + 5 : position + 5 + size]
            changed |= kind == _CHANGE_CIPHER
            position += 5 + size
        return open_part, last, position == len(data)


def _messages(data: bytes) -> tuple[str | None, str | None]:
    """Return the last message that is whole, and the one that is not."""
    last, position = None, 0
    while position < len(data):
        name = _NAMES.get(data[position], f"message {data[position]}")
        end = position + 4 + int.from_bytes(data[position + 1 : position + 4])
        if len(data) - position < 4 or end > len(data):
            return last, name
        last, position = name, end
    return last, None
