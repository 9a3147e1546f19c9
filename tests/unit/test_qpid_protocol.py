"""The qpid adapter's side of AMQP 0-10, with a broker whose every word the test says."""

from __future__ import annotations

import random
import re
from math import inf
from typing import Any

import pytest
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import (
    NO_EXPIRY,
    Bind,
    Blocked,
    Cancel,
    Closed,
    Confirmed,
    DeclareExchange,
    DeclareQueue,
    DeleteQueue,
    Delivery,
    Done,
    Event,
    Opened,
    Outcome,
    Outgoing,
    Subscribe,
    SubscriptionLost,
    Unbind,
)
from gofer.messaging.address import Address
from gofer_adapter_qpid.amqp_0_10.codec import decode_structs, encode_struct
from gofer_adapter_qpid.amqp_0_10.frames import PROTOCOL_HEADER
from gofer_adapter_qpid.amqp_0_10.tables import STRUCTS
from hypothesis import given
from hypothesis import strategies as some
from support.qpid_peer import Heard, Peer, message, written


@pytest.fixture
def peer() -> Peer:
    return Peer().log_in()


def names(heard: list[Heard]) -> list[str]:
    return [name for _, name, _ in heard]


def only(heard: list[Heard], wanted: str) -> tuple[int, dict[str, Any]]:
    """Return the channel and the fields of the one control or command with this name."""
    ((channel, fields),) = [(channel, fields) for channel, name, fields in heard if name == wanted]
    return channel, fields


def end(peer: Peer) -> MessagingError | None:
    """Return the error of ``Closed``, which is the last event."""
    *_, last = peer.events()
    assert isinstance(last, Closed)
    return last.error


def completed(peer: Peer, channel: int, *numbers: int, **more: Any) -> list[Heard]:
    """Report commands as completed."""
    return peer.say(channel, "session.completed", commands=[(n, n) for n in numbers], **more)


def result(name: str, **fields: Any) -> bytes:
    """Encode a struct as the value of execution.result, without its size."""
    return encode_struct(STRUCTS[name], fields)[4:]


def subscribed(peer: Peer, number: int = 7, queue: str = "queue", consumers: int = 1, **more: Any) -> int:
    """Make a subscription, and return its channel. ``consumers``: so many has the queue, with us."""
    peer.ask(Subscribe(number, queue, 100, **more))
    heard = peer.sent()
    channel, fields = only(heard, "message.subscribe")
    completed(peer, channel, fields["number"])
    answer = result("queue.queue-query-result", queue=queue, subscriber_count=consumers)
    peer.say(channel, "execution.result", command_id=only(heard, "queue.query")[1]["number"], value=answer)
    peer.events()
    return channel


def publish(peer: Peer, token: int, exchange: str = "", key: str = "key", **options: Any) -> None:
    peer.adapter.publish(Outgoing(token, Address(exchange, key), b"body", **options))


class TestLogin:
    def test_it_goes_step_by_step(self) -> None:
        peer = Peer("qpid+amqp://anna:word@broker.example/farm", heartbeat=7)
        assert peer.greeting == b"AMQP\x01\x01\x00\x0a"
        _, answer = only(peer.start(), "connection.start-ok")
        assert (answer["mechanism"], answer["response"], answer["locale"]) == ("PLAIN", b"\0anna\0word", "en_US")
        assert answer["client_properties"]["product"] == "gofer"
        heard = peer.say(0, "connection.tune", channel_max=100, max_frame_size=8192, heartbeat_max=60)
        agreed = {"channel_max": 100, "max_frame_size": 8192, "heartbeat": 7}
        assert heard == [(0, "connection.tune-ok", agreed), (0, "connection.open", {"virtual_host": "farm"})]
        assert peer.events() == []
        peer.say(0, "connection.open-ok")
        assert peer.events() == [Opened()]

    @pytest.mark.parametrize(
        ("ours", "least", "most", "agreed"),
        [
            (10, 0, 60, 10),
            (60, 0, 10, 10),
            (10, 0, 0, 10),
            (0, 0, 60, 0),
            (0.2, 0, 60, 1),
            (2.6, 0, 9, 3),
            (5, 8, 9, 8),
        ],
    )
    def test_the_heartbeat_is_ours_as_far_as_the_broker_takes_it(
        self, ours: float, least: int, most: int, agreed: int
    ) -> None:
        peer = Peer(heartbeat=ours)
        peer.start()
        heard = peer.say(0, "connection.tune", heartbeat_min=least, heartbeat_max=most)
        fields = {"channel_max": 65535, "max_frame_size": 65535, "heartbeat": agreed}
        assert only(heard, "connection.tune-ok")[1] == fields

    @pytest.mark.parametrize(
        ("url", "options", "offered", "taken"),
        [
            ("amqp://h", {}, ["PLAIN"], ("PLAIN", b"\0guest\0guest")),
            ("amqp://h", {}, ["PLAIN", "ANONYMOUS"], ("ANONYMOUS", b"")),
            ("amqp://anna:word@h", {}, ["ANONYMOUS", "PLAIN"], ("PLAIN", b"\0anna\0word")),
            ("amqp://anna@h", {}, ["PLAIN"], ("PLAIN", b"\0anna\0")),
            ("amqps://h", {"clientcert": "c.pem"}, ["PLAIN", "ANONYMOUS", "EXTERNAL"], ("EXTERNAL", b"")),
            ("amqps://h", {"clientcert": "c.pem"}, ["PLAIN"], ("PLAIN", b"\0guest\0guest")),
            ("amqp://h", {"clientcert": "c.pem"}, ["EXTERNAL", "PLAIN"], ("PLAIN", b"\0guest\0guest")),
            ("amqps://anna:word@h", {"clientcert": "c.pem"}, ["EXTERNAL", "PLAIN"], ("PLAIN", b"\0anna\0word")),
        ],
    )
    def test_the_login_is_the_one_of_the_url(
        self, url: str, options: dict[str, Any], offered: list[str], taken: tuple[str, bytes]
    ) -> None:
        _, answer = only(Peer(f"qpid+{url}", **options).start(mechanisms=offered), "connection.start-ok")
        assert (answer["mechanism"], answer["response"]) == taken

    def test_with_a_user_anonymous_is_never_taken(self) -> None:
        peer = Peer("qpid+amqp://anna:hush@h")
        assert peer.start(mechanisms=["ANONYMOUS", "KERBEROS_V5"]) == []
        error = end(peer)
        assert isinstance(error, AdapterError)
        assert "user 'anna'" in str(error)
        assert "ANONYMOUS, KERBEROS_V5" in str(error)
        assert "hush" not in str(error)

    def test_a_challenge_is_answered_with_the_response(self) -> None:
        peer = Peer("qpid+amqp://anna:word@h")
        peer.start()
        assert peer.say(0, "connection.secure", challenge=b"?") == [
            (0, "connection.secure-ok", {"response": b"\0anna\0word"})
        ]

    @pytest.mark.parametrize(
        ("steps", "code", "kind", "said"),
        [
            (1, 320, AdapterError, "h:5672: login refused for user 'anna': no"),
            (2, 402, AdapterError, "h:5672: virtual host 'farm': no"),
            (2, 320, ConnectionLost, "h:5672: closed by the broker: no"),
            (3, 320, ConnectionLost, "closed by the broker: no"),
        ],
    )
    def test_the_broker_says_why_it_closes(self, steps: int, code: int, kind: type[MessagingError], said: str) -> None:
        peer = Peer("qpid+amqp://anna:hush@h/farm")
        peer.start()
        for name in ("connection.tune", "connection.open-ok")[: steps - 1]:
            peer.say(0, name)
        assert names(peer.say(0, "connection.close", reply_code=code, reply_text="no")) == ["connection.close-ok"]
        error = end(peer)
        assert type(error) is kind
        assert str(error) == said

    @pytest.mark.parametrize("said", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", bytes(50)])
    def test_another_protocol_is_named_as_such(self, said: bytes) -> None:
        peer = Peer("qpid+amqp://h")
        peer.hear(said)
        error = end(peer)
        assert type(error) is AdapterError
        assert "h:5672: not AMQP 0-10: " in str(error)

    def test_a_goodbye_waits_for_its_answer(self, peer: Peer) -> None:
        peer.adapter.close(peer.now)
        assert names(peer.sent()) == ["connection.close"]
        peer.say(0, "connection.heartbeat")
        assert peer.events() == []
        peer.say(0, "connection.close-ok")
        assert end(peer) is None


class TestHeartbeats:
    def test_they_are_sent_when_nothing_else_is_and_missed_when_nothing_comes(self) -> None:
        peer = Peer(heartbeat=10).log_in()
        assert peer.adapter.deadline == peer.now
        for later, said in ((1, []), (6, ["connection.heartbeat"]), (8, []), (12, ["connection.heartbeat"])):
            peer.now = 1000.0 + later
            peer.adapter.tick(peer.now)
            assert names(peer.sent()) == said
            assert peer.adapter.deadline == peer.now + 2.5
        peer.now = 1000.0 + 20.1
        peer.adapter.tick(peer.now)
        assert str(end(peer)) == "the broker was silent for 20 s"
        assert peer.adapter.deadline == inf

    def test_a_heartbeat_of_the_broker_keeps_the_connection(self) -> None:
        peer = Peer(heartbeat=10).log_in()
        for _ in range(5):
            peer.now += 15
            peer.say(0, "connection.heartbeat")
            peer.adapter.tick(peer.now)
        assert peer.events() == []


class TestOperations:
    def test_each_has_a_session_of_its_own_and_ends_it(self, peer: Peer) -> None:
        first, second = peer.ask(DeleteQueue("one")), peer.ask(DeleteQueue("two"))
        heard = peer.sent()
        assert names(heard) == ["session.attach", "session.command-point", "queue.delete"] * 2
        assert [channel for channel, _, _ in heard] == [1, 1, 1, 2, 2, 2]
        assert heard[2][2] == {"queue": "one", "number": 0, "sync": True}
        assert names(completed(peer, 2, 0)) == ["session.detach"]
        assert peer.events() == [Done(second)]
        assert names(completed(peer, 1, 0)) == ["session.detach"]
        assert peer.events() == [Done(first)]

    def test_sessions_have_names_of_their_own(self) -> None:
        names = set()
        for _ in range(3):
            peer = Peer().log_in()
            for queue in ("one", "two"):
                peer.ask(DeleteQueue(queue))
            names |= {fields["name"] for _, name, fields in peer.sent() if name == "session.attach"}
        assert len(names) == 6

    @pytest.mark.parametrize(
        ("code", "kind"), [(404, NotFound), (403, AdapterError), (531, AdapterError), (406, AdapterError)]
    )
    def test_an_error_costs_the_session_alone(self, peer: Peer, code: int, kind: type[MessagingError]) -> None:
        subscription = subscribed(peer)
        id = peer.ask(DeleteQueue("one"))
        channel, _ = only(peer.sent(), "queue.delete")
        peer.say(channel, "execution.exception", error_code=code, command_id=0, description="no such thing")
        (done,) = peer.events()
        assert isinstance(done, Done)
        assert (done.id, type(done.error), str(done.error)) == (id, kind, "no such thing")
        assert names(peer.say(channel, "session.detach", name=b"x")) == ["session.detached"]
        peer.deliver(subscription, b"still")
        (delivery,) = peer.events()
        assert isinstance(delivery, Delivery)

    def test_a_refused_declaration_is_asked_about_on_a_new_session(self, peer: Peer) -> None:
        id = peer.ask(DeclareExchange("e", "topic"))
        first, _ = only(peer.sent(), "exchange.declare")
        heard = peer.say(first, "execution.exception", error_code=530, description="of type fanout")
        second, query = only(heard, "exchange.query")
        assert (second != first, query["name"]) == (True, "e")
        peer.say(first, "session.detach", name=b"x")
        found = result("exchange.exchange-query-result", type="fanout", durable=True)
        peer.say(second, "execution.result", command_id=0, value=found)
        (done,) = peer.events()
        assert done == Done(id, "exchange 'e' is there already: type is fanout")

    @pytest.mark.parametrize(
        ("product", "asked", "found", "declared", "value"),
        [
            ("Broker-J", {}, {"durable": True}, {}, None),
            ("Broker-J", {}, {}, {}, "queue 'q' is there already: durable is False"),
            ("Broker-J", {"expires": 60.0}, {"durable": True}, {}, NO_EXPIRY),
            (
                "Broker-J",
                {"exclusive": True},
                {"durable": True, "exclusive": True, "auto_delete": True},
                {"qpid.exclusivity_policy": "CONNECTION", "qpid.lifetime_policy": "DELETE_ON_CONNECTION_CLOSE"},
                None,
            ),
            (
                "qpid-cpp",
                {"expires": 60.0},
                {"durable": True, "auto_delete": True},
                {"qpid.auto_delete_timeout": 60},
                None,
            ),
        ],
    )
    def test_a_queue_that_is_there_is_compared(
        self,
        product: str,
        asked: dict[str, Any],
        found: dict[str, Any],
        declared: dict[str, Any],
        value: str | None,
    ) -> None:
        peer = Peer().log_in(product)
        id = peer.ask(DeclareQueue("q", **asked))
        channel, fields = only(peer.sent(), "queue.declare")
        assert fields.get("arguments", {}) == declared
        _, query = only(completed(peer, channel, fields["number"]), "queue.query")
        answer = result("queue.queue-query-result", queue="q", **found)
        peer.say(channel, "execution.result", command_id=query["number"], value=answer)
        assert peer.events() == [Done(id, value)]

    def test_what_is_not_bound_is_not_unbound(self, peer: Peer) -> None:
        outcomes = []
        for flags in ({}, {"key_not_matched": True}, {"queue_not_found": True}, {"exchange_not_found": True}):
            peer.ask(Unbind("q", "e", "k"))
            channel, _ = only(peer.sent(), "exchange.bound")
            answer = result("exchange.exchange-bound-result", **flags)
            heard = peer.say(channel, "execution.result", command_id=0, value=answer)
            outcomes.append((names(heard), [type(event.error) for event in peer.events() if isinstance(event, Done)]))
        assert outcomes == [
            (["exchange.unbind"], []),
            (["session.detach"], [type(None)]),
            (["session.detach"], [NotFound]),
            (["session.detach"], [NotFound]),
        ]

    def test_a_quorum_queue_is_refused(self, peer: Peer) -> None:
        peer.ask(DeclareQueue("q", kind="quorum"))
        (done,) = peer.events()
        assert isinstance(done, Done)
        assert "no quorum queues" in str(done.error)
        assert peer.sent() == []

    def test_no_more_than_64_run_at_a_time(self, peer: Peer) -> None:
        ids = [peer.ask(Bind("q", "e", str(n))) for n in range(100)]
        channels = [channel for channel, name, _ in peer.sent() if name == "exchange.bind"]
        assert len(channels) == 64
        heard = [each for channel in channels for each in completed(peer, channel, 0)]
        channels = [channel for channel, name, _ in heard if name == "exchange.bind"]
        assert len(channels) == 36
        for channel in channels:
            completed(peer, channel, 0)
        assert [event.id for event in peer.events() if isinstance(event, Done)] == ids

    def test_without_a_channel_an_operation_fails(self) -> None:
        peer = Peer()
        peer.start()
        peer.say(0, "connection.tune", channel_max=3)
        peer.say(0, "connection.open-ok")
        peer.events()
        for number in (1, 2):
            peer.ask(Subscribe(number, "q", 1))
        id = peer.ask(DeleteQueue("q"))
        (done,) = peer.events()
        assert isinstance(done, Done)
        assert (done.id, "all 3 sessions" in str(done.error)) == (id, True)


class TestPublishing:
    def test_a_message_is_confirmed_by_its_completion(self, peer: Peer) -> None:
        publish(peer, 1, ttl=1.5)
        publish(peer, 2, durable=False)
        heard = peer.sent()
        assert names(heard) == ["session.attach", "session.command-point", *["message.transfer"] * 2, "execution.sync"]
        transfer = heard[2][2]
        assert (transfer["accept_mode"], transfer["acquire_mode"], transfer["body"]) == (0, 0, b"body")
        assert decode_structs(transfer["header"]) == {
            "message.delivery-properties": {"priority": 4, "delivery_mode": 2, "ttl": 1500, "routing_key": "key"},
            "message.message-properties": {"content_length": 4},
        }
        assert decode_structs(heard[3][2]["header"])["message.delivery-properties"]["delivery_mode"] == 1
        completed(peer, 1, 0)
        assert peer.events() == [Confirmed(1, Outcome.CONFIRMED)]
        peer.say(1, "session.completed", commands=[(0, 2)])
        assert peer.events() == [Confirmed(2, Outcome.CONFIRMED)]

    def test_a_rejected_message_is_returned_when_it_is_completed(self, peer: Peer) -> None:
        publish(peer, 1)
        publish(peer, 2)
        peer.sent()
        peer.say(1, "message.reject", transfers=[(1, 1)], code=1, text="Unroutable")
        assert peer.events() == []
        peer.say(1, "session.completed", commands=[(0, 2)])
        assert peer.events() == [Confirmed(1, Outcome.CONFIRMED), Confirmed(2, Outcome.RETURNED, "Unroutable")]

    def test_without_confirm_only_what_fails_is_reported_until_it_is_forgotten(self, peer: Peer) -> None:
        for token in (1, 2, 3):
            publish(peer, token, confirm=False)
        assert "execution.sync" not in names(peer.sent())
        peer.adapter.forget(2)
        peer.say(1, "message.reject", transfers=[(0, 1)], code=1, text="Unroutable")
        assert peer.events() == [Confirmed(1, Outcome.RETURNED, "Unroutable")]
        peer.say(1, "execution.exception", error_code=403, description="not you")
        assert peer.events() == [Confirmed(3, Outcome.UNKNOWN, "not you")]

    def test_an_exchange_is_looked_up_before_the_first_message_and_those_after_it_wait(self, peer: Peer) -> None:
        for token in (1, 2):
            publish(peer, token, "e")
        channel, query = only(peer.sent(), "exchange.query")
        assert query["name"] == "e"
        found = result("exchange.exchange-query-result", type="topic")
        heard = peer.say(channel, "execution.result", command_id=0, value=found)
        sent = [fields for _, name, fields in heard if name == "message.transfer"]
        assert [fields["destination"] for fields in sent] == ["e", "e"]
        publish(peer, 3, "e")
        assert names(peer.sent()) == ["message.transfer", "execution.sync"]

    def test_messages_to_an_exchange_that_is_not_there_are_returned_and_not_sent(self, peer: Peer) -> None:
        publish(peer, 1, "e")
        publish(peer, 2, "e", confirm=False)
        channel, _ = only(peer.sent(), "exchange.query")
        found = result("exchange.exchange-query-result", not_found=True)
        heard = peer.say(channel, "execution.result", command_id=0, value=found)
        assert "message.transfer" not in names(heard)
        words = "there is no exchange 'e'"
        assert peer.events() == [Confirmed(token, Outcome.RETURNED, words) for token in (1, 2)]

    def test_the_end_of_the_session_leaves_all_unknown_and_the_next_message_opens_another(self, peer: Peer) -> None:
        for token in (1, 2):
            publish(peer, token)
        peer.sent()
        peer.say(1, "execution.exception", error_code=506, description="too large")
        assert peer.events() == [Confirmed(token, Outcome.UNKNOWN, "too large") for token in (1, 2)]
        publish(peer, 3)
        channel, fields = only(peer.sent(), "message.transfer")
        assert (channel, fields["number"]) == (2, 0)

    def test_an_isolated_message_has_a_session_of_its_own(self, peer: Peer) -> None:
        for token in (1, 2, 3):
            publish(peer, token, isolated=True)
        peer.sent()
        completed(peer, 1, 0)
        peer.say(2, "message.reject", transfers=[(0, 0)], code=1, text="Unroutable")
        completed(peer, 2, 0)
        peer.say(3, "execution.exception", error_code=506, description="too large")
        assert peer.events() == [
            Confirmed(1, Outcome.CONFIRMED),
            Confirmed(2, Outcome.RETURNED, "Unroutable"),
            Confirmed(3, Outcome.REFUSED, "too large"),
        ]

    def test_a_broker_that_wants_no_messages_is_reported(self, peer: Peer) -> None:
        publish(peer, 1)
        peer.sent()
        peer.say(1, "message.set-flow-mode", destination="", flow_mode=0)
        peer.say(1, "message.stop", destination="")
        (blocked,) = peer.events()
        assert isinstance(blocked, Blocked)
        assert blocked.reason
        peer.say(1, "message.flow", destination="", unit=0, value=1000)
        assert peer.events() == [Blocked(None)]


class TestReceiving:
    def test_a_subscription_has_a_window(self, peer: Peer) -> None:
        id = peer.ask(Subscribe(7, "q", 50, exclusive=True))
        heard = [(name, fields) for _, name, fields in peer.sent() if name.startswith("message")]
        shown = [(name, {**fields, "number": 0, "sync": 0}) for name, fields in heard]
        asked = {"queue": "q", "destination": "0", "accept_mode": 0, "acquire_mode": 0, "exclusive": True}
        more = {"destination": "0", "number": 0, "sync": 0}
        assert shown == [
            ("message.subscribe", {**asked, "number": 0, "sync": 0}),
            ("message.set-flow-mode", {"flow_mode": 1, **more}),
            ("message.flow", {"unit": 0, "value": 50, **more}),
            ("message.flow", {"unit": 1, "value": 0xFFFFFFFF, **more}),
        ]
        completed(peer, 1, 0)
        assert peer.events() == [Done(id)]

    def test_a_delivery_reports_what_the_broker_knows(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, b"1", ttl=1500)
        peer.deliver(channel, b"", redelivered=True)
        first, second = peer.events()
        assert isinstance(first, Delivery)
        assert isinstance(second, Delivery)
        assert (first.subscription, first.body, first.redelivered, first.ttl) == (7, b"1", False, 1.5)
        assert (second.subscription, second.body, second.redelivered, second.ttl) == (7, b"", True, None)

    @pytest.mark.parametrize(
        ("product", "consumers", "told"), [("Broker-J", 1, False), ("Broker-J", 2, None), ("qpid-cpp", 2, False)]
    )
    def test_beside_other_consumers_broker_j_cannot_tell_what_is_delivered_for_the_first_time(
        self, product: str, consumers: int, told: bool | None
    ) -> None:
        peer = Peer().log_in(product)
        if product == "qpid-cpp":
            peer.ask(Subscribe(7, "queue", 10))
            heard = peer.sent()
            channel = only(heard, "message.subscribe")[0]
            assert "queue.query" not in names(heard)
        else:
            channel = subscribed(peer, consumers=consumers)
        for redelivered in (False, True):
            peer.deliver(channel, b"x", redelivered=redelivered)
        assert [event.redelivered for event in peer.events() if isinstance(event, Delivery)] == [told, True]

    def test_a_consumer_that_has_gone_may_have_left_something(self, peer: Peer) -> None:
        channel = subscribed(peer, consumers=2)
        told = []
        for count in (2, 1, 1, 3, 1, 1):
            peer.now += 5.0
            peer.say(0, "connection.heartbeat")
            peer.adapter.tick(peer.now)
            looking, fields = only(peer.sent(), "queue.query")
            answer = result("queue.queue-query-result", queue="queue", subscriber_count=count)
            peer.say(looking, "execution.result", command_id=fields["number"], value=answer)
            peer.deliver(channel, b"x")
            told += [event.redelivered for event in peer.events() if isinstance(event, Delivery)]
        assert told == [None, None, False, None, None, False]

    def test_what_is_accepted_goes_in_one_command_and_makes_room(self, peer: Peer) -> None:
        channel = subscribed(peer)
        for n in range(6):
            peer.deliver(channel, b"%d" % n)
        held = [event for event in peer.events() if isinstance(event, Delivery)]
        for n in (4, 0, 1, 5, 2):
            peer.adapter.accept(held[n])
        assert not peer.adapter.urgent
        heard = peer.sent()
        assert names(heard) == ["message.accept", "session.completed"]
        # The broker's first command was a result; the messages are 1 to 6.
        assert heard[0][2]["transfers"] == [(1, 3), (5, 6)]
        # The result and the first five are reported: the window counts, and has no holes.
        assert heard[1][2] == {"commands": [(0, 5)]}
        for settle in (peer.adapter.accept, peer.adapter.release, peer.adapter.reject):
            settle(held[0])
        assert peer.sent() == []

    def test_more_ranges_than_a_command_takes_go_in_several(self, peer: Peer) -> None:
        peer.ask(Subscribe(7, "q", 65535))
        channel, fields = only(peer.sent(), "message.subscribe")
        completed(peer, channel, fields["number"])
        peer.events()
        peer.hear(message(channel, b"") * 40_000)
        for event in peer.events()[::2]:
            assert isinstance(event, Delivery)
            peer.adapter.accept(event)
        ranges = [fields["transfers"] for _, name, fields in peer.sent() if name == "message.accept"]
        assert [len(each) for each in ranges] == [8000, 8000, 4000]
        assert [low for each in ranges for low, _ in each] == list(range(0, 40_000, 2))

    def test_release_and_reject_are_reported_at_once(self, peer: Peer) -> None:
        channel = subscribed(peer)
        for body in (b"1", b"2"):
            peer.deliver(channel, body)
        first, second = (event for event in peer.events() if isinstance(event, Delivery))
        peer.adapter.release(first)
        peer.adapter.reject(second)
        assert peer.adapter.urgent
        heard = peer.sent()
        assert names(heard) == ["message.release", "message.reject", "session.completed"]
        assert heard[0][2]["set_redelivered"] is True
        assert heard[2][2] == {"commands": [(0, 2)]}

    def test_after_a_cancel_what_has_come_can_be_settled_and_then_the_session_ends(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, b"1")
        (held,) = peer.events()
        assert isinstance(held, Delivery)
        id = peer.ask(Cancel(7))
        _, fields = only(peer.sent(), "message.cancel")
        peer.deliver(channel, b"2")
        completed(peer, channel, fields["number"])
        second, done = peer.events()
        assert isinstance(second, Delivery)
        assert done == Done(id)
        peer.adapter.accept(held)
        assert names(peer.sent()) == ["message.accept", "session.completed"]
        peer.adapter.release(second)
        assert names(peer.sent()) == ["message.release", "session.completed", "session.detach"]
        again = peer.ask(Cancel(7))
        assert peer.events() == [Done(again)]

    def test_a_subscription_may_be_cancelled_before_it_is_there(self, peer: Peer) -> None:
        for answers in ({}, {"error_code": 404, "description": "no queue"}):
            subscribing, cancelling = peer.ask(Subscribe(8, "q", 1)), peer.ask(Cancel(8))
            channel, fields = only(peer.sent(), "message.cancel")
            if answers:
                peer.say(channel, "execution.exception", **answers)
            else:
                completed(peer, channel, 0, fields["number"])
            first, second = peer.events()
            assert isinstance(first, Done)
            assert (first.id, type(first.error)) == (subscribing, NotFound if answers else type(None))
            assert second == Done(cancelling)

    def test_the_end_of_its_session_ends_a_subscription(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, b"1")
        peer.say(channel, "execution.exception", error_code=408, description="the queue was deleted")
        held, lost = peer.events()
        assert lost == SubscriptionLost(7, "the queue was deleted")
        assert isinstance(held, Delivery)
        peer.adapter.accept(held)
        assert peer.sent() == []

    @pytest.mark.parametrize(
        ("found", "lost"),
        [
            ({}, True),
            ({"queue": "queue", "subscriber_count": 0}, True),
            ({"queue": "queue", "subscriber_count": 1}, False),
        ],
    )
    def test_its_queue_is_looked_at_every_five_seconds(self, peer: Peer, found: dict[str, Any], lost: bool) -> None:
        subscribed(peer)
        for _ in range(2):
            peer.now += 5.0
            assert peer.adapter.deadline <= peer.now
            peer.adapter.tick(peer.now)
            heard = [each for each in peer.sent() if each[1] == "queue.query"]
            if lost and not heard:
                break
            ((channel, _, fields),) = heard
            answer = result("queue.queue-query-result", **found)
            peer.say(channel, "execution.result", command_id=fields["number"], value=answer)
            peer.say(0, "connection.heartbeat")
        assert peer.events() == ([SubscriptionLost(7, "queue 'queue' was deleted")] if lost else [])

    def test_of_a_body_over_the_limit_the_ends_are_kept(self, peer: Peer) -> None:
        channel = subscribed(peer, limit=10)
        body = bytes(range(256)) * 1000
        peer.deliver(channel, body, 4096)
        (delivery,) = peer.events()
        assert isinstance(delivery, Delivery)
        assert (delivery.body, delivery.cut) == (body[:65536] + body[-4096:], 256_000 - 69_632)


class TestSessions:
    def test_what_the_broker_wants_to_know_is_reported(self, peer: Peer) -> None:
        publish(peer, 1)
        peer.sent()
        assert peer.say(1, "session.flush", completed=True) == []
        assert peer.say(1, "execution.sync", sync=True) == [(1, "session.completed", {"commands": [(0, 0)]})]
        assert peer.say(1, "session.flush", completed=True) == [(1, "session.completed", {"commands": [(0, 0)]})]
        peer.say(1, "session.known-completed", commands=[(0, 0)])
        assert peer.say(1, "session.flush", completed=True) == []
        assert peer.say(1, "execution.sync", sync=True) == [(1, "session.completed", {"commands": [(1, 1)]})]

    def test_a_broker_that_wants_a_timeout_gets_none(self, peer: Peer) -> None:
        subscribed(peer)
        assert peer.say(1, "session.request-timeout", timeout=300) == [(1, "session.timeout", {"timeout": 0})]

    def test_a_report_that_wants_an_answer_is_known(self, peer: Peer) -> None:
        publish(peer, 1)
        peer.sent()
        heard = peer.say(1, "session.completed", commands=[(0, 1)], timely_reply=True)
        assert heard == [(1, "session.known-completed", {"commands": [(0, 1)]})]

    def test_many_commands_are_reported_unasked(self, peer: Peer) -> None:
        publish(peer, 1)
        peer.sent()
        heard = [each for _ in range(300) for each in peer.say(1, "execution.sync")]
        assert [fields["commands"] for _, _, fields in heard] == [[(0, 127)], [(0, 255)]]

    def test_numbers_go_on_where_32_bits_end(self, peer: Peer) -> None:
        publish(peer, 1)
        peer.sent()
        session = peer.adapter._home.publisher._shared  # type: ignore[attr-defined] # four thousand million are too many
        peer.say(1, "session.completed", commands=[(0, 1)])
        session._sent = (1 << 32) - 2
        for token in (2, 3, 4):
            publish(peer, token)
        peer.sent()
        peer.events()
        peer.say(1, "session.completed", commands=[((1 << 32) - 2, (1 << 32) - 1)])
        assert peer.events() == [Confirmed(2, Outcome.CONFIRMED), Confirmed(3, Outcome.CONFIRMED)]
        peer.say(1, "message.reject", transfers=[(0, 0)], code=1, text="no")
        peer.say(1, "session.completed", commands=[(0, 1)])
        assert peer.events() == [Confirmed(4, Outcome.RETURNED, "no")]

    def test_endless_ranges_are_read_in_time(self, peer: Peer) -> None:
        for token in range(5000):
            publish(peer, token)
        peer.sent()
        peer.say(1, "session.completed", commands=[(n, n) for n in range(1, 8000, 2)])
        assert len(peer.events()) == 2500


# -- what no broker should say ----------------------------------------------------------------------------------------

_SESSION = [
    written(1, "session.attached", name=b"x"),
    written(1, "session.command-point", command_id=0, command_offset=0),
    written(1, "session.completed", commands=[(0, 3)], timely_reply=True),
    message(1, b"one", redelivered=True, ttl=7),
    message(1, b"two" * 3000, 4096, routing_key="key"),
    message(1, b""),
    written(1, "message.reject", transfers=[(0, 3)], code=1, text="no"),
    written(1, "message.stop", destination=""),
    written(1, "execution.result", command_id=0, value=result("queue.queue-query-result", queue="q")),
    written(1, "execution.sync", sync=True),
    written(0, "connection.heartbeat"),
    written(2, "session.completed", commands=[(0, 1)]),
    written(2, "execution.exception", error_code=404, description="gone"),
    written(2, "session.detach", name=b"x"),
    written(1, "session.flush", completed=True),
]


def busy() -> Peer:
    """Return an adapter with a subscription and a message on its way."""
    peer = Peer().log_in()
    peer.ask(Subscribe(7, "q", 10, False, 5000))
    publish(peer, 1)
    peer.ask(DeclareQueue("q"))
    peer.sent()
    return peer


def check_end(peer: Peer) -> list[Event]:
    """Check that the adapter is open, or has ended as it may, and goes on in peace; return the events."""
    events = peer.events()
    if events and isinstance(events[-1], Closed):
        assert type(events[-1].error) in (ConnectionLost, AdapterError)
        # The client names what is wrong with the bytes; it does not stumble over them.
        assert not re.search(r"error: \w+: |0-10: \w+Error: ", str(events[-1].error)), events[-1]
    assert [type(event) for event in events].count(Closed) <= 1
    peer.adapter.tick(peer.now)
    peer.adapter.lost("cut", peer.now)
    events += peer.events()
    assert isinstance(events[-1], Closed)
    return events


def test_a_session_in_pieces_of_one_byte_is_the_same() -> None:
    whole, pieces = busy(), busy()
    data = b"".join(_SESSION)
    whole.hear(data)
    for byte in data:
        pieces.hear(bytes((byte,)))
    shown = [[repr(event).partition("tag=")[0] for event in check_end(peer)] for peer in (whole, pieces)]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 6


def test_a_session_may_end_anywhere() -> None:
    data = b"".join(_SESSION)
    for cut in range(0, len(data), 23):
        peer = busy()
        peer.hear(data[:cut])
        assert isinstance(check_end(peer)[-1], Closed)


@given(some.data())
def test_a_spoilt_session_is_no_more_than_the_end(data: some.DataObject) -> None:
    stream = bytearray(b"".join(data.draw(some.permutations(_SESSION))))
    for _ in range(data.draw(some.integers(1, 4))):
        stream[data.draw(some.integers(0, len(stream) - 1))] = data.draw(some.integers(0, 255))
    peer = busy()
    piece = data.draw(some.sampled_from([1, 3, 100, 1 << 20]))
    for start in range(0, len(stream), piece):
        peer.hear(bytes(stream[start : start + piece]))
    check_end(peer)


@given(some.binary(max_size=300), some.sampled_from([0, 8, -1]))
def test_any_bytes_are_no_more_than_the_end(data: bytes, after: int) -> None:
    peer = busy() if after < 0 else Peer()
    peer.hear(PROTOCOL_HEADER[: max(0, after)] + data)
    check_end(peer)


@given(some.data())
def test_any_frame_is_no_more_than_the_end(data: some.DataObject) -> None:
    """Frames whose heads are right: any payload, any order of segments, on any channel."""
    peer = busy()
    for _ in range(data.draw(some.integers(1, 6))):
        kind = data.draw(some.integers(0, 3))
        payload = data.draw(some.sampled_from([1, 2, 3, 4])).to_bytes(1) + data.draw(some.binary(max_size=40))
        channel = data.draw(some.integers(0, 3))
        flags = data.draw(some.integers(0, 15))
        head = bytes((flags, kind)) + (12 + len(payload)).to_bytes(2) + bytes((0, kind != 0))
        peer.hear(head + channel.to_bytes(2) + bytes(4) + payload)
    check_end(peer)


def test_a_frame_larger_than_agreed_is_the_end() -> None:
    peer = Peer()
    peer.start()
    peer.say(0, "connection.tune", max_frame_size=4096)
    peer.say(0, "connection.open-ok")
    peer.events()
    peer.ask(Subscribe(7, "q", 10))
    peer.sent()
    peer.hear(message(1, b"x" * 5000))
    assert "not a frame" in str(end(peer))


def test_random_commands_of_the_wrong_peer_are_the_end() -> None:
    for name in ("queue.declare", "message.subscribe", "message.transfer"):
        peer = busy()
        peer.hear(written(2, name))
        events = check_end(peer)
        if name != "message.transfer":
            assert f"unexpected command {name}" in str([event for event in events if isinstance(event, Closed)])


def test_a_seeded_storm_of_frames_ends_in_peace() -> None:
    dice = random.Random(7)
    for _ in range(200):
        peer = busy()
        for _ in range(20):
            peer.hear(dice.choice(_SESSION))
        check_end(peer)
