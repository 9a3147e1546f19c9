"""What a subclass of the contract gives, and the fixtures made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import pytest

from gofer.errors import MessagingError
from gofer.messaging.adapter.base import Adapter
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import WAIT, Connect, Driver, Names
from gofer.testing.relay import Relay

__all__ = ["Base"]


class Base:
    """What the contract must be told, and its fixtures."""

    #: The class under test. It must be importable by its module and name, because child processes import it too.
    adapter: ClassVar[type[Adapter]]
    #: Attributes of the connectors but for url and heartbeat: TLS files and so on. The relay needs a plain protocol.
    options: ClassVar[dict[str, object]] = {}

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
    #: Deliveries report the message's ttl.
    reports_ttl: ClassVar[bool] = True
    #: A released message comes back marked redelivered. (One whose consumer died is, if the adapter tells at all.)
    release_marks: ClassVar[bool] = True
    #: There are exchanges amq.direct, amq.topic and amq.fanout from the start.
    has_amq_exchanges: ClassVar[bool] = True

    @pytest.fixture
    def url(self) -> URL:
        """Give the URL of a broker that runs; a subclass overrides this (in any scope)."""
        raise NotImplementedError("a subclass of AdapterContract defines a fixture named url")

    @pytest.fixture
    def bad_login(self, url: URL) -> URL:
        """Give the URL with a login that the broker must refuse."""
        return replace(url, user=url.user or "guest", password="certainly-wrong")  # noqa: S106 - a wrong one, on purpose

    def connector(self, url: URL, heartbeat: float = 10.0) -> Connector:
        """Return the connector for a URL."""
        return Connector(url, heartbeat=heartbeat, **self.options)  # type: ignore[arg-type]  # what a subclass gives

    @pytest.fixture
    def connect(self, url: URL) -> Iterator[Connect]:
        """Give a function that opens a connection; all are closed afterwards."""
        opened: list[Driver] = []
        home = url

        def connect(url: URL | None = None, heartbeat: float = 10.0) -> Driver:
            driver = Driver(self.adapter(self.connector(url or home, heartbeat)))
            opened.append(driver)
            driver.adapter.connect(WAIT)
            return driver

        yield connect
        for driver in opened:
            driver.close()

    @pytest.fixture
    def driver(self, connect: Connect) -> Driver:
        """Give one open connection."""
        return connect()

    @pytest.fixture
    def relay(self, url: URL) -> Iterator[Relay]:
        """Give a relay in front of the broker."""
        with Relay(url) as relay:
            yield relay

    @pytest.fixture
    def names(self, url: URL) -> Iterator[Names]:
        """Give unused names; the queues and exchanges called so are deleted afterwards."""
        names = Names()
        yield names
        adapter = self.adapter(self.connector(url))
        adapter.connect(WAIT)
        try:
            for queue in names.queues:
                _gone(lambda name=queue: adapter.delete_queue(name, WAIT))
            for exchange in names.exchanges:
                _gone(lambda name=exchange: adapter.delete_exchange(name, WAIT))
        finally:
            adapter.close()

    @pytest.fixture
    def queue(self, driver: Driver, names: Names) -> str:
        """Give a queue that exists."""
        return driver.queue(names.queue())


def _gone(delete: object) -> None:
    try:
        delete()  # type: ignore[operator]  # a lambda of ours
    except MessagingError:
        pass  # it is gone already, which is what is wanted
