# ruff: noqa: S101 - these are tests, shipped
"""The contract on liveness: heartbeats, frozen and broken peers, and never blocking in a write."""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from collections.abc import Callable

import pytest

from gofer.errors import ConnectionLost
from gofer.messaging.adapter.base import ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import WAIT, Connect, Driver, Names
from gofer.testing.relay import Relay

__all__ = ["Liveness"]

_HEARTBEAT = 1.0
_TICK = 0.4
_MEGABYTE = b"\xa5" * (1 << 20)

_OPERATIONS: dict[str, Callable[[Driver, float], object]] = {
    "declare_queue": lambda driver, timeout: driver.adapter.declare_queue(QueueSpec("contract-never"), timeout),
    "delete_queue": lambda driver, timeout: driver.adapter.delete_queue("contract-never", timeout),
    "purge_queue": lambda driver, timeout: driver.adapter.purge_queue("contract-never", timeout),
    "declare_exchange": lambda driver, timeout: driver.adapter.declare_exchange(
        ExchangeSpec("contract-never"), timeout
    ),
    "delete_exchange": lambda driver, timeout: driver.adapter.delete_exchange("contract-never", timeout),
    "bind": lambda driver, timeout: driver.adapter.bind("contract-never", "amq.direct", "key", timeout),
    "unbind": lambda driver, timeout: driver.adapter.unbind("contract-never", "amq.direct", "key", timeout),
    "subscribe": lambda driver, timeout: driver.adapter.subscribe("contract-never", 1, timeout),
}


class Liveness(Base):
    """A connection lives while its peer does, and notices when it does not."""

    # -- heartbeats ------------------------------------------------------------------------------------------

    def test_an_idle_connection_outlives_its_heartbeat(self, connect: Connect, driver: Driver, queue: str) -> None:
        idle = connect(heartbeat=_HEARTBEAT)
        idle.subscribe(queue)
        driver.give(queue, b"held")
        held = idle.one()
        idle.pass_time(3.5 * _HEARTBEAT, tick=_TICK)
        idle.accept(held)
        idle.give(queue, b"alive")
        back = idle.one()
        assert (back.body, back.redelivered) == (b"alive", False if self.adapter.tells_redelivered else None)

    def test_a_frozen_peer_is_noticed_within_two_heartbeats(self, connect: Connect, relay: Relay) -> None:
        driver = connect(url=relay.url, heartbeat=_HEARTBEAT)
        driver.settle_down()
        relay.freeze()
        start = time.monotonic()
        with pytest.raises(ConnectionLost):
            driver.pass_time(10 * _HEARTBEAT, tick=_TICK)
        assert time.monotonic() - start < 2 * _HEARTBEAT + 1.0
        driver.close()
        assert time.monotonic() - start < 2 * _HEARTBEAT + 3.0

    def test_without_heartbeats_silence_is_no_sign_of_death(self, connect: Connect, relay: Relay) -> None:
        driver = connect(url=relay.url, heartbeat=0.0)
        relay.freeze()
        driver.pass_time(0.5, tick=0.1)
        relay.thaw()
        driver.settle_down()

    # -- broken connections ----------------------------------------------------------------------------------

    def test_a_cut_connection_is_noticed_at_once(self, connect: Connect, relay: Relay) -> None:
        driver = connect(url=relay.url)
        relay.kill()
        start = time.monotonic()
        with pytest.raises(ConnectionLost):
            driver.pass_time(WAIT)
        assert time.monotonic() - start < 2.0
        driver.close()

    @pytest.mark.parametrize("operation", _OPERATIONS.values(), ids=_OPERATIONS.keys())
    def test_an_operation_on_a_cut_connection_is_lost(
        self, connect: Connect, relay: Relay, operation: Callable[[Driver, float], object]
    ) -> None:
        driver = connect(url=relay.url)
        relay.kill()
        with pytest.raises(ConnectionLost):
            operation(driver, WAIT)

    def test_an_operation_gives_up_in_time(self, connect: Connect, relay: Relay) -> None:
        drivers = [(connect(url=relay.url), operation) for operation in _OPERATIONS.values()]
        relay.freeze()
        for driver, operation in drivers:
            start = time.monotonic()
            with pytest.raises(ConnectionLost):
                operation(driver, 0.1)
            assert 0.05 < time.monotonic() - start < 1.5
        start = time.monotonic()
        for driver, _ in drivers:
            driver.adapter.abandon()
        assert time.monotonic() - start < 1.0

    def test_closing_a_frozen_connection_takes_a_second_at_most(self, connect: Connect, relay: Relay) -> None:
        driver = connect(url=relay.url)
        relay.freeze()
        start = time.monotonic()
        driver.close()
        assert time.monotonic() - start < 2.0

    def test_what_came_before_the_cut_is_returned_first(self, connect: Connect, relay: Relay, names: Names) -> None:
        queue = connect().queue(names.queue())
        driver = connect(url=relay.url)
        driver.subscribe(queue, prefetch=100)
        bodies = [b"%04d" % n * 250 for n in range(30)]
        connect().give(queue, *bodies)
        deadline = time.monotonic() + WAIT
        while _unread(driver) < 30_000:  # all of it but, perhaps, the end of the last
            assert time.monotonic() < deadline
        relay.kill()
        with pytest.raises(ConnectionLost):
            driver.pass_time(WAIT)
        assert [d.body for d in driver.deliveries] in (bodies, bodies[:29])

    def test_a_peer_that_breaks_the_protocol_is_left(self, connect: Connect, relay: Relay) -> None:
        driver = connect(url=relay.url, heartbeat=_HEARTBEAT)
        driver.settle_down()
        relay.corrupt()
        with pytest.raises(ConnectionLost):
            driver.pass_time(5.0, tick=_TICK)
        driver.close()

    def test_frames_may_come_in_pieces(self, url: URL, connect: Connect, names: Names) -> None:
        with Relay(url, chunk=3) as relay:
            driver = connect(url=relay.url)
            queue = driver.queue(names.queue())
            driver.subscribe(queue)
            body = bytes(range(256)) * 8
            driver.give(queue, body, b"", body)
            assert [d.body for d in driver.take(3)] == [body, b"", body]
            driver.close()

    # -- never blocking --------------------------------------------------------------------------------------

    def test_nothing_blocks_while_the_peer_takes_nothing(self, connect: Connect, relay: Relay, names: Names) -> None:
        driver = connect(url=relay.url, heartbeat=0.0)
        queue = driver.queue(names.queue())
        relay.freeze()
        sent: list[int] = []
        slowest = 0.0
        while driver.adapter.unwritten < 3 * len(_MEGABYTE):
            assert len(sent) < 64, "64 MiB went into a frozen peer"
            start = time.monotonic()
            sent.append(driver.post(queue, b"%d " % len(sent) + _MEGABYTE))
            driver.adapter.flush()
            driver.adapter.process()
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 1.0
        relay.thaw()
        assert {driver.settled(token).outcome for token in sent} == {Outcome.TAKEN}
        assert driver.adapter.unwritten == 0
        driver.subscribe(queue, prefetch=1)
        for n in range(len(sent)):
            delivery = driver.one()
            assert delivery.body == b"%d " % n + _MEGABYTE
            driver.accept(delivery)


def _unread(driver: Driver) -> int:
    """Return how many bytes wait in the descriptor."""
    return int(struct.unpack("i", fcntl.ioctl(driver.adapter.fileno(), termios.FIONREAD, bytes(4)))[0])
