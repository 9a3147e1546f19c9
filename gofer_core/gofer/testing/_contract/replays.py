# ruff: noqa: S101, S311 - these are tests, shipped; any numbers do
"""The contract on bytes: a real session is recorded, and played again to new adapters, in pieces, cut off and spoilt.

No socket and no clock is involved. An adapter that is told the same says the same: it may not depend on chance.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from typing import Any, cast

import pytest

from gofer.errors import ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import Adapter, Closed, Delivery, Done, Event, PurgeQueue
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import Call, Connect, Heard, Watched

__all__ = ["Replays"]

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
        exchange, queue = driver.exchange("topic"), driver.queue()
        driver.bind(queue, exchange, "a.*")
        driver.fails(NotFound, PurgeQueue(driver.name("missing")))
        subscription = driver.subscribe(queue, prefetch=3)
        driver.give(queue, b"1", b"", b"2" * 300, ttl=60.0)
        driver.give("a.b", b"3" * 140_000, b"4", exchange=exchange)
        for key, where in ((driver.name("missing"), ""), ("b", exchange), ("key", driver.name("missing"))):
            driver.confirmed(driver.post(key, exchange=where))
        for settle in (driver.adapter.accept, driver.adapter.reject, driver.adapter.release):
            settle(driver.one())
        driver.accept(*driver.take(3))
        driver.give(queue, b"last")
        driver.cancel(subscription)
        driver.close()
        return calls

    @pytest.fixture
    def played(self, calls: list[Call], url: URL) -> list[Event]:
        """Give the events of the session as it was."""
        events = list(_play(self.adapter(self.connector(url)), calls))
        assert {type(event).__name__ for event in events} == {"Opened", "Done", "Delivery", "Confirmed", "Closed"}
        return events

    @pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 1000, "random"])
    def test_bytes_may_come_in_any_pieces(
        self, url: URL, calls: list[Call], played: list[Event], piece: int | str
    ) -> None:
        dice = random.Random(3)

        def pieces(data: bytes) -> Iterator[bytes]:
            at = 0
            while at < len(data):
                end = at + (dice.randint(1, 50) if piece == "random" else int(piece))
                yield data[at:end]
                at = end

        again = list(_play(self.adapter(self.connector(url)), [part for call in calls for part in _cut(call, pieces)]))
        assert [_shown(event) for event in again] == [_shown(event) for event in played]

    @pytest.mark.parametrize("nonsense", _NONSENSE.values(), ids=_NONSENSE.keys())
    def test_a_session_may_end_anywhere_or_become_nonsense(
        self, url: URL, calls: list[Call], played: list[Event], nonsense: bytes
    ) -> None:
        dice, whole = random.Random(4), [_shown(event) for event in played]
        total = sum(len(args[0]) for name, args, _ in calls if name == "receive")
        for end in (*range(10), *(dice.randrange(total) for _ in range(30)), total // 2):
            start = [*_until(calls, end)]
            *events, last = _play(self.adapter(self.connector(url)), [*start, _receive(nonsense), _CUT])
            error = _error(last)
            if not nonsense:
                assert [_shown(event) for event in events] == whole[: len(events)]
        assert isinstance(error, ConnectionLost)  # in the middle it had opened
        assert nonsense or "the cable was cut" in str(error)

    def test_a_spoilt_byte_is_no_more_than_the_end(self, url: URL, calls: list[Call]) -> None:
        dice = random.Random(6)
        places = [n for n, (name, _, _) in enumerate(calls) if name == "receive"]
        for _ in range(300):
            place = dice.choice(places)
            _, (data, now), _ = calls[place]
            at = dice.randrange(min(len(data), 200))
            spoilt = _receive(data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :], now)
            *_, last = _play(self.adapter(self.connector(url)), [*calls[:place], spoilt, *calls[place + 1 :], _CUT])
            _error(last)

    @pytest.mark.parametrize("nonsense", _NONSENSE.values(), ids=_NONSENSE.keys())
    def test_endless_nonsense_takes_no_memory(self, url: URL, calls: list[Call], nonsense: bytes) -> None:
        for end in (0, 1000):
            adapter = self.adapter(self.connector(url, max_message=1 << 20))
            events = [*_play(adapter, [*_until(calls, end)])]
            tracemalloc.start()
            try:
                for _ in range(512 if nonsense else 0):  # 32 MiB
                    adapter.receive(nonsense, 1e9)
                    events += adapter.events()
                assert tracemalloc.get_traced_memory()[1] < 8 << 20
            finally:
                tracemalloc.stop()
            adapter.lost("cut off", 1e9)
            events += adapter.events()
            _error(events[-1])


def _error(event: Event) -> MessagingError | None:
    assert isinstance(event, Closed)
    assert event.error is None or isinstance(event.error, MessagingError)
    return event.error


def _play(adapter: Adapter, calls: list[Call]) -> Iterator[Event]:
    """Call a new adapter as another one was called, and yield its events. Deliveries go by their order."""
    known: dict[int, int] = {}
    for _, args, _ in calls:
        for arg in args:
            if isinstance(arg, Delivery):
                known.setdefault(id(arg), len(known))
    order = sorted(known, key=lambda key: known[key])
    ours: list[Delivery] = []
    watched = cast(Adapter, Watched(adapter, Heard()))
    for name, args, options in calls:
        if any(isinstance(arg, Delivery) for arg in args):
            number = order.index(id(args[0]))
            if number >= len(ours):
                continue  # it did not come this time
            getattr(watched, name)(ours[number])
        elif name != "events":
            getattr(watched, name)(*args, **options)
        for event in watched.events():
            if isinstance(event, Delivery):
                ours.append(event)
            yield event


def _receive(data: bytes, now: float = 1e9) -> Call:
    return "receive", (data, now), {}


def _cut(call: Call, pieces: Any) -> Iterator[Call]:
    """Cut what a call of ``receive`` hands over into pieces."""
    name, args, _ = call
    if name != "receive":
        yield call
        return
    for piece in pieces(args[0]):
        yield _receive(piece, args[1])


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


def _shown(event: Event) -> object:
    """Return an event as something to compare."""
    if isinstance(event, Delivery):
        return ("Delivery", event.subscription, event.body, event.redelivered, event.ttl, event.size)
    if isinstance(event, (Done, Closed)) and event.error is not None:
        return (type(event), getattr(event, "id", None), type(event.error), str(event.error))
    return event
