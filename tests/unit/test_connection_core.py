"""The state of a connection: whatever the order of replies, losses, deadlines and blocks, each thing ends once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import (
    Adapter,
    Blocked,
    Cancel,
    Closed,
    Confirmed,
    DeclareQueue,
    Delivery,
    Done,
    Event,
    Opened,
    Operation,
    Outcome,
    Outgoing,
    Settlement,
    Subscribe,
    SubscriptionLost,
)
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.core import _LOGIN, Core
from gofer.messaging.operations import MOST_PATIENCE, OPERATION, State
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.subscriptions import _SUBSCRIBING
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

ADDRESS = Address("", "queue")


class ScriptedAdapter(Adapter):
    """An adapter whose broker is the test: it notes what it is asked and returns the events that the test puts."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self.asked: dict[int, Operation] = {}
        self.published: list[int] = []
        self.settled: list[tuple[str, Delivery]] = []
        self.queue: list[Event] = []
        self.closing = False
        self.takes = 0

    def begin(self, now: float) -> None:
        pass

    def receive(self, data: bytes, now: float) -> None:
        pass

    def lost(self, reason: str, now: float) -> None:
        self.queue.append(Closed(ConnectionLost(reason)))

    def tick(self, now: float) -> None:
        pass

    def events(self) -> list[Event]:
        events, self.queue = self.queue, []
        return events

    def take(self, now: float) -> bytes:
        self.takes += 1
        return b""

    def close(self, now: float) -> None:
        self.closing = True

    def start(self, id: int, operation: Operation) -> None:
        self.asked[id] = operation

    def send(self, message: Outgoing) -> None:
        self.published.append(message.token)

    def forget(self, token: int) -> None:
        pass

    def settle(self, delivery: Delivery, how: Settlement) -> None:
        self.settled.append((how.value, delivery))


class Broker:
    """A core whose socket, broker and clock are the test."""

    def __init__(self, **how: Any) -> None:
        self.now = 100.0
        self.core = Core(Connector.of("amqp://broker.test"), **how)
        self.core.now = self.now

    @property
    def adapter(self) -> ScriptedAdapter:
        assert isinstance(self.core.adapter, ScriptedAdapter)
        return self.core.adapter

    def put(self, *events: Event) -> None:
        """Have the adapter return events."""
        self.adapter.queue.extend(events)
        self.core.receive(b"", self.now)

    def connect(self, *, opened: bool = True) -> None:
        """Open the socket that the core wants, and accept the login."""
        assert self.core.state is State.DOWN
        self.now = max(self.now, self.core.connect_at)
        self.core.connecting()
        self.core.connected(ScriptedAdapter(self.core.connector), self.now)
        if opened:
            self.put(Opened())

    def answer(self, kind: type[Operation], *, error: MessagingError | None = None) -> None:
        """Answer the oldest question of a kind."""
        number = next(number for number, operation in self.adapter.asked.items() if isinstance(operation, kind))
        del self.adapter.asked[number]
        self.put(Done(number, None, error))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)


@pytest.fixture
def broker() -> Broker:
    broker = Broker()
    broker.core.connect()
    broker.connect()
    return broker


def subscribed(broker: Broker, subscription: Subscription) -> int:
    broker.core.subscribe(subscription)
    broker.answer(Subscribe)
    assert subscription.number is not None
    return subscription.number


def delivery(number: int, body: bytes = b"x") -> Delivery:
    return Delivery(number, body, False, None, None)


def test_an_operation_whose_deadline_passes_costs_itself_alone(broker: Broker) -> None:
    answers: list[Any] = []
    broker.core.ask(DeclareQueue("slow"), lambda value, error: answers.append(error))
    broker.core.ask(DeclareQueue("quick"), lambda value, error: answers.append(value), timeout=60.0)
    broker.pass_time(OPERATION)
    assert len(answers) == 1
    assert isinstance(answers[0], ConnectionLost)
    assert "DeclareQueue" in str(answers[0])
    assert broker.core.state is State.OPEN
    broker.answer(DeclareQueue)  # the late answer to the slow one is nobody's
    assert len(answers) == 1
    broker.answer(DeclareQueue)
    assert answers[1] is None


def test_deadlines_stand_still_while_the_broker_has_blocked_the_connection(broker: Broker) -> None:
    answers: list[Any] = []
    broker.core.ask(DeclareQueue("q"), lambda value, error: answers.append(error))
    broker.put(Blocked("low on memory"))
    broker.pass_time(10 * OPERATION)
    assert not answers
    assert broker.core.describe() == "blocked by the broker (low on memory)"
    broker.put(Blocked(None))
    broker.pass_time(OPERATION / 2)
    assert not answers
    broker.pass_time(OPERATION)
    assert len(answers) == 1


def test_deliveries_that_come_with_the_answer_to_a_subscribe_are_handled(broker: Broker) -> None:
    got: list[Delivery] = []
    subscription = Subscription("q", 10, got.append)
    broker.core.subscribe(subscription)
    ((number, operation),) = broker.adapter.asked.items()
    assert isinstance(operation, Subscribe)
    first = delivery(operation.number)
    broker.put(Done(number), first)
    assert got == [first]
    assert subscription.active


def test_a_subscription_comes_back_after_a_loss_with_its_preparation(broker: Broker) -> None:
    def prepare() -> Steps:
        yield DeclareQueue("q")

    made: list[None] = []
    subscription = Subscription("q", 10, lambda _: None, prepare, on_made=lambda: made.append(None))
    broker.core.subscribe(subscription)
    broker.answer(DeclareQueue)
    broker.answer(Subscribe)
    broker.core.lost("cut", broker.now)
    assert not subscription.active
    assert broker.core.state is State.DOWN
    broker.connect()
    broker.answer(DeclareQueue)
    broker.answer(Subscribe)
    assert subscription.active
    assert len(made) == 2


def test_a_subscription_that_is_refused_is_tried_again_and_reported_once(broker: Broker) -> None:
    told: list[str] = []
    subscription = Subscription("q", 10, lambda _: None, on_lost=told.append)
    broker.core.subscribe(subscription)
    for _ in range(3):
        broker.answer(Subscribe, error=NotFound("no queue 'q'"))
        assert not subscription.active
        assert isinstance(subscription.error, NotFound)
        broker.pass_time(60.0)
    assert told == ["no queue 'q'"]
    broker.answer(Subscribe)
    assert subscription.active


def test_a_queue_that_is_deleted_is_subscribed_to_again(broker: Broker) -> None:
    told: list[str] = []
    subscription = Subscription("q", 10, lambda _: None, on_lost=told.append)
    number = subscribed(broker, subscription)
    broker.put(SubscriptionLost(number, "deleted"))
    assert told == ["deleted"]
    assert not subscription.active
    broker.pass_time(1.0)
    broker.answer(Subscribe)
    assert subscription.active


def test_what_is_unsubscribed_while_it_is_made_is_cancelled(broker: Broker) -> None:
    subscription = Subscription("q", 10, lambda _: None)
    broker.core.subscribe(subscription)
    broker.core.unsubscribe(subscription, lambda value, error: None)
    broker.answer(Subscribe)
    assert not subscription.active
    broker.answer(Cancel)


def test_a_subscription_that_is_answered_late_is_cancelled_and_made_anew(broker: Broker) -> None:
    subscription = Subscription("q", 10, lambda _: None)
    broker.core.subscribe(subscription)
    broker.pass_time(_SUBSCRIBING)
    assert not subscription.active
    broker.answer(Subscribe)
    broker.answer(Cancel)
    assert not subscription.active
    broker.pass_time(1.0)
    broker.answer(Subscribe)
    assert subscription.active


def test_a_login_that_is_refused_is_reported_as_it_is() -> None:
    broker = Broker()
    broker.core.connect()
    broker.connect(opened=False)
    broker.put(Closed(AdapterError("login refused for user 'x'")))
    assert str(broker.core.error) == "login refused for user 'x'"
    assert broker.core.tries == 1
    assert not broker.core.opened_before
    assert broker.core.connect_at <= broker.now + 0.25


def test_who_sees_that_a_try_has_ended_sees_its_error() -> None:
    """Another thread may look in the middle: as here, when the try is logged."""
    broker = Broker()
    broker.connect(opened=False)
    seen: list[tuple[int, MessagingError | None]] = []

    class Look(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((broker.core.tries, broker.core.error))

    look, log = Look(), logging.getLogger("gofer.messaging.core")
    log.addHandler(look)
    try:
        broker.put(Closed(AdapterError("refused")))
    finally:
        log.removeHandler(look)
    seen.append((broker.core.tries, broker.core.error))
    assert len(seen) == 2
    assert all(bool(tries) == bool(error) for tries, error in seen), seen


def test_a_login_that_gets_no_answer_ends() -> None:
    broker = Broker()
    broker.core.connect()
    broker.connect(opened=False)
    broker.pass_time(31.0)
    assert broker.core.state is State.DOWN
    assert "login" in str(broker.core.error)


def login_takes(broker: Broker, *, every: float | None = None) -> float:
    """Log in at a broker that does not get to the end of it; return after how many seconds that is given up.

    Args:
        every: seconds between two things that it says; None: it says nothing.
    """
    broker.connect(opened=False)
    begun = broker.now
    while broker.core.state is State.LOGIN:
        assert broker.now - begun < 10_000
        due = broker.core.deadline
        if every is not None and broker.now + every < due:
            broker.now += every
            broker.core.receive(b"a frame", broker.now)
        else:
            broker.pass_time(due - broker.now)
    return broker.now - begun


def test_a_broker_that_is_silent_gets_more_time_for_each_login_to_a_limit() -> None:
    broker = Broker()
    broker.core.connect()
    assert [login_takes(broker) for _ in range(4)] == pytest.approx([_LOGIN, 2 * _LOGIN, 4 * _LOGIN, 4 * _LOGIN])
    broker.connect()  # it was quick again
    broker.core.lost("cut", broker.now)
    assert login_takes(broker) == pytest.approx(_LOGIN)


def test_a_login_that_is_cut_or_refused_gets_no_more_time() -> None:
    broker = Broker()
    broker.core.connect()
    for _ in range(3):
        broker.connect(opened=False)
        broker.pass_time(1.0)
        broker.core.lost("cut", broker.now)
        broker.connect(opened=False)
        broker.put(Closed(AdapterError("login refused")))
    assert login_takes(broker) == pytest.approx(_LOGIN)


def test_a_login_that_a_slow_broker_goes_on_with_is_not_given_up_and_has_an_end() -> None:
    broker = Broker()
    broker.core.connect()
    broker.connect(opened=False)
    for _ in range(4):  # it says something just in time
        broker.pass_time(_LOGIN * 0.9)
        assert broker.core.state is State.LOGIN
        broker.core.receive(b"a frame", broker.now)
    broker.put(Opened())
    assert broker.core.state is State.OPEN
    broker.core.lost("cut", broker.now)
    assert login_takes(broker, every=1.0) == pytest.approx(MOST_PATIENCE * _LOGIN)
    assert f"within {MOST_PATIENCE * _LOGIN:.0f} s" in str(broker.core.error)


def test_a_subscription_that_a_slow_broker_does_not_make_in_time_gets_more_time(broker: Broker) -> None:
    def prepare() -> Steps:
        yield DeclareQueue("q")

    subscription = Subscription("q", 10, lambda _: None, prepare)
    broker.core.subscribe(subscription)
    for times in (1, 2, 4, 4):
        asked = len(broker.adapter.asked)
        broker.pass_time(times * _SUBSCRIBING - 1)
        assert subscription.error is None or times > 1
        assert len(broker.adapter.asked) == asked  # nothing is asked twice meanwhile
        broker.pass_time(1)
        assert isinstance(subscription.error, ConnectionLost)
        broker.pass_time(30.0)  # the pause before the next try
    for _ in range(4):
        broker.answer(DeclareQueue)  # the last one is of the last try, and leads on
    broker.answer(DeclareQueue)
    broker.answer(Subscribe)
    assert subscription.active


def test_pauses_before_a_reconnect_grow_to_the_limit_and_are_spread() -> None:
    pauses: list[list[float]] = []
    for _ in range(50):
        broker = Broker()
        broker.core.connect()
        mine = []
        for _ in range(12):
            broker.now = max(broker.now, broker.core.connect_at)
            broker.core.connecting()
            broker.core.connect_failed(ConnectionLost("refused"), broker.now)
            mine.append(broker.core.connect_at - broker.now)
        pauses.append(mine)
    assert all(0 <= mine[0] <= 0.25 for mine in pauses)
    last = [mine[-1] for mine in pauses]
    assert max(last) <= 30.0
    assert max(last) > 20.0
    assert min(last) < 10.0


def seconds_back(agents: int, away: float) -> Counter[int]:
    """Return in which second how many of a fleet come back to a broker that serves again after so many seconds."""
    back: Counter[int] = Counter()
    for _ in range(agents):
        broker = Broker()
        broker.core.spread()
        broker.core.connect()
        broker.connect()
        start = broker.now = broker.now + 60.0
        broker.core.lost("the broker restarts", start)
        while (at := broker.core.connect_at) < start + away:
            broker.now = at
            broker.core.connecting()
            broker.core.connect_failed(ConnectionLost("refused"), at)
        assert at <= start + away + 30.0
        back[int(at - start)] += 1
    return back


@pytest.mark.parametrize("away", [5.0, 6.0, 8.0, 12.0, 20.0, 30.0, 90.0])
def test_a_fleet_comes_back_to_a_restarted_broker_in_no_crowd(away: float) -> None:
    """Spread over the seconds, and all within the longest pause."""
    agents = 1000
    back = seconds_back(agents, away)
    assert max(back.values()) < 0.15 * agents
    assert len(back) > 15


def test_a_fleet_that_was_cut_for_a_moment_is_spread_over_the_first_pause() -> None:
    back = seconds_back(3000, 0.0)
    assert set(back) == {0, 1, 2, 3, 4}
    assert max(back.values()) < 0.25 * 3000  # a fifth, and chance


def test_an_open_connection_that_does_not_work_is_given_up_and_made_again(broker: Broker) -> None:
    outcomes: list[Outcome] = []
    subscription = Subscription("q", 10, lambda _: None)
    subscribed(broker, subscription)
    broker.core.publish(Outgoing(1, ADDRESS, b"x"), lambda outcome, _: outcomes.append(outcome))
    broker.core.drop("nothing comes through it")
    assert broker.core.state is State.DOWN
    assert "nothing comes through it" in str(broker.core.error)
    assert outcomes == [Outcome.UNKNOWN]
    broker.core.drop("nothing comes through it")  # it is down already
    broker.connect()
    broker.answer(Subscribe)
    assert subscription.active


def test_a_subscription_that_the_broker_has_forgotten_is_cancelled_and_made_again(broker: Broker) -> None:
    lost: list[str] = []
    came: list[Delivery] = []
    subscription = Subscription("q", 10, came.append, on_lost=lost.append)
    number = subscribed(broker, subscription)
    broker.core.resubscribe(subscription, "it has no consumer")
    broker.core.resubscribe(subscription, "it has no consumer")  # is not active, and left alone
    assert lost == ["it has no consumer"]
    late = Delivery(number, b"late", False, None, None)
    broker.put(late)
    broker.answer(Cancel)
    assert (came, broker.adapter.settled) == ([], [("release", late)])
    broker.pass_time(1.0)
    broker.answer(Subscribe)
    assert subscription.active
    assert subscription.number != number


def test_what_is_received_without_an_event_is_counted(broker: Broker) -> None:
    before = broker.core.unfinished
    broker.core.receive(b"half a message", broker.now)
    assert broker.core.unfinished == before + 14
    broker.adapter.queue.append(Blocked(None))
    broker.core.receive(b"an event", broker.now)
    assert broker.core.unfinished == before + 14
    assert broker.core.deliveries == 0
    subscription = Subscription("q", 10, lambda _: None)
    broker.put(Delivery(subscribed(broker, subscription), b"", False, None, None))
    assert broker.core.deliveries == 1


def test_closing_cleans_up_says_goodbye_and_ends(broker: Broker) -> None:
    from gofer.messaging.adapter import DeleteQueue

    def dispose() -> Steps:
        yield DeleteQueue("q")

    subscribed(broker, Subscription("q", 10, lambda _: None, dispose=dispose))
    broker.core.close()
    assert not broker.adapter.closing
    adapter = broker.adapter
    broker.answer(DeleteQueue)
    assert adapter.closing
    broker.put(Closed(None))
    assert broker.core.state is State.CLOSED


def test_closing_waits_for_no_broker_that_is_silent(broker: Broker) -> None:
    broker.core.close()
    broker.pass_time(1.0)
    assert broker.core.state is State.CLOSED


def test_closing_while_it_connects_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    core = Broker().core
    core.connect()
    core.connecting()
    core.close()
    assert core.state is State.CLOSED
    assert not caplog.records


def test_a_connection_closed_while_idle_comes_back_when_it_is_wanted(broker: Broker) -> None:
    broker.core.suspend()
    broker.put(Closed(None))
    assert broker.core.state is State.DOWN
    assert broker.core.deadline == float("inf")
    broker.core.connect()
    broker.connect()
    assert broker.core.state is State.OPEN


def test_an_adapter_that_fails_is_dropped(broker: Broker) -> None:
    outcomes: list[Outcome] = []
    broker.core.publish(Outgoing(1, ADDRESS, b"x"), lambda outcome, _: outcomes.append(outcome))
    broker.core.failed(KeyError("bug"))
    assert outcomes == [Outcome.UNKNOWN]
    assert broker.core.state is State.DOWN


def test_what_comes_as_the_connection_is_lost_is_sent_with_the_next_one(broker: Broker) -> None:
    outcomes: list[Outcome] = []
    broker.core.lost("cut", broker.now)
    for token in (1, 2):
        broker.core.publish(Outgoing(token, ADDRESS, b"x"), lambda outcome, _: outcomes.append(outcome))
    broker.core.forget(2)
    assert not outcomes
    broker.connect()
    assert broker.adapter.published == [1]
    broker.put(Confirmed(1, Outcome.CONFIRMED))
    assert outcomes == [Outcome.CONFIRMED]
    broker.core.lost("cut", broker.now)
    broker.core.publish(Outgoing(3, ADDRESS, b"x"), lambda outcome, _: outcomes.append(outcome))
    broker.core.close()
    assert outcomes == [Outcome.CONFIRMED, Outcome.UNKNOWN]


def test_what_needs_no_confirm_is_reported_the_loss_instead(broker: Broker) -> None:
    """Its sender waits for a reply. It sends again when it has subscribed to its reply queue, and not before."""
    outcomes: list[Outcome] = []
    broker.core.lost("cut", broker.now)
    broker.core.publish(Outgoing(1, ADDRESS, b"x", confirm=False), lambda outcome, _: outcomes.append(outcome))
    assert outcomes == [Outcome.UNKNOWN]
    broker.connect()
    assert not broker.adapter.published


def held() -> tuple[Broker, Callable[..., bool]]:
    """Return a broker, and a function that acknowledges a delivery and tells whether that is written at once."""
    broker = Broker(ack_delay=0.002)
    broker.core.connect()
    broker.connect()
    number = subscribed(broker, Subscription("q", 100, lambda _: None))
    broker.core.take(broker.now)

    def accept(within: float = 0.0) -> bool:
        takes = broker.adapter.takes
        broker.core.settle(delivery(number, b""), Settlement.ACCEPT, within)
        broker.core.take(broker.now)
        return broker.adapter.takes > takes

    return broker, accept


def test_an_acknowledgement_that_has_time_waits_for_it() -> None:
    broker, accept = held()
    assert not accept(0.05)
    assert broker.core.deadline == pytest.approx(broker.now + 0.05)
    broker.now += 0.03
    assert not accept(0.05)  # the first one's time counts
    assert broker.core.deadline == pytest.approx(broker.now + 0.02)
    broker.now += 0.021
    takes = broker.adapter.takes
    broker.core.take(broker.now)
    assert broker.adapter.takes == takes + 1
    assert broker.core.deadline == float("inf")


def test_an_acknowledgement_without_time_takes_those_that_have_it_along() -> None:
    broker, accept = held()
    assert not accept(0.05)
    assert not accept()
    assert broker.core.deadline == pytest.approx(broker.now + 0.002)


def test_fifty_acknowledgements_do_not_wait() -> None:
    _, accept = held()
    for _ in range(2):
        assert [accept(0.05) for _ in range(50)] == [False] * 49 + [True]


def test_events_that_a_command_brings_about_are_handled_before_output_is_taken(broker: Broker) -> None:
    outcomes: list[Outcome] = []
    broker.core.take(broker.now)
    broker.core.publish(Outgoing(1, ADDRESS, b"x"), lambda outcome, _: outcomes.append(outcome))
    broker.adapter.queue.append(Confirmed(1, Outcome.REFUSED))
    broker.core.take(broker.now)
    assert outcomes == [Outcome.REFUSED]


def test_order_is_kept_when_a_callback_publishes(broker: Broker) -> None:
    seen: list[int] = []

    def deliver(message: Delivery) -> None:
        seen.append(int(message.body))
        if message.body == b"1":
            broker.adapter.queue.append(delivery(message.subscription, b"3"))
            broker.core.publish(Outgoing(7, ADDRESS, b"x"), None)

    number = subscribed(broker, Subscription("q", 10, deliver))
    broker.put(delivery(number, b"1"), delivery(number, b"2"))
    broker.core.take(broker.now)
    assert seen == [1, 2, 3]


class Connections(RuleBasedStateMachine):
    """Any order of losses, answers, deadlines and blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.core = self.broker.core
        self.core.connect()
        self.answers: dict[int, int] = {}
        self.outcomes: dict[int, int] = {}
        self.subscriptions: list[Subscription] = []
        self.token = 0

    @property
    def adapter(self) -> ScriptedAdapter | None:
        adapter = self.core.adapter
        return adapter if isinstance(adapter, ScriptedAdapter) else None

    @precondition(lambda self: self.core.state is State.DOWN and self.core.connect_at < float("inf"))
    @rule(opened=st.booleans())
    def connect(self, opened: bool) -> None:
        assert self.core.connect_at <= self.broker.now + 30.0
        self.broker.connect(opened=opened)

    @precondition(lambda self: self.core.state is State.DOWN and self.core.connect_at < float("inf"))
    @rule()
    def fail_to_connect(self) -> None:
        self.core.connecting()
        self.core.connect_failed(ConnectionLost("refused"), self.broker.now)

    @precondition(lambda self: self.core.state is State.LOGIN)
    @rule(ok=st.booleans())
    def log_in(self, ok: bool) -> None:
        self.broker.put(Opened() if ok else Closed(AdapterError("refused")))

    @precondition(lambda self: self.adapter is not None)
    @rule()
    def lose(self) -> None:
        self.core.lost("cut", self.broker.now)

    @rule(seconds=st.sampled_from([0.001, 0.3, 5.0, 11.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.broker.pass_time(seconds)

    @rule()
    def ask(self) -> None:
        number = len(self.answers)
        self.answers[number] = 0

        def answered(value: Any, error: Exception | None) -> None:
            self.answers[number] += 1

        self.core.ask(DeclareQueue(f"q{number}"), answered)

    @rule()
    def publish(self) -> None:
        self.token += 1
        token = self.token
        self.outcomes[token] = 0

        def settled(outcome: Outcome, reason: str) -> None:
            self.outcomes[token] += 1

        self.core.publish(Outgoing(token, ADDRESS, b"x"), settled)

    @rule()
    def subscribe(self) -> None:
        subscription = Subscription(f"s{len(self.subscriptions)}", 10, lambda _: None)
        self.subscriptions.append(subscription)
        self.core.subscribe(subscription)

    @precondition(lambda self: self.subscriptions)
    @rule(data=st.data())
    def unsubscribe(self, data: Any) -> None:
        subscription = self.subscriptions.pop(data.draw(st.integers(0, len(self.subscriptions) - 1)))
        self.core.unsubscribe(subscription, lambda value, error: None)
        assert not subscription.active

    @precondition(lambda self: self.adapter is not None and self.adapter.asked)
    @rule(data=st.data(), error=st.sampled_from([None, NotFound("gone"), AdapterError("no")]))
    def answer(self, data: Any, error: MessagingError | None) -> None:
        assert self.adapter is not None
        number = data.draw(st.sampled_from(sorted(self.adapter.asked)))
        del self.adapter.asked[number]
        self.broker.put(Done(number, None, error))

    @precondition(lambda self: self.adapter is not None and self.adapter.published)
    @rule(outcome=st.sampled_from(list(Outcome)), data=st.data())
    def confirm(self, outcome: Outcome, data: Any) -> None:
        assert self.adapter is not None
        token = data.draw(st.sampled_from(self.adapter.published))
        self.adapter.published.remove(token)
        self.broker.put(Confirmed(token, outcome))

    @precondition(lambda self: self.core.state is State.OPEN)
    @rule(reason=st.sampled_from([None, "memory"]))
    def block(self, reason: str | None) -> None:
        self.broker.put(Blocked(reason))

    @precondition(lambda self: any(each.active for each in self.subscriptions) and self.core.state is State.OPEN)
    @rule(data=st.data())
    def lose_subscription(self, data: Any) -> None:
        subscription = data.draw(st.sampled_from([each for each in self.subscriptions if each.active]))
        self.broker.put(SubscriptionLost(subscription.number, "deleted"))
        assert not subscription.active

    @invariant()
    def each_ends_at_most_once(self) -> None:
        assert all(count <= 1 for count in self.answers.values())
        assert all(count <= 1 for count in self.outcomes.values())

    @invariant()
    def it_wakes_up_in_time(self) -> None:
        if self.core.state is State.DOWN:
            assert self.core.deadline <= self.broker.now + 30.0  # it is wanted

    def teardown(self) -> None:
        """Once there is a connection whose broker answers, all is subscribed; closed, all has ended."""
        while self.core.state is not State.OPEN:
            if self.core.state is State.LOGIN:
                self.broker.put(Opened())
            else:
                self.broker.connect()
        self.broker.put(Blocked(None))
        for _ in range(100):
            assert self.adapter is not None
            for number in sorted(self.adapter.asked):
                del self.adapter.asked[number]
                self.broker.put(Done(number))
            self.broker.pass_time(1.0)
        assert all(each.active for each in self.subscriptions)
        self.core.close()
        self.broker.pass_time(5.0)
        self.broker.pass_time(5.0)
        assert self.core.state is State.CLOSED
        assert set(self.answers.values()) <= {1}
        assert set(self.outcomes.values()) <= {1}


Connections.TestCase.settings = settings(stateful_step_count=40)
TestConnections = Connections.TestCase
