"""What a subclass of the contract gives, and the fixtures made from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from gofer.errors import NotFound
from gofer.messaging.adapter import Adapter, DeleteExchange, DeleteQueue
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import Call, Connect, Driver

__all__ = ["Base", "Left"]

#: What is left in a queue: bodies, and whether they were delivered before.
Left = Callable[[str], list[tuple[bytes, bool | None]]]


class Base:
    """What the contract must be told, and its fixtures. A subclass defines a fixture named ``url``, in any scope."""

    #: The class under test.
    adapter: ClassVar[type[Adapter]]
    #: Attributes of the connectors but for url, heartbeat and max_message: TLS files and so on.
    options: ClassVar[dict[str, object]] = {}

    #: Seconds between heartbeats, where a test waits for several of them. AMQP 0-9-1 and 0-10 know whole seconds only.
    heartbeat: ClassVar[float] = 1.0

    #: What the broker cannot do, in a sentence each: by the name of a test, which must fail then, or of one of the
    #: capabilities below that is False.
    limits: ClassVar[dict[str, str]] = {}

    #: The broker asks who connects: a wrong password is refused.
    has_logins: ClassVar[bool] = True
    #: Queues can be exclusive to a connection.
    has_exclusive_queues: ClassVar[bool] = True
    #: Queues can go with their last subscriber.
    has_auto_delete: ClassVar[bool] = True
    #: Queues can be deleted by the broker after some time without use.
    has_expiring_queues: ClassVar[bool] = True
    #: A subscription can be exclusive.
    has_exclusive_subscriptions: ClassVar[bool] = True
    #: The broker can check that a queue that is to be deleted is empty.
    has_conditional_deletes: ClassVar[bool] = True
    #: Deliveries report whether they were delivered before; False: their ``redelivered`` is always None.
    tells_redelivered: ClassVar[bool] = True
    #: Queues can be deleted, and purged.
    has_deletes: ClassVar[bool] = True
    #: Exchanges can be declared and deleted, and queues bound to them.
    has_exchanges: ClassVar[bool] = True
    #: Without heartbeats of ours there are none: the protocol lets no peer ask for them.
    has_no_heartbeats_of_peers: ClassVar[bool] = True

    @pytest.fixture(autouse=True)
    def expected(self, request: pytest.FixtureRequest) -> None:
        """Expect the failure of a test that is about one of the broker's limits."""
        for name in (request.node.originalname, request.node.name):
            if name in self.limits:
                request.node.add_marker(pytest.mark.xfail(reason=self.limits[name], strict=True))

    @pytest.fixture
    def bad_login(self, url: URL) -> URL:
        """Give the URL with a login that the broker must refuse."""
        return replace(url, user=url.user or "guest", password="certainly-wrong")  # noqa: S106 - a wrong one, on purpose

    @pytest.fixture
    def alarm(self) -> Callable[[], AbstractContextManager[object]]:
        """Give a function whose context is a broker that takes no messages; a subclass may override this."""
        pytest.skip(self.limits.get("alarm", "this broker never blocks, or its test does not say how"))

    @pytest.fixture
    def tls(self) -> Connector:
        """Give the connector for the broker's TLS port; a subclass may override this."""
        pytest.skip(self.limits.get("tls", "its test does not say where the broker listens for TLS"))

    @pytest.fixture
    def frozen(self) -> Callable[[], AbstractContextManager[object]]:
        """Give a function whose context is a broker that stands still (SIGSTOP); a subclass may override this."""
        pytest.skip(self.limits.get("frozen", "its test does not say how to freeze this broker"))

    def connector(self, url: URL, **more: Any) -> Connector:
        """Return the connector for a URL."""
        return Connector(url, **{**self.options, **more})

    def needs(self, capability: str) -> None:
        """Skip a test where the broker cannot do what it is about."""
        if not getattr(self, capability):
            pytest.skip(self.limits.get(capability, f"{capability} is False for this broker"))

    def flag(self, redelivered: bool) -> bool | None:
        """Return what a delivery's ``redelivered`` must be."""
        return redelivered if self.tells_redelivered else None

    @pytest.fixture
    def connect(self, url: URL) -> Iterator[Connect]:
        """Give a function that opens a connection; all are closed afterwards, and what has their names is deleted."""
        opened: list[Driver] = []
        home = url

        def connect(url: URL | None = None, calls: list[Call] | None = None, **more: Any) -> Driver:
            opened.append(Driver(self.adapter(self.connector(url or home, **more)), calls))
            opened[-1].deletes = self.has_deletes
            return opened[-1].open()

        yield connect
        names = [name for driver in opened for name in driver.names]
        for driver in opened:
            driver.close()
        last = Driver(self.adapter(self.connector(home))).open()
        kinds = [DeleteQueue] * self.has_deletes + [DeleteExchange] * self.has_exchanges
        for operation in [kind(name) for kind in kinds for name in names]:
            try:
                last.ask(operation)
            except NotFound:
                pass  # it is gone already, or was of the other kind
        last.close()

    @pytest.fixture
    def driver(self, connect: Connect) -> Driver:
        """Give one open connection."""
        return connect()

    @pytest.fixture
    def left(self, driver: Driver, connect: Connect) -> Left:
        """Give a function that closes the first connection, and returns what is in a queue: bodies and their flags."""

        def left(queue: str) -> list[tuple[bytes, bool | None]]:
            driver.close()
            again = connect()
            again.subscribe(queue, prefetch=1000)
            again.settle_down()
            return [(delivery.body, delivery.redelivered) for delivery in again.deliveries]

        return left

    @pytest.fixture
    def queue(self, driver: Driver) -> str:
        """Give a queue that exists."""
        return driver.queue()
