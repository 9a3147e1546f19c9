"""The amqp adapter's side of AMQP 0-9-1, byte for byte, with a broker whose every word the test says."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from amqp import spec
from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import (
    Bind,
    Blocked,
    Cancel,
    Closed,
    Confirmed,
    DeclareQueue,
    DeleteQueue,
    Delivery,
    Done,
    Opened,
    Outcome,
    PurgeQueue,
    Subscribe,
    SubscriptionLost,
)
from support.amqp_peer import Frame, Peer, content, method


@pytest.fixture
def peer() -> Peer:
    return Peer().log_in()


def methods(frames: list[Frame]) -> list[tuple[int, int]]:
    return [sig for _, sig, _ in frames]


def only(frames: list[Frame], sig: tuple[int, int]) -> tuple[int, list[Any]]:
    """Return the channel and the arguments of the one frame with this method."""
    ((channel, arguments),) = [(channel, arguments) for channel, found, arguments in frames if found == sig]
    return channel, arguments


def end(peer: Peer) -> MessagingError | None:
    """Return the error of ``Closed``, which is the last event."""
    *_, last = peer.events()
    assert isinstance(last, Closed)
    return last.error


def subscribed(peer: Peer, number: int = 7, queue: str = "queue") -> int:
    """Make a subscription, and return its channel."""
    peer.ask(Subscribe(number, queue, 100))
    channel, _ = only(peer.sent(), spec.Basic.Consume)
    peer.say(channel, spec.Basic.ConsumeOk, "s", str(number))
    peer.events()
    return channel


class TestLogin:
    def test_it_goes_step_by_step(self) -> None:
        peer = Peer("amqp://anna:word@broker.example/farm", heartbeat=7)
        assert peer.greeting == b"AMQP\x00\x00\x09\x01"
        _, (client, mechanism, response, locale) = only(peer.start(), spec.Connection.StartOk)
        assert (mechanism, response, locale) == ("PLAIN", "\0anna\0word", "en_US")
        assert client["product"] == "gofer"
        assert client["capabilities"]["connection.blocked"] is True
        answer = peer.say(0, spec.Connection.Tune, "BlB", 100, 8192, 60)
        assert only(answer, spec.Connection.TuneOk)[1] == [100, 8192, 7]
        assert only(answer, spec.Connection.Open)[1][0] == "farm"
        assert peer.events() == []
        peer.say(0, spec.Connection.OpenOk, "s", "")
        assert peer.events() == [Opened()]

    @pytest.mark.parametrize(
        ("ours", "theirs", "agreed"), [(10, 60, 10), (60, 10, 10), (10, 0, 10), (0, 60, 0), (0.2, 60, 1), (2.6, 9, 3)]
    )
    def test_the_shorter_heartbeat_counts_unless_ours_is_off(self, ours: float, theirs: int, agreed: int) -> None:
        peer = Peer(heartbeat=ours)
        peer.start()
        answer = peer.say(0, spec.Connection.Tune, "BlB", 0, 0, theirs)
        assert only(answer, spec.Connection.TuneOk)[1] == [65535, 131072, agreed]

    @pytest.mark.parametrize(
        ("url", "options", "offered", "taken"),
        [
            ("amqp://h", {}, "AMQPLAIN PLAIN", ("PLAIN", "\0guest\0guest")),
            ("amqps://h", {"clientcert": "c.pem"}, "PLAIN EXTERNAL", ("EXTERNAL", "")),
            ("amqps://h", {"clientcert": "c.pem"}, "PLAIN", ("PLAIN", "\0guest\0guest")),
            ("amqps://anna:word@h", {"clientcert": "c.pem"}, "EXTERNAL PLAIN", ("PLAIN", "\0anna\0word")),
            ("amqp://anna@h", {}, "PLAIN", ("PLAIN", "\0anna\0")),
        ],
    )
    def test_the_login_is_the_one_of_the_url(
        self, url: str, options: dict[str, Any], offered: str, taken: tuple[str, str]
    ) -> None:
        _, (_, mechanism, response, _) = only(Peer(url, **options).start(None, offered), spec.Connection.StartOk)
        assert (mechanism, response) == taken

    def test_a_broker_without_a_login_that_we_have_is_refused(self) -> None:
        peer = Peer("amqp://anna:hush@h")
        assert peer.start(None, "KERBEROS_V5 GSSAPI") == []
        error = end(peer)
        assert isinstance(error, AdapterError)
        assert "user 'anna'" in str(error)
        assert "KERBEROS_V5 GSSAPI" in str(error)

    @pytest.mark.parametrize(
        ("tuned", "code", "kind", "said"),
        [
            (False, 403, AdapterError, r"h:5672: login refused for user 'anna': no"),
            (False, 530, AdapterError, r"h:5672: login refused for user 'anna': no"),  # as Broker-J says it
            (False, 320, ConnectionLost, r"h:5672: closed by the broker: no"),
            (True, 403, AdapterError, r"h:5672: login refused for user 'anna': no"),
            (True, 530, AdapterError, r"h:5672: virtual host 'farm': no"),
        ],
    )
    def test_the_broker_says_why_it_refuses(
        self, tuned: bool, code: int, kind: type[MessagingError], said: str
    ) -> None:
        peer = Peer("amqp://anna:hush@h/farm")
        peer.start()
        if tuned:
            peer.say(0, spec.Connection.Tune, "BlB", 2047, 131_072, 60)
        peer.say(0, spec.Connection.Close, "BsBB", code, "no", 0, 0)
        error = end(peer)
        assert type(error) is kind
        assert str(error) == said

    @pytest.mark.parametrize(("says_so", "kind"), [(True, ConnectionLost), (False, AdapterError)])
    def test_a_broker_that_hangs_up_on_the_login_has_refused_it_unless_it_would_say_so(
        self, says_so: bool, kind: type[MessagingError]
    ) -> None:
        peer = Peer("amqp://anna:hush@h")
        peer.start({"capabilities": {"authentication_failure_close": says_so}})
        peer.adapter.lost("it hung up", peer.now)
        error = end(peer)
        assert type(error) is kind
        assert "hush" not in str(error)

    def test_a_broker_that_hangs_up_before_or_after_the_login_is_lost(self) -> None:
        for tuned in (False, True):
            peer = Peer("amqp://h")
            if tuned:
                peer.start({})
                peer.say(0, spec.Connection.Tune, "BlB", 0, 0, 0)
            peer.adapter.lost("it hung up", peer.now)
            error = end(peer)
            assert type(error) is ConnectionLost
            assert str(error) == "h:5672: it hung up"

    @pytest.mark.parametrize("said", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n", bytes(50)])
    def test_another_protocol_is_named_as_such(self, said: bytes) -> None:
        peer = Peer("amqp://h,[::1]:7777")
        peer.adapter.receive(said, peer.now)
        error = end(peer)
        assert isinstance(error, AdapterError)
        assert "h:5672,[::1]:7777: not AMQP 0-9-1" in str(error)

    def test_closing_it_in_the_middle_is_no_error(self) -> None:
        peer = Peer()
        peer.start()
        peer.adapter.close(peer.now)
        assert end(peer) is None


class TestChannels:
    def test_a_slow_operation_delays_no_other(self, peer: Peer) -> None:
        """A queue whose answer comes 8 s late: no message, subscription, operation or confirm waits for it."""
        consumer = subscribed(peer)
        slow = peer.ask(DeclareQueue("slow"))
        held, _ = only(peer.sent(), spec.Queue.Declare)
        for second in range(8):
            peer.now += 1.0
            quick = peer.ask(PurgeQueue("quick"))
            channel, _ = only(peer.sent(), spec.Queue.Purge)
            assert channel != held
            peer.say(channel, spec.Queue.PurgeOk, "l", 0)
            assert peer.events() == [Done(quick)]
            peer.publish(second)
            channel, _ = only(peer.sent(), spec.Basic.Publish)
            peer.say(channel, spec.Basic.Ack, "Lb", second + 1, False)
            assert peer.events() == [Confirmed(second, Outcome.CONFIRMED)]
            peer.deliver(consumer, second + 1)
            (delivery,) = peer.events()
            assert isinstance(delivery, Delivery)
        peer.say(held, spec.Queue.DeclareOk, "sll", "slow", 0, 0)
        assert peer.events() == [Done(slow)]

    def test_a_failed_operation_costs_only_itself(self, peer: Peer) -> None:
        bad, good = peer.ask(PurgeQueue("missing")), peer.ask(PurgeQueue("there"))
        (first, _), (second, _) = [
            (channel, arguments) for channel, sig, arguments in peer.sent() if sig == spec.Queue.Purge
        ]
        assert methods(peer.refuse(first, 404, "no queue 'missing'")) == [spec.Channel.CloseOk]
        peer.say(second, spec.Queue.PurgeOk, "l", 0)
        failed, done = peer.events()
        assert isinstance(failed, Done)
        assert (failed.id, type(failed.error), str(failed.error)) == (bad, NotFound, "no queue 'missing'")
        assert done == Done(good)

    def test_an_operation_that_is_wrong_in_itself_takes_no_place(self, peer: Peer) -> None:
        for _ in range(100):
            with pytest.raises(TypeError):
                peer.ask(PurgeQueue(5))  # type: ignore[arg-type] # on purpose
        peer.sent()
        id = peer.ask(PurgeQueue("queue"))
        channel, _ = only(peer.sent(), spec.Queue.Purge)
        peer.say(channel, spec.Queue.PurgeOk, "l", 0)
        assert peer.events() == [Done(id)]

    def test_a_refusal_cut_in_the_middle_of_a_character_is_read(self, peer: Peer) -> None:
        id = peer.ask(PurgeQueue("missing"))
        channel, _ = only(peer.sent(), spec.Queue.Purge)
        payload = bytes((0, 20, 0, 40)) + (404).to_bytes(2) + b"\x04no \xc3" + bytes(4)
        peer.adapter.receive(b"\x01" + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce", peer.now)
        (failed,) = peer.events()
        assert isinstance(failed, Done)
        assert (failed.id, str(failed.error)) == (id, "no \ufffd")

    def test_their_numbers_are_used_again_as_late_as_possible(self) -> None:
        peer = Peer().log_in(5, 0, 0)
        used = []
        for _ in range(12):
            peer.ask(PurgeQueue("queue"))
            channel, _ = only(peer.sent(), spec.Queue.Purge)
            used.append(channel)
            assert methods(peer.refuse(channel, 404, "no queue 'queue'")) == [spec.Channel.CloseOk]
        assert used == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]

    def test_an_operation_leaves_its_channel_to_the_next_until_a_heartbeat(self) -> None:
        peer = Peer().log_in(9, 0, 8)
        for _ in range(3):
            peer.ask(PurgeQueue("queue"))
            assert only(peer.sent(), spec.Queue.Purge)[0] == 1
            assert methods(peer.say(1, spec.Queue.PurgeOk, "l", 0)) == []
        peer.adapter.tick(peer.now + 2)
        assert spec.Channel.Close in methods(peer.sent())
        peer.ask(PurgeQueue("queue"))
        assert only(peer.sent(), spec.Queue.Purge)[0] == 2

    def test_the_broker_may_close_a_channel_that_is_kept(self) -> None:
        peer = Peer().log_in(9, 0, 8)
        peer.ask(PurgeQueue("queue"))
        peer.say(1, spec.Queue.PurgeOk, "l", 0)
        assert methods(peer.refuse(1, 406, "too slow")) == [spec.Channel.CloseOk]
        peer.sent()
        peer.ask(PurgeQueue("queue"))
        assert methods(peer.sent()) == [spec.Channel.Open, spec.Queue.Purge]

    def test_a_number_is_free_only_when_the_broker_has_answered_the_close(self) -> None:
        peer = Peer().log_in(2, 0, 0)
        for expected in (1, 2):
            peer.ask(PurgeQueue("queue"))
            assert only(peer.sent(), spec.Queue.Purge)[0] == expected
            peer.say(expected, spec.Queue.PurgeOk, "l", 0)
        peer.events()
        for command in (
            lambda: peer.ask(PurgeQueue("queue")),
            lambda: peer.ask(Subscribe(1, "queue", 1)),
            lambda: peer.publish(5),
            lambda: peer.publish(6, isolated=True),
        ):
            command()
            (told,) = peer.events()
            assert "all 2 channels" in (told.reason if isinstance(told, Confirmed) else str(getattr(told, "error", "")))
        assert peer.sent() == []
        peer.say(2, spec.Channel.CloseOk)
        peer.publish(7)
        assert only(peer.sent(), spec.Basic.Publish)[0] == 2

    def test_both_sides_may_close_one_at_once(self, peer: Peer) -> None:
        peer.ask(PurgeQueue("queue"))
        channel, _ = only(peer.sent(), spec.Queue.Purge)
        peer.say(channel, spec.Queue.PurgeOk, "l", 0)
        assert methods(peer.refuse(channel, 406, "too slow")) == [spec.Channel.CloseOk]
        peer.say(channel, spec.Channel.CloseOk)
        assert [type(event) for event in peer.events()] == [Done]

    def test_one_that_the_broker_closes_twice_is_closed_once(self, peer: Peer) -> None:
        """RabbitMQ's timer does that, if our answer to the first takes long."""
        channel = subscribed(peer)
        peer.refuse(channel, 406, "PRECONDITION_FAILED - timeout")
        assert peer.refuse(channel, 406, "PRECONDITION_FAILED - timeout") == []
        assert peer.events() == [SubscriptionLost(7, "PRECONDITION_FAILED - timeout")]

    def test_a_flow_is_answered(self, peer: Peer) -> None:
        channel = subscribed(peer)
        assert peer.say(channel, spec.Channel.Flow, "b", False) == [(channel, spec.Channel.FlowOk, [False])]

    @pytest.mark.parametrize(
        "said",
        [
            method(9, spec.Queue.DeclareOk, "sll", "q", 0, 0),
            method(1, spec.Queue.DeclareOk, "sll", "q", 0, 0),
            method(1, spec.Basic.Ack, "Lb", 1, False),
            method(0, spec.Connection.Tune, "BlB", 0, 0, 1),
            method(0, spec.Connection.CloseOk),
            content(1, 3, b"abc"),
            content(0, 3, b"abc"),
            method(1, spec.Basic.Deliver, "sLbss", "7", 1, False, "", "q") + content(1, 3, b"abcd", b"e"),
            method(1, spec.Basic.Deliver, "sLbss", "7", 1, False, "", "q") * 2,
            method(1, spec.Basic.Deliver, "sLbss", "7", 1, False, "", "q") + content(1, 3, b"a") + content(1, 3),
            method(1, spec.Basic.Deliver, "sLbss", "7", 1, False, "", "q")[:-1] + b"\x00",
            b"\x01\x00\x01\x7f\xff\xff\xff" + bytes(20),
        ],
    )
    def test_what_does_not_belong_there_is_a_protocol_error(self, peer: Peer, said: bytes) -> None:
        subscribed(peer)
        peer.adapter.receive(said, peer.now)
        error = end(peer)
        assert isinstance(error, ConnectionLost)
        assert str(error).startswith("protocol error: ")


class TestDeliveries:
    def test_a_message_of_many_frames_is_put_together(self, peer: Peer) -> None:
        channel = subscribed(peer)
        dice = random.Random(1)
        parts = [dice.randbytes(dice.randrange(1, 3000)) for _ in range(40)]
        body = b"".join(parts)
        data = method(channel, spec.Basic.Deliver, "sLbss", "7", 1, True, "e", "k") + content(
            channel, len(body), *parts
        )
        while data:
            cut = dice.randrange(1, 5000)
            peer.adapter.receive(data[:cut], peer.now)
            data = data[cut:]
        (delivery,) = peer.events()
        assert isinstance(delivery, Delivery)
        assert (delivery.body, delivery.redelivered, delivery.cut) == (body, True, 0)

    def test_acknowledgements_are_sent_together_and_wait_for_company(self, peer: Peer) -> None:
        channel = subscribed(peer)
        for tag in range(1, 9):
            peer.deliver(channel, tag)
        came = [event for event in peer.events() if isinstance(event, Delivery)]
        for number in (2, 0, 1, 5):
            peer.adapter.accept(came[number])
        assert not peer.adapter.urgent
        assert peer.sent() == [(channel, spec.Basic.Ack, [3, True]), (channel, spec.Basic.Ack, [6, False])]
        peer.adapter.accept(came[4])
        assert peer.sent() == [(channel, spec.Basic.Ack, [5, False])]
        peer.adapter.release(came[3])
        assert peer.adapter.urgent
        peer.adapter.accept(came[6])
        assert peer.sent() == [(channel, spec.Basic.Reject, [4, True]), (channel, spec.Basic.Ack, [7, False])]
        peer.adapter.accept(came[6])
        peer.adapter.release(came[0])
        peer.adapter.accept(came[7])
        peer.adapter.reject(came[7])
        assert peer.sent() == [(channel, spec.Basic.Ack, [8, False])]

    def test_every_order_of_settlements_names_each_delivery_once(self) -> None:
        """What the broker understands: an acknowledgement of many settles all up to it that are not settled."""
        for seed in range(200):
            dice, peer = random.Random(seed), Peer().log_in()
            channel = subscribed(peer)
            for tag in range(1, 21):
                peer.deliver(channel, tag)
            came = [event for event in peer.events() if isinstance(event, Delivery)]
            unsettled, understood, meant = list(range(1, 21)), {}, {}
            for delivery in dice.sample(came, 17):
                tag = came.index(delivery) + 1
                how = dice.choice(["accept", "accept", "accept", "release", "reject"])
                meant[tag] = how
                getattr(peer.adapter, how)(delivery)
                if dice.random() < 0.3 or len(meant) == 17:
                    for _, sig, (named, flag) in peer.sent():
                        for each in [
                            n for n in unsettled if n == named or (sig == spec.Basic.Ack and flag and n < named)
                        ]:
                            unsettled.remove(each)
                            understood[each] = "accept" if sig == spec.Basic.Ack else "release" if flag else "reject"
            assert understood == meant, seed

    def test_acknowledgements_are_written_before_the_goodbye(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, 1)
        (delivery,) = peer.events()
        assert isinstance(delivery, Delivery)
        peer.adapter.accept(delivery)
        peer.adapter.close(peer.now)
        peer.adapter.accept(delivery)
        assert methods(peer.sent()) == [spec.Basic.Ack, spec.Connection.Close]
        peer.say(0, spec.Connection.CloseOk)
        assert peer.events() == [Closed(None)]

    def test_a_cancel_waits_for_the_subscription(self, peer: Peer) -> None:
        """RabbitMQ 3.10 closes the connection (INTERNAL_ERROR) when it comes earlier."""
        made, first, second = peer.ask(Subscribe(7, "queue", 1)), peer.ask(Cancel(7)), peer.ask(Cancel(7))
        frames = peer.sent()
        channel, _ = only(frames, spec.Basic.Consume)
        assert spec.Basic.Cancel not in methods(frames)
        assert methods(peer.say(channel, spec.Basic.ConsumeOk, "s", "7")) == [spec.Basic.Cancel]
        assert methods(peer.say(channel, spec.Basic.CancelOk, "s", "7")) == [spec.Channel.Close]
        assert peer.events() == [Done(made), Done(first), Done(second)]

    def test_a_cancel_that_crosses_the_brokers_own_is_done_once(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, 1)
        (delivery,) = peer.events()
        assert isinstance(delivery, Delivery)
        id = peer.ask(Cancel(7))
        assert methods(peer.sent()) == [spec.Basic.Cancel]
        peer.say(channel, spec.Basic.Cancel, "sb", "7", True)
        peer.say(channel, spec.Basic.CancelOk, "s", "7")
        assert peer.events() == [Done(id)]
        peer.adapter.accept(delivery)
        assert methods(peer.sent()) == [spec.Basic.Ack, spec.Channel.Close]

    def test_a_channel_lives_until_the_last_delivery_is_settled(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, 1)
        peer.deliver(channel, 2)
        first, second = (event for event in peer.events() if isinstance(event, Delivery))
        peer.say(channel, spec.Basic.Cancel, "sb", "7", True)
        assert [type(event) for event in peer.events()] == [SubscriptionLost]
        peer.adapter.release(first)
        assert methods(peer.sent()) == [spec.Basic.Reject]
        peer.adapter.accept(second)
        assert methods(peer.sent()) == [spec.Basic.Ack, spec.Channel.Close]

    def test_what_came_on_a_channel_that_the_broker_closed_is_stale(self, peer: Peer) -> None:
        channel = subscribed(peer)
        peer.deliver(channel, 1)
        peer.deliver(channel, 2)
        first, second = (event for event in peer.events() if isinstance(event, Delivery))
        peer.adapter.accept(first)
        peer.refuse(channel, 406, "timeout")
        peer.adapter.accept(second)
        peer.adapter.release(second)
        assert peer.sent() == []


class TestPublishing:
    def test_confirms_of_many_and_refusals_are_reported_in_order(self, peer: Peer) -> None:
        for token in range(10, 16):
            peer.publish(token)
        channel = peer.sent()[-1][0]
        peer.say(channel, spec.Basic.Ack, "Lb", 2, False)
        peer.say(channel, spec.Basic.Ack, "Lb", 3, True)
        peer.say(channel, spec.Basic.Nack, "Lb", 4, False)
        peer.say(channel, spec.Basic.Ack, "Lb", 0, True)
        told = [(event.token, event.outcome.name) for event in peer.events() if isinstance(event, Confirmed)]
        assert told == [
            (11, "CONFIRMED"),
            (10, "CONFIRMED"),
            (12, "CONFIRMED"),
            (13, "REFUSED"),
            (14, "CONFIRMED"),
            (15, "CONFIRMED"),
        ]

    def returned(self, channel: int, token: int) -> bytes:
        """Return a message to the adapter."""
        identity = b"%d" % token
        header = b"\x00\x3c\x00\x00" + (1).to_bytes(8) + b"\x00\x80" + bytes((len(identity),)) + identity
        frames = [(2, header), (3, b"x")]
        return method(channel, spec.Basic.Return, "Bsss", 312, "NO_ROUTE", "", "gone") + b"".join(
            bytes((kind,)) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"
            for kind, payload in frames
        )

    @pytest.mark.parametrize("isolated", [False, True])
    def test_a_message_that_is_returned_and_then_confirmed_is_returned(self, peer: Peer, isolated: bool) -> None:
        peer.publish(10, isolated=isolated)
        channel = peer.sent()[-1][0]
        peer.adapter.receive(self.returned(channel, 10), peer.now)
        assert peer.events() == []
        peer.say(channel, spec.Basic.Ack, "Lb", 1, False)
        assert peer.events() == [Confirmed(10, Outcome.RETURNED, "NO_ROUTE")]

    def test_what_needs_no_confirm_has_a_channel_of_its_own(self, peer: Peer) -> None:
        peer.publish(1, confirm=False)
        peer.publish(2)
        peer.publish(3, confirm=False)
        peer.publish(4, confirm=False)
        frames = peer.sent()
        plain, confirmed, again, _ = [channel for channel, sig, _ in frames if sig == spec.Basic.Publish]
        assert plain == again != confirmed
        assert [channel for channel, sig, _ in frames if sig == spec.Confirm.Select] == [confirmed]
        peer.adapter.receive(self.returned(plain, 3), peer.now)
        peer.adapter.forget(4)
        peer.adapter.receive(self.returned(plain, 4), peer.now)
        assert peer.events() == [Confirmed(3, Outcome.RETURNED, "NO_ROUTE")]
        peer.refuse(plain, 406, "too large")
        assert peer.events() == [Confirmed(1, Outcome.UNKNOWN, "too large")]
        peer.publish(5, confirm=False)
        assert methods(peer.sent()) == [spec.Channel.Open, spec.Basic.Publish]

    def test_the_first_message_to_an_exchange_goes_alone(self, peer: Peer) -> None:
        for token in (1, 2, 3):
            peer.publish(token, "theirs")
        frames = peer.sent()
        alone, _ = only(frames, spec.Basic.Publish)
        peer.publish(4)
        shared, _ = only(peer.sent(), spec.Basic.Publish)
        assert shared != alone
        assert [frame[:2] for frame in peer.refuse(alone, 404, "no exchange 'theirs'")][1:] == [
            (shared + 1, spec.Channel.Open),
            (shared + 1, spec.Confirm.Select),
            (shared + 1, spec.Basic.Publish),
        ]
        assert peer.events() == [Confirmed(1, Outcome.RETURNED, "no exchange 'theirs'")]
        frames = peer.say(shared + 1, spec.Basic.Ack, "Lb", 1, False)
        assert only(frames, spec.Basic.Publish)[0] == shared
        peer.publish(5, "theirs")
        assert only(peer.sent(), spec.Basic.Publish)[0] == shared

    def test_messages_keep_their_order_when_an_operation_proves_their_exchange_first(self, peer: Peer) -> None:
        peer.publish(1, "theirs")
        peer.publish(2, "theirs")
        alone, _ = only(peer.sent(), spec.Basic.Publish)
        peer.ask(Bind("queue", "theirs", "key"))
        control, _ = only(peer.sent(), spec.Queue.Bind)
        peer.say(control, spec.Queue.BindOk)
        peer.publish(3, "theirs", "3")
        assert peer.sent() == []
        frames = peer.say(alone, spec.Basic.Ack, "Lb", 1, False)
        assert [arguments[2] for _, sig, arguments in frames if sig == spec.Basic.Publish] == ["queue", "3"]

    def test_a_shared_channel_that_the_broker_closes_leaves_its_messages_unknown(self, peer: Peer) -> None:
        peer.publish(1)
        peer.publish(2)
        first = peer.sent()[-1][0]
        peer.adapter.receive(self.returned(first, 1), peer.now)
        peer.refuse(first, 406, "too large")
        peer.publish(3)
        second, _ = only(peer.sent(), spec.Basic.Publish)
        peer.say(second, spec.Basic.Ack, "Lb", 1, False)
        assert peer.events() == [
            Confirmed(1, Outcome.RETURNED, "NO_ROUTE"),
            Confirmed(2, Outcome.UNKNOWN, "too large"),
            Confirmed(3, Outcome.CONFIRMED),
        ]

    def test_an_exchange_that_was_deleted_is_probed_again(self, peer: Peer) -> None:
        bound = peer.ask(Bind("queue", "theirs", "key"))
        channel, _ = only(peer.sent(), spec.Queue.Bind)
        peer.say(channel, spec.Queue.BindOk)
        peer.publish(1, "theirs")
        shared, _ = only(peer.sent(), spec.Basic.Publish)
        peer.refuse(shared, 404, "no exchange 'theirs'")
        peer.publish(2, "theirs")
        peer.publish(3)
        frames = peer.sent()
        alone, again = [channel for channel, sig, _ in frames if sig == spec.Basic.Publish]
        assert alone != again
        assert peer.events() == [Done(bound), Confirmed(1, Outcome.UNKNOWN, "no exchange 'theirs'")]


class TestDialects:
    def declared(self, operation: DeclareQueue, **properties: object) -> dict[str, object]:
        """Return the arguments with which a queue is declared at a broker with these properties."""
        peer = Peer().log_in(properties=properties)
        peer.ask(operation)
        arguments: dict[str, object] = only(peer.sent(), spec.Queue.Declare)[1][-1]
        return arguments

    def test_a_queues_type_is_declared_at_rabbitmq_only(self) -> None:
        classic, quorum = DeclareQueue("q"), DeclareQueue("q", kind="quorum")
        for version in ("3.10.8", "3.13.7"):
            assert self.declared(classic, product="RabbitMQ", version=version) == {"x-queue-type": "classic"}
            assert self.declared(quorum, product="RabbitMQ", version=version) == {"x-queue-type": "quorum"}
        for other in ({}, {"product": "qpid", "version": "9.2.1"}, {"product": b"LavinMQ"}):
            assert self.declared(classic, **other) == {}
            assert self.declared(quorum, **other) == {"x-queue-type": "quorum"}

    @pytest.mark.parametrize("version", ["4.0.5", "4.3.0", "10.1"])
    def test_a_quorum_queue_is_declared_without_a_delivery_limit_where_there_is_one(self, version: str) -> None:
        arguments = self.declared(DeclareQueue("q", kind="quorum"), product="RabbitMQ", version=version)
        assert arguments == {"x-queue-type": "quorum", "x-delivery-limit": -1}

    @pytest.mark.parametrize(
        ("expires", "told"), [(0.0001, 1), (600, 600_000), (1e300, 4_294_967_295), (inf, 4_294_967_295)]
    )
    def test_a_queues_expiry_is_in_milliseconds(self, expires: float, told: int) -> None:
        assert self.declared(DeclareQueue("q", expires=expires))["x-expires"] == told

    def test_a_condition_that_only_a_broker_can_check_is_left_to_one_that_does(self) -> None:
        peer = Peer().log_in(properties={"product": "qpid"})
        peer.ask(DeleteQueue("q", if_empty=True))
        channel, _ = only(peer.sent(), spec.Queue.Declare)
        frames = peer.say(channel, spec.Queue.DeclareOk, "sll", "q", 0, 3)
        assert only(frames, spec.Queue.Delete)[1] == [0, "q", False, True, False]

    def test_words_of_rabbitmq_that_we_do_not_know_keep_the_queue(self, peer: Peer) -> None:
        peer.ask(DeleteQueue("q", if_empty=True))
        channel, _ = only(peer.sent(), spec.Queue.Declare)
        frames = peer.say(channel, spec.Queue.DeclareOk, "sll", "q", 0, 0)
        assert spec.Queue.Delete not in methods(frames)
        peer.refuse(channel, 406, "PRECONDITION_FAILED - something else")
        (failed,) = peer.events()
        assert isinstance(failed, Done)
        assert isinstance(failed.error, AdapterError)


class TestHeartbeats:
    def test_they_are_sent_when_nothing_else_is(self) -> None:
        peer = Peer(heartbeat=10).log_in()
        beats = []
        for _ in range(200):
            peer.now += 0.5
            peer.adapter.receive(b"\x08\x00\x00\x00\x00\x00\x00\xce", peer.now)
            if peer.now >= peer.adapter.deadline:
                peer.adapter.tick(peer.now)
                assert peer.adapter.deadline > peer.now
            if peer.sent():
                beats.append(peer.now)
        assert 10 <= len(beats) <= 20
        assert max(later - earlier for earlier, later in pairwise(beats)) < 10

    def test_a_broker_that_is_silent_for_two_is_dead(self) -> None:
        peer = Peer(heartbeat=10).log_in()
        while peer.now <= 1020.0:
            peer.adapter.tick(peer.now)
            assert peer.events() == []
            peer.now = peer.adapter.deadline
        assert peer.now < 1025.0
        peer.adapter.tick(peer.now)
        error = end(peer)
        assert isinstance(error, ConnectionLost)
        assert "silent for 20 s" in str(error)


class TestTheEnd:
    def test_an_alarm_is_reported_and_its_end(self, peer: Peer) -> None:
        peer.say(0, spec.Connection.Blocked, "s", "low on memory")
        peer.say(0, spec.Connection.Unblocked)
        assert peer.events() == [Blocked("low on memory"), Blocked(None)]

    def test_what_came_before_the_brokers_goodbye_is_reported_first(self, peer: Peer) -> None:
        peer.publish(1)
        channel, _ = only(peer.sent(), spec.Basic.Publish)
        peer.adapter.receive(
            method(channel, spec.Basic.Ack, "Lb", 1, False)
            + method(0, spec.Connection.Close, "BsBB", 320, "CONNECTION_FORCED - by hand", 0, 0)
            + method(channel, spec.Basic.Ack, "Lb", 2, False),
            peer.now,
        )
        confirmed, closed = peer.events()
        assert confirmed == Confirmed(1, Outcome.CONFIRMED)
        assert isinstance(closed, Closed)
        assert str(closed.error) == "closed by the broker: CONNECTION_FORCED - by hand"

    def test_what_the_broker_says_to_our_goodbye_is_no_error(self) -> None:
        for answer in (
            method(0, spec.Connection.CloseOk),
            method(0, spec.Connection.Close, "BsBB", 320, "me, too", 0, 0),
            b"nonsense and more of it",
        ):
            peer = Peer().log_in()
            peer.adapter.close(peer.now)
            peer.adapter.receive(answer, peer.now)
            assert end(peer) is None
