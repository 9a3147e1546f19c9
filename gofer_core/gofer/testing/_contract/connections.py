# ruff: noqa: S101 - these are tests, shipped
"""The contract on connections: opening, closing, heartbeats; peers that stand still, networks that stall and cut."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from math import inf

import pytest

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Delivery, Outgoing, PurgeQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base, Left
from gofer.testing._contract.driver import WAIT, Connect, Driver
from gofer.testing._contract.nodes import OPERATIONS
from gofer.testing.proxy import Proxy

__all__ = ["Connections"]


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


class Connections(Base):
    """A connection opens and ends cleanly, and lives as long as its peer, which is found dead by its silence alone."""

    # -- opening ---------------------------------------------------------------------------------------------

    def test_nothing_happens_before_it_begins(self, url: URL) -> None:
        adapter = self.adapter(self.connector(url))
        assert (adapter.take(0.0), adapter.events(), adapter.urgent) == (b"", [], False)

    def test_a_bad_login_is_refused_without_showing_the_password(self, bad_login: URL) -> None:
        self.needs("has_logins")
        driver = Driver(self.adapter(self.connector(bad_login)))
        with pytest.raises(AdapterError) as caught:
            driver.open()
        driver.close()
        assert str(bad_login.user) in str(caught.value)
        assert str(bad_login.password) not in repr(caught.value)

    def test_it_works_over_tls(self, tls: Connector) -> None:
        driver = Driver(self.adapter(tls)).open()
        name = driver.queue()
        driver.accept(*driver.hold(name, b"x" * 100_000))
        if self.has_deletes:
            driver.ask(DeleteQueue(name))
        driver.close()

    def test_a_connection_lost_before_it_opened_is_closed_for_that(self, url: URL) -> None:
        driver = Driver(self.adapter(self.connector(url)))
        driver.adapter.begin(driver.now)
        driver.adapter.lost("the cable was cut", driver.now)
        with pytest.raises(ConnectionLost, match="the cable was cut"):
            driver.until(lambda: driver.opened is not None, "the login")

    # -- closing ---------------------------------------------------------------------------------------------

    def test_closing_it_is_no_error(self, url: URL, driver: Driver) -> None:
        driver.adapter.close(driver.now)
        assert driver.ended().error is None
        unopened = Driver(self.adapter(self.connector(url)))
        unopened.adapter.begin(0.0)
        unopened.adapter.close(0.0)
        unopened.adapter.lost("the peer was quicker", 0.0)
        unopened.pump()
        assert unopened.closed is not None
        assert unopened.closed.error is None

    @pytest.mark.parametrize("end", ["closed", "lost"])
    def test_after_its_end_everything_is_ignored(self, driver: Driver, queue: str, end: str) -> None:
        driver.subscribe(queue)
        driver.give(queue)
        held = driver.one()
        if end == "closed":
            driver.adapter.close(driver.now)
            driver.ended()
        else:
            driver.cut()
        adapter, now = driver.adapter, driver.now + 1000.0
        adapter.take(now)  # last words, perhaps
        adapter.receive(b"\0" * 100, now)
        adapter.tick(now)
        adapter.ask(1000, DeclareQueue(queue))
        adapter.publish(Outgoing(1000, Address("", queue), b"x"))
        adapter.forget(1000)
        for settle in (adapter.accept, adapter.release, adapter.reject):
            settle(held)
        adapter.close(now)
        adapter.lost("again", now)
        assert (adapter.events(), adapter.take(now), adapter.urgent) == ([], b"", False)

    def test_what_was_published_before_the_close_is_written(self, driver: Driver, queue: str, left: Left) -> None:
        for n in range(20):
            driver.post(queue, b"%d" % n)
        assert left(queue) == [(b"%d" % n, self.flag(False)) for n in range(20)]

    def test_any_thread_may_call_it_and_it_starts_none_and_opens_nothing(self, driver: Driver, queue: str) -> None:
        came: list[Delivery] = []
        before = _held()
        for _ in range(2):
            thread = threading.Thread(target=lambda: came.extend(driver.hold(queue, b"x")))
            thread.start()
            thread.join(2 * WAIT)
        assert len(came) == 2
        assert _held() == before

    # -- breaking --------------------------------------------------------------------------------------------

    def test_operations_on_a_cut_connection_end_with_it(self, driver: Driver, queue: str) -> None:
        for operation in OPERATIONS.values():
            driver.start(operation(queue, queue))
        driver.post(queue)
        driver.cut()
        with pytest.raises(ConnectionLost, match="cut by the test"):
            driver.until(lambda: False, "anything")

    def test_what_came_before_the_cut_is_returned_first(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue, prefetch=100)
        driver.hold(queue, b"1")
        driver.give(queue, *[b"%d" % n * 250 for n in range(2, 30)])
        driver.pass_time(0.2)
        driver.cut()
        assert len(driver.deliveries) == 28
        assert isinstance(driver.ended().error, ConnectionLost)

    # -- heartbeats ------------------------------------------------------------------------------------------

    def test_an_idle_connection_outlives_its_heartbeat(self, connect: Connect, queue: str) -> None:
        idle = connect(heartbeat=self.heartbeat)
        idle.subscribe(queue)
        held = idle.hold(queue, b"held")
        idle.pass_time(3.5 * self.heartbeat)
        idle.accept(*held)
        assert idle.hold(queue, b"alive")[0].redelivered is self.flag(False)

    @pytest.mark.parametrize("heartbeat", [1.0, 20.0])
    def test_a_silent_peer_is_dead_after_two_heartbeats_of_ours(self, connect: Connect, heartbeat: float) -> None:
        driver = connect(heartbeat=heartbeat)
        driver.queue()
        adapter, start = driver.adapter, driver.now
        for _ in range(100):
            adapter.tick(start)  # before its time: that is nothing
        spoke = now = start
        while driver.closed is None:
            assert spoke <= adapter.deadline < inf
            now = max(now + heartbeat / 100, adapter.deadline)
            assert now - start <= 2.5 * heartbeat, "a peer silent for two heartbeats was not given up"
            adapter.tick(now)
            if adapter.take(now):
                spoke = now
            assert now - spoke <= heartbeat, "nothing was said for a heartbeat"
            adapter.events()
        assert now - start > 1.9 * heartbeat
        assert isinstance(driver.closed.error, ConnectionLost)

    def test_without_heartbeats_silence_is_no_sign_of_death(self, connect: Connect) -> None:
        driver = connect(heartbeat=0.0)
        driver.settle_down()
        if self.has_no_heartbeats_of_peers:
            assert driver.adapter.deadline == inf
        driver.ahead = 100_000.0
        driver.adapter.tick(driver.now)
        driver.settle_down()

    # -- peers that stand still, and networks that stall, cut, truncate and drip: nothing hangs --------------

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


def _held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))
