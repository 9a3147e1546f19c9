# ruff: noqa: S101 - these are tests, shipped
"""The contract on receiving: accept, release, reject, redelivery, prefetch, subscriptions."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest

from gofer.errors import AdapterError
from gofer.messaging.adapter import HEAD, TAIL, DeleteQueue, Subscribe
from gofer.testing._contract.base import Base, Left
from gofer.testing._contract.driver import Connect, Driver, new_number

__all__ = ["Receiving"]


class Receiving(Base):
    """What is delivered is held until it is settled."""

    def test_what_is_accepted_is_gone_and_what_is_not_comes_back(self, driver: Driver, queue: str, left: Left) -> None:
        held = driver.hold(queue, b"1", b"2", b"3")
        assert [d.redelivered for d in held] == [self.flag(False)] * 3
        driver.accept(held[1])
        assert sorted(left(queue)) == [(b"1", self.flag(True)), (b"3", self.flag(True))]

    def test_a_message_comes_back_when_its_holder_dies(self, connect: Connect, driver: Driver, queue: str) -> None:
        holder = connect()
        holder.subscribe(queue, prefetch=2)
        holder.hold(queue, b"held", b"also held")
        driver.subscribe(queue)
        driver.nothing_comes()
        holder.cut()
        came = driver.take(2)
        assert sorted(d.body for d in came) == [b"also held", b"held"]
        assert {d.redelivered for d in came} == {self.flag(True)}

    def test_a_released_message_comes_to_us_or_another(self, connect: Connect, driver: Driver, queue: str) -> None:
        driver.adapter.release(driver.hold(queue, b"again")[0])
        back = driver.one()
        assert back.redelivered is self.flag(True)
        driver.cancel(back.subscription)
        other = connect()
        other.subscribe(queue)
        other.nothing_comes()
        driver.adapter.release(back)
        driver.written()
        assert other.one().body == back.body == b"again"
        driver.nothing_comes()

    def test_a_rejected_message_is_gone(self, driver: Driver, queue: str, left: Left) -> None:
        unwanted, wanted = driver.hold(queue, b"unwanted", b"wanted")
        driver.adapter.reject(unwanted)
        driver.adapter.release(wanted)
        driver.accept(driver.one())
        driver.nothing_comes()
        assert left(queue) == []

    def test_no_more_than_prefetch_are_held_at_a_time(self, driver: Driver, queue: str) -> None:
        driver.give(queue, *[b"%d" % n for n in range(7)])
        driver.subscribe(queue, prefetch=3)
        held = driver.take(3)
        for number, settle in ((1, driver.adapter.accept), (0, driver.adapter.reject)):
            driver.nothing_comes()
            settle(held[number])
            held.append(driver.one())
        driver.nothing_comes()
        assert [d.body for d in held] == [b"0", b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize("prefetch", [1, 65535])
    def test_prefetch_has_its_whole_range(self, driver: Driver, queue: str, prefetch: int) -> None:
        driver.subscribe(queue, prefetch)
        driver.give(queue, b"1", b"2")
        driver.accept(driver.one())
        driver.accept(driver.one())

    def test_prefetch_counts_each_subscription_for_itself(self, driver: Driver) -> None:
        queues = [driver.queue() for _ in range(2)]
        subscriptions = [driver.subscribe(queue, prefetch=1) for queue in queues]
        for queue in queues:
            driver.give(queue, b"1", b"2")
        assert [driver.one(s).body for s in subscriptions] == [b"1", b"1"]
        driver.nothing_comes()

    def test_subscribers_share_a_queue(self, connect: Connect, driver: Driver, queue: str) -> None:
        other = connect()
        for each in (driver, other):
            each.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2", b"3")
        mine, theirs = driver.one(), other.one()
        assert {mine.body, theirs.body} == {b"1", b"2"}
        other.accept(theirs)
        assert other.one().body == b"3"

    # -- messages that are too large -------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [HEAD + TAIL + 1, 140_000, 8 << 20])
    def test_of_a_body_over_the_limit_only_the_ends_come(self, driver: Driver, queue: str, size: int) -> None:
        body = b"".join(b"%07d " % number for number in range(size // 8 + 1))[:size]
        fits = body[: HEAD + TAIL]  # what is no longer than its ends comes whole, whatever the limit
        driver.give(queue, b"before", body, fits, body, b"after")
        tracemalloc.start()
        try:
            driver.subscribe(queue, limit=10_000)
            came = driver.take(5)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        ends = body[:HEAD] + body[-TAIL:]
        assert [one.body for one in came] == [b"before", ends, fits, ends, b"after"]
        assert [one.cut for one in came] == [0, size - len(ends), 0, size - len(ends), 0]
        assert peak < 3 << 20
        driver.accept(*came[:3], came[4])
        driver.adapter.release(came[3])
        back = driver.one()
        assert (back.body, back.cut) == (ends, size - len(ends))
        driver.accept(back)
        driver.nothing_comes()

    # -- stale deliveries ------------------------------------------------------------------------------------

    def test_settling_twice_does_nothing(self, driver: Driver, queue: str) -> None:
        first, second = driver.hold(queue, b"1", b"2")
        for settle in (driver.adapter.accept, driver.adapter.accept, driver.adapter.release, driver.adapter.reject):
            settle(first)
        driver.nothing_comes()
        driver.adapter.release(second)
        assert driver.one().body == b"2"
        assert driver.lost == []

    def test_a_delivery_is_known_by_its_tag_alone(self, driver: Driver, queue: str, left: Left) -> None:
        held = driver.hold(queue, b"1", b"2")
        driver.accept(*(msgspec.structs.replace(delivery, body=b"") for delivery in held))
        assert left(queue) == []

    def test_an_earlier_connections_delivery_settles_nothing(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        (old,) = driver.hold(queue, b"1")
        driver.close()
        for settle in ("accept", "reject", "release"):
            again = connect()
            again.subscribe(queue)
            assert again.one().body == b"1"
            getattr(again.adapter, settle)(old)
            again.nothing_comes()
            again.close()

    # -- subscriptions ---------------------------------------------------------------------------------------

    def test_after_a_cancel_only_what_came_before_can_be_settled(self, driver: Driver, queue: str, left: Left) -> None:
        subscription = driver.subscribe(queue)
        before = driver.hold(queue, b"before")
        driver.cancel(subscription)
        driver.give(queue, b"after")
        driver.nothing_comes()
        driver.accept(*before)
        assert left(queue) == [(b"after", self.flag(False))]

    def test_what_was_on_its_way_comes_before_the_end_of_a_cancel(self, driver: Driver, queue: str) -> None:
        driver.give(queue, *[b"%d" % n for n in range(200)])
        driver.cancel(driver.subscribe(queue, prefetch=150))
        came = list(driver.deliveries)
        driver.settle_down()
        assert driver.deliveries == came
        driver.accept(*driver.take(len(came)))
        driver.subscribe(queue, prefetch=200)
        assert {int(d.body) for d in driver.take(200 - len(came))} == set(range(len(came), 200))
        driver.nothing_comes()

    def test_cancelling_what_is_not_subscribed_does_nothing(self, driver: Driver, queue: str) -> None:
        subscription = driver.subscribe(queue)
        for number in (subscription, subscription, new_number()):
            driver.cancel(number)
        driver.give(queue)

    def test_a_queue_deleted_under_its_subscriber_is_reported(self, connect: Connect, driver: Driver) -> None:
        self.needs("has_deletes")
        doomed, safe = driver.queue(), driver.queue()
        subscription, other = driver.subscribe(doomed), driver.subscribe(safe)
        held = driver.hold(doomed, b"held")
        connect().ask(DeleteQueue(doomed))
        driver.until(lambda: bool(driver.lost), "the subscription to be lost")
        driver.accept(*held)
        driver.cancel(subscription)
        driver.give(safe, b"still here")
        assert driver.one(other).body == b"still here"
        assert [lost.number for lost in driver.lost] == [subscription]

    def test_an_exclusive_subscription_keeps_others_out(self, connect: Connect, driver: Driver, queue: str) -> None:
        self.needs("has_exclusive_subscriptions")
        subscription = driver.subscribe(queue, exclusive=True)
        other = connect()
        other.fails(AdapterError, *(Subscribe(new_number(), queue, 1, exclusive) for exclusive in (False, True)))
        other.give(queue, b"for the one")
        assert driver.one(subscription).body == b"for the one"
        driver.cancel(subscription)
        other.subscribe(queue)
        driver.fails(AdapterError, Subscribe(new_number(), queue, 1, exclusive=True))  # it has another
        driver.subscribe(queue)
