"""What the amqp adapter does with RabbitMQ's own ways, beyond the contract of all adapters."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp
import pytest
from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.adapter import (
    Bind,
    Cancel,
    DeclareExchange,
    DeclareQueue,
    DeleteQueue,
    Delivery,
    Outcome,
    Outgoing,
    PurgeQueue,
    Subscribe,
)
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import WAIT, Connect, Driver, new_number
from gofer_adapter_amqp import AmqpAdapter
from support.brokers import RabbitMQ3
from support.brokers.rabbitmq import RabbitMQ
from support.certificates import Certificates
from support.connections import connection_to
from support.waiting import eventually


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> URL:
    return URL.parse(rabbitmq.url())


@pytest.fixture
def connect(url: URL) -> Iterator[Connect]:
    """A function that opens a connection, to the broker or another URL."""
    opened: list[Driver] = []

    def connect(to: URL | None = None, **options: Any) -> Driver:
        opened.append(Driver(AmqpAdapter(Connector(to or url, **options))))
        return opened[-1].open()

    yield connect
    for driver in opened:
        driver.close()


@pytest.fixture
def driver(connect: Connect) -> Driver:
    return connect()


@pytest.fixture
def queue(url: URL, driver: Driver, request: pytest.FixtureRequest) -> Iterator[str]:
    name = driver.queue(f"test-{request.node.name}")
    yield name
    with beside(url) as channel:
        channel.queue_delete(name)


@contextmanager
def beside(url: URL) -> Iterator[amqp.Channel]:
    """Give a channel of py-amqp itself: somebody else on the same broker, who can do what the adapter does not."""
    with amqp.Connection(f"{url.host}:{url.port}") as connection, connection.channel() as channel:
        yield channel


def channels(rabbitmq: RabbitMQ) -> list[int]:
    """Return how many channels each connection has at the broker."""
    return [connection.get("channels", 0) for connection in rabbitmq.connections()]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Somebody with certificates of an authority that the broker does not know."""
    return Certificates(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def uncertified(rabbitmq: RabbitMQ, certificates: Certificates) -> Iterator[None]:
    """Take away the user at the broker that belongs to the client's certificate, for one test."""
    name = f"CN={certificates.client_name}"
    rabbitmq.api("DELETE", f"/users/{quote(name)}")
    yield
    rabbitmq.add_user(name, "never used")


class TestLogin:
    def test_a_wrong_password_is_refused_by_name(self, url: URL, connect: Connect) -> None:
        with pytest.raises(AdapterError, match="login refused for user 'guest'") as caught:
            connect(replace(url, user="guest", password="guess-me"))
        assert "guess-me" not in repr(caught.value)
        assert str(url.port) in str(caught.value)

    def test_a_user_of_ones_own_is_let_in_and_held_to_its_permissions(
        self, rabbitmq: RabbitMQ, connect: Connect
    ) -> None:
        rabbitmq.add_user("anna@example", "p/ä:ss word", permissions="anna-.*")
        driver = connect(URL.parse(rabbitmq.url("anna@example", "p/ä:ss word")))
        mine = DeclareQueue("anna-queue", exclusive=True)
        driver.ask(mine)
        with pytest.raises(AdapterError, match="refused"):
            driver.ask(DeclareQueue("somebody-elses"))
        driver.ask(mine)

    def test_an_unknown_virtual_host_is_named(self, url: URL, connect: Connect) -> None:
        with pytest.raises(AdapterError, match="virtual host 'nowhere'"):
            connect(replace(url, path="nowhere"))

    def test_a_virtual_host_without_permission_is_named(self, rabbitmq: RabbitMQ, connect: Connect) -> None:
        rabbitmq.add_user("outsider", "word")
        rabbitmq.api("PUT", "/vhosts/theirs")
        with pytest.raises(AdapterError, match=r"virtual host 'theirs'.*refused for user 'outsider'"):
            connect(URL.parse(rabbitmq.url("outsider", "word", "theirs")))

    def test_a_virtual_host_of_ones_own_is_used(self, rabbitmq: RabbitMQ, connect: Connect) -> None:
        rabbitmq.api("PUT", "/vhosts/my%2Fown")
        rabbitmq.api("PUT", "/permissions/my%2Fown/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        connect(URL.parse(rabbitmq.url(vhost="my/own"))).queue("there")
        assert [queue["name"] for queue in rabbitmq.queues("my/own")] == ["there"]

    def test_a_broker_that_hangs_up_on_a_bad_login_has_refused_it(self, url: URL, connect: Connect) -> None:
        """Brokers without authentication_failure_close say nothing."""
        with hanging_up() as port, pytest.raises(AdapterError, match="login refused for user 'bert'") as caught:
            connect(replace(url, port=port, user="bert", password="hush-hush"))
        assert "hush" not in repr(caught.value)

    def test_the_broker_shows_who_is_connected(self, rabbitmq: RabbitMQ, driver: Driver) -> None:
        def names() -> list[str]:
            return [connection["client_properties"].get("connection_name", "") for connection in rabbitmq.connections()]

        driver.until(lambda: any(name.startswith("gofer ") for name in names()), "the connection's name at the broker")


class TestTls:
    def test_a_trusted_broker_serves(self, rabbitmq: RabbitMQ, certificates: Certificates, connect: Connect) -> None:
        self.check_serves(connect(URL.parse(rabbitmq.url(tls=True)), cacert=str(certificates.authority)))

    def test_an_untrusted_broker_is_refused(
        self, rabbitmq: RabbitMQ, certificates: Certificates, connect: Connect
    ) -> None:
        with pytest.raises(AdapterError, match="does not verify"):
            connect(URL.parse(rabbitmq.url(tls=True)), cacert=str(certificates.other_authority))

    def test_a_client_certificate_is_a_login(
        self, rabbitmq: RabbitMQ3, certificates: Certificates, connect: Connect
    ) -> None:
        certified = f"CN={certificates.client_name}"
        driver = connect(
            URL.parse(rabbitmq.url(external=True)),
            cacert=str(certificates.authority),
            clientcert=str(certificates.client_both),
        )
        self.check_serves(driver)
        driver.until(
            lambda: certified in {connection["user"] for connection in rabbitmq.connections()},
            "the certificate's user at the broker",
        )

    @pytest.mark.usefixtures("uncertified")
    def test_a_client_certificate_without_a_user_at_the_broker_is_refused(
        self, rabbitmq: RabbitMQ3, certificates: Certificates, connect: Connect
    ) -> None:
        certificate = str(certificates.client_both)
        with pytest.raises(AdapterError, match=f"login refused for the certificate {certificate}"):
            connect(URL.parse(rabbitmq.url(external=True)), cacert=str(certificates.authority), clientcert=certificate)

    def test_a_client_certificate_of_nobody_is_refused(
        self, rabbitmq: RabbitMQ3, certificates: Certificates, stranger: Certificates, connect: Connect
    ) -> None:
        with pytest.raises((AdapterError, ConnectionLost)):
            connect(
                URL.parse(rabbitmq.url(external=True)),
                cacert=str(certificates.authority),
                clientcert=str(stranger.client_both),
            )

    def check_serves(self, driver: Driver) -> None:
        """Check small messages, and some that take many TLS records, both ways at once."""
        bodies = [b"small", b"L" * 1_000_000, b"", b"m" * 40_000, b"last"]
        driver.ask(DeclareQueue("tls", exclusive=True))
        driver.subscribe("tls")
        tokens = [driver.post("tls", body) for body in bodies]
        assert [delivery.body for delivery in driver.take(len(bodies))] == bodies
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}


class TestPublishing:
    def test_a_message_over_the_limit_is_refused_when_it_is_isolated(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        large = driver.post(queue, b"x" * (message_limit + 1), isolated=True)
        assert driver.send(queue, b"beside it") is Outcome.CONFIRMED
        confirmed = driver.confirmed(large)
        assert confirmed.outcome is Outcome.REFUSED
        assert str(message_limit) in confirmed.reason

    def test_a_message_over_the_limit_costs_its_neighbours_only_their_answer(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        subscription = driver.subscribe(queue)
        together = [driver.post(queue, b"x" * (message_limit + 1)), driver.post(queue, b"behind it")]
        assert {driver.confirmed(token).outcome for token in together} == {Outcome.UNKNOWN}
        driver.give(queue, b"later")
        assert driver.one(subscription).body == b"later"
        assert driver.lost == []

    def test_a_message_that_is_confirmed_survives_one_over_the_limit_that_is_not(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        plain = driver.post(queue, b"x" * (message_limit + 1), confirm=False)
        assert driver.send(queue, b"beside it") is Outcome.CONFIRMED
        assert driver.confirmed(plain).outcome is Outcome.UNKNOWN

    def test_what_was_returned_before_the_channel_closed_stays_so(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        returned, lost = driver.post("no-such-queue"), driver.post(queue, b"x" * (message_limit + 1))
        assert driver.confirmed(returned).outcome is Outcome.RETURNED
        assert driver.confirmed(lost).outcome is Outcome.UNKNOWN

    def test_a_full_queue_refuses(self, driver: Driver, url: URL) -> None:
        with beside(url) as channel:
            channel.queue_declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
            driver.give("full", b"fits")
            outcomes = [driver.send("full", b"does not") for _ in range(2)]
            channel.queue_delete("full")
        assert outcomes[-1] is Outcome.REFUSED

    def test_an_exchange_without_permission_refuses(self, rabbitmq: RabbitMQ, connect: Connect, url: URL) -> None:
        rabbitmq.add_user("guarded", "word", permissions="mine-.*")
        driver = connect(URL.parse(rabbitmq.url("guarded", "word")))
        with beside(url) as channel:
            channel.exchange_declare("not-mine", "direct", auto_delete=False)
            confirmed = driver.confirmed(driver.post("key", exchange="not-mine"))
            channel.exchange_delete("not-mine")
        assert confirmed.outcome is Outcome.REFUSED
        assert "not-mine" in confirmed.reason

    def test_many_messages_to_missing_exchanges_are_each_returned(self, driver: Driver, queue: str) -> None:
        tokens = [driver.post(queue, exchange=f"nope-{number % 40}") for number in range(100)]
        driver.give(queue, b"not disturbed")
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.RETURNED}

    def test_messages_to_an_exchange_not_seen_before_keep_their_order(
        self, driver: Driver, url: URL, queue: str
    ) -> None:
        with beside(url) as channel:
            channel.exchange_declare("theirs", "direct", auto_delete=False)
            channel.queue_bind(queue, "theirs", "key")
            driver.subscribe(queue, 500)
            bodies = [b"%d" % number for number in range(300)]
            first, *_ = [driver.post("key", body, exchange="theirs") for body in bodies[:100]]
            bound = driver.start(Bind(queue, "theirs", "more"))  # which proves the exchange before the messages do
            driver.done(bound)
            for body in bodies[100:200]:
                driver.post("key", body, exchange="theirs")
            driver.confirmed(first)
            for body in bodies[200:]:
                driver.post("key", body, exchange="theirs")
            came = driver.take(300)
            channel.exchange_delete("theirs")
        assert [delivery.body for delivery in came] == bodies

    def test_isolated_messages_leave_no_channel_behind(self, rabbitmq: RabbitMQ, driver: Driver, queue: str) -> None:
        tokens = [driver.post(queue, isolated=True) for _ in range(300)]
        assert {driver.confirmed(token).outcome for token in tokens} == {Outcome.CONFIRMED}
        driver.until(lambda: channels(rabbitmq) == [0], "no channel to be left")

    def test_a_time_to_live_beyond_the_brokers_is_none(self, driver: Driver, queue: str) -> None:
        driver.subscribe(queue)
        for ttl in (60 * 86400.0, float("inf"), 40 * 86400.0):
            driver.give(queue, ttl=ttl)
        assert [delivery.ttl for delivery in driver.take(3)] == [None, None, 40 * 86400.0]

    @pytest.mark.parametrize(
        "address",
        [Address("", "k" * 256), Address("e" * 256, "k"), Address("", "ä" * 128)],
        ids=["key", "exchange", "bytes"],
    )
    def test_a_name_that_is_too_long_is_a_value_error(self, driver: Driver, queue: str, address: Address) -> None:
        with pytest.raises(ValueError, match="255"):
            driver.adapter.publish(Outgoing(1_000_000, address, b"x"))
        driver.give(queue, b"not disturbed")


class TestDeliveries:
    def test_messages_of_others_are_taken_whatever_their_properties(self, driver: Driver, url: URL, queue: str) -> None:
        driver.subscribe(queue)
        everything = {
            "content_type": "text/plain",
            "application_headers": {"a": [1, {"b": "c"}]},
            "priority": 3,
            "correlation_id": "c" * 200,
            "reply_to": "somewhere",
            "expiration": "90500",
            "message_id": "not-a-number",
            "timestamp": 1,
            "type": "t",
            "user_id": "guest",
            "app_id": "a",
        }
        with beside(url) as channel:
            channel.basic_publish(amqp.Message("text", **everything), "", queue)
            channel.basic_publish(amqp.Message(b"bare"), "", queue)
            came = driver.take(2)
        assert [(delivery.body, delivery.ttl) for delivery in came] == [(b"text", 90.5), (b"bare", None)]

    def test_acknowledgements_in_any_order_settle_what_they_name_and_no_more(
        self, connect: Connect, driver: Driver, queue: str
    ) -> None:
        driver.subscribe(queue, 20)
        driver.give(queue, *(b"%d" % number for number in range(12)))
        came = driver.take(12)
        for number in (0, 1, 2, 5, 7):
            driver.adapter.accept(came[number])
        driver.written()
        driver.adapter.reject(came[3])
        driver.accept(came[6], came[8])  # 4 stands before them
        driver.close()
        other = connect()
        other.subscribe(queue, 20)
        assert [delivery.body for delivery in other.take(4)] == [b"4", b"9", b"10", b"11"]
        other.nothing_comes()

    def test_channels_of_ended_subscriptions_are_closed(self, rabbitmq: RabbitMQ, driver: Driver, queue: str) -> None:
        driver.give(queue, b"held")
        for _ in range(5):
            driver.cancel(driver.subscribe(queue))
        held = driver.take(1)
        driver.until(lambda: channels(rabbitmq) == [2], "the publishing and the holding channel to be left")
        driver.accept(*held)
        driver.until(lambda: channels(rabbitmq) == [1], "the holding channel to be closed")

    def test_a_cancel_that_crosses_the_brokers_own_ends_nothing_else(
        self, driver: Driver, url: URL, queue: str
    ) -> None:
        """The broker has cancelled the consumer, its queue being gone, and we do so before we have read that."""
        number = driver.subscribe(queue)
        assert driver._sock is not None
        with beside(url) as channel:
            channel.queue_delete(queue)
            assert select.select([driver._sock], [], [], WAIT)[0]  # what the broker says of it is here, unread
            driver.cancel(number)
            driver.queue(queue)
        assert driver.send(queue) is Outcome.CONFIRMED

    def test_a_subscription_may_be_cancelled_before_it_is_made(self, driver: Driver, queue: str) -> None:
        number = new_number()
        asked = [driver.start(Subscribe(number, queue, 10)), driver.start(Cancel(number)), driver.start(Cancel(number))]
        assert [driver.done(id) for id in asked] == [None, None, None]
        missing = new_number()
        refused, cancelled = driver.start(Subscribe(missing, "missing", 10)), driver.start(Cancel(missing))
        with pytest.raises(NotFound):
            driver.done(refused)
        driver.done(cancelled)
        assert driver.lost == []

    @pytest.mark.slow
    def test_a_subscription_that_the_broker_ends_for_its_slowness_is_reported(
        self, rabbitmq: RabbitMQ, driver: Driver, queue: str, connect: Connect
    ) -> None:
        # RabbitMQ's own limit is 30 minutes, looked at every minute; a channel takes both values when it opens.
        rabbitmq.evaluate("application:set_env(rabbit, channel_tick_interval, 300)")
        rabbitmq.evaluate("application:set_env(rabbit, consumer_timeout, 300)")
        try:
            slow = connect()
            number = slow.subscribe(queue)
            driver.give(queue, b"x")
            held = slow.one()
            slow.until(lambda: bool(slow.lost), "the end of the subscription")
        finally:
            rabbitmq.evaluate("application:set_env(rabbit, channel_tick_interval, 60000)")
            rabbitmq.evaluate("application:set_env(rabbit, consumer_timeout, 1800000)")
        assert [(lost.number, "PRECONDITION_FAILED" in lost.reason) for lost in slow.lost] == [(number, True)]
        slow.adapter.accept(held)
        slow.subscribe(queue)
        again = slow.one()
        assert (again.body, again.redelivered) == (b"x", True)


class TestQueues:
    @pytest.fixture
    def quorum(self, url: URL, driver: Driver, request: pytest.FixtureRequest) -> Iterator[str]:
        name = f"quorum-{request.node.name}"
        driver.ask(DeclareQueue(name, kind="quorum"))
        yield name
        with beside(url) as channel:
            channel.queue_delete(name)

    def test_a_quorum_queue_delivers_and_reports_redelivery(self, driver: Driver, quorum: str) -> None:
        driver.subscribe(quorum)
        driver.give(quorum, b"x")
        first = driver.one()
        driver.adapter.release(first)
        assert (first.redelivered, driver.one().redelivered) == (False, True)

    def test_a_message_of_a_quorum_queue_outlives_25_releases_and_25_deaths(
        self, connect: Connect, driver: Driver, quorum: str
    ) -> None:
        driver.give(quorum, b"precious")
        driver.subscribe(quorum)
        for _ in range(25):
            driver.adapter.release(driver.one())
        driver.adapter.release(driver.one())
        driver.close()
        held: Delivery | None = None
        for _ in range(25):
            holder = connect()
            holder.subscribe(quorum)
            held = holder.one()
            holder.cut()
        assert held is not None
        assert (held.body, held.redelivered) == (b"precious", True)

    @pytest.mark.parametrize("expires", [None, 90.0])
    def test_a_quorum_queue_is_kept_where_the_broker_cannot_check_the_condition(
        self, driver: Driver, quorum: str, expires: float | None
    ) -> None:
        name = f"{quorum}-{expires}"
        driver.ask(DeclareQueue(name, kind="quorum", expires=expires))
        with pytest.raises(AdapterError, match="classic queues only"):
            driver.ask(DeleteQueue(name, if_empty=True))
        driver.give(name, b"waits")
        with pytest.raises(AdapterError, match="not empty"):
            driver.ask(DeleteQueue(name, if_empty=True))
        driver.ask(DeleteQueue(name))

    @pytest.mark.parametrize(
        "declared",
        [
            DeclareQueue("conditional"),
            DeclareQueue("conditional", expires=90.0),
            DeclareQueue("conditional", exclusive=True),
            DeclareQueue("conditional", durable=False, exclusive=True),
            DeclareQueue("conditional", auto_delete=True),
        ],
        ids=["plain", "expires", "exclusive", "transient", "auto-delete"],
    )
    def test_a_classic_queue_of_any_sort_is_deleted_on_a_condition(
        self, driver: Driver, declared: DeclareQueue
    ) -> None:
        driver.ask(declared)
        driver.ask(DeleteQueue("conditional", if_empty=True))
        with pytest.raises(NotFound):
            driver.ask(DeleteQueue("conditional", if_empty=True))

    def test_a_classic_queue_of_somebody_else_is_deleted_on_a_condition(self, driver: Driver, url: URL) -> None:
        with beside(url) as channel:
            arguments = {"x-expires": 90_000, "x-max-length": 7, "x-message-ttl": 5000}
            channel.queue_declare("of-others", durable=True, auto_delete=False, arguments=arguments)
        driver.ask(DeleteQueue("of-others", if_empty=True))
        with pytest.raises(NotFound):
            driver.ask(PurgeQueue("of-others"))

    def test_a_queue_that_was_declared_without_a_type_is_the_same_as_a_classic_one(
        self, driver: Driver, url: URL
    ) -> None:
        """As gofer 2.12 declares it, before or after us."""
        with beside(url) as channel:
            channel.queue_declare("typeless", durable=True, auto_delete=False)
            assert driver.ask(DeclareQueue("typeless")) is None
            channel.queue_delete("typeless")
            assert driver.ask(DeclareQueue("typeless")) is None
            channel.queue_declare("typeless", durable=True, auto_delete=False)
            channel.queue_delete("typeless")

    def test_a_queue_is_classic_where_the_virtual_hosts_default_is_another(
        self, rabbitmq: RabbitMQ, connect: Connect
    ) -> None:
        rabbitmq.api("PUT", "/vhosts/modern", {"default_queue_type": "quorum"})
        rabbitmq.api("PUT", "/permissions/modern/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        connect(URL.parse(rabbitmq.url(vhost="modern"))).queue("old")
        assert [queue["type"] for queue in rabbitmq.queues("modern")] == ["classic"]

    def test_a_queue_of_another_type_is_used_with_a_sentence(self, driver: Driver, quorum: str) -> None:
        assert "x-queue-type" in str(driver.ask(DeclareQueue(quorum)))
        driver.give(quorum, b"used as it is")
        driver.ask(PurgeQueue(quorum))

    def test_a_queue_that_cannot_be_is_refused(self, driver: Driver) -> None:
        with pytest.raises(AdapterError, match="never"):
            driver.ask(DeclareQueue("never", kind="quorum", durable=False))
        with pytest.raises(NotFound):
            driver.ask(PurgeQueue("never"))

    def test_a_thousand_operations_at_once_are_all_done(self, driver: Driver, queue: str) -> None:
        asked = [driver.start(PurgeQueue(queue if number % 2 else "missing")) for number in range(1000)]
        for number, id in enumerate(asked):
            if number % 2:
                driver.done(id)
            else:
                with pytest.raises(NotFound):
                    driver.done(id)


class TestBroker:
    def test_a_connection_closed_by_hand_is_lost_with_the_reason(self, rabbitmq: RabbitMQ, driver: Driver) -> None:
        driver.until(lambda: len(rabbitmq.connections()) == 1, "the connection at the broker")
        (connection,) = rabbitmq.connections()
        rabbitmq.api("DELETE", "/connections/" + quote(connection["name"]))
        error = driver.ended().error
        assert isinstance(error, ConnectionLost)
        assert "CONNECTION_FORCED" in str(error)

    def test_a_connection_closed_by_hand_comes_back_while_nobody_waits_for_it(
        self, rabbitmq: RabbitMQ, url: URL
    ) -> None:
        connection = connection_to(Connector(url, reconnect_max=0.5))
        try:
            connection.open(time.monotonic() + WAIT)
            for _ in range(3):
                before = connection.up_since
                eventually(lambda: len(rabbitmq.connections()) == 1)
                rabbitmq.api("DELETE", "/connections/" + quote(rabbitmq.connections()[0]["name"]))
                eventually(lambda before=before: connection.up_since not in {None, before}, 8)
        finally:
            connection.close()

    @pytest.mark.slow
    def test_a_broker_that_is_killed_and_started_again_keeps_what_it_took(
        self, programs: Path | None, tmp_path: Path
    ) -> None:
        with RabbitMQ(tmp_path / "node", programs=programs) as broker:
            connector = Connector(URL.parse(broker.url()))
            before = Driver(AmqpAdapter(connector)).open()
            before.queue("kept")
            before.ask(DeclareExchange("also"))
            before.ask(Bind("kept", "also", "key"))
            before.give("key", b"persistent", exchange="also")
            broker.kill()
            assert isinstance(before.ended().error, ConnectionLost)
            broker.start()
            after = Driver(AmqpAdapter(connector)).open()
            after.subscribe("kept")
            assert after.one().body == b"persistent"
            after.close()


@contextmanager
def hanging_up() -> Iterator[int]:
    """Serve the beginning of a login like a broker without capabilities, and hang up on the answer; give the port."""
    arguments = b"\x00\x09" + b"\x00" * 4 + b"\x00\x00\x00\x05PLAIN" + b"\x00\x00\x00\x05en_US"
    start = b"\x00\x0a\x00\x0a" + arguments
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT)

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(WAIT)
                sock.recv(8)
                sock.sendall(b"\x01\x00\x00" + len(start).to_bytes(4) + start + b"\xce")
                sock.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(WAIT)
