"""The local broker's queues, exchanges and sessions, under a clock that the test turns."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable

import pytest
from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter.base import ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.broker.exchanges import matches
from gofer.messaging.broker.model import Model
from gofer.messaging.broker.queues import Message
from gofer.messaging.broker.session import ACCEPT, REJECT, RELEASE, Session
from hypothesis import given
from hypothesis import strategies as st

KIB = 1024


class Clock:
    """Time, in seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A session and what its peer was given: ``got`` as (tag, body, redelivered)."""

    def __init__(self, model: Model) -> None:
        self.got: list[tuple[int, bytes, bool]] = []
        self.losses: list[int] = []
        self.takes = True
        self.session = Session(model, self)

    def deliver(self, subscription: int, tag: int, message: Message, limit: int | None) -> None:
        self.got.append((tag, message.body, message.redelivered))

    def lost(self, subscription: int, reason: str) -> None:
        self.losses.append(subscription)

    def subscribe(self, queue: str, prefetch: int = 100, *, exclusive: bool = False) -> int:
        number = self.session.subscribe(queue, prefetch, exclusive=exclusive)
        self.session.ready()
        return number

    def take(self) -> list[bytes]:
        """Return the bodies that came since the last time."""
        bodies = [body for _, body, _ in self.got]
        self.got.clear()
        return bodies


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model(clock: Clock) -> Model:
    made = Model(clock, total_limit=100 * KIB, queue_limit=50 * KIB)
    made.declare_queue(QueueSpec("q"), None)
    return made


def put(model: Model, *bodies: bytes, queue: str = "q", ttl: float | None = None) -> None:
    for body in bodies:
        assert model.publish("", queue, body, ttl) == (Outcome.TAKEN, "")


# -- order ---------------------------------------------------------------------------------------------------


def test_what_is_released_goes_back_to_its_place(model: Model) -> None:
    client = Client(model)
    client.subscribe("q", prefetch=3)
    put(model, b"1", b"2", b"3", b"4", b"5")
    tags = [tag for tag, _, _ in client.got]
    assert client.take() == [b"1", b"2", b"3"]
    client.takes = False
    for tag in reversed(tags):
        client.session.settle(tag, RELEASE)
    client.takes = True
    client.session.ready()
    assert [(body, redelivered) for _, body, redelivered in client.got] == [(b"1", True), (b"2", True), (b"3", True)]


def test_what_a_dead_client_held_goes_back_to_its_place(model: Model) -> None:
    first, second = Client(model), Client(model)
    first.subscribe("q", prefetch=2)
    put(model, b"1", b"2", b"3")
    second.subscribe("q", prefetch=1)
    assert second.take() == [b"3"]
    put(model, b"4")
    first.session.close()
    third = Client(model)
    third.subscribe("q")
    assert [(body, redelivered) for _, body, redelivered in third.got] == [(b"1", True), (b"2", True), (b"4", False)]


@given(st.integers(0, 10_000))
def test_whatever_is_settled_in_whatever_order_nothing_is_lost_doubled_or_overtaken(seed: int) -> None:
    chance = random.Random(seed)
    model = Model(Clock(), total_limit=1 << 20, queue_limit=1 << 20)
    model.declare_queue(QueueSpec("q"), None)
    numbers = itertools.count()
    sent: list[bytes] = []
    gone: list[bytes] = []
    clients = [Client(model) for _ in range(3)]
    for client in clients:
        client.subscribe("q", chance.randint(1, 4))
    for _ in range(100):
        act = chance.random()
        at = chance.randrange(len(clients))
        client = clients[at]
        if act < 0.4:
            sent.append(b"%d" % next(numbers))
            put(model, sent[-1])
        elif act < 0.9 and client.got:
            tag, body, _ = client.got.pop(chance.randrange(len(client.got)))
            verdict = chance.choice((ACCEPT, RELEASE, REJECT))
            client.session.settle(tag, verdict)
            if verdict != RELEASE:
                gone.append(body)
        elif act > 0.97:
            client.session.close()
            clients[at] = Client(model)
            clients[at].subscribe("q", chance.randint(1, 4))
    for client in clients:
        client.session.close()
    last = Client(model)
    last.subscribe("q", 65535)
    left = last.take()
    assert left == sorted(left, key=int)
    assert sorted(left + gone, key=int) == sent


# -- who takes it --------------------------------------------------------------------------------------------


def test_consumers_take_turns(model: Model) -> None:
    clients = [Client(model) for _ in range(3)]
    for client in clients:
        client.subscribe("q")
    put(model, *[b"%d" % n for n in range(6)])
    assert [client.take() for client in clients] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


def test_a_client_that_takes_nothing_leaves_it_to_the_others(model: Model) -> None:
    slow, quick = Client(model), Client(model)
    slow.subscribe("q")
    quick.subscribe("q")
    slow.takes = False
    put(model, b"1", b"2", b"3")
    assert (slow.take(), quick.take()) == ([], [b"1", b"2", b"3"])
    slow.takes = True
    slow.session.ready()
    put(model, b"4", b"5")
    assert len(slow.take()) == len(quick.take()) == 1


def test_a_cancelled_consumer_takes_no_more(model: Model) -> None:
    client = Client(model)
    client.session.cancel(client.subscribe("q"))
    put(model, b"1")
    assert client.take() == []


# -- time to live --------------------------------------------------------------------------------------------


def test_an_expired_message_is_never_delivered(model: Model, clock: Clock) -> None:
    put(model, b"short", ttl=1.0)
    put(model, b"long", ttl=2.0)
    clock.now += 1.0
    client = Client(model)
    client.subscribe("q")
    assert client.take() == [b"long"]


def test_a_message_that_expired_while_it_was_held_does_not_come_back(model: Model, clock: Clock) -> None:
    client = Client(model)
    client.subscribe("q")
    put(model, b"held", ttl=1.0)
    clock.now += 1.0
    client.session.close()
    other = Client(model)
    other.subscribe("q")
    assert other.take() == []
    assert model.used == 0


def test_an_expired_message_does_not_keep_a_queue_from_being_empty(model: Model, clock: Clock) -> None:
    put(model, b"short", ttl=1.0)
    with pytest.raises(AdapterError, match="not empty"):
        model.delete_queue("q", None, if_unused=False, if_empty=True)
    clock.now += 1.0
    model.delete_queue("q", None, if_unused=False, if_empty=True)


# -- bounds --------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_so(model: Model) -> None:
    put(model, bytes(40 * KIB))
    outcome, reason = model.publish("", "q", bytes(20 * KIB), None)
    assert outcome is Outcome.REFUSED
    assert reason == f"queue 'q' is full: it holds {model.used} of 51200 bytes"


def test_a_full_broker_refuses_until_there_is_room(model: Model) -> None:
    for name in ("a", "b", "c"):
        model.declare_queue(QueueSpec(name), None)
    client = Client(model)
    client.subscribe("a")
    put(model, bytes(45 * KIB), queue="a")
    put(model, bytes(45 * KIB), queue="b")
    outcome, reason = model.publish("", "c", bytes(45 * KIB), None)
    assert outcome is Outcome.REFUSED
    assert "the broker is full" in reason
    client.session.settle(client.got[0][0], ACCEPT)
    put(model, bytes(45 * KIB), queue="c")


def test_what_expired_makes_room(model: Model, clock: Clock) -> None:
    put(model, b"stays")
    put(model, bytes(45 * KIB), ttl=1.0)
    clock.now += 1.0
    put(model, bytes(45 * KIB))


def test_a_message_for_several_queues_goes_to_all_or_to_none(model: Model) -> None:
    model.declare_queue(QueueSpec("other"), None)
    for queue in ("q", "other"):
        model.bind(queue, "amq.fanout", "", None)
    put(model, bytes(40 * KIB))
    outcome, _ = model.publish("amq.fanout", "", bytes(20 * KIB), None)
    assert outcome is Outcome.REFUSED
    model.delete_queue("other", None, if_unused=False, if_empty=True)


@pytest.mark.parametrize("end", ["accept", "reject", "purge", "delete", "delete held", "expire"])
def test_no_byte_is_counted_when_everything_is_gone(model: Model, clock: Clock, end: str) -> None:
    client = Client(model)
    if end not in ("purge", "delete"):
        client.subscribe("q")
    put(model, b"1" * 100, b"2" * 100, ttl=5.0)
    assert model.used > 200
    if end in ("accept", "reject"):
        for tag, _, _ in client.got:
            client.session.settle(tag, ACCEPT if end == "accept" else REJECT)
    elif end == "purge":
        model.purge_queue("q", None)
    elif end == "expire":
        clock.now += 5.0
        client.session.close()
        Client(model).subscribe("q")
    else:
        model.delete_queue("q", None, if_unused=False, if_empty=False)
        client.session.close()
    assert model.used == 0


# -- queues that go by themselves ----------------------------------------------------------------------------


def test_a_queue_expires_after_its_time_without_use(model: Model, clock: Clock) -> None:
    spec = QueueSpec("e", expires=10.0)
    model.declare_queue(spec, None)
    clock.now += 9.0
    assert model.expire() == clock.now + 1.0
    model.declare_queue(spec, None)  # a use
    clock.now += 9.0
    client = Client(model)
    number = client.subscribe("e")
    clock.now += 100.0
    assert model.expire() is None
    client.session.cancel(number)
    clock.now += 9.9
    assert model.expire() is not None
    clock.now += 0.1
    assert model.expire() is None
    with pytest.raises(NotFound):
        model.purge_queue("e", None)


def test_an_auto_delete_queue_that_never_had_a_subscriber_stays(model: Model) -> None:
    model.declare_queue(QueueSpec("a", auto_delete=True), None)
    client = Client(model)
    client.session.close()
    put(model, b"x", queue="a")


def test_an_exclusive_queue_is_refused_to_others_in_every_way_and_goes_with_its_owner(model: Model) -> None:
    owner, other = Client(model), Client(model)
    model.declare_queue(QueueSpec("x", exclusive=True), owner.session)
    for act in (
        lambda: model.declare_queue(QueueSpec("x"), other.session),
        lambda: model.delete_queue("x", other.session, if_unused=False, if_empty=False),
        lambda: model.purge_queue("x", other.session),
        lambda: model.bind("x", "amq.direct", "k", other.session),
        lambda: model.unbind("x", "amq.direct", "k", other.session),
        lambda: other.subscribe("x"),
    ):
        with pytest.raises(AdapterError, match="exclusive to another connection"):
            act()
    owner.subscribe("x")
    owner.session.close()
    assert model.publish("", "x", b"", None)[0] is Outcome.RETURNED
    assert owner.losses == []


def test_subscribers_of_a_deleted_queue_are_told_once(model: Model) -> None:
    client = Client(model)
    number = client.subscribe("q")
    model.delete_queue("q", None, if_unused=False, if_empty=False)
    assert client.losses == [number]
    client.session.cancel(number)
    client.session.close()
    assert client.losses == [number]


def test_an_auto_delete_exchange_goes_with_its_last_binding(model: Model) -> None:
    for end in ("unbind", "delete"):
        model.declare_queue(QueueSpec("bound"), None)
        model.declare_exchange(ExchangeSpec("x", auto_delete=True))
        model.bind("bound", "x", "k", None)
        if end == "unbind":
            model.unbind("bound", "x", "k", None)
        else:
            model.delete_queue("bound", None, if_unused=False, if_empty=False)
        with pytest.raises(NotFound):
            model.bind("q", "x", "k", None)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (QueueSpec(""), "1 to 255 bytes"),
        (QueueSpec("\N{SNOWMAN}" * 86), "1 to 255 bytes"),
        (QueueSpec("amq.mine"), "the broker's own"),
        (QueueSpec("x", kind="strange"), "'strange' is not known"),
        (QueueSpec("x", expires=0.0), "more than 0 s"),
        (QueueSpec("x", expires=float("nan")), "more than 0 s"),
    ],
)
def test_a_queue_that_cannot_be_is_refused_with_the_reason(model: Model, spec: QueueSpec, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        model.declare_queue(spec, None)


def test_the_brokers_own_exchanges_stay(model: Model) -> None:
    refused: list[Callable[[], object]] = [
        lambda: model.delete_exchange("amq.topic"),
        lambda: model.delete_exchange(""),
        lambda: model.bind("q", "", "k", None),
        lambda: model.unbind("q", "", "k", None),
        lambda: model.declare_exchange(ExchangeSpec("amq.mine")),
        lambda: model.declare_exchange(ExchangeSpec("")),
    ]
    for act in refused:
        with pytest.raises(AdapterError):
            act()
    assert model.declare_exchange(ExchangeSpec("amq.topic", "topic")) is None


def test_a_difference_is_told_in_words(model: Model) -> None:
    assert model.declare_queue(QueueSpec("q", durable=False, expires=5.0), None) == (
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


def test_a_new_binding_is_seen_by_a_key_that_was_routed_before(model: Model) -> None:
    assert model.publish("amq.topic", "a.b", b"", None)[0] is Outcome.RETURNED
    model.bind("q", "amq.topic", "a.*", None)
    assert model.publish("amq.topic", "a.b", b"", None)[0] is Outcome.TAKEN
    model.unbind("q", "amq.topic", "a.*", None)
    assert model.publish("amq.topic", "a.b", b"", None)[0] is Outcome.RETURNED


def test_a_broker_that_saw_many_keys_routes_new_ones(model: Model) -> None:
    model.bind("q", "amq.topic", "#.x", None)
    for n in range(3000):
        assert model.publish("amq.topic", f"{n}.y", b"", None)[0] is Outcome.RETURNED
    assert model.publish("amq.topic", "1.x", b"", None)[0] is Outcome.TAKEN
