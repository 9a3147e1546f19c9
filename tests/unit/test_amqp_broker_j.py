"""The amqp adapter in Broker-J's dialect, word by word: what it sends, and what it makes of the answers."""

from __future__ import annotations

import time

import pytest
from amqp import spec
from gofer.errors import AdapterError, NotFound
from gofer.messaging.adapter import (
    NO_EXPIRY,
    Closed,
    Confirmed,
    DeclareExchange,
    DeclareQueue,
    Delivery,
    Done,
    Outcome,
    Subscribe,
    Unbind,
)
from gofer_adapter_amqp import wire
from support.amqp_peer import Frame, Peer, method

_BROKER_J = {"product": "Apache Qpid Broker-J Core", "version": "9.2.1"}


@pytest.fixture
def peer() -> Peer:
    return Peer().log_in(properties=dict(_BROKER_J))


def only(frames: list[Frame], sig: tuple[int, int]) -> tuple[int, list[object]]:
    ((channel, arguments),) = [(channel, arguments) for channel, each, arguments in frames if each == sig]
    return channel, arguments


def subscribed(peer: Peer) -> int:
    """Subscribe, and return the channel."""
    peer.ask(Subscribe(1, "queue", 10))
    channel, _ = only(peer.sent(), spec.Basic.Consume)
    peer.say(channel, spec.Basic.ConsumeOk, "s", "1")
    peer.events()
    return channel


def no_route(channel: int, token: int) -> bytes:
    """Return the frames of a message that comes back."""
    head = b"\x00\x3c\x00\x00" + (1).to_bytes(8) + b"\x00\x80" + bytes((len(str(token)),)) + str(token).encode()
    parts = ((2, head), (3, b"x"))
    frames = [bytes((kind,)) + channel.to_bytes(2) + len(part).to_bytes(4) + part + b"\xce" for kind, part in parts]
    return method(channel, spec.Basic.Return, "Bsss", 312, "No route", "", "queue") + b"".join(frames)


def test_a_nack_means_that_there_was_no_route_and_the_return_after_it_is_no_news(peer: Peer) -> None:
    for token in (1, 2):
        peer.publish(token)
    channel = next(channel for channel, sig, _ in peer.sent() if sig == spec.Basic.Publish)
    nack = method(channel, spec.Basic.Nack, "Lbb", 1, False, False)
    ack = method(channel, spec.Basic.Ack, "Lb", 2, False)
    peer.adapter.receive(nack + no_route(channel, 1) + ack, peer.now)
    assert peer.events() == [
        Confirmed(1, Outcome.RETURNED, "no queue is bound for it"),
        Confirmed(2, Outcome.CONFIRMED),
    ]


def test_an_isolated_message_without_a_route_is_returned_once(peer: Peer) -> None:
    peer.publish(7, isolated=True)
    channel, _ = only(peer.sent(), spec.Basic.Publish)
    nack = method(channel, spec.Basic.Nack, "Lbb", 1, False, False)
    peer.adapter.receive(nack + no_route(channel, 7), peer.now)
    assert peer.events() == [Confirmed(7, Outcome.RETURNED, "no queue is bound for it")]


def test_what_is_rejected_is_acknowledged_or_it_would_come_again(peer: Peer) -> None:
    channel = subscribed(peer)
    for tag in (1, 2):
        peer.deliver(channel, tag)
    rejected, released = (event for event in peer.events() if isinstance(event, Delivery))
    peer.adapter.reject(rejected)
    peer.adapter.release(released)
    frames = peer.sent()
    assert only(frames, spec.Basic.Ack)[1] == [1, False]
    assert only(frames, spec.Basic.Reject)[1] == [2, True]


@pytest.mark.parametrize("ttl", [0.0001, 90.5, 4_294_967.0])
def test_a_message_reports_when_it_was_sent_and_when_it_expires(ttl: float) -> None:
    peer = Peer().log_in(properties=dict(_BROKER_J))
    before = time.time()
    peer.publish(1, ttl=ttl)
    data = peer.adapter.take(peer.now)
    start = data.index(b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")  # the header of a body of one byte
    header = data[start : data.index(b"\xce\x03", start)]
    assert wire.expiration(header) == pytest.approx(max(0.001, ttl), abs=0.001)
    sent = int.from_bytes(header[-8:]) / 1000
    assert before - 0.001 <= sent <= time.time() + 0.001
    assert wire.message_id(header) == b"1"


@pytest.mark.parametrize(
    ("expiration", "timestamp", "ttl"),
    [
        (b"5000", None, 5.0),
        (b"5000", 1_700_000_000, 5.0),  # of somebody else's: seconds, and no matter
        (b"1700000005000", 1_700_000_000_000, 5.0),
        (b"1700000005000", 1_700_000_006_000, 0.0),
        (b"soon", 1_700_000_000_000, None),
    ],
)
def test_an_expiration_is_a_time_to_live_or_a_date(expiration: bytes, timestamp: int | None, ttl: float | None) -> None:
    flags = 0x0100 | (0x0040 if timestamp else 0)
    stamp = b"" if timestamp is None else timestamp.to_bytes(8)
    header = b"\x00\x3c\x00\x00" + bytes(8) + flags.to_bytes(2) + bytes((len(expiration),)) + expiration + stamp
    assert wire.expiration(header) == ttl


def test_the_operation_that_the_broker_closes_the_connection_for_is_answered_first(peer: Peer) -> None:
    other, culprit = peer.ask(DeclareExchange("mine", "topic")), peer.ask(DeclareQueue("theirs"))
    later = peer.ask(DeclareQueue("mine"))
    peer.sent()
    peer.say(0, spec.Connection.Close, "BsBB", 530, "Queue 'theirs' is exclusive", *spec.Queue.Declare)
    done, closed = peer.events()
    assert isinstance(done, Done)
    assert done.id == culprit
    assert done.id not in (other, later)
    assert isinstance(done.error, AdapterError)
    assert "Queue 'theirs' is exclusive" in str(done.error)
    assert isinstance(closed, Closed)


def test_a_subscription_that_the_broker_closes_the_connection_for_is_answered_first(peer: Peer) -> None:
    id = peer.ask(Subscribe(1, "queue", 10))
    peer.sent()
    peer.say(0, spec.Connection.Close, "BsBB", 403, "an existing exclusive consumer", *spec.Basic.Consume)
    done, closed = peer.events()
    assert isinstance(done, Done)
    assert done.id == id
    assert isinstance(done.error, AdapterError)
    assert isinstance(closed, Closed)


def test_a_close_that_is_nobodys_fault_answers_nothing(peer: Peer) -> None:
    peer.ask(DeclareQueue("queue"))
    subscribed(peer)
    peer.say(0, spec.Connection.Close, "BsBB", 320, "shutting down", 0, 0)
    assert [type(event) for event in peer.events()] == [Closed]


def test_an_exclusive_subscription_looks_for_others_first(peer: Peer) -> None:
    id = peer.ask(Subscribe(1, "queue", 10, exclusive=True))
    frames = peer.sent()
    channel, arguments = only(frames, spec.Queue.Declare)
    assert arguments[1:3] == ["queue", True]
    assert spec.Basic.Consume not in [sig for _, sig, _ in frames]
    frames = peer.say(channel, spec.Queue.DeclareOk, "sll", "queue", 5, 1)
    assert [sig for _, sig, _ in frames] == [spec.Channel.Close]
    (done,) = peer.events()
    assert isinstance(done, Done)
    assert (done.id, str(done.error)) == (id, "queue 'queue' has another consumer")

    id = peer.ask(Subscribe(2, "queue", 10, exclusive=True))
    channel, _ = only(peer.sent(), spec.Queue.Declare)
    assert only(peer.say(channel, spec.Queue.DeclareOk, "sll", "queue", 5, 0), spec.Basic.Consume)[0] == channel
    peer.say(channel, spec.Basic.ConsumeOk, "s", "2")
    assert peer.events() == [Done(id)]


def test_an_exclusive_subscription_to_a_missing_queue_is_not_found(peer: Peer) -> None:
    peer.ask(Subscribe(1, "queue", 10, exclusive=True))
    channel, _ = only(peer.sent(), spec.Queue.Declare)
    peer.refuse(channel, 404, "not found")
    (done,) = peer.events()
    assert isinstance(done, Done)
    assert isinstance(done.error, NotFound)


def test_a_queue_that_cannot_expire_says_so(peer: Peer) -> None:
    id = peer.ask(DeclareQueue("queue", expires=600))
    channel, arguments = only(peer.sent(), spec.Queue.Declare)
    assert arguments[-1] == {}
    peer.say(channel, spec.Queue.DeclareOk, "sll", "queue", 0, 0)
    assert peer.events() == [Done(id, NO_EXPIRY)]


def test_a_queue_that_is_there_with_another_lifetime_is_used_as_it_is(peer: Peer) -> None:
    id = peer.ask(DeclareQueue("queue", auto_delete=True))
    channel, _ = only(peer.sent(), spec.Queue.Declare)
    channel, arguments = only(peer.refuse(channel, 405, "Cannot re-declare queue 'queue'"), spec.Queue.Declare)
    assert arguments[2] is True
    peer.say(channel, spec.Queue.DeclareOk, "sll", "queue", 0, 0)
    assert peer.events() == [Done(id, "Cannot re-declare queue 'queue'")]


def test_an_exclusive_queue_is_never_durable_or_it_would_outlive_its_connection(peer: Peer) -> None:
    peer.ask(DeclareQueue("queue", exclusive=True))
    assert only(peer.sent(), spec.Queue.Declare)[1][2:5] == [False, False, True]


def test_a_quorum_queue_is_refused_without_asking(peer: Peer) -> None:
    peer.ask(DeclareQueue("queue", kind="quorum"))
    assert peer.sent() == []
    (done,) = peer.events()
    assert isinstance(done, Done)
    assert str(done.error) == "this broker has no quorum queues; allowed: classic"


def test_an_exchange_that_is_there_is_not_declared_or_the_connection_might_end(peer: Peer) -> None:
    id = peer.ask(DeclareExchange("there", "topic"))
    channel, arguments = only(peer.sent(), spec.Exchange.Declare)
    assert arguments[1:4] == ["there", "", True]
    peer.say(channel, spec.Exchange.DeclareOk)
    assert peer.events() == [Done(id)]


def test_a_binding_that_is_not_there_is_no_error(peer: Peer) -> None:
    id = peer.ask(Unbind("queue", "exchange", "key"))
    channel, _ = only(peer.sent(), spec.Queue.Declare)
    peer.say(channel, spec.Queue.DeclareOk, "sll", "queue", 0, 0)
    peer.say(channel, spec.Exchange.DeclareOk)
    peer.refuse(channel, 404, "No such binding")
    assert peer.events() == [Done(id)]
