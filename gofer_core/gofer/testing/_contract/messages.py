# ruff: noqa: S101 - these are tests, shipped
"""The contract on messages: bodies, order, settlement, routing of what cannot be routed, time to live."""

from __future__ import annotations

import random
import threading
import time

import pytest

from gofer.messaging.adapter.base import HEAD, TAIL, Event, ExchangeSpec, Outcome
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
    """Messages go there, whole and in order, and each has one settlement."""

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
        driver.adapter.declare_exchange(ExchangeSpec(exchange), WAIT)
        driver.adapter.bind(queue, exchange, "ключ ☃", WAIT)
        driver.subscribe(queue)
        driver.give("ключ ☃", b"there", exchange=exchange)
        assert driver.one().body == b"there"

    # -- settlement ------------------------------------------------------------------------------------------

    def test_a_message_in_a_queue_is_taken(self, driver: Driver, queue: str) -> None:
        assert driver.send(queue).outcome is Outcome.TAKEN

    def test_a_message_to_no_queue_is_returned(self, driver: Driver, names: Names) -> None:
        assert driver.send(names.queue("missing")).outcome is Outcome.RETURNED

    def test_a_message_to_an_exchange_without_the_binding_is_returned(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        exchange = names.exchange()
        driver.adapter.declare_exchange(ExchangeSpec(exchange), WAIT)
        driver.adapter.bind(queue, exchange, "known", WAIT)
        assert driver.send("unknown", exchange=exchange).outcome is Outcome.RETURNED
        assert driver.send("known", exchange=exchange).outcome is Outcome.TAKEN

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
        assert [driver.settled(token).outcome for token in lost] == [Outcome.RETURNED] * 3
        assert {driver.settled(token).outcome for token in before + after} == {Outcome.TAKEN}
        driver.accept(*driver.take(9))
        driver.accept(held, driver.one())
        driver.nothing_comes()
        assert driver.lost == []
        driver.close()
        again = connect()
        again.subscribe(queue)
        again.nothing_comes()

    def test_a_message_to_an_exchange_that_was_deleted_is_not_taken(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        exchange = names.exchange()
        driver.adapter.declare_exchange(ExchangeSpec(exchange), WAIT)
        driver.adapter.bind(queue, exchange, "key", WAIT)
        assert driver.send("key", exchange=exchange).outcome is Outcome.TAKEN
        driver.adapter.delete_exchange(exchange, WAIT)
        assert driver.send("key", exchange=exchange).outcome in (Outcome.RETURNED, Outcome.LOST)
        assert driver.send("key", exchange=exchange).outcome is Outcome.RETURNED
        assert driver.send(queue).outcome is Outcome.TAKEN

    def test_an_isolated_message_arrives_too(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        tokens = [driver.post(queue, b"%d" % n, isolated=True) for n in range(5)]
        assert {driver.settled(token).outcome for token in tokens} == {Outcome.TAKEN}
        assert sorted(d.body for d in driver.take(5)) == [b"%d" % n for n in range(5)]

    def test_a_message_that_need_not_last_arrives_too(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        tokens = [driver.post(queue, b"%d" % n, durable=False) for n in range(5)]
        assert {driver.settled(token).outcome for token in tokens} == {Outcome.TAKEN}
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
        assert [driver.settled(token).outcome for token in tokens] == [Outcome.RETURNED] * 2
        assert driver.send(queue).outcome is Outcome.TAKEN

    def test_a_forgotten_message_disturbs_nothing(self, driver: Driver, queue: str, names: Names) -> None:
        for exchange in ("", names.exchange("missing")):
            driver.adapter.forget(driver.post(names.queue("missing"), exchange=exchange, confirm=False))
        assert driver.send(queue).outcome is Outcome.TAKEN
        assert driver.send(names.queue("missing")).outcome is Outcome.RETURNED

    def test_every_message_has_exactly_one_settlement(self, driver: Driver, queue: str, names: Names) -> None:
        places = [("", queue), ("", names.queue("missing")), (names.exchange("missing"), "key")]
        tokens = [driver.post(key, b"x", exchange=exchange) for _ in range(50) for exchange, key in places]
        outcomes = [driver.settled(token).outcome for token in tokens]
        assert outcomes == [Outcome.TAKEN, Outcome.RETURNED, Outcome.RETURNED] * 50
        driver.settle_down()  # a second settlement of any of them fails in the driver

    # -- size ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [HEAD + TAIL + 1, 140_000, 1 << 20])
    def test_of_a_body_over_the_limit_only_the_ends_come(self, driver: Driver, queue: str, size: int) -> None:
        body = b"".join(b"%07d " % number for number in range(size // 8 + 1))[:size]
        small, at_limit = b"small", body[: HEAD + TAIL]
        driver.subscribe(queue, limit=1000)
        driver.give(queue, small, body, at_limit, body, small)
        came = driver.take(5)
        ends = body[:HEAD] + body[-TAIL:]
        assert [one.body for one in came] == [small, ends, at_limit, ends, small]
        assert [one.cut for one in came] == [0, size - len(ends), 0, size - len(ends), 0]
        for one in came:
            driver.accept(one)

    def test_a_body_at_the_limit_comes_whole(self, driver: Driver, queue: str) -> None:
        body = b"x" * 200_000
        driver.subscribe(queue, limit=len(body))
        driver.give(queue, body)
        came = driver.one()
        assert (came.body, came.cut) == (body, 0)

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

    def test_the_shortest_ttl_still_has_a_settlement(self, driver: Driver, queue: str) -> None:
        assert driver.settled(driver.post(queue, ttl=0.0001)).outcome is Outcome.TAKEN

    def test_a_delivery_tells_its_ttl(self, driver: Driver, queue: str) -> None:
        if not self.reports_ttl:
            pytest.skip("this broker does not report it")
        driver.subscribe(queue)
        driver.give(queue, ttl=90.5)
        driver.give(queue)
        timed, plain = driver.take(2)
        assert timed.ttl == pytest.approx(90.5, abs=1.0)
        assert plain.ttl is None

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

    def test_what_comes_during_an_operation_is_kept(self, driver: Driver, queue: str) -> None:
        driver.give(queue, b"1", b"2")
        driver.subscribe(queue)
        deadline = time.monotonic() + WAIT
        came: list[Event] = []
        while len(came) < 2:
            assert time.monotonic() < deadline
            while not driver.adapter.pending:
                assert time.monotonic() < deadline
                driver.queue(queue)
            came += driver.adapter.process()
        assert [getattr(event, "body", None) for event in came] == [b"1", b"2"]
        assert driver.adapter.pending is False
