"""What the amqp adapter does with RabbitMQ's own ways, beyond the contract of all adapters."""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import amqp
import pytest
from gofer.errors import AdapterError, ConnectionLost, NotFound
from gofer.messaging.adapter.base import ExchangeSpec, Outcome, QueueSpec
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import WAIT, Connect, Driver
from gofer.testing.rabbitmq import RabbitMQ
from gofer.testing.relay import Relay
from gofer_adapter_amqp import AmqpAdapter
from support.certificates import Certificates


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> URL:
    return URL.parse(rabbitmq.url())


@pytest.fixture
def connect(url: URL) -> Iterator[Connect]:
    """A function that opens a connection, to the broker or another URL."""
    opened: list[Driver] = []

    def connect(to: URL | None = None, **options: Any) -> Driver:
        driver = Driver(AmqpAdapter(Connector(to or url, **options)))
        opened.append(driver)
        driver.adapter.connect(WAIT)
        return driver

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


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Somebody with certificates of an authority that the broker does not know."""
    return Certificates(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def certified(rabbitmq: RabbitMQ, certificates: Certificates) -> Iterator[str]:
    """The user at the broker that belongs to the client's certificate: RabbitMQ goes by its whole subject."""
    name = f"CN={certificates.client_name}"
    rabbitmq.add_user(name, "never used")
    yield name
    rabbitmq.api("DELETE", f"/users/{quote(name)}")


class TestLogin:
    def test_a_wrong_password_is_refused_by_name(self, url: URL) -> None:
        adapter = AmqpAdapter(Connector(replace(url, user="guest", password="guess-me")))
        with pytest.raises(AdapterError, match="login refused for user 'guest'") as caught:
            adapter.connect(WAIT)
        assert "guess-me" not in repr(caught.value)
        with pytest.raises(ConnectionLost):
            adapter.declare_queue(QueueSpec("never"), WAIT)
        adapter.close()

    def test_a_user_of_ones_own_is_let_in_and_held_to_its_permissions(
        self, rabbitmq: RabbitMQ, connect: Connect
    ) -> None:
        rabbitmq.add_user("anna@example", "p/ä:ss word", permissions="anna-.*")
        adapter = connect(URL.parse(rabbitmq.url("anna@example", "p/ä:ss word"))).adapter
        mine = QueueSpec("anna-queue", exclusive=True)
        adapter.declare_queue(mine, WAIT)
        with pytest.raises(AdapterError, match="refused"):
            adapter.declare_queue(QueueSpec("somebody-elses"), WAIT)
        adapter.declare_queue(mine, WAIT)

    def test_an_unknown_virtual_host_is_named(self, url: URL) -> None:
        adapter = AmqpAdapter(Connector(replace(url, path="nowhere")))
        with pytest.raises(AdapterError, match="virtual host 'nowhere'"):
            adapter.connect(WAIT)
        adapter.close()

    def test_a_virtual_host_of_ones_own_is_used(self, rabbitmq: RabbitMQ, connect: Connect) -> None:
        rabbitmq.api("PUT", "/vhosts/my%2Fown")
        rabbitmq.api("PUT", "/permissions/my%2Fown/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        connect(URL.parse(rabbitmq.url(vhost="my/own"))).queue("there")
        assert [queue["name"] for queue in rabbitmq.queues("my/own")] == ["there"]

    def test_a_broker_that_hangs_up_on_a_bad_login_has_refused_it(self, url: URL) -> None:
        """Brokers without authentication_failure_close say nothing."""
        with hanging_up() as port:
            adapter = AmqpAdapter(Connector(replace(url, port=port, user="bert", password="hush-hush")))
            with pytest.raises(AdapterError, match="login refused for user 'bert'") as caught:
                adapter.connect(WAIT)
            adapter.close()
        assert "hush" not in repr(caught.value)

    def test_the_broker_shows_who_is_connected(self, rabbitmq: RabbitMQ, driver: Driver) -> None:
        def names() -> list[str]:
            return [connection["client_properties"].get("connection_name", "") for connection in rabbitmq.connections()]

        driver.until(lambda: any(name.startswith("gofer ") for name in names()), "the connection's name at the broker")


class TestTls:
    def test_a_trusted_broker_serves(self, rabbitmq: RabbitMQ, certificates: Certificates, connect: Connect) -> None:
        self.check_serves(connect(URL.parse(rabbitmq.url(tls=True)), cacert=str(certificates.authority)))

    def test_an_untrusted_broker_is_refused(self, rabbitmq: RabbitMQ, certificates: Certificates) -> None:
        adapter = AmqpAdapter(Connector(URL.parse(rabbitmq.url(tls=True)), cacert=str(certificates.other_authority)))
        with pytest.raises(AdapterError, match="does not verify"):
            adapter.connect(WAIT)
        adapter.close()

    def test_a_client_certificate_is_a_login(
        self, rabbitmq: RabbitMQ, certificates: Certificates, certified: str, connect: Connect
    ) -> None:
        driver = connect(
            URL.parse(rabbitmq.url(tls=True)),
            cacert=str(certificates.authority),
            clientcert=str(certificates.client_both),
        )
        self.check_serves(driver)
        driver.until(
            lambda: certified in {connection["user"] for connection in rabbitmq.connections()},
            "the certificate's user at the broker",
        )

    def test_a_client_certificate_without_a_user_at_the_broker_is_refused(
        self, rabbitmq: RabbitMQ, certificates: Certificates
    ) -> None:
        certificate = str(certificates.client_both)
        adapter = AmqpAdapter(
            Connector(URL.parse(rabbitmq.url(tls=True)), cacert=str(certificates.authority), clientcert=certificate)
        )
        with pytest.raises(AdapterError, match=f"login refused for the certificate {certificate}"):
            adapter.connect(WAIT)
        adapter.close()

    def test_a_client_certificate_of_nobody_is_refused(
        self, rabbitmq: RabbitMQ, certificates: Certificates, stranger: Certificates
    ) -> None:
        adapter = AmqpAdapter(
            Connector(
                URL.parse(rabbitmq.url(tls=True)),
                cacert=str(certificates.authority),
                clientcert=str(stranger.client_both),
            )
        )
        with pytest.raises((AdapterError, ConnectionLost)):
            adapter.connect(WAIT)
        adapter.close()

    def check_serves(self, driver: Driver) -> None:
        """Check small messages, and some that take many TLS records, both ways at once."""
        bodies = [b"small", b"L" * 1_000_000, b"", b"m" * 40_000, b"last"]
        driver.adapter.declare_queue(QueueSpec("tls", exclusive=True), WAIT)
        driver.subscribe("tls")
        tokens = [driver.post("tls", body) for body in bodies]
        assert [delivery.body for delivery in driver.take(len(bodies))] == bodies
        assert {driver.settled(token).outcome for token in tokens} == {Outcome.TAKEN}


class TestSettlement:
    def test_a_message_over_the_limit_is_refused_when_it_is_isolated(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        large = driver.post(queue, b"x" * (message_limit + 1), isolated=True)
        assert driver.send(queue, b"beside it").outcome is Outcome.TAKEN
        settled = driver.settled(large)
        assert settled.outcome is Outcome.REFUSED
        assert str(message_limit) in settled.reason

    def test_a_message_over_the_limit_costs_its_neighbours_only_their_answer(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        subscription = driver.subscribe(queue)
        together = [driver.post(queue, b"x" * (message_limit + 1)), driver.post(queue, b"behind it")]
        assert {driver.settled(token).outcome for token in together} == {Outcome.LOST}
        driver.give(queue, b"later")
        assert driver.one(subscription).body == b"later"
        assert driver.lost == []

    def test_what_was_returned_before_the_channel_closed_stays_so(
        self, driver: Driver, queue: str, message_limit: int
    ) -> None:
        returned, lost = driver.post("no-such-queue"), driver.post(queue, b"x" * (message_limit + 1))
        assert driver.settled(returned).outcome is Outcome.RETURNED
        assert driver.settled(lost).outcome is Outcome.LOST

    def test_a_full_queue_refuses(self, driver: Driver, url: URL) -> None:
        with beside(url) as channel:
            channel.queue_declare("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
            driver.give("full", b"fits")
            settled = [driver.send("full", b"does not") for _ in range(2)]
            channel.queue_delete("full")
        assert settled[-1].outcome is Outcome.REFUSED

    def test_an_exchange_without_permission_refuses(self, rabbitmq: RabbitMQ, connect: Connect, url: URL) -> None:
        rabbitmq.add_user("guarded", "word", permissions="mine-.*")
        driver = connect(URL.parse(rabbitmq.url("guarded", "word")))
        with beside(url) as channel:
            channel.exchange_declare("not-mine", "direct", auto_delete=False)
            settled = driver.send("key", exchange="not-mine")
            channel.exchange_delete("not-mine")
        assert settled.outcome is Outcome.REFUSED
        assert "not-mine" in settled.reason

    def test_many_messages_to_missing_exchanges_are_each_returned(self, driver: Driver, queue: str) -> None:
        tokens = [driver.post(queue, exchange=f"nope-{number % 40}") for number in range(100)]
        driver.give(queue, b"not disturbed")
        assert {driver.settled(token).outcome for token in tokens} == {Outcome.RETURNED}

    def test_messages_to_an_exchange_not_seen_before_keep_their_order(
        self, driver: Driver, url: URL, queue: str
    ) -> None:
        with beside(url) as channel:
            channel.exchange_declare("theirs", "direct", auto_delete=False)
            channel.queue_bind(queue, "theirs", "key")
            driver.subscribe(queue, 500)
            bodies = [b"%d" % number for number in range(200)]
            first, *_ = [driver.post("key", body, exchange="theirs") for body in bodies[:100]]
            driver.settled(first)
            for body in bodies[100:]:
                driver.post("key", body, exchange="theirs")
            came = driver.take(200)
            channel.exchange_delete("theirs")
        assert [delivery.body for delivery in came] == bodies

    def test_isolated_messages_leave_no_channel_behind(self, rabbitmq: RabbitMQ, driver: Driver, queue: str) -> None:
        def channels() -> list[int]:
            return [connection.get("channels", 0) for connection in rabbitmq.connections()]

        tokens = [driver.post(queue, isolated=True) for _ in range(60)]
        assert {driver.settled(token).outcome for token in tokens} == {Outcome.TAKEN}
        driver.until(lambda: channels() == [1], "only the control channel to be left")

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
            driver.adapter.send(1_000_000, address, b"x")
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

    def test_a_quorum_queue_delivers_and_tells_redelivery(self, driver: Driver) -> None:
        driver.adapter.declare_queue(QueueSpec("agreed", kind="quorum"), WAIT)
        try:
            driver.subscribe("agreed")
            driver.give("agreed", b"x")
            first = driver.one()
            driver.adapter.release(first)
            again = driver.one()
        finally:
            driver.adapter.delete_queue("agreed", WAIT)
        assert (first.redelivered, again.redelivered) == (False, True)

    def test_a_queue_that_cannot_be_is_refused(self, driver: Driver) -> None:
        with pytest.raises(AdapterError, match="never"):
            driver.adapter.declare_queue(QueueSpec("never", kind="quorum", durable=False), WAIT)
        with pytest.raises(NotFound):
            driver.adapter.purge_queue("never", WAIT)

    def test_channels_of_ended_subscriptions_are_closed(self, rabbitmq: RabbitMQ, driver: Driver, queue: str) -> None:
        def channels() -> list[int]:
            return [connection.get("channels", 0) for connection in rabbitmq.connections()]

        driver.give(queue, b"held")
        for _ in range(5):
            driver.adapter.cancel(driver.subscribe("" + queue), WAIT)
        held = driver.take(1)
        driver.until(lambda: channels() == [3], "the control, the publishing and the holding channel to be left")
        driver.accept(*held)
        driver.until(lambda: channels() == [2], "the holding channel to be closed")

    @pytest.mark.slow
    def test_a_subscription_that_the_broker_ends_for_its_slowness_is_told(
        self, rabbitmq: RabbitMQ, driver: Driver, queue: str, connect: Connect
    ) -> None:
        # RabbitMQ's own limit is 30 minutes, looked at every minute; a channel takes both values when it opens.
        rabbitmq.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 300).")
        rabbitmq.ctl("eval", "application:set_env(rabbit, consumer_timeout, 300).")
        try:
            slow = connect()
            number = slow.subscribe(queue)
            driver.give(queue, b"x")
            held = slow.one()
            slow.until(lambda: bool(slow.lost), "the end of the subscription")
        finally:
            rabbitmq.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 60000).")
            rabbitmq.ctl("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
        assert [(lost.subscription, "PRECONDITION_FAILED" in lost.reason) for lost in slow.lost] == [(number, True)]
        slow.adapter.accept(held)
        slow.subscribe(queue)
        again = slow.one()
        assert (again.body, again.redelivered) == (b"x", True)


class TestBroker:
    @pytest.mark.slow
    def test_an_alarm_is_visible_and_over_when_it_is(self, rabbitmq: RabbitMQ, driver: Driver, queue: str) -> None:
        driver.give(queue)
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            waiting = driver.post(queue)  # the broker tells a connection only when it publishes
            driver.until(lambda: driver.adapter.blocked is not None, "the alarm")
            assert "memory" in str(driver.adapter.blocked)
            assert waiting not in driver.settlements
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        assert driver.settled(waiting).outcome is Outcome.TAKEN
        driver.until(lambda: driver.adapter.blocked is None, "the end of the alarm")

    def test_a_connection_closed_by_hand_is_lost_with_the_reason(self, rabbitmq: RabbitMQ, driver: Driver) -> None:
        driver.until(lambda: len(rabbitmq.connections()) == 1, "the connection at the broker")
        (connection,) = rabbitmq.connections()
        rabbitmq.api("DELETE", "/connections/" + quote(connection["name"]))
        with pytest.raises(ConnectionLost, match="CONNECTION_FORCED"):
            driver.until(lambda: False, "the end")
        with pytest.raises(ConnectionLost, match="CONNECTION_FORCED"):
            driver.post("any")

    def test_an_interrupt_inside_a_wait_ends_the_connection(self, url: URL, connect: Connect) -> None:
        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        with Relay(url) as relay:
            driver = connect(relay.url)
            relay.freeze()
            before = signal.signal(signal.SIGALRM, interrupt)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                with pytest.raises(KeyboardInterrupt):
                    driver.adapter.declare_queue(QueueSpec("half"), WAIT)
            finally:
                signal.signal(signal.SIGALRM, before)
            relay.thaw()
            for act in (driver.adapter.flush, driver.adapter.process, driver.adapter.tick):
                with pytest.raises(ConnectionLost):
                    act()
            with pytest.raises(ConnectionLost):
                driver.post("half")

    @pytest.mark.slow
    def test_a_broker_that_is_killed_and_started_again_keeps_what_it_took(self, tmp_path: Path) -> None:
        with RabbitMQ(tmp_path / "node") as broker:
            connector = Connector(URL.parse(broker.url()))
            before = Driver(AmqpAdapter(connector))
            before.adapter.connect(WAIT)
            before.queue("kept")
            before.adapter.declare_exchange(ExchangeSpec("also"), WAIT)
            before.adapter.bind("kept", "also", "key", WAIT)
            before.give("key", b"persistent", exchange="also")
            broker.kill()
            with pytest.raises(ConnectionLost):
                before.until(lambda: False, "the end", timeout=1.0)
            before.close()
            down = AmqpAdapter(connector)
            with pytest.raises(ConnectionLost, match="refused"):
                down.connect(WAIT)
            down.close()
            broker.start()
            after = Driver(AmqpAdapter(connector))
            after.adapter.connect(WAIT)
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


def test_a_cancel_that_crosses_the_brokers_own_ends_nothing_else(driver: Driver, url: URL, queue: str) -> None:
    """The broker has cancelled the consumer, its queue being gone, and we do so before we have read that."""
    number = driver.subscribe(queue)
    with beside(url) as channel:
        channel.queue_delete(queue)
    assert select.select([driver.adapter], [], [], WAIT)[0]  # what the broker says of it is here, unread
    driver.adapter.cancel(number, WAIT)
    driver.adapter.declare_queue(QueueSpec(queue), WAIT)
    assert driver.send(queue).outcome is Outcome.TAKEN
