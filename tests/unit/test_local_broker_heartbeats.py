"""When the local broker gives a client up, under a clock that the test turns."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from math import inf

import pytest
from gofer.errors import AdapterError
from gofer.messaging.adapter import Closed, Opened
from gofer.messaging.local import wire
from gofer.messaging.local.client import Client
from gofer.messaging.local.model import Model


class Paired:
    """A client of the broker over a pair of sockets, and the test's end of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.near, self.far = socket.socketpair()
        for sock in (self.near, self.far):
            sock.setblocking(False)
        model = Model(lambda: self.now, total_limit=1 << 20, queue_limit=1 << 20)
        self.client = Client(self.near, model, "instance", {})
        self._reader = wire.Reader()

    def say(self, frame: wire.Frame) -> None:
        out = bytearray()
        wire.put(out, frame)
        self.far.sendall(out)

    def hear(self) -> list[wire.Frame]:
        self.client.write()
        try:
            data = self.far.recv(65536)
        except BlockingIOError:
            return []
        return list(self._reader.feed(data))

    def read(self) -> None:
        self.client.receive()


@pytest.fixture
def paired() -> Iterator[Paired]:
    pair = Paired()
    yield pair
    pair.near.close()
    pair.far.close()


def test_who_says_nothing_at_first_is_left(paired: Paired) -> None:
    assert paired.client.check(paired.now) == paired.now + 10.0
    paired.now += 10.0
    paired.client.check(paired.now)
    assert paired.client.over


def test_who_is_silent_for_two_heartbeats_is_left(paired: Paired) -> None:
    paired.say(wire.Hello(wire.VERSION, 4.0))
    paired.read()
    assert paired.hear() == [Opened("instance")]
    paired.now += 7.9
    paired.client.check(paired.now)
    assert not paired.client.over
    paired.now += 0.1
    paired.client.check(paired.now)
    assert paired.client.over


def test_it_sends_a_heartbeat_when_it_has_said_nothing_for_half_of_one(paired: Paired) -> None:
    paired.say(wire.Hello(wire.VERSION, 4.0))
    paired.read()
    paired.hear()
    assert paired.client.check(paired.now) == paired.now + 2.0
    assert paired.hear() == []
    paired.now += 2.0
    paired.client.check(paired.now)
    assert paired.hear() == [wire.Beat()]


def test_without_heartbeats_it_waits_for_ever(paired: Paired) -> None:
    paired.say(wire.Hello(wire.VERSION, 0.0))
    paired.read()
    paired.hear()
    paired.now += 1e6
    assert paired.client.check(paired.now) == inf
    assert not paired.client.over


def test_who_is_sent_away_has_a_second_to_read_why(paired: Paired) -> None:
    paired.client.leave(AdapterError("reason"))
    assert not paired.client.over
    assert paired.client.check(paired.now) == paired.now + 1.0
    assert repr(paired.hear()) == repr([Closed(AdapterError("reason"))])
    assert paired.client.over
