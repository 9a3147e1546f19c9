# ruff: noqa: S101 - these are tests, shipped
"""The contract on connections: opening, closing, breaking, and heartbeats on a clock that the test sets."""

from __future__ import annotations

import os
import threading
from math import inf

import pytest

from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Delivery, Outgoing
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.base import Base, Left
from gofer.testing._contract.driver import WAIT, Connect, Driver
from gofer.testing._contract.nodes import OPERATIONS

__all__ = ["Connections"]


class Connections(Base):
    """A connection opens and ends cleanly, and lives as long as its peer."""

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


def _held() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))
