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
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from gofer.errors import GoferError
from gofer.root import Root

__all__ = [
    "CODES", "MAX_ANSWER", "MAX_REQUEST", "Answer", "Cancel", "Channel", "Drop", "Error", "Load", "Reload", "Request",
    "Requests", "Retry", "Show", "Unload", "Unusable", "decode", "decode_request", "encode", "proof", "socket_of",
    "token_of",
]  # fmt: skip

T = TypeVar("T")

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


Text = Annotated[str, Meta(min_length=1, pattern=r"\A[^\0]*\Z")]  # neither paths nor the ledger take a NUL


class _Request(Struct, frozen=True, tag_field="do", tag=str.lower, forbid_unknown_fields=True, omit_defaults=True):
    """What can be asked for. An unknown field is refused: it might be a slip that changes what is meant."""


class Show(_Request, frozen=True):
    """Tell all of the agent and its plugins."""


class Load(_Request, frozen=True):
    """Load the plugin of a descriptor."""

    path: Text


class Reload(_Request, frozen=True):
    """Load a plugin's code and descriptor again. ``which``: its name, or its descriptor's path."""

    which: Text


class Unload(_Request, frozen=True):
    """Unload a plugin. ``which``: its name, or its descriptor's path."""

    which: Text


class Requests(_Request, frozen=True):
    """List requests: of one plugin, in some states, and at most so many, where these are given."""

    plugin: Text | None = None
    states: tuple[Text, ...] | None = None
    most: Annotated[int, Meta(ge=1)] = 1000


class Cancel(_Request, frozen=True):
    """Cancel one request by its serial number, or those whose data meet criteria, perhaps of one plugin."""

    sn: Text | None = None
    criteria: dict[str, Any] | None = None
    plugin: Text | None = None


class Retry(_Request, frozen=True):
    """Send an undeliverable result again, or run an interrupted request again."""

    sn: Text


class Drop(_Request, frozen=True):
    """Remove an undeliverable or interrupted request, or one of an unloaded plugin."""

    sn: Text


Request = Show | Load | Reload | Unload | Requests | Cancel | Retry | Drop
_KNOWN: dict[object, type[_Request]] = {one.__struct_config__.tag: one for one in _Request.__subclasses__()}
_REQUEST: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class Error(Struct):
    """Why there is no value. ``code`` is one of ``CODES``."""

    code: str
    text: str


class Answer(Struct):
    """A line of the agent's: a greeting with a nonce, a proof of what follows, or a value or an error."""

    nonce: str | None = None
    proof: str | None = None
    value: Any = None
    error: Error | None = None


def socket_of(root: Root) -> Path:
    """Return where the agent's Unix socket is."""
    return root.run / "management.sock"


def token_of(root: Root) -> Path:
    """Return where the agent puts the token for TCP; mode 0600, and another one after each start."""
    return root.run / "management.token"


def encode(value: object) -> bytes:
    """Write a line: plain JSON, or a request."""
    plain = msgspec.to_builtins(value) if isinstance(value, Struct) else value
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def decode_request(line: bytes) -> Request:
    """Read a request.

    Raises:
        Unusable: it is none; the text says what is allowed.
    """
    try:
        return _REQUEST.decode(line)
    except msgspec.ValidationError as wrong:
        do = decode(line, dict[str, Any]).get("do")
        known = _KNOWN.get(do) if isinstance(do, str) else None
        what = f"do = {', '.join(map(str, _KNOWN))}" if known is None else ", ".join(["do", *known.__struct_fields__])
        raise Unusable("malformed", f"{wrong}; allowed: {what}") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Unusable("malformed", f"not a line of JSON: {line[:60]!r}") from None


def decode(line: bytes, kind: type[T]) -> T:
    """Read a line that is an object of some type.

    Raises:
        Unusable: it is not.
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError:
        raise Unusable("malformed", f"not a JSON object as expected: {line[:60]!r}") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Unusable("malformed", f"not a line of JSON: {line[:60]!r}") from None


def proof(token: bytes, side: str, nonce: str, line: bytes) -> str:
    """Return what shows that a side (``caller`` or ``agent``) knows the token, in hex."""
    return hmac.new(token, b"\n".join([side.encode(), nonce.encode(), line]), hashlib.sha256).hexdigest()


class Channel:
    """Lines over a connected socket, for one thread. Deadlines are times of ``time.monotonic()``."""

    def __init__(self, connection: socket.socket) -> None:
        """Keep the socket, which stays the caller's to close."""
        self._connection = connection
        self._read = b""

    def send(self, line: bytes, deadline: float) -> None:
        """Send a line (or several).

        Raises:
            OSError: it has not been taken; TimeoutError in time.
        """
        self._connection.settimeout(_left(deadline))
        self._connection.sendall(line)  # all of it within that time

    def receive(self, most: int, deadline: float | None) -> bytes:
        """Return the next line, without its end.

        Raises:
            Unusable: it is too large, too slow (deadline None: no limit), or ends in the middle.
            OSError: the connection has failed.
        """
        parts = [self._read]
        size = len(self._read)
        while b"\n" not in parts[-1] and size <= most:
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
