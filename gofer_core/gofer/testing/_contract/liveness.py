# ruff: noqa: S101 - these are tests, shipped
"""The contract on peers that stand still, and networks that stall, cut, truncate and drip: nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter import DeclareQueue, PurgeQueue
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import WAIT, Connect, Driver
from gofer.testing.proxy import Proxy

__all__ = ["Liveness"]

#: What a connection is doing when its peer falls silent.
_DOING: dict[str, Callable[[Driver, str], object]] = {
    "nothing": lambda driver, queue: None,
    "asking": lambda driver, queue: driver.start(DeclareQueue(queue)),
    "publishing": lambda driver, queue: driver.post(queue, b"x" * 100),
    "publishing more than the network holds": lambda driver, queue: [
        driver.post(queue, bytes(1 << 20)) for _ in range(8)
    ],
    "closing": lambda driver, queue: driver.adapter.close(driver.now),
}


class Liveness(Base):
    """A dead peer is found by its silence, and only by that; what the network does to a connection ends that alone."""

    @pytest.fixture
    def proxy(self, url: URL) -> Iterator[Proxy]:
        """Give a network between the adapter and its broker."""
        with Proxy(url) as proxy:
            yield proxy

    def ends(self, driver: Driver) -> MessagingError | None:
        """Drive until the end, and return what it was for. It must come: nothing hangs."""
        return driver.ended(WAIT + 2 * self.heartbeat).error

    # -- silence ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("doing", _DOING.values(), ids=_DOING.keys())
    def test_a_broker_that_stands_still_is_dead_and_is_used_again_when_it_goes_on(
        self,
        connect: Connect,
        frozen: Callable[[], AbstractContextManager[object]],
        queue: str,
        doing: Callable[[Driver, str], object],
    ) -> None:
        driver = connect(heartbeat=self.heartbeat)
        held = driver.hold(queue, b"held")
        with frozen():
            doing(driver, queue)
            error = self.ends(driver)
            driver.close()
        assert isinstance(error, ConnectionLost) or doing is _DOING["closing"]
        again = connect()
        again.subscribe(queue, prefetch=100)
        while (back := again.one()).body != held[0].body:
            again.accept(back)
        assert back.redelivered is self.flag(True)

    @pytest.mark.parametrize("both", [True, False], ids=["both ways", "to us"])
    def test_a_network_that_falls_silent_is_a_dead_peer(self, connect: Connect, proxy: Proxy, both: bool) -> None:
        driver = connect(url=proxy.url, heartbeat=self.heartbeat)
        driver.settle_down()
        proxy.to_client.swallows, proxy.to_broker.swallows = True, both
        assert isinstance(self.ends(driver), ConnectionLost)

    def test_a_network_that_stalls_for_less_than_a_heartbeat_changes_nothing(
        self, connect: Connect, proxy: Proxy, queue: str
    ) -> None:
        driver = connect(url=proxy.url, heartbeat=4 * self.heartbeat)
        driver.subscribe(queue)
        proxy.to_client.stalled = proxy.to_broker.stalled = True
        token = driver.post(queue, b"late")
        driver.pass_time(self.heartbeat)
        assert token not in driver.confirmations
        proxy.to_client.stalled = proxy.to_broker.stalled = False
        driver.confirmed(token)
        assert driver.one().body == b"late"

    # -- cuts ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("heartbeat", [0.0, 20.0])
    @pytest.mark.parametrize("size", [0, 300, 1 << 20])
    def test_a_connection_that_is_cut_has_ended_whatever_it_was_doing(
        self, connect: Connect, proxy: Proxy, queue: str, size: int, heartbeat: float
    ) -> None:
        driver = connect(url=proxy.url, heartbeat=heartbeat)
        driver.subscribe(queue)
        driver.start(DeclareQueue(driver.name()))
        for _ in range(3 if size else 0):
            driver.post(queue, bytes(size))
        driver.turn(0.05)
        proxy.cut()
        error = self.ends(driver)
        assert isinstance(error, ConnectionLost)
        assert str(error).strip()
        connect(url=proxy.url).settle_down()

    def test_a_connection_may_be_cut_after_any_byte(self, connect: Connect, proxy: Proxy, queue: str) -> None:
        """During the login, or with a message half here."""
        whole = self.session(connect, proxy, queue)
        most = whole - whole // 8  # a broker need not say the same twice
        for end in (*range(1, 9), *range(9, most, max(1, most // 25))):
            proxy.to_client.limit = end
            with pytest.raises(MessagingError, match=r"."):
                self.session(connect, proxy, queue)
        proxy.to_client.limit = None
        self.session(connect, proxy, queue)

    def session(self, connect: Connect, proxy: Proxy, queue: str, body: bytes = b"x" * 2000) -> int:
        """Log in, and send a message round; return how many bytes came to us."""
        before = proxy.to_client.passed
        driver = connect(url=proxy.url)
        if self.has_deletes:
            driver.ask(PurgeQueue(queue))
        driver.subscribe(queue)
        driver.accept(*driver.hold(queue, body))
        came = proxy.to_client.passed - before
        driver.close()
        return came

    # -- slow networks ---------------------------------------------------------------------------------------

    def test_a_network_may_drip(self, connect: Connect, proxy: Proxy, queue: str) -> None:
        for direction in (proxy.to_client, proxy.to_broker):
            direction.piece, direction.pause = 5, 0.0001  # each takes a millisecond on a busy machine
        self.session(connect, proxy, queue, b"x" * 200)

    @pytest.mark.parametrize("way", ["to_client", "to_broker"])
    def test_a_message_that_takes_longer_than_two_heartbeats_is_a_sign_of_life(
        self, connect: Connect, proxy: Proxy, driver: Driver, queue: str, way: str
    ) -> None:
        slow = connect(url=proxy.url, heartbeat=self.heartbeat)
        slow.subscribe(queue)
        direction, size = getattr(proxy, way), 1 << 20
        direction.piece, direction.pause = size // 15, self.heartbeat / 5
        start = time.monotonic()
        if way == "to_client":
            driver.give(queue, bytes(size))
        else:
            slow.give(queue, bytes(size))
            direction.piece = 0
        assert len(slow.one().body) == size
        assert time.monotonic() - start > 2.5 * self.heartbeat
        direction.piece = 0
        slow.settle_down()

    def test_a_broker_that_nobody_listens_for_is_an_error_at_once(self, connect: Connect, proxy: Proxy) -> None:
        proxy.refuses = True
        with pytest.raises(MessagingError, match=r"."):
            connect(url=replace(proxy.url))
        proxy.refuses = False
        connect(url=proxy.url).settle_down()
