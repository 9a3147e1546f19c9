# ruff: noqa: S101 - these are tests, shipped
"""The contract on nodes: queues, exchanges and bindings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import (
    Bind,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Operation,
    Outcome,
    PurgeQueue,
    Subscribe,
    Unbind,
)
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import NUMBERS, Connect, Driver, Names

__all__ = ["Nodes"]

_MISSING: dict[str, Callable[[str, str], Operation]] = {
    "delete a queue": lambda queue, missing: DeleteQueue(missing),
    "delete a queue if unused": lambda queue, missing: DeleteQueue(missing, if_unused=True),
    "delete a queue if empty": lambda queue, missing: DeleteQueue(missing, if_empty=True),
    "purge a queue": lambda queue, missing: PurgeQueue(missing),
    "delete an exchange": lambda queue, missing: DeleteExchange(missing),
    "bind a queue": lambda queue, missing: Bind(missing, "amq.direct", "key"),
    "bind to an exchange": lambda queue, missing: Bind(queue, missing, "key"),
    "unbind a queue": lambda queue, missing: Unbind(missing, "amq.direct", "key"),
    "unbind from an exchange": lambda queue, missing: Unbind(queue, missing, "key"),
    "subscribe": lambda queue, missing: Subscribe(next(NUMBERS), missing, 1),
}


class Nodes(Base):
    """Queues, exchanges and bindings are there when they should be, and only then."""

    # -- what is missing -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("operation", _MISSING.values(), ids=_MISSING.keys())
    def test_a_missing_node_is_not_found_and_the_connection_stays(
        self, driver: Driver, queue: str, names: Names, operation: Callable[[str, str], Operation]
    ) -> None:
        driver.subscribe(queue)
        driver.give(queue, b"held")
        held = driver.one()
        for _ in range(2):
            with pytest.raises(NotFound) as caught:
                driver.ask(operation(queue, names.queue("missing")))
            assert str(caught.value)
        driver.accept(held)
        driver.give(queue, b"still usable")
        assert driver.one().body == b"still usable"
        assert driver.lost == []

    def test_operations_asked_at_once_are_each_done_for_themselves(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        """One that fails, or takes its time, neither harms another nor a message on its way."""
        driver.subscribe(queue, prefetch=100)
        good, bad, sent = [], [], []
        for n in range(10):
            other = names.queue(f"at-once-{n}")
            good.append(driver.start(DeclareQueue(other)))
            bad += [driver.start(operation(queue, names.queue("missing"))) for operation in _MISSING.values()]
            sent.append(driver.post(queue, b"%d" % n))
        for id in bad:
            with pytest.raises(NotFound):
                driver.done(id)
        assert [driver.done(id) for id in good] == [None] * 10
        assert {driver.confirmed(token).outcome for token in sent} == {Outcome.CONFIRMED}
        assert [d.body for d in driver.take(10)] == [b"%d" % n for n in range(10)]
        for name in names.queues:
            if "at-once" in name:
                driver.give(name)
        assert driver.lost == []

    def test_an_operation_that_is_wrong_in_itself_is_refused_and_has_no_effect(
        self, driver: Driver, queue: str
    ) -> None:
        long = "€" * 86  # 258 bytes
        wrong: list[Operation] = [DeclareQueue(long), DeleteQueue(long), PurgeQueue(long), DeclareExchange(long)]
        wrong += [DeleteExchange(long), Bind(queue, "amq.direct", long), Unbind(long, "amq.direct", "key")]
        wrong += [Subscribe(next(NUMBERS), long, 1)]
        wrong += [Subscribe(next(NUMBERS), queue, prefetch) for prefetch in (0, -1, 65536)]
        for operation in wrong:
            with pytest.raises(ValueError, match=r"."):
                driver.start(operation)
        driver.settle_down()  # an answer to any of them fails in the driver

    # -- queues ----------------------------------------------------------------------------------------------

    def test_declaring_a_queue_again_changes_nothing(self, driver: Driver, names: Names) -> None:
        queue = DeclareQueue(names.queue())
        assert driver.ask(queue) is None
        driver.give(queue.name, b"kept")
        assert driver.ask(queue) is None
        driver.subscribe(queue.name)
        assert driver.one().body == b"kept"

    def test_declaring_a_queue_otherwise_tells_so_and_uses_it_as_it_is(self, driver: Driver, names: Names) -> None:
        name = names.queue()
        assert driver.ask(DeclareQueue(name)) is None
        driver.subscribe(name)
        driver.give(name, b"kept")
        held = driver.one()
        for other in ({"durable": False}, {"auto_delete": True}, {"expires": 60.0}):
            sentence = driver.ask(DeclareQueue(name, **other))
            assert isinstance(sentence, str)
            assert sentence.strip()
        driver.accept(held)
        driver.give(name, b"used")
        assert driver.one().body == b"used"

    def test_purging_drops_what_waits_but_not_what_is_delivered(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2", b"3")
        held = driver.one()
        driver.ask(PurgeQueue(queue))
        driver.adapter.release(held)
        back = driver.one()
        assert back.body == b"1"
        driver.accept(back)
        driver.nothing_comes()

    def test_a_deleted_queue_is_gone_with_its_messages(self, driver: Driver, queue: str) -> None:
        driver.give(queue, b"lost")
        driver.ask(DeleteQueue(queue))
        assert driver.send(queue) is Outcome.RETURNED
        driver.queue(queue)
        driver.subscribe(queue)
        driver.nothing_comes()

    def test_a_queue_in_use_is_kept_if_that_is_asked(self, connect: Connect, driver: Driver, queue: str) -> None:
        if not self.has_conditional_deletes:
            self.check_keeps_what_it_cannot_check(driver, queue, DeleteQueue(queue, if_unused=True))
            return
        subscription = driver.subscribe(queue)
        other = connect()
        with pytest.raises(AdapterError):
            other.ask(DeleteQueue(queue, if_unused=True))
        other.give(queue, b"still there")
        driver.accept(driver.one())
        driver.cancel(subscription)
        other.ask(DeleteQueue(queue, if_unused=True))
        assert other.send(queue) is Outcome.RETURNED

    def test_a_queue_with_messages_is_kept_if_that_is_asked(self, driver: Driver, queue: str) -> None:
        if not self.has_conditional_deletes:
            self.check_keeps_what_it_cannot_check(driver, queue, DeleteQueue(queue, if_empty=True))
            return
        driver.give(queue, b"kept")
        with pytest.raises(AdapterError):
            driver.ask(DeleteQueue(queue, if_empty=True))
        subscription = driver.subscribe(queue)
        driver.accept(driver.one())
        driver.cancel(subscription)
        driver.ask(DeleteQueue(queue, if_empty=True))
        assert driver.send(queue) is Outcome.RETURNED

    def check_keeps_what_it_cannot_check(self, driver: Driver, queue: str, operation: DeleteQueue) -> None:
        """Check that the queue is kept, and that the broker's inability is told."""
        with pytest.raises(AdapterError):
            driver.ask(operation)
        driver.give(queue, b"kept")

    def test_an_exclusive_queue_is_its_connections_alone(self, connect: Connect, names: Names) -> None:
        if not self.has_exclusive_queues:
            pytest.skip("this broker has none")
        name = names.queue()
        mine, other = connect(), connect()
        mine.ask(DeclareQueue(name, exclusive=True))
        with pytest.raises(AdapterError):
            other.ask(DeclareQueue(name, exclusive=True))
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
        mine.ask(DeclareQueue(name, exclusive=True))
        mine.close()
        self.wait_until_gone(other, name)

    def test_an_auto_delete_queue_goes_with_its_last_subscriber(self, connect: Connect, names: Names) -> None:
        if not self.has_auto_delete:
            pytest.skip("this broker has none")
        name = names.queue()
        first, second = connect(), connect()
        first.ask(DeclareQueue(name, auto_delete=True))
        assert first.send(name) is Outcome.CONFIRMED
        subscription = first.subscribe(name)
        second.subscribe(name)
        first.cancel(subscription)
        assert first.send(name) is Outcome.CONFIRMED
        second.close()
        self.wait_until_gone(first, name)

    def test_an_expiring_queue_goes_when_nobody_uses_it(self, driver: Driver, names: Names) -> None:
        if not self.has_expiring_queues:
            pytest.skip("this broker has none")
        idle, used = names.queue("idle"), names.queue("used")
        for name in (idle, used):
            driver.ask(DeclareQueue(name, expires=0.5))
        driver.subscribe(used)
        driver.give(idle, b"going")
        self.wait_until_gone(driver, idle)
        driver.pass_time(0.5)
        driver.give(used, b"a subscriber is use enough")
        assert driver.one().body == b"a subscriber is use enough"

    def wait_until_gone(self, driver: Driver, queue: str) -> None:
        """Drive until a message to the queue is returned."""
        driver.until(lambda: driver.send(queue) is Outcome.RETURNED, f"queue {queue} to be gone")

    # -- exchanges and bindings ------------------------------------------------------------------------------

    def test_declaring_an_exchange_again_changes_nothing(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = DeclareExchange(names.exchange(), "topic")
        assert driver.ask(exchange) is None
        driver.ask(Bind(queue, exchange.name, "a.*"))
        assert driver.ask(exchange) is None
        driver.give("a.b", exchange=exchange.name)

    def test_declaring_an_exchange_otherwise_tells_so_and_uses_it_as_it_is(
        self, driver: Driver, queue: str, names: Names
    ) -> None:
        name = names.exchange()
        assert driver.ask(DeclareExchange(name, "topic")) is None
        driver.ask(Bind(queue, name, "a.*"))
        for other in (DeclareExchange(name, "fanout"), DeclareExchange(name, "topic", durable=False)):
            sentence = driver.ask(other)
            assert isinstance(sentence, str)
            assert sentence.strip()
        driver.give("a.b", b"by topic", exchange=name)
        assert driver.send("b.b", exchange=name) is Outcome.RETURNED

    def test_an_exchange_of_no_known_kind_is_refused(self, driver: Driver, queue: str, names: Names) -> None:
        with pytest.raises((AdapterError, ValueError)):
            driver.ask(DeclareExchange(names.exchange(), "nonsense"))
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
        driver.ask(Bind(queue, exchange, queue))
        driver.subscribe(queue)
        driver.give(queue, b"through", exchange=exchange)
        assert driver.one().body == b"through"

    def test_a_message_reaches_a_queue_once_by_two_bindings(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.ask(DeclareExchange(exchange, "topic"))
        for key in ("a.*", "*.b", "a.*"):
            driver.ask(Bind(queue, exchange, key))
        driver.subscribe(queue)
        driver.give("a.b", b"once", exchange=exchange)
        assert driver.one().body == b"once"
        driver.nothing_comes()

    def test_unbinding_undoes_binding(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.ask(DeclareExchange(exchange))
        driver.ask(Bind(queue, exchange, "one"))
        driver.ask(Bind(queue, exchange, "two"))
        driver.ask(Unbind(queue, exchange, "one"))
        driver.ask(Unbind(queue, exchange, "one"))
        driver.ask(Unbind(queue, exchange, "never bound"))
        assert driver.send("one", exchange=exchange) is Outcome.RETURNED
        assert driver.send("two", exchange=exchange) is Outcome.CONFIRMED

    def test_a_deleted_queue_takes_its_bindings_along(self, driver: Driver, queue: str, names: Names) -> None:
        exchange = names.exchange()
        driver.ask(DeclareExchange(exchange))
        driver.ask(Bind(queue, exchange, "key"))
        driver.ask(DeleteQueue(queue))
        driver.queue(queue)
        assert driver.send("key", exchange=exchange) is Outcome.RETURNED

    def bound(
        self, driver: Driver, names: Names, kind: str, bindings: dict[str, list[str]]
    ) -> Callable[[str, set[str]], None]:
        """Set up an exchange with queues bound to it; return the check that a key reaches just these queues."""
        exchange = names.exchange(kind)
        driver.ask(DeclareExchange(exchange, kind))
        labels: dict[int, str] = {}
        for label, keys in bindings.items():
            queue = driver.queue(names.queue(label))
            for key in keys:
                driver.ask(Bind(queue, exchange, key))
            labels[driver.subscribe(queue)] = label

        def reaches(key: str, queues: set[str]) -> None:
            outcome = driver.send(key, key.encode(), exchange=exchange)
            assert outcome is (Outcome.CONFIRMED if queues else Outcome.RETURNED)
            came = driver.take(len(queues))
            assert sorted(labels[d.subscription] for d in came) == sorted(queues)
            assert {d.body for d in came} <= {key.encode()}
            driver.accept(*came)
            driver.nothing_comes()

        return reaches
