# ruff: noqa: S101 - these are tests, shipped
"""The contract on nodes: queues, exchanges and bindings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import Adapter, ExchangeSpec, Outcome, QueueSpec
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import WAIT, Connect, Driver, Names

__all__ = ["Nodes"]

_MISSING: dict[str, Callable[[Adapter, str, str], object]] = {
    "delete_queue": lambda adapter, queue, missing: adapter.delete_queue(missing, WAIT),
    "delete_queue if unused": lambda adapter, queue, missing: adapter.delete_queue(missing, WAIT, if_unused=True),
    "delete_queue if empty": lambda adapter, queue, missing: adapter.delete_queue(missing, WAIT, if_empty=True),
    "purge_queue": lambda adapter, queue, missing: adapter.purge_queue(missing, WAIT),
    "delete_exchange": lambda adapter, queue, missing: adapter.delete_exchange(missing, WAIT),
    "bind a queue": lambda adapter, queue, missing: adapter.bind(missing, "amq.direct", "key", WAIT),
    "bind to an exchange": lambda adapter, queue, missing: adapter.bind(queue, missing, "key", WAIT),
    "unbind a queue": lambda adapter, queue, missing: adapter.unbind(missing, "amq.direct", "key", WAIT),
    "unbind from an exchange": lambda adapter, queue, missing: adapter.unbind(queue, missing, "key", WAIT),
    "subscribe": lambda adapter, queue, missing: adapter.subscribe(missing, 1, WAIT),
}


class Nodes(Base):
    """Queues, exchanges and bindings are there when they should be, and only then."""

    # -- what is missing -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("operation", _MISSING.values(), ids=_MISSING.keys())
    def test_a_missing_node_is_not_found_and_the_connection_stays(
        self, driver: Driver, queue: str, names: Names, operation: Callable[[Adapter, str, str], object]
    ) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"held")
        held = driver.one()
        for _ in range(2):
            with pytest.raises(NotFound) as caught:
                operation(driver.adapter, queue, names.queue("missing"))
            assert str(caught.value)
        driver.accept(held)
        driver.give(queue, b"still usable")
        assert driver.one().body == b"still usable"
        assert driver.lost == []

    # -- queues ----------------------------------------------------------------------------------------------

    def test_declaring_a_queue_again_changes_nothing(self, driver: Driver, names: Names) -> None:
        queue = QueueSpec(names.queue())
        assert driver.adapter.declare_queue(queue, WAIT) is None
        driver.give(queue.name, b"kept")
        assert driver.adapter.declare_queue(queue, WAIT) is None
        driver.subscribe(queue.name)
        assert driver.one().body == b"kept"

    def test_declaring_a_queue_otherwise_tells_so_and_uses_it_as_it_is(self, driver: Driver, names: Names) -> None:
        name = names.queue()
        assert driver.adapter.declare_queue(QueueSpec(name), WAIT) is None
        driver.subscribe(name)
        driver.give(name, b"kept")
        held = driver.one()
        for other in (QueueSpec(name, durable=False), QueueSpec(name, auto_delete=True), QueueSpec(name, expires=60)):
            sentence = driver.adapter.declare_queue(other, WAIT)
            assert isinstance(sentence, str)
            assert sentence.strip()
        driver.accept(held)
        driver.give(name, b"used")
        assert driver.one().body == b"used"

    def test_purging_drops_what_waits_but_not_what_is_delivered(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2", b"3")
        held = driver.one()
        driver.adapter.purge_queue(queue, WAIT)
        driver.adapter.release(held)
        back = driver.one()
        assert back.body == b"1"
        driver.accept(back)
        driver.nothing_comes()

    def test_a_deleted_queue_is_gone_with_its_messages(self, driver: Driver, queue: str) -> None:
        driver.give(queue, b"lost")
        driver.adapter.delete_queue(queue, WAIT)
        assert driver.send(queue).outcome is Outcome.RETURNED
        driver.queue(queue)
        driver.subscribe(queue)
        driver.nothing_comes()

    def test_a_queue_in_use_is_kept_if_that_is_asked(self, connect: Connect, driver: Driver, queue: str) -> None:
        subscription = driver.subscribe(queue)
        other = connect()
        with pytest.raises(AdapterError):
            other.adapter.delete_queue(queue, WAIT, if_unused=True)
        other.give(queue, b"still there")
        driver.accept(driver.one())
        driver.adapter.cancel(subscription, WAIT)
        other.adapter.delete_queue(queue, WAIT, if_unused=True)
        assert other.send(queue).outcome is Outcome.RETURNED

    def test_a_queue_with_messages_is_kept_if_that_is_asked(self, driver: Driver, queue: str) -> None:
        driver.give(queue, b"kept")
        with pytest.raises(AdapterError):
            driver.adapter.delete_queue(queue, WAIT, if_empty=True)
        subscription = driver.subscribe(queue)
        driver.accept(driver.one())
        driver.adapter.cancel(subscription, WAIT)
        driver.adapter.delete_queue(queue, WAIT, if_empty=True)
        assert driver.send(queue).outcome is Outcome.RETURNED

    def test_an_exclusive_queue_is_its_connections_alone(self, connect: Connect, names: Names) -> None:
        if not self.has_exclusive_queues:
            pytest.skip("this broker has none")
        name = names.queue()
        mine, other = connect(), connect()
        mine.adapter.declare_queue(QueueSpec(name, exclusive=True), WAIT)
        with pytest.raises(AdapterError):
            other.adapter.declare_queue(QueueSpec(name, exclusive=True), WAIT)
        with pytest.raises(AdapterError):
            other.subscribe(name)
        other.give(name, b"anybody may send")
        mine.subscribe(name)
        assert mine.one().body == b"anybody may send"

    def test_an_exclusive_queue_goes_with_its_connection(self, connect: Connect, names: Names) -> None:
        if not self.has_exclusive_queues:
            pytest.skip("this broker has none")
        name = names.queue()
        mine, other = connect(), connect()
        mine.adapter.declare_queue(QueueSpec(name, exclusive=True), WAIT)
        mine.close()
        self.wait_until_gone(other, name)

    def test_an_auto_delete_queue_goes_with_its_last_subscriber(self, connect: Connect, names: Names) -> None:
        if not self.has_auto_delete:
            pytest.skip("this broker has none")
        name = names.queue()
        first, second = connect(), connect()
        first.adapter.declare_queue(QueueSpec(name, auto_delete=True), WAIT)
        assert first.send(name).outcome is Outcome.TAKEN
        subscription = first.subscribe(name)
        second.subscribe(name)
        first.adapter.cancel(subscription, WAIT)
        assert first.send(name).outcome is Outcome.TAKEN
        second.close()
        self.wait_until_gone(first, name)

    def test_an_expiring_queue_goes_when_nobody_uses_it(self, driver: Driver, names: Names) -> None:
        if not self.has_expiring_queues:
            pytest.skip("this broker has none")
        idle, used = names.queue("idle"), names.queue("used")
        for name in (idle, used):
            driver.adapter.declare_queue(QueueSpec(name, expires=0.5), WAIT)
        driver.subscribe(used)
        driver.give(idle, b"going")
        self.wait_until_gone(driver, idle)
        driver.pass_time(0.5)
        driver.give(used, b"a subscriber is use enough")
        assert driver.one().body == b"a subscriber is use enough"

    def wait_until_gone(self, driver: Driver, queue: str) -> None:
        """Drive until a message to the queue is returned."""
        driver.until(lambda: driver.send(queue).outcome is Outcome.RETURNED, f"queue {queue} to be gone")

    # -- exchanges and bindings ------------------------------------------------------------------------------

    def test_declaring_an_exchange_again_changes_nothing(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = ExchangeSpec(names.exchange(), "topic")
        assert driver.adapter.declare_exchange(exchange, WAIT) is None
        driver.adapter.bind(queue, exchange.name, "a.*", WAIT)
        assert driver.adapter.declare_exchange(exchange, WAIT) is None
        driver.give("a.b", exchange=exchange.name)

    def test_declaring_an_exchange_otherwise_tells_so_and_uses_it_as_it_is(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        name = names.exchange()
        assert driver.adapter.declare_exchange(ExchangeSpec(name, "topic"), WAIT) is None
        driver.adapter.bind(queue, name, "a.*", WAIT)
        for other in (ExchangeSpec(name, "fanout"), ExchangeSpec(name, "topic", durable=False)):
            sentence = driver.adapter.declare_exchange(other, WAIT)
            assert isinstance(sentence, str)
            assert sentence.strip()
        driver.give("a.b", b"by topic", exchange=name)
        assert driver.send("b.b", exchange=name).outcome is Outcome.RETURNED

    def test_an_exchange_of_no_known_kind_is_refused(self, driver: Driver, queue: str, names: Names) -> None:
        with pytest.raises((AdapterError, ValueError)):
            driver.adapter.declare_exchange(ExchangeSpec(names.exchange(), "nonsense"), WAIT)
        driver.give(queue)

    def test_a_direct_exchange_goes_by_the_whole_key(self, driver: Driver, names: Names) -> None:
        reaches = self.bound(driver, names, "direct", {"one": ["a.b"], "two": ["a.b", "c"], "star": ["a.*"]})
        reaches("a.b", {"one", "two"})
        reaches("c", {"two"})
        reaches("a.*", {"star"})
        reaches("a", set())

    def test_a_topic_exchange_goes_by_words(self, driver: Driver, names: Names) -> None:
        bindings = {
            "star": ["a.*.c"],
            "tail": ["a.#"],
            "middle": ["a.#.z"],
            "all": ["#"],
            "word": ["*"],
            "exact": ["a.b"],
        }
        reaches = self.bound(driver, names, "topic", bindings)
        reaches("a", {"tail", "all", "word"})
        reaches("a.b", {"tail", "all", "exact"})
        reaches("a.b.c", {"star", "tail", "all"})
        reaches("a.b.b.c", {"tail", "all"})
        reaches("a.z", {"tail", "middle", "all"})
        reaches("a.b.c.z", {"tail", "middle", "all"})
        reaches("b", {"all", "word"})
        reaches("b.a", {"all"})

    def test_a_fanout_exchange_goes_to_all(self, driver: Driver, names: Names) -> None:
        reaches = self.bound(driver, names, "fanout", {"one": ["a"], "two": ["b"]})
        reaches("a", {"one", "two"})
        reaches("anything", {"one", "two"})

    @pytest.mark.parametrize("exchange", ["amq.direct", "amq.topic", "amq.fanout"])
    def test_the_brokers_own_exchanges_are_there(self, driver: Driver, queue: str, exchange: str) -> None:
        if not self.has_amq_exchanges:
            pytest.skip("this broker has none")
        driver.adapter.bind(queue, exchange, queue, WAIT)
        driver.subscribe(queue)
        driver.give(queue, b"through", exchange=exchange)
        assert driver.one().body == b"through"

    def test_a_message_reaches_a_queue_once_by_two_bindings(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.adapter.declare_exchange(ExchangeSpec(exchange, "topic"), WAIT)
        for key in ("a.*", "*.b", "a.*"):
            driver.adapter.bind(queue, exchange, key, WAIT)
        driver.subscribe(queue)
        driver.give("a.b", b"once", exchange=exchange)
        assert driver.one().body == b"once"
        driver.nothing_comes()

    def test_unbinding_undoes_binding(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.adapter.declare_exchange(ExchangeSpec(exchange), WAIT)
        driver.adapter.bind(queue, exchange, "one", WAIT)
        driver.adapter.bind(queue, exchange, "two", WAIT)
        driver.adapter.unbind(queue, exchange, "one", WAIT)
        driver.adapter.unbind(queue, exchange, "one", WAIT)
        driver.adapter.unbind(queue, exchange, "never bound", WAIT)
        assert driver.send("one", exchange=exchange).outcome is Outcome.RETURNED
        assert driver.send("two", exchange=exchange).outcome is Outcome.TAKEN

    def test_a_deleted_queue_takes_its_bindings_along(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.adapter.declare_exchange(ExchangeSpec(exchange), WAIT)
        driver.adapter.bind(queue, exchange, "key", WAIT)
        driver.adapter.delete_queue(queue, WAIT)
        driver.queue(queue)
        assert driver.send("key", exchange=exchange).outcome is Outcome.RETURNED

    def bound(
        self, driver: Driver, names: Names, kind: str, bindings: dict[str, list[str]]
    ) -> Callable[[str, set[str]], None]:
        """Set up an exchange with queues bound to it; return the check that a key reaches just these queues."""
        exchange = names.exchange(kind)
        driver.adapter.declare_exchange(ExchangeSpec(exchange, kind), WAIT)
        labels: dict[int, str] = {}
        for label, keys in bindings.items():
            queue = driver.queue(names.queue(label))
            for key in keys:
                driver.adapter.bind(queue, exchange, key, WAIT)
            labels[driver.subscribe(queue)] = label

        def reaches(key: str, queues: set[str]) -> None:
            outcome = driver.send(key, key.encode(), exchange=exchange).outcome
            assert outcome is (Outcome.TAKEN if queues else Outcome.RETURNED)
            came = driver.take(len(queues))
            assert sorted(labels[d.subscription] for d in came) == sorted(queues)
            assert {d.body for d in came} <= {key.encode()}
            driver.accept(*came)
            driver.nothing_comes()

        return reaches
