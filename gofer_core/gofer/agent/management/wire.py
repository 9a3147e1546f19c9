"""What the two sides of management say to each other: one line of JSON each, with a deadline and a largest size.

Over the Unix socket the caller sends its request, an object ``{"do": NAME, ...}``, as one line; the answer is one line:
``{"value": ...}``, or ``{"error": {"code": CODE, "text": SENTENCE}}``. Each connection carries one request.

Over TCP the kernel knows nobody, so the agent first sends a line ``{"nonce": HEX}``, and before each of the two lines
goes another one with its proof, ``{"proof": HEX}``: HMAC-SHA256, keyed with the token that the agent has put into a
file, over ``caller`` or ``agent``, the nonce, and the line without its end. The token itself is never sent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from pathlib import Path
from time import monotonic
from typing import Any

from gofer.errors import GoferError
from gofer.root import Root

__all__ = [
    "CODES",
    "MAX_ANSWER",
    "MAX_REQUEST",
    "Channel",
    "Unusable",
    "decode",
    "encode",
    "proof",
    "socket_of",
    "token_of",
]

MAX_REQUEST = 256 * 1024
MAX_ANSWER = 256 * 1024 * 1024

#: The codes of errors, and what each means.
CODES = {
    "malformed": "the request is not what can be asked for",
    "too-large": "the request is too large",
    "too-slow": "the request did not come in time",
    "refused": "the caller is neither root nor the agent's user",
    "busy": "too many ask at the same time",
    "not-found": "there is no such request",
    "failed": "the agent could not do it",
    "internal": "a fault of the agent's",
}


class Unusable(GoferError):
    """What the other side has sent cannot be used; ``code`` says why, as in ``CODES``."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def socket_of(root: Root) -> Path:
    """Return where the agent's Unix socket is."""
    return root.run / "management.sock"


def token_of(root: Root) -> Path:
    """Return where the agent puts the token for TCP; mode 0600, and another one after each start."""
    return root.run / "management.token"


def encode(value: object) -> bytes:
    """Write a line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Read a line.

    Raises:
        Unusable: it is not a JSON object.
    """
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise Unusable("malformed", f"not a line of JSON: {line[:60]!r}") from None
    if not isinstance(found, dict):
        raise Unusable("malformed", f"not a JSON object: {line[:60]!r}")
    return found


def proof(token: bytes, side: str, nonce: str, line: bytes) -> str:
    """Return what shows that a side (``caller`` or ``agent``) knows the token, in hex."""
    return hmac.new(token, b"\n".join([side.encode(), nonce.encode(), line]), hashlib.sha256).hexdigest()


class Channel:
    """Lines over a connected socket, for one thread."""

    def __init__(self, connection: socket.socket) -> None:
        """Keep the socket, which stays the caller's to close."""
        self._connection = connection
        self._read = b""

    def send(self, line: bytes, deadline: float) -> None:
        """Send a line (or several) by a time of ``time.monotonic()``.

        Raises:
            OSError: it has not been taken; TimeoutError in time.
        """
        rest = memoryview(line)
        while rest:
            self._connection.settimeout(_left(deadline))
            rest = rest[self._connection.send(rest[: 1 << 20]) :]

    def receive(self, most: int, deadline: float | None) -> bytes:
        """Return the next line, without its end.

        Raises:
            Unusable: it is too large, too slow (a time of ``time.monotonic()``; None: no limit), or ends in the middle.
            OSError: the connection has failed.
        """
        parts = [self._read]
        size = len(self._read)
        while b"\n" not in parts[-1]:
            if size > most:
                raise Unusable("too-large", f"a line of more than {most} bytes")
            self._connection.settimeout(None if deadline is None else _left(deadline))
            try:
                part = self._connection.recv(1 << 16)
            except TimeoutError:
                raise Unusable("too-slow", "no whole line in time") from None
            if not part:
                raise Unusable("malformed", "the connection ends before the line does" if size else "nothing was sent")
            parts.append(part)
            size += len(part)
        line, _, self._read = b"".join(parts).partition(b"\n")
        if len(line) > most:
            raise Unusable("too-large", f"a line of more than {most} bytes")
        return line


def _left(deadline: float) -> float:
    return max(0.001, deadline - monotonic())
