# ruff: noqa: S101, S311 - these are tests, shipped; any numbers do
"""The contract on bytes: a real session is recorded, and played again to new adapters, in pieces, cut off and spoilt.

No socket and no clock is involved. An adapter that is told the same says the same: it may not depend on chance.
"""

from __future__ import annotations

import itertools
import random
import tracemalloc
from collections.abc import Iterable, Iterator

import msgspec
import pytest

from gofer.errors import ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import Closed, Delivery, Event, Subscribe
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import Call, Connect, Heard, Watched, new_number

__all__ = ["Replays"]

_LIMIT = 100_000
_CUT: Call = ("lost", ("the cable was cut", 1e9), {})
_NONSENSE = {
    "nothing": b"",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 100,
    "zeros": bytes(1 << 16),
    "ones": b"\xff" * (1 << 16),
    "ones and nearly ones": b"\xff\xfe" * (1 << 15),
    "anything": random.Random(2).randbytes(1 << 16),
}


class Replays(Base):
    """What a peer sends becomes events, whatever it is and in whatever pieces it comes."""

    @pytest.fixture
    def calls(self, connect: Connect) -> list[Call]:
        """Give the calls of a session with a bit of everything."""
        calls: list[Call] = []
        driver = connect(calls=calls)
        exchange, queue = "", driver.queue()
        if self.has_exchanges:
            exchange = driver.exchange("topic")
            driver.bind(queue, exchange, "a.*")
        driver.fails(NotFound, Subscribe(new_number(), driver.name("missing"), 1))
        subscription = driver.subscribe(queue, prefetch=3, limit=_LIMIT)
        driver.give(queue, b"1", b"", b"2" * 300, ttl=60.0)
        driver.give("a.b" if exchange else queue, b"3" * 140_000, b"4", exchange=exchange)
        for key, where in (
            (driver.name("missing"), ""),
            ("b", exchange),
            ("key", driver.name("missing") if exchange else ""),
        ):
            driver.confirmed(driver.post(key, exchange=where))
        for settle in (driver.adapter.accept, driver.adapter.reject, driver.adapter.release):
            settle(driver.one())
        driver.accept(*driver.take(3))
        driver.give(queue, b"last")
        driver.cancel(subscription)
        driver.close()
        return calls

    def play(self, url: URL, calls: Iterable[Call]) -> list[Event]:
        """Call a new adapter as another one was called, and return its events."""
        heard = Heard()
        adapter = Watched(self.adapter(self.connector(url)), heard)
        for name, args, options in calls:
            if name not in ("accept", "release", "reject"):
                getattr(adapter, name)(*args, **options)
            elif args[0] < len(heard.delivered):  # else it did not come this time
                getattr(adapter, name)(heard.delivered[args[0]])
            adapter.events()
        return heard.said

    def check_closed(self, events: list[Event]) -> MessagingError | None:
        """Check how a session ended."""
        assert isinstance(events[-1], Closed)
        assert events[-1].error is None or isinstance(events[-1].error, MessagingError)
        return events[-1].error

    @pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1000, "random"])
    def test_bytes_may_come_in_any_pieces(self, url: URL, calls: list[Call], piece: int | str) -> None:
        dice = random.Random(3)

        def pieces(call: Call) -> Iterator[Call]:
            name, args, options = call
            rest = memoryview(args[0] if name == "receive" else b"")
            while rest:
                size = dice.randint(1, 50) if piece == "random" else int(piece)
                yield _receive(bytes(rest[:size]), args[1])
                rest = rest[size:]
            if name != "receive":
                yield name, args, options

        whole = self.play(url, calls)
        assert {type(event).__name__ for event in whole} == {"Opened", "Done", "Delivery", "Confirmed", "Closed"}
        again = self.play(url, (part for call in calls for part in pieces(call)))
        assert [_shown(event) for event in again] == [_shown(event) for event in whole]

    @pytest.mark.parametrize("nonsense", _NONSENSE.values(), ids=_NONSENSE.keys())
    def test_a_session_may_end_anywhere_or_become_nonsense(self, url: URL, calls: list[Call], nonsense: bytes) -> None:
        dice, whole = random.Random(4), [_shown(event) for event in self.play(url, calls)]
        total = sum(len(args[0]) for name, args, _ in calls if name == "receive")
        for end in (*range(10), *(dice.randrange(total) for _ in range(30)), total // 2):
            events = self.play(url, [*_until(calls, end), _receive(nonsense), _CUT])
            error = self.check_closed(events)
            if not nonsense:
                assert [_shown(event) for event in events[:-1]] == whole[: len(events) - 1]
        assert isinstance(error, ConnectionLost)  # in the middle it had opened
        assert nonsense or "the cable was cut" in str(error)

    def test_a_spoilt_byte_is_no_more_than_the_end(self, url: URL, calls: list[Call]) -> None:
        dice = random.Random(6)
        places = [n for n, (name, _, _) in enumerate(calls) if name == "receive"]
        for place in dice.choices(places, k=300):
            _, (data, now), _ = calls[place]
            at = dice.randrange(min(len(data), 200))
            spoilt = _receive(data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :], now)
            self.check_closed(self.play(url, [*calls[:place], spoilt, *calls[place + 1 :], _CUT]))

    @pytest.mark.parametrize("nonsense", _NONSENSE.values(), ids=_NONSENSE.keys())
    def test_endless_nonsense_takes_no_memory(self, url: URL, calls: list[Call], nonsense: bytes) -> None:
        half = [*_until(calls, 1000)]
        place = max(n for n, (name, _, _) in enumerate(half) if name == "receive")
        starts = [half, [*_until(calls, 0)]]
        starts += [[*half[:place], _receive(half[place][1][0][:at] + b"\x7f")] for at in range(8)]  # lengths, perhaps
        for start in starts:
            tracemalloc.start()
            try:
                events = self.play(url, itertools.chain(start, itertools.repeat(_receive(nonsense), 512), [_CUT]))
                assert tracemalloc.get_traced_memory()[1] < 16 << 20  # of 32 MiB
            finally:
                tracemalloc.stop()
            self.check_closed(events)


def _receive(data: bytes, now: float = 1e9) -> Call:
    return "receive", (data, now), {}


def _until(calls: list[Call], end: int) -> Iterator[Call]:
    """Yield the calls up to so many received bytes."""
    for name, args, options in calls:
        if name == "receive":
            data = args[0][:end]
            end -= len(data)
            yield _receive(data, args[1])
            if not end:
                return
        else:
            yield name, args, options


def _shown(event: Event) -> str:
    """Return an event as something to compare."""
    return repr(msgspec.structs.replace(event, tag=None) if isinstance(event, Delivery) else event)
