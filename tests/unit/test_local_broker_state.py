"""The local broker's queues, exchanges and sessions, under a clock that the test turns."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest
from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import (
    Bind,
    Cancel,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Delivery,
    Done,
    Operation,
    Outcome,
    PurgeQueue,
    Subscribe,
    SubscriptionLost,
    Unbind,
)
from gofer.messaging.local.client import Client
from gofer.messaging.local.state import State, matches
from hypothesis import given
from hypothesis import strategies as st

KIB = 1024
NUMBERS = itertools.count(1)


class Clock:
    """Time, in seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Told(Client):
    """A client without a socket, and what it was told: ``got`` as (tag, body, redelivered)."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.got: list[tuple[int, bytes, bool | None]] = []
        self.losses: list[int] = []
        self._answer: Done | None = None

    def send(self, frame: object) -> None:
        match frame:
            case Delivery(tag=int(tag), body=body, redelivered=redelivered):
                self.got.append((tag, body, redelivered))
            case SubscriptionLost(number):
                self.losses.append(number)
            case Done():
                self._answer = frame

    def do(self, operation: Operation) -> str | None:
        """Have an operation done; return its value, or raise its error."""
        self.ask(1, operation)
        assert self._answer is not None
        if self._answer.error is not None:
            raise self._answer.error
        return self._answer.value

    def subscribe(self, queue: str, prefetch: int = 100, *, exclusive: bool = False) -> int:
        number = next(NUMBERS)
        self.do(Subscribe(number, queue, prefetch, exclusive))
        return number

    def came(self) -> list[bytes]:
        """Return the bodies that came since the last time."""
        bodies = [body for _, body, _ in self.got]
        self.got.clear()
        return bodies


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> State:
    made = State(clock, total_limit=100 * KIB, queue_limit=50 * KIB)
    made.do(DeclareQueue("q"), None)
    return made


def put(state: State, *bodies: bytes, queue: str = "q", ttl: float | None = None) -> None:
    for body in bodies:
        assert state.publish("", queue, body, ttl) == (Outcome.CONFIRMED, "")


# -- order ---------------------------------------------------------------------------------------------------


def test_what_is_released_goes_back_to_its_place(state: State) -> None:
    client = Told(state)
    client.subscribe("q", prefetch=3)
    put(state, b"1", b"2", b"3", b"4", b"5")
    tags = [tag for tag, _, _ in client.got]
    assert client.came() == [b"1", b"2", b"3"]
    client.receives = False
    for tag in reversed(tags):
        client.settle(tag, requeue=True)
    client.receives = True
    client.ready()
    assert [(body, redelivered) for _, body, redelivered in client.got] == [(b"1", True), (b"2", True), (b"3", True)]


def test_what_a_dead_client_held_goes_back_to_its_place(state: State) -> None:
    first, second = Told(state), Told(state)
    first.subscribe("q", prefetch=2)
    put(state, b"1", b"2", b"3")
    second.subscribe("q", prefetch=1)
    assert second.came() == [b"3"]
    put(state, b"4")
    first.close()
    third = Told(state)
    third.subscribe("q")
    assert [(body, redelivered) for _, body, redelivered in third.got] == [(b"1", True), (b"2", True), (b"4", False)]


@given(st.integers(0, 10_000))
def test_whatever_is_settled_in_whatever_order_nothing_is_lost_doubled_or_overtaken(seed: int) -> None:
    chance = random.Random(seed)
    state = State(Clock(), total_limit=1 << 20, queue_limit=1 << 20)
    state.do(DeclareQueue("q"), None)
    numbers = itertools.count()
    sent: list[bytes] = []
    gone: list[bytes] = []
    clients = [Told(state) for _ in range(3)]
    for client in clients:
        client.subscribe("q", chance.randint(1, 4))
    for _ in range(100):
        act = chance.random()
        at = chance.randrange(len(clients))
        client = clients[at]
        if act < 0.4:
            sent.append(b"%d" % next(numbers))
            put(state, sent[-1])
        elif act < 0.9 and client.got:
            tag, body, _ = client.got.pop(chance.randrange(len(client.got)))
            requeue = chance.random() < 1 / 3
            client.settle(tag, requeue=requeue)
            if not requeue:
                gone.append(body)
        elif act > 0.97:
            client.close()
            clients[at] = Told(state)
            clients[at].subscribe("q", chance.randint(1, 4))
    for client in clients:
        client.close()
    last = Told(state)
    last.subscribe("q", 65535)
    left = last.came()
    assert left == sorted(left, key=int)
    assert sorted(left + gone, key=int) == sent


# -- who takes it --------------------------------------------------------------------------------------------


def test_consumers_take_turns(state: State) -> None:
    clients = [Told(state) for _ in range(3)]
    for client in clients:
        client.subscribe("q")
    put(state, *[b"%d" % n for n in range(6)])
    assert [client.came() for client in clients] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_a_client_that_takes_nothing_leaves_it_to_the_others(state: State) -> None:
    slow, quick = Told(state), Told(state)
    slow.subscribe("q")
    quick.subscribe("q")
    slow.receives = False
    put(state, b"1", b"2", b"3")
    assert (slow.came(), quick.came()) == ([], [b"1", b"2", b"3"])
    slow.receives = True
    slow.ready()
    put(state, b"4", b"5")
    assert len(slow.came()) == len(quick.came()) == 1


def test_a_cancelled_consumer_takes_no_more(state: State) -> None:
    client = Told(state)
    client.do(Cancel(client.subscribe("q")))
    put(state, b"1")
    assert client.came() == []


# -- time to live --------------------------------------------------------------------------------------------


def test_an_expired_message_is_never_delivered(state: State, clock: Clock) -> None:
    put(state, b"short", ttl=1.0)
    put(state, b"long", ttl=2.0)
    clock.now += 1.0
    client = Told(state)
    client.subscribe("q")
    assert client.came() == [b"long"]


def test_a_message_that_expired_while_it_was_held_does_not_come_back(state: State, clock: Clock) -> None:
    client = Told(state)
    client.subscribe("q")
    put(state, b"held", ttl=1.0)
    clock.now += 1.0
    client.close()
    other = Told(state)
    other.subscribe("q")
    assert other.came() == []
    assert state.total.used == 0


def test_an_expired_message_does_not_keep_a_queue_from_being_empty(state: State, clock: Clock) -> None:
    put(state, b"short", ttl=1.0)
    with pytest.raises(AdapterError, match="not empty"):
        state.do(DeleteQueue("q", if_empty=True), None)
    clock.now += 1.0
    state.do(DeleteQueue("q", if_empty=True), None)


# -- bounds --------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_so(state: State) -> None:
    put(state, bytes(40 * KIB))
    outcome, reason = state.publish("", "q", bytes(20 * KIB), None)
    assert outcome is Outcome.REFUSED
    assert reason == f"queue 'q' is full: it holds {state.total.used} of 51200 bytes"


def test_a_full_broker_refuses_until_there_is_room(state: State) -> None:
    for name in ("a", "b", "c"):
        state.do(DeclareQueue(name), None)
    client = Told(state)
    client.subscribe("a")
    put(state, bytes(45 * KIB), queue="a")
    put(state, bytes(45 * KIB), queue="b")
    outcome, reason = state.publish("", "c", bytes(45 * KIB), None)
    assert outcome is Outcome.REFUSED
    assert "the broker is full" in reason
    client.settle(client.got[0][0], requeue=False)
    put(state, bytes(45 * KIB), queue="c")


def test_what_expired_makes_room(state: State, clock: Clock) -> None:
    put(state, b"stays")
    put(state, bytes(45 * KIB), ttl=1.0)
    clock.now += 1.0
    put(state, bytes(45 * KIB))


def test_a_message_for_several_queues_goes_to_all_or_to_none(state: State) -> None:
    state.do(DeclareQueue("other"), None)
    for queue in ("q", "other"):
        state.do(Bind(queue, "amq.fanout", ""), None)
    put(state, bytes(40 * KIB))
    outcome, _ = state.publish("amq.fanout", "", bytes(20 * KIB), None)
    assert outcome is Outcome.REFUSED
    state.do(DeleteQueue("other", if_empty=True), None)


@pytest.mark.parametrize("end", ["settle", "purge", "delete", "delete held", "expire"])
def test_no_byte_is_counted_when_everything_is_gone(state: State, clock: Clock, end: str) -> None:
    client = Told(state)
    if end not in ("purge", "delete"):
        client.subscribe("q")
    put(state, b"1" * 100, b"2" * 100, ttl=5.0)
    assert state.total.used > 200
    if end == "settle":
        for tag, _, _ in client.got:
            client.settle(tag, requeue=False)
    elif end == "purge":
        state.do(PurgeQueue("q"), None)
    elif end == "expire":
        clock.now += 5.0
        client.close()
        Told(state).subscribe("q")
    else:
        state.do(DeleteQueue("q"), None)
        client.close()
    assert state.total.used == 0


# -- queues that go by themselves ----------------------------------------------------------------------------


def test_a_queue_expires_after_its_time_without_use(state: State, clock: Clock) -> None:
    spec = DeclareQueue("e", expires=10.0)
    state.do(spec, None)
    clock.now += 9.0
    state.expire()
    state.do(spec, None)  # a use
    clock.now += 9.0
    state.expire()
    client = Told(state)
    number = client.subscribe("e")
    clock.now += 100.0
    state.expire()
    client.do(Cancel(number))
    clock.now += 9.9
    state.expire()
    state.do(PurgeQueue("e"), None)
    clock.now += 0.1
    state.expire()
    with pytest.raises(NotFound):
        state.do(PurgeQueue("e"), None)


def test_an_auto_delete_queue_that_never_had_a_subscriber_stays(state: State) -> None:
    state.do(DeclareQueue("a", auto_delete=True), None)
    client = Told(state)
    client.close()
    put(state, b"x", queue="a")


def test_an_exclusive_queue_is_refused_to_others_in_every_way_and_goes_with_its_owner(state: State) -> None:
    owner, other = Told(state), Told(state)
    owner.do(DeclareQueue("x", exclusive=True))
    for operation in (
        DeclareQueue("x"),
        DeleteQueue("x"),
        PurgeQueue("x"),
        Bind("x", "amq.direct", "k"),
        Unbind("x", "amq.direct", "k"),
        Subscribe(next(NUMBERS), "x", 1),
    ):
        with pytest.raises(AdapterError, match="exclusive to another connection"):
            other.do(operation)
    owner.subscribe("x")
    owner.close()
    assert state.publish("", "x", b"", None)[0] is Outcome.RETURNED
    assert owner.losses == []


def test_subscribers_of_a_deleted_queue_are_reported_once(state: State) -> None:
    client = Told(state)
    number = client.subscribe("q")
    state.do(DeleteQueue("q"), None)
    assert client.losses == [number]
    client.do(Cancel(number))
    client.close()
    assert client.losses == [number]


def test_an_auto_delete_exchange_goes_with_its_last_binding(state: State) -> None:
    for end in ("unbind", "delete"):
        state.do(DeclareQueue("bound"), None)
        state.do(DeclareExchange("x", auto_delete=True), None)
        state.do(Bind("bound", "x", "k"), None)
        if end == "unbind":
            state.do(Unbind("bound", "x", "k"), None)
        else:
            state.do(DeleteQueue("bound"), None)
        with pytest.raises(NotFound):
            state.do(Bind("q", "x", "k"), None)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DeclareQueue("amq.mine"), "the broker's own"),
        (DeclareQueue("x", expires=0.0), "more than 0 s"),
        (DeclareQueue("x", expires=float("nan")), "more than 0 s"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_with_the_reason(state: State, spec: DeclareQueue, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        state.do(spec, None)


def test_the_brokers_own_exchanges_stay(state: State) -> None:
    refused: list[Callable[[], object]] = [
        lambda: state.do(DeleteExchange("amq.topic"), None),
        lambda: state.do(DeleteExchange(""), None),
        lambda: state.do(Bind("q", "", "k"), None),
        lambda: state.do(Unbind("q", "", "k"), None),
        lambda: state.do(DeclareExchange("amq.mine"), None),
    ]
    for act in refused:
        with pytest.raises(AdapterError):
            act()
    assert state.do(DeclareExchange("amq.topic", "topic"), None) is None


def test_a_difference_is_reported_in_words(state: State) -> None:
    assert state.do(DeclareQueue("q", durable=False, expires=5.0), None) == (
        "queue 'q' exists with other properties: durable is True, not False, expires is None, not 5.0"
    )


# -- topics --------------------------------------------------------------------------------------------------

WORD = st.sampled_from(["a", "b", "", "*", "#"])


@given(st.lists(WORD, min_size=1, max_size=6), st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=7))
def test_topics_match_as_the_pattern_says(pattern: list[str], words: list[str]) -> None:
    # Every word is written with an end mark, so that the reference needs no special case for dots.
    parts = {"*": "[^;]*;", "#": "(?:[^;]*;)*"}
    reference = "".join(parts.get(word, re.escape(word) + ";") for word in pattern)
    assert matches(pattern, words) is (re.fullmatch(reference, "".join(f"{word};" for word in words)) is not None)


def test_a_topic_with_many_hashes_is_matched_quickly() -> None:
    assert not matches(["#", "a"] * 100 + ["z"], ["a"] * 1000)


def test_a_new_binding_is_seen_by_a_key_that_was_routed_before(state: State) -> None:
    assert state.publish("amq.topic", "a.b", b"", None)[0] is Outcome.RETURNED
    state.do(Bind("q", "amq.topic", "a.*"), None)
    assert state.publish("amq.topic", "a.b", b"", None)[0] is Outcome.CONFIRMED
    state.do(Unbind("q", "amq.topic", "a.*"), None)
    assert state.publish("amq.topic", "a.b", b"", None)[0] is Outcome.RETURNED


def test_a_broker_that_saw_many_keys_routes_new_ones(state: State) -> None:
    state.do(Bind("q", "amq.topic", "#.x"), None)
    for n in range(3000):
        assert state.publish("amq.topic", f"{n}.y", b"", None)[0] is Outcome.RETURNED
    assert state.publish("amq.topic", "1.x", b"", None)[0] is Outcome.CONFIRMED
