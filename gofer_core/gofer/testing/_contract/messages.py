# ruff: noqa: S101 - these are tests, shipped
"""The contract on messages: bodies, order, outcomes, routing of what cannot be routed, time to live."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from gofer.messaging.adapter import Bind, DeclareExchange, DeleteExchange, Outcome
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import WAIT, Connect, Driver, Names

__all__ = ["Messages"]

_BODIES = {
    "empty": b"",
    "one byte": b"\x00",
    "every byte": bytes(range(256)),
    "not ascii": "Straße, žluťoučký kůň, 漢字, \U0001f600".encode(),
    "not text": b"\xff\xfe\x80\x00",
    "1 MiB": random.Random(1).randbytes(1 << 20),  # noqa: S311 - any bytes do
}


class Messages(Base):
    """Messages go there, whole and in order, and each has one outcome."""

    @pytest.mark.parametrize("body", _BODIES.values(), ids=_BODIES.keys())
    def test_a_body_arrives_byte_for_byte(self, driver: Driver, queue: str, body: bytes) -> None:
        driver.subscribe(queue)
        driver.give(queue, body)
        delivery = driver.one()
        assert type(delivery.body) is bytes
        assert delivery.body == body
        driver.accept(delivery)

    def test_messages_arrive_in_the_order_sent(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue, prefetch=20)
        sent = [b"%d" % n for n in range(300)]
        for body in sent:
            driver.post(queue, body)
        came = []
        for _ in sent:
            delivery = driver.one()
            driver.adapter.accept(delivery)
            came.append(delivery.body)
        assert came == sent

    def test_messages_wait_in_their_queue_for_a_subscriber(self, connect: Connect, driver: Driver, queue: str) -> None:
        driver.give(queue, b"1", b"2", b"3")
        driver.close()
        later = connect()
        later.subscribe(queue)
        assert [d.body for d in later.take(3)] == [b"1", b"2", b"3"]

    def test_a_delivery_names_its_subscription(self, driver: Driver, names: Names) -> None:
        queues = [driver.queue(names.queue()) for _ in range(3)]
        subscriptions = [driver.subscribe(queue) for queue in queues]
        assert len(set(subscriptions)) == 3
        for queue in queues:
            driver.give(queue, queue.encode())
        for queue, subscription in zip(queues, subscriptions, strict=True):
            assert driver.one(subscription).body == queue.encode()

    def test_names_need_not_be_ascii(self, driver: Driver, names: Names) -> None:
        queue = driver.queue(names.queue("очередь ☃ №"))
        exchange = names.exchange("обмен ☃")
        driver.ask(DeclareExchange(exchange))
        driver.ask(Bind(queue, exchange, "ключ ☃"))
        driver.subscribe(queue)
        driver.give("ключ ☃", b"there", exchange=exchange)
        assert driver.one().body == b"there"

    # -- outcomes ------------------------------------------------------------------------------------------

    def test_a_message_in_a_queue_is_confirmed(self, driver: Driver, queue: str) -> None:
        assert driver.send(queue) is Outcome.CONFIRMED

    def test_a_message_to_no_queue_is_returned(self, driver: Driver, names: Names) -> None:
        assert driver.send(names.queue("missing")) is Outcome.RETURNED

    def test_a_message_to_an_exchange_without_the_binding_is_returned(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        exchange = names.exchange()
        driver.ask(DeclareExchange(exchange))
        driver.ask(Bind(queue, exchange, "known"))
        assert driver.send("unknown", exchange=exchange) is Outcome.RETURNED
        assert driver.send("known", exchange=exchange) is Outcome.CONFIRMED

    @pytest.mark.parametrize("isolated", [False, True])
    def test_a_message_to_no_exchange_is_returned_and_disturbs_nothing(
        self, connect: Connect, driver: Driver, queue: str, names: Names, isolated: bool
    ) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"held")
        held = driver.one()
        before = [driver.post(queue, b"before") for _ in range(5)]
        lost = [driver.post("key", exchange=names.exchange("missing"), isolated=isolated) for _ in range(3)]
        after = [driver.post(queue, b"after") for _ in range(5)]
        assert [driver.confirmed(token).outcome for token in lost] == [Outcome.RETURNED] * 3
        assert {driver.confirmed(token).outcome for token in before + after} == {Outcome.CONFIRMED}
        driver.accept(*driver.take(9))
        driver.accept(held, driver.one())
        driver.nothing_comes()
        assert driver.lost == []
        driver.close()
        again = connect()
        again.subscribe(queue)
        again.nothing_comes()

    def test_a_message_to_an_exchange_that_was_deleted_is_not_confirmed(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        exchange = names.exchange()
        driver.ask(DeclareExchange(exchange))
        driver.ask(Bind(queue, exchange, "key"))
        assert driver.send("key", exchange=exchange) is Outcome.CONFIRMED
        driver.ask(DeleteExchange(exchange))
        assert driver.send("key", exchange=exchange) in (Outcome.RETURNED, Outcome.UNKNOWN)
        assert driver.send("key", exchange=exchange) is Outcome.RETURNED
        assert driver.send(queue) is Outcome.CONFIRMED

    def test_an_isolated_message_arrives_too(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        tokens = [driver.post(queue, b"%d" % n, isolated=True) for n in range(5)]
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}
        assert sorted(d.body for d in driver.take(5)) == [b"%d" % n for n in range(5)]

    def test_a_message_that_need_not_last_arrives_too(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        tokens = [driver.post(queue, b"%d" % n, durable=False) for n in range(5)]
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}
        assert [d.body for d in driver.take(5)] == [b"%d" % n for n in range(5)]

    def test_messages_that_need_no_confirm_arrive_in_order(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        tokens = [driver.post(queue, b"%d" % n, confirm=False) for n in range(50)]
        came = []
        for _ in tokens:
            delivery = driver.one()
            driver.adapter.accept(delivery)
            came.append(delivery.body)
        assert came == [b"%d" % n for n in range(50)]
        for token in tokens:
            driver.adapter.forget(token)
            driver.adapter.forget(token)

    def test_a_message_that_needs_no_confirm_is_returned_all_the_same(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        nowhere = [("", names.queue("missing")), (names.exchange("missing"), "key")]
        tokens = [driver.post(key, exchange=exchange, confirm=False) for exchange, key in nowhere]
        assert [driver.confirmed(token).outcome for token in tokens] == [Outcome.RETURNED] * 2
        assert driver.send(queue) is Outcome.CONFIRMED

    def test_a_forgotten_message_disturbs_nothing(self, driver: Driver, queue: str, names: Names) -> None:
        for exchange in ("", names.exchange("missing")):
            driver.adapter.forget(driver.post(names.queue("missing"), exchange=exchange, confirm=False))
        assert driver.send(queue) is Outcome.CONFIRMED
        assert driver.send(names.queue("missing")) is Outcome.RETURNED

    def test_a_message_that_is_wrong_in_itself_is_refused_and_has_no_effect(self, driver: Driver, queue: str) -> None:
        for exchange, key in (("", "k" * 256), ("€" * 86, queue)):
            options: dict[str, Any]
            for options in ({}, {"confirm": False}, {"isolated": True}):
                with pytest.raises(ValueError, match=r"."):
                    driver.post(key, exchange=exchange, **options)
        driver.settle_down()  # an answer to any of them fails in the driver

    def test_what_is_published_is_urgent_and_written_in_few_pieces(self, driver: Driver, queue: str) -> None:
        assert not driver.adapter.urgent
        tokens = [driver.post(queue, b"%d" % n) for n in range(50)]
        assert driver.adapter.urgent
        driver.pump()
        assert not driver.adapter.urgent
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}

    def test_every_message_has_exactly_one_answer(self, driver: Driver, queue: str, names: Names) -> None:
        places = [("", queue), ("", names.queue("missing")), (names.exchange("missing"), "key")]
        tokens = [driver.post(key, b"x", exchange=exchange) for _ in range(50) for exchange, key in places]
        outcomes = [driver.confirmed(token).outcome for token in tokens]
        assert outcomes == [Outcome.CONFIRMED, Outcome.RETURNED, Outcome.RETURNED] * 50
        driver.settle_down()  # a second answer to any of them fails in the driver

    # -- time to live ----------------------------------------------------------------------------------------

    def test_an_expired_message_is_never_delivered(self, driver: Driver, queue: str) -> None:
        driver.give(queue, b"stays")
        driver.give(queue, b"expires", b"expires too", ttl=0.1)
        driver.give(queue, b"stays as well")
        driver.give(queue, b"has time", ttl=600)
        driver.pass_time(0.2)
        driver.subscribe(queue)
        assert [d.body for d in driver.take(3)] == [b"stays", b"stays as well", b"has time"]
        driver.nothing_comes()

    def test_the_shortest_ttl_is_still_confirmed(self, driver: Driver, queue: str) -> None:
        assert driver.confirmed(driver.post(queue, ttl=0.0001)).outcome is Outcome.CONFIRMED

    def test_a_delivery_tells_its_ttl(self, driver: Driver, queue: str) -> None:
        if not self.reports_ttl:
            pytest.skip("this broker does not report it")
        driver.subscribe(queue)
        driver.give(queue, ttl=90.5)
        driver.give(queue)
        timed, plain = driver.take(2)
        assert timed.ttl == pytest.approx(90.5, abs=1.0)
        assert plain.ttl is None

    # -- a broker's alarm ------------------------------------------------------------------------------------

    def test_a_broker_that_takes_no_messages_is_told_and_still_delivers(
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

    # -- threads ---------------------------------------------------------------------------------------------

    def test_threads_may_use_it_in_turn(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        done: list[int] = []

        def turn(number: int) -> None:
            driver.give(queue, b"%d" % number)
            driver.accept(driver.one())
            done.append(number)

        for number in range(3):
            thread = threading.Thread(target=turn, args=(number,))
            thread.start()
            thread.join(WAIT)
        assert done == [0, 1, 2]
