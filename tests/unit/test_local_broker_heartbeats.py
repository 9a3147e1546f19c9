"""When the local broker gives a client up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import AdapterError
from gofer.messaging.adapter import Closed, Opened
from gofer.messaging.local import client, wire
from gofer.messaging.local.server import serving
from support.local_clients import Raw


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Raw]:
    """Give a client that has said nothing yet."""
    path = str(tmp_path / "broker.sock")
    with serving(path):
        connected = Raw(path)
        yield connected
        connected.sock.close()


def heard(raw: Raw) -> list[object]:
    """Return all that comes before the end."""
    frames = []
    while (frame := raw.receive()) is not None:
        frames.append(frame)
    return frames


@pytest.fixture
def short_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_HELLO", 0.2)


@pytest.mark.usefixtures("short_greeting")
def test_who_says_nothing_at_first_is_left(raw: Raw) -> None:
    assert heard(raw) == []


def test_who_is_silent_for_two_heartbeats_is_left_and_heard_the_brokers_until_then(raw: Raw) -> None:
    start = time.monotonic()
    raw.send(wire.Hello(wire.VERSION, 0.4))
    opened, *beats = heard(raw)
    assert time.monotonic() - start >= 0.8
    assert isinstance(opened, Opened)
    assert len(beats) >= 3
    assert all(isinstance(beat, wire.Heartbeat) for beat in beats)


def test_who_speaks_stays(raw: Raw) -> None:
    raw.send(wire.Hello(wire.VERSION, 0.4))
    raw.receive_until(Opened)
    start = time.monotonic()
    while time.monotonic() - start < 1.5:
        raw.receive_until(wire.Heartbeat)
        raw.send(wire.Heartbeat())


def test_without_heartbeats_nothing_is_said(raw: Raw) -> None:
    raw.send(wire.Hello(wire.VERSION, 0.0))
    raw.receive_until(Opened)
    raw.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        raw.receive()


def test_who_is_sent_away_and_does_not_read_is_left_all_the_same(raw: Raw) -> None:
    raw.send(wire.Hello(wire.VERSION, float("nan")))
    (last,) = heard(raw)
    assert isinstance(last, Closed)
    assert isinstance(last.error, AdapterError)
