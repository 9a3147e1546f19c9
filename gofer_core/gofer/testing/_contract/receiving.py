# ruff: noqa: S101 - these are tests, shipped
"""The contract on receiving: accept, release, reject, redelivery, prefetch, subscriptions."""

from __future__ import annotations

import tracemalloc

import pytest

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import DeleteQueue, Delivery
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import NUMBERS, Connect, Driver, Names

__all__ = ["Receiving"]


class Receiving(Base):
    """What is delivered is held until it is settled."""

    def test_an_accepted_message_is_gone(self, connect: Connect, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue)
        delivery = driver.one()
        assert delivery.redelivered is self.flag(False)
        driver.accept(delivery)
        driver.close()
        again = connect()
        again.subscribe(queue)
        again.nothing_comes()

    def test_a_message_not_accepted_comes_back_after_a_close(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"1", b"2", b"3")
        _, second, _ = driver.take(3)
        driver.accept(second)
        driver.close()
        again = connect()
        again.subscribe(queue)
        came = again.take(2)
        assert sorted(d.body for d in came) == [b"1", b"3"]
        assert {d.redelivered for d in came} == {self.flag(True)}

    def test_a_message_comes_back_when_its_holder_dies(self, connect: Connect, driver: Driver, queue: str) -> None:
        driver.give(queue, b"held", b"also held")
        holder = connect()
        holder.subscribe(queue, prefetch=2)
        holder.take(2)
        driver.subscribe(queue)
        driver.nothing_comes()
        holder.cut()
        came = driver.take(2)
        assert sorted(d.body for d in came) == [b"also held", b"held"]
        assert {d.redelivered for d in came} == {self.flag(True)}

    def test_a_released_message_comes_back(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"again")
        driver.adapter.release(driver.one())
        back = driver.one()
        assert back.body == b"again"
        if self.release_marks:
            assert back.redelivered is self.flag(True)
        driver.accept(back)
        driver.nothing_comes()

    def test_a_released_message_goes_to_another_subscriber(self, connect: Connect, driver: Driver, queue: str) -> None:
        subscription = driver.subscribe(queue)
        driver.give(queue, b"mine")
        delivery = driver.one()
        driver.cancel(subscription)
        other = connect()
        other.subscribe(queue)
        driver.adapter.release(delivery)
        driver.written()
        assert other.one().body == b"mine"

    def test_a_rejected_message_is_gone(self, connect: Connect, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"unwanted", b"wanted")
        unwanted, wanted = driver.take(2)
        driver.adapter.reject(unwanted)
        driver.adapter.release(wanted)
        driver.accept(driver.one())
        driver.nothing_comes()
        driver.close()
        again = connect()
        again.subscribe(queue)
        again.nothing_comes()

    def test_no_more_than_prefetch_are_held_at_a_time(self, driver: Driver, queue: str) -> None:
        driver.give(queue, *[b"%d" % n for n in range(7)])
        driver.subscribe(queue, prefetch=3)
        held = driver.take(3)
        driver.nothing_comes()
        driver.accept(held[1])
        held.append(driver.one())
        driver.nothing_comes()
        driver.adapter.reject(held[0])
        held.append(driver.one())
        driver.nothing_comes()
        assert [d.body for d in held] == [b"0", b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize("prefetch", [1, 65535])
    def test_prefetch_has_its_whole_range(self, driver: Driver, queue: str, prefetch: int) -> None:
        driver.subscribe(queue, prefetch)
        driver.give(queue, b"1", b"2")
        driver.accept(driver.one())
        driver.accept(driver.one())

    def test_prefetch_counts_each_subscription_for_itself(self, driver: Driver, names: Names) -> None:
        first, second = (driver.queue(names.queue()) for _ in range(2))
        subscriptions = [driver.subscribe(queue, prefetch=1) for queue in (first, second)]
        driver.give(first, b"1", b"2")
        driver.give(second, b"1", b"2")
        assert [driver.one(s).body for s in subscriptions] == [b"1", b"1"]
        driver.nothing_comes()

    def test_subscribers_share_a_queue(self, connect: Connect, driver: Driver, queue: str) -> None:
        other = connect()
        driver.subscribe(queue, prefetch=1)
        other.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2", b"3")
        mine, theirs = driver.one(), other.one()
        assert {mine.body, theirs.body} == {b"1", b"2"}
        other.accept(theirs)
        assert other.one().body == b"3"

    # -- messages that are too large -------------------------------------------------------------------------

    @pytest.mark.parametrize("excess", [1, 8 << 20])
    def test_a_message_over_the_limit_is_delivered_without_its_body_and_never_buffered(
        self, connect: Connect, driver: Driver, queue: str, excess: int
    ) -> None:
        limit = 100_000
        driver.give(queue, b"before", b"x" * limit, b"y" * (limit + excess), b"after")
        other = connect(max_message=limit)
        tracemalloc.start()
        try:
            other.subscribe(queue)
            came = other.take(4)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert [len(d.body) for d in came] == [6, limit, 0, 5]
        assert [d.size for d in came] == [6, limit, limit + excess, 5]
        assert peak < 2 << 20
        other.accept(came[0], *came[2:])
        other.adapter.release(came[1])
        other.accept(other.one())
        other.nothing_comes()

    # -- stale deliveries ------------------------------------------------------------------------------------

    def test_settling_twice_does_nothing(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"1", b"2")
        first, second = driver.take(2)
        driver.accept(first)
        for settle in (driver.adapter.accept, driver.adapter.release, driver.adapter.reject):
            settle(first)
        driver.nothing_comes()
        driver.adapter.release(second)
        assert driver.one().body == b"2"
        assert driver.lost == []

    def test_a_delivery_of_an_earlier_connection_settles_nothing(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"1")
        old = driver.one()
        driver.close()
        second = connect()
        second.subscribe(queue)
        assert second.one().body == b"1"
        for settle in (second.adapter.accept, second.adapter.reject, second.adapter.release):
            settle(old)
        second.nothing_comes()
        second.close()
        third = connect()
        third.subscribe(queue)
        assert third.one().body == b"1"

    # -- subscriptions ---------------------------------------------------------------------------------------

    def test_after_a_cancel_no_more_comes_and_what_came_can_be_settled(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        subscription = driver.subscribe(queue)
        driver.give(queue, b"before")
        before = driver.one()
        driver.cancel(subscription)
        driver.give(queue, b"after")
        driver.nothing_comes()
        driver.accept(before)
        driver.close()
        again = connect()
        again.subscribe(queue)
        after = again.one()
        assert (after.body, after.redelivered) == (b"after", self.flag(False))
        again.nothing_comes()

    def test_what_was_on_its_way_comes_before_the_end_of_a_cancel(self, driver: Driver, queue: str) -> None:
        driver.give(queue, *[b"%d" % n for n in range(200)])
        subscription = driver.subscribe(queue, prefetch=150)
        driver.cancel(subscription)
        came = list(driver.deliveries)
        driver.settle_down()
        assert driver.deliveries == came
        driver.accept(*driver.take(len(came)))
        driver.subscribe(queue, prefetch=200)
        assert {int(d.body) for d in driver.take(200 - len(came))} == set(range(len(came), 200))
        driver.nothing_comes()

    def test_cancelling_what_is_not_subscribed_does_nothing(self, driver: Driver, queue: str) -> None:
        subscription = driver.subscribe(queue)
        driver.cancel(subscription)
        driver.cancel(subscription)
        driver.cancel(next(NUMBERS))
        driver.give(queue)

    def test_a_queue_deleted_under_its_subscriber_is_told(self, connect: Connect, driver: Driver, names: Names) -> None:
        doomed, safe = driver.queue(names.queue("doomed")), driver.queue(names.queue("safe"))
        subscription, other = driver.subscribe(doomed), driver.subscribe(safe)
        driver.give(doomed, b"held")
        held = driver.one(subscription)
        connect().ask(DeleteQueue(doomed))
        driver.until(lambda: bool(driver.lost), "the subscription to be lost")
        assert [lost.number for lost in driver.lost] == [subscription]
        assert isinstance(driver.lost[0].reason, str)
        driver.accept(held)
        driver.cancel(subscription)
        driver.give(safe, b"still here")
        assert driver.one(other).body == b"still here"
        driver.settle_down()
        assert len(driver.lost) == 1

    def test_an_exclusive_subscription_keeps_others_out(self, connect: Connect, driver: Driver, queue: str) -> None:
        if not self.has_exclusive_subscriptions:
            pytest.skip("this broker has none")
        subscription = driver.subscribe(queue, exclusive=True)
        other = connect()
        for exclusive in (False, True):
            with pytest.raises(AdapterError):
                other.subscribe(queue, exclusive=exclusive)
        other.give(queue, b"for the one")
        assert driver.one(subscription).body == b"for the one"
        driver.cancel(subscription)
        other.subscribe(queue, exclusive=True)

    def test_an_exclusive_subscription_needs_a_queue_without_others(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        if not self.has_exclusive_subscriptions:
            pytest.skip("this broker has none")
        driver.subscribe(queue)
        other = connect()
        with pytest.raises(AdapterError):
            other.subscribe(queue, exclusive=True)
        other.subscribe(queue)

    def test_subscribing_to_no_queue_is_not_found(self, driver: Driver, queue: str, names: Names) -> None:
        with pytest.raises(NotFound):
            driver.subscribe(names.queue("missing"))
        driver.subscribe(queue)
        driver.give(queue, b"still usable")
        assert isinstance(driver.one(), Delivery)
