# ruff: noqa: S101 - these are tests, shipped
"""The contract on nodes: queues, exchanges and bindings."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from gofer.errors import AdapterError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, DeleteQueue, Outcome, PurgeQueue, Unbind
from gofer.testing._contract.base import Base
from gofer.testing._contract.driver import Connect, Driver, new_number

__all__ = ["OPERATIONS", "Nodes"]

On = Callable[[str, str], api.Operation]

#: Operations, each on a queue and on something that does not exist.
OPERATIONS: dict[str, On] = {
    "delete a queue": lambda queue, missing: DeleteQueue(missing),
    "delete a queue if empty": lambda queue, missing: DeleteQueue(missing, if_empty=True),
    "purge a queue": lambda queue, missing: PurgeQueue(missing),
    "delete an exchange": lambda queue, missing: api.DeleteExchange(missing),
    "bind a queue": lambda queue, missing: Bind(missing, "amq.direct", "key"),
    "bind to an exchange": lambda queue, missing: Bind(queue, missing, "key"),
    "unbind a queue": lambda queue, missing: Unbind(missing, "amq.direct", "key"),
    "unbind from an exchange": lambda queue, missing: Unbind(queue, missing, "key"),
    "subscribe": lambda queue, missing: api.Subscribe(new_number(), missing, 1),
}
# What a broker must have for them, by a word of their names.
_NEEDS = {"delete a queue": "has_deletes", "purge": "has_deletes", "bind": "has_exchanges", "exchange": "has_exchanges"}
_ALL = "all exact middle star tail twin word"
_BINDINGS = {"star": "a.*.c", "tail": "a.#", "middle": "a.#.z", "all": "#", "word": "*", "exact": "a.b", "twin": "a.b"}
_REACHED = {
    "direct": {"a.b": "exact twin", "*": "word", "a": ""},
    "topic": {
        "a": "all tail word",
        "a.b": "all exact tail twin",
        "a.b.c": "all star tail",
        "a.b.b.c": "all tail",
        "a.z": "all middle tail",
        "a.b.c.z": "all middle tail",
        "b": "all word",
        "b.a": "all",
    },
    "fanout": {"a": _ALL, "anything": _ALL},
}


class Nodes(Base):
    """Queues, exchanges and bindings are there when they should be, and only then."""

    # -- operations ------------------------------------------------------------------------------------------

    def can(self, operation: str) -> bool:
        """Tell whether the broker can do one of these operations."""
        return all(getattr(self, capability) for word, capability in _NEEDS.items() if word in operation)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_a_missing_node_is_not_found_and_nothing_else_fails(self, driver: Driver, queue: str, name: str) -> None:
        operation = OPERATIONS[name]
        # What the broker cannot do at all is told as well as it can.
        error = NotFound if self.can(name) else (NotFound, AdapterError)
        held = driver.hold(queue, b"held")
        driver.fails(error, *(operation(queue, driver.name("missing")) for _ in range(2)))
        driver.accept(*held, *driver.hold(queue, b"still usable"))
        assert driver.lost == []

    def test_operations_asked_at_once_are_each_done_for_themselves(self, driver: Driver, queue: str) -> None:
        """One that fails, or takes its time, neither harms another nor a message on its way."""
        driver.subscribe(queue, prefetch=100)
        good, bad, sent, new = [], [], [], [driver.name() for _ in range(10)]
        for name in new:
            good.append(driver.start(DeclareQueue(name)))
            wrong = [operation for operation in OPERATIONS if self.can(operation)]
            bad += [driver.start(OPERATIONS[operation](queue, driver.name("missing"))) for operation in wrong]
            sent.append(driver.post(queue, name.encode()))
        for id in bad:
            with pytest.raises(NotFound):
                driver.done(id)
        assert [driver.done(id) for id in good] == [None] * 10
        assert {driver.confirmed(token).outcome for token in sent} == {Outcome.CONFIRMED}
        assert [d.body.decode() for d in driver.take(10)] == new
        assert {driver.send(name) for name in new} == {Outcome.CONFIRMED}
        assert driver.lost == []

    def test_an_operation_that_is_wrong_in_itself_has_no_effect(self, driver: Driver, queue: str) -> None:
        long = "€" * 86  # 258 bytes
        wrong = [operation(long, long) for operation in OPERATIONS.values()]
        wrong += [DeclareQueue(long), DeclareExchange(long), Bind(queue, "amq.direct", long)]
        wrong += [DeclareQueue(queue, bindings=((long, ""),)), DeclareQueue(queue, bindings=(("amq.direct", long),))]
        wrong += [api.Subscribe(new_number(), queue, prefetch) for prefetch in (0, -1, 65536)]
        for operation in wrong:
            with pytest.raises(ValueError, match=r"."):
                driver.start(operation)
        for operation in (DeclareExchange(driver.name(), "nonsense"), DeclareQueue(driver.name(), kind="nonsense")):
            with pytest.raises((AdapterError, ValueError)):
                driver.ask(operation)
        driver.settle_down()  # an answer to any of them fails in the driver

    # -- queues ----------------------------------------------------------------------------------------------

    def test_declaring_a_queue_again_or_otherwise_uses_it_as_it_is(self, driver: Driver, queue: str) -> None:
        held = driver.hold(queue, b"kept")
        assert driver.ask(DeclareQueue(queue)) is None
        for other in ({"durable": False}, {"auto_delete": True}, {"expires": 60.0}):
            assert str(driver.ask(DeclareQueue(queue, **other)) or "").strip()
        driver.accept(*held)
        assert driver.hold(queue, b"used")[0].body == b"used"

    def test_a_look_at_a_queue_reports_whether_it_is_there_and_has_a_consumer(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        if not self.adapter.checks_queues:
            pytest.skip("the adapter's checks_queues is False")
        check, other = api.CheckQueue(queue), connect()
        driver.fails(NotFound, api.CheckQueue(driver.name("missing")))
        assert str(driver.ask(check) or "").strip()
        full = driver.subscribe(queue, prefetch=1)
        held = driver.hold(queue, b"held")
        driver.give(queue, b"waits: the prefetch window is full")
        assert (driver.ask(check), other.ask(check)) == (None, None)
        driver.cancel(full)
        driver.accept(*held)  # what is not settled may keep a subscriber
        driver.until(lambda: bool(str(other.ask(check) or "").strip()), "the end of the subscription to be seen")
        other.subscribe(queue)
        assert driver.ask(check) is None
        assert other.one().body.startswith(b"waits")
        if self.has_deletes:
            driver.ask(DeleteQueue(queue))
            driver.fails(NotFound, check)

    def test_purging_drops_what_waits_but_not_what_is_delivered(self, driver: Driver, queue: str) -> None:
        self.needs("has_deletes")
        driver.subscribe(queue, prefetch=1)
        driver.give(queue, b"1", b"2", b"3")
        held = driver.one()
        driver.ask(PurgeQueue(queue))
        driver.adapter.release(held)
        back = driver.one()
        assert back.body == b"1"
        driver.accept(back)
        driver.nothing_comes()

    def test_a_deleted_queue_is_gone_with_its_messages_and_bindings(self, driver: Driver, queue: str) -> None:
        self.needs("has_deletes")
        if self.has_exchanges:
            exchange = driver.exchange()
            driver.bind(queue, exchange, "key")
            driver.give("key", b"lost", exchange=exchange)
        else:
            driver.give(queue, b"lost")
        driver.ask(DeleteQueue(queue))
        assert driver.send(queue) is Outcome.RETURNED
        driver.subscribe(driver.queue(queue))
        if self.has_exchanges:
            assert driver.send("key", exchange=exchange) is Outcome.RETURNED
        driver.nothing_comes()

    def test_a_queue_that_is_not_empty_is_kept_on_demand(self, connect: Connect, driver: Driver, queue: str) -> None:
        self.needs("has_deletes")
        operation, other = DeleteQueue(queue, if_empty=True), connect()
        other.give(queue, b"still there")
        other.fails(AdapterError, operation)
        subscription = driver.subscribe(queue)
        driver.accept(driver.one())
        driver.cancel(subscription)
        if self.has_conditional_deletes:
            other.ask(operation)
            assert other.send(queue) is Outcome.RETURNED
        else:  # it cannot be checked, so it is never done
            other.fails(AdapterError, operation)

    def test_an_exclusive_queue_is_its_connections_alone_and_goes_with_it(self, connect: Connect) -> None:
        self.needs("has_exclusive_queues")
        mine, other = connect(), connect()
        name = mine.name()
        mine.ask(DeclareQueue(name, exclusive=True))
        other.fails(AdapterError, DeclareQueue(name, exclusive=True), api.Subscribe(new_number(), name, 1))
        other.give(name, b"anybody may send")
        mine.subscribe(name)
        assert mine.one().body == b"anybody may send"
        mine.close()
        self.check_gone(other, name)

    def test_an_auto_delete_queue_goes_with_its_last_subscriber(self, connect: Connect) -> None:
        self.needs("has_auto_delete")
        first, second = connect(), connect()
        name = first.name()
        first.ask(DeclareQueue(name, auto_delete=True))
        first.give(name)
        subscription = first.subscribe(name)
        first.accept(first.one())  # what is not settled may keep a subscriber
        second.subscribe(name)
        first.cancel(subscription)
        first.give(name)
        second.close()
        self.check_gone(first, name)

    def test_an_expiring_queue_goes_when_nobody_uses_it(self, driver: Driver) -> None:
        self.needs("has_expiring_queues")
        idle, used = driver.name("idle"), driver.name("used")
        for name in (idle, used):
            driver.ask(DeclareQueue(name, expires=0.5))
        driver.subscribe(used)
        driver.give(idle, b"going")
        self.check_gone(driver, idle)
        driver.pass_time(0.5)
        driver.hold(used, b"a subscriber is use enough")

    def check_gone(self, driver: Driver, queue: str) -> None:
        """Check that soon a message to the queue is returned."""
        driver.until(lambda: driver.send(queue) is Outcome.RETURNED, f"queue {queue} to be gone")

    # -- exchanges and bindings ------------------------------------------------------------------------------

    def test_declaring_an_exchange_again_or_otherwise_uses_it_as_it_is(self, driver: Driver, queue: str) -> None:
        self.needs("has_exchanges")
        exchange = driver.exchange("topic")
        driver.bind(queue, exchange, "a.*")
        assert driver.ask(DeclareExchange(exchange, "topic")) is None
        for other in (DeclareExchange(exchange, "fanout"), DeclareExchange(exchange, "topic", durable=False)):
            assert str(driver.ask(other) or "").strip()
        driver.give("a.b", b"by topic", exchange=exchange)
        assert driver.send("b.b", exchange=exchange) is Outcome.RETURNED

    @pytest.mark.parametrize("kind", _REACHED)
    def test_an_exchange_reaches_the_queues_bound_for_a_key(self, driver: Driver, kind: str) -> None:
        self.needs("has_exchanges")
        exchange = driver.exchange(kind)
        labels: dict[int, str] = {}
        for label, pattern in _BINDINGS.items():
            queue = driver.queue()
            driver.bind(queue, exchange, pattern)
            labels[driver.subscribe(queue)] = label
        for key, reached in _REACHED[kind].items():
            outcome = driver.send(key, key.encode(), exchange=exchange)
            assert outcome is (Outcome.CONFIRMED if reached else Outcome.RETURNED)
            came = driver.take(len(reached.split()))
            assert " ".join(sorted(labels[d.subscription] for d in came)) == reached
            driver.accept(*came)
            driver.nothing_comes()

    def test_a_queue_is_declared_and_bound_by_one_operation(self, driver: Driver) -> None:
        self.needs("has_exchanges")
        topic, direct, queue = driver.exchange("topic"), driver.exchange(), driver.name()
        for again in (DeclareQueue(queue), DeclareQueue(queue, durable=False)):  # new; and there, in another way
            bindings = ((topic, f"{again.durable}.*"), (topic, f"*.{again.durable}"), (direct, f"{again.durable}"))
            driver.ask(msgspec.structs.replace(again, bindings=bindings))  # whether it tells a difference: see above
        driver.subscribe(queue)
        for one in ("True", "False"):
            driver.give(f"{one}.x", b"by topic", exchange=topic)
            driver.give(f"x.{one}", b"by topic", exchange=topic)
            driver.give(one, b"directly", exchange=direct)
        assert [one.body for one in driver.take(6)].count(b"directly") == 2
        assert driver.send("x.x", exchange=topic) is Outcome.RETURNED

    def test_a_queue_whose_exchange_is_missing_is_there_and_nothing_else_fails(self, driver: Driver) -> None:
        self.needs("has_exchanges")
        exchange, queue = driver.exchange(), driver.name()
        bindings = ((exchange, "first"), (driver.name("missing"), "second"), (exchange, "third"))
        driver.fails(NotFound, *(DeclareQueue(queue, bindings=bindings) for _ in range(2)))
        assert driver.send(queue) is Outcome.CONFIRMED
        assert driver.ask(DeclareQueue(queue, bindings=((exchange, "third"),))) is None
        driver.give("third", exchange=exchange)
        assert driver.lost == []

    @pytest.mark.parametrize("exchange", ["amq.direct", "amq.topic", "amq.fanout"])
    def test_the_brokers_own_exchanges_are_there(self, driver: Driver, queue: str, exchange: str) -> None:
        self.needs("has_exchanges")
        driver.bind(queue, exchange, queue)
        driver.subscribe(queue)
        driver.give(queue, b"through", exchange=exchange)
        assert driver.one().body == b"through"

    def test_a_message_reaches_a_queue_once_by_two_bindings(self, driver: Driver, queue: str) -> None:
        self.needs("has_exchanges")
        exchange = driver.exchange("topic")
        driver.bind(queue, exchange, "a.*", "*.b", "a.*")
        driver.subscribe(queue)
        driver.give("a.b", b"once", exchange=exchange)
        assert driver.one().body == b"once"
        driver.nothing_comes()

    def test_unbinding_undoes_binding(self, driver: Driver, queue: str) -> None:
        self.needs("has_exchanges")
        exchange = driver.exchange()
        driver.bind(queue, exchange, "one", "two", "one")
        for key in ("one", "one", "never bound"):
            assert driver.ask(Unbind(queue, exchange, key)) is None
        assert driver.send("one", exchange=exchange) is Outcome.RETURNED
        assert driver.send("two", exchange=exchange) is Outcome.CONFIRMED
