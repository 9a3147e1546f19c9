"""Which bodies of requests stay in memory, when the ledger has them too."""

from __future__ import annotations

import threading

import msgspec

from gofer.messaging.auth import verify
from gofer.messaging.document import Request, decode_request
from gofer.rmi.request import QUEUED, Received

__all__ = ["BARE", "LIGHT", "WHOLE", "Bodies", "decode", "restore", "silenced", "slim"]

#: What of a request is in memory (its attribute ``shed``): all; all but what its method is called with; and what its
#: caller put beside it (``data``) neither.
WHOLE, LIGHT, BARE = range(3)

_encode = msgspec.json.Encoder().encode

_SMALL = 512  # bytes of data that always stay: criteria ask for these


class Bodies:
    """The bodies of requests that wait, as many of them as ``memory`` bytes. Any thread."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._sizes: dict[Received, int] = {}
        self._bytes = 0

    def settle(self, request: Received) -> None:
        """Keep the body of a request that is written, or let go of it where there are enough."""
        size = 2 * len(request.delivery.body)  # what it was decoded to is as large
        with self._lock:
            if request.state != QUEUED or request.has_started or request.shed != WHOLE:
                return
            if self._bytes + size <= self._memory:
                self._sizes[request] = size
                self._bytes += size
                return
            self.lighten(request)

    @staticmethod
    def lighten(request: Received) -> None:
        """Let go of the body of a request that is written."""
        document = request.document
        shed = BARE if document.data is not None and len(_encoded(document.data)) > _SMALL else LIGHT
        light = _light(document)
        request.shed = shed  # first: who looks at the data looks at this, too
        request.document = msgspec.structs.replace(light, data=None) if shed == BARE else light
        request.delivery = msgspec.structs.replace(request.delivery, body=b"")

    def claim(self, request: Received) -> int:
        """Hear that a request is about to run, or has ended; return what of it is in memory."""
        with self._lock:
            self._bytes -= self._sizes.pop(request, 0)
            return request.shed


def restore(request: Received, body: bytes) -> None:
    """Put back what was let go of.

    Raises:
        DocumentError: it cannot be read any more.
    """
    request.document = decode(body)
    request.shed = WHOLE


def decode(body: bytes) -> Request:
    """Read a request that was verified when it came.

    Raises:
        DocumentError: it is none.
    """
    return decode_request(verify(body, None)[0])


def slim(request: Received) -> bytes:
    """Write what is needed of a request to answer it."""
    return _encoded(_light(request.document)) or request.delivery.body


def silenced(body: bytes) -> bytes:
    """Write a request so that it runs as ever, and is not answered."""
    return _encoded(msgspec.structs.replace(decode(body), replyto=None)) or body


def _light(document: Request) -> Request:
    light = msgspec.structs.replace(document.request, cntr=None, args=None, kws=None, kwargs=None)
    return msgspec.structs.replace(document, request=light, secret=None, pam=None)


def _encoded(value: object) -> bytes:
    """Encode; nothing where lone surrogates, which only the original's encoder writes, forbid it."""
    try:
        return _encode(value)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return b""
