"""A network between a client and an AMQP 0-9-1 broker that knows frames: it holds one back, or loses some."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gofer.messaging.url import URL
from gofer.testing.proxy import Filter, Proxy

__all__ = ["DeafeningProxy", "HoldingProxy", "declare_ok"]

_CANCEL, _DELIVER = bytes((0, 60, 0, 30)), bytes((0, 60, 0, 60))


def declare_ok(queue: str) -> bytes:
    """Return what stands in the answer to the declaration of a queue."""
    return bytes((0, 50, 0, 11, len(queue))) + queue.encode()


class HoldingProxy(Proxy):
    """Holds back the first frame from the broker with these bytes in it; all other frames pass it by.

    ``held`` is set when it came; it is passed on by ``release``.
    """

    def __init__(self, target: URL, answer: bytes) -> None:
        super().__init__(target, to_client=self._make)
        self.held = threading.Event()
        self._released = threading.Event()
        self._answer = answer

    def release(self) -> None:
        """Pass the frame on."""
        self._released.set()

    def _make(self) -> Filter:
        kept = b""

        def passes(frame: bytes) -> bool:
            nonlocal kept
            if self.held.is_set() or self._answer not in frame:
                return True
            kept = frame
            self.held.set()
            return False

        frames = _by_frames(passes)

        def filter(data: bytes) -> bytes:
            nonlocal kept
            passed = frames(data)
            if kept and self._released.is_set():
                passed, kept = passed + kept, b""
            return passed

        return filter


class DeafeningProxy(Proxy):
    """Loses what the broker delivers while ``deaf``, and that a consumer was cancelled while ``hides_cancels``.

    All else passes: heartbeats, answers and confirms.
    """

    def __init__(self, target: URL) -> None:
        super().__init__(target, to_client=self._make)
        self.deaf = self.hides_cancels = False
        #: How many deliveries and cancellations it has lost.
        self.lost = 0

    def _make(self) -> Filter:
        inside: set[bytes] = set()  # the channels whose message is being lost

        def passes(frame: bytes) -> bool:
            kind, channel, method = frame[0], frame[1:3], frame[7:11]
            if kind == 1:
                inside.discard(channel)
                if (self.deaf and method == _DELIVER) or (self.hides_cancels and method == _CANCEL):
                    self.lost += 1
                    inside.add(channel)
                    return False
                return True
            return channel not in inside or kind not in (2, 3)

        return _by_frames(passes)


def _by_frames(passes: Callable[[bytes], bool]) -> Filter:
    """Make a filter of what says of each frame whether it passes."""
    rest = b""

    def filter(data: bytes) -> bytes:
        nonlocal rest
        rest, passed = rest + data, b""
        while len(rest) >= 8 and len(rest) >= (end := 8 + int.from_bytes(rest[3:7])):
            frame, rest = rest[:end], rest[end:]
            if passes(frame):
                passed += frame
        return passed

    return filter
