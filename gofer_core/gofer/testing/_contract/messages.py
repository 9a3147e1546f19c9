# ruff: noqa: S101 - these are tests, shipped
"""The contract on messages: bodies, order, outcomes, routing of what cannot be routed, time to live."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from gofer.messaging.adapter import DeleteExchange, Outcome
from gofer.testing._contract.base import Base, Left
from gofer.testing._contract.driver import Driver

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
    """Messages go there, whole and in order, and each has one outcome."""

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
