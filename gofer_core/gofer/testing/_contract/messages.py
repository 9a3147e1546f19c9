# ruff: noqa: S101 - these are tests, shipped
"""The contract on messages: bodies, order, outcomes, time to live; accept, release, reject, prefetch, subscriptions."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest

from gofer.errors import AdapterError
from gofer.messaging.adapter import HEAD, TAIL, DeleteExchange, DeleteQueue, Outcome, Subscribe
from gofer.testing._contract.base import Base, Left
from gofer.testing._contract.driver import Connect, Driver, new_number

__all__ = ["Messages"]

_BODIES = {
    "empty": b"",
    "every byte": bytes(range(256)),
    "not ascii": "Straße, žluťoučký kůň, 漢字, \U0001f600".encode(),
    "not text": b"\xff\xfe\x80\x00",
    "1 MiB": random.Random(1).randbytes(1 << 20),  # noqa: S311 - any bytes do
}
Options = dict[str, Any]

_OPTIONS: dict[str, Options] = {
    "plainly": {},
    "without confirm": {"confirm": False},
    "isolated": {"isolated": True},
    "not to last": {"durable": False},
    "written by the sender": {"encoded": True},
}
_WAYS = pytest.mark.parametrize("options", _OPTIONS.values(), ids=_OPTIONS.keys())


class Messages(Base):
    """Messages go there, whole and in order, each with one outcome; what is delivered is held until it is settled."""

    @pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES.keys())
    def test_a_body_arrives_byte_for_byte(self, driver: Driver, queue: str, body: bytes) -> None:
        (delivery,) = driver.hold(queue, body)
        assert delivery.body == body

    @_WAYS
    def test_messages_arrive_in_the_order_sent(self, driver: Driver, queue: str, options: Options) -> None:
        driver.subscribe(queue, prefetch=20)
        tokens = [driver.post(queue, b"%d" % n, **options) for n in range(100)]
        came = []
        for _ in tokens:
            delivery = driver.one()
            driver.adapter.accept(delivery)
            came.append(int(delivery.body))
        assert (sorted(came) if options.get("isolated") else came) == list(range(100))
        if options.get("confirm", True):
            assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}
        for token in (*tokens, *tokens, 1_000_000):  # forgetting again, or what is not known, does nothing
            driver.adapter.forget(token)
        driver.give(queue)

    def test_messages_wait_in_their_queue_for_a_subscriber(self, driver: Driver, queue: str, left: Left) -> None:
        driver.give(queue, b"1", b"2", b"3")
        assert left(queue) == [(body, self.flag(False)) for body in (b"1", b"2", b"3")]

    def test_a_delivery_names_its_subscription(self, driver: Driver) -> None:
        subscriptions = {queue: driver.subscribe(queue) for queue in (driver.queue() for _ in range(3))}
        for queue in subscriptions:
            driver.give(queue, queue.encode())
        for queue, subscription in subscriptions.items():
            assert driver.one(subscription).body == queue.encode()

    def test_names_need_not_be_ascii(self, driver: Driver) -> None:
        queue = driver.queue(driver.name("очередь ☃ №"))
        assert driver.hold(queue, b"here")[0].body == b"here"
        if self.has_exchanges:
            exchange = driver.exchange("direct", driver.name("обмен ☃"))
            driver.bind(queue, exchange, "ключ ☃")
            driver.give("ключ ☃", b"there", exchange=exchange)
            assert driver.one().body == b"there"

    # -- outcomes --------------------------------------------------------------------------------------------

    @_WAYS
    def test_a_message_to_nowhere_is_returned_and_harms_nothing(
        self, driver: Driver, queue: str, options: Options
    ) -> None:
        driver.subscribe(queue, prefetch=100)
        held = driver.hold(queue, b"held")
        exchange, sent, lost = driver.exchange() if self.has_exchanges else "", [], []
        for _ in range(5):
            sent.append(driver.post(queue, b"beside it"))
            if self.has_exchanges:
                lost.append(driver.post("key", exchange=driver.name("missing"), **options))
                lost.append(driver.post("not bound", exchange=exchange, **options))
            lost.append(driver.post(driver.name("missing"), **options))
            if options.get("confirm") is False:
                driver.adapter.forget(driver.post(driver.name("missing"), **options))
        assert {driver.confirmed(token).outcome for token in lost} == {Outcome.RETURNED}
        assert {driver.confirmed(token).outcome for token in sent} == {Outcome.CONFIRMED}
        driver.accept(*held, *driver.take(5))
        driver.nothing_comes()
        assert driver.lost == []

    def test_a_message_to_a_deleted_exchange_is_not_confirmed(self, driver: Driver, queue: str) -> None:
        self.needs("has_exchanges")
        exchange = driver.exchange()
        driver.bind(queue, exchange, "key")
        driver.give("key", exchange=exchange)
        driver.ask(DeleteExchange(exchange))
        assert driver.send("key", exchange=exchange) in (Outcome.RETURNED, Outcome.UNKNOWN)
        assert driver.send("key", exchange=exchange) is Outcome.RETURNED
        driver.give(queue)

    @_WAYS
    def test_a_message_that_is_wrong_in_itself_has_no_effect(
        self, driver: Driver, queue: str, options: Options
    ) -> None:
        for exchange, key in (("", "k" * 256), ("€" * 86, queue)):
            with pytest.raises(ValueError, match=r"."):
                driver.post(key, exchange=exchange, **options)
        driver.settle_down()  # an answer to any of them fails in the driver

    def test_what_is_published_is_urgent(self, driver: Driver, queue: str) -> None:
        assert not driver.adapter.urgent
        token = driver.post(queue)
        assert driver.adapter.urgent
        driver.confirmed(token)

    # -- time to live ----------------------------------------------------------------------------------------

    def test_an_expired_message_is_never_delivered(self, driver: Driver, queue: str) -> None:
        for body, ttl in ((b"1", None), (b"expires", 0.1), (b"expires, too", 0.0001), (b"2", None), (b"3", 600.0)):
            driver.give(queue, body, ttl=ttl)
        driver.pass_time(0.2)
        driver.subscribe(queue)
        assert [d.body for d in driver.take(3)] == [b"1", b"2", b"3"]
        driver.nothing_comes()

    def test_a_delivery_reports_its_ttl(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        driver.give(queue, ttl=90.5)
        driver.give(queue)
        timed, plain = driver.take(2)
        assert timed.ttl == pytest.approx(90.5, abs=1.0)
        assert plain.ttl is None

    # -- a broker's alarm -------------------------------------------------------------------------------------

    def test_a_broker_that_takes_no_messages_is_reported_and_still_delivers(
        self, alarm: Callable[[], AbstractContextManager[object]], driver: Driver, queue: str
    ) -> None:
        driver.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2")
        held = driver.one()
        with alarm():
            token = driver.post(queue, b"3")
            driver.until(lambda: bool(driver.blocks), "the alarm")
            assert driver.blocks[-1]
            driver.adapter.release(held)  # what the broker reads of this, and when, is its own affair
        driver.until(lambda: driver.blocks[-1] is None, "the end of the alarm", 60.0)
        assert driver.confirmed(token).outcome is Outcome.CONFIRMED
        for body in (b"1", b"2", b"3"):
            delivery = driver.one()
            assert delivery.body == body
            driver.accept(delivery)

    # -- receiving: what is delivered is held until it is settled ---------------------------------------------

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
