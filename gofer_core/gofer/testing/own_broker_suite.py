"""The suite that ``gofer.testing.own_broker`` has pytest collect: the contract, on a broker of somebody's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, ClassVar

import pytest

from gofer.errors import AdapterError
from gofer.messaging import adapter as api
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import Driver
from gofer.testing.contract import AdapterContract

__all__ = ["CAPABILITIES", "TestOwnBroker"]


def _try_exchanges(driver: Driver) -> str | None:
    exchange, queue = driver.exchange(), driver.queue()
    try:
        driver.bind(queue, exchange, "key")
    finally:
        driver.ask(api.DeleteExchange(exchange))
        driver.ask(api.DeleteQueue(queue))
    return None


def _try_queue(driver: Driver, **how: Any) -> str | None:
    queue = driver.name()
    differs = driver.ask(api.DeclareQueue(queue, **how))
    driver.ask(api.DeleteQueue(queue))
    return differs


def _try_condition(driver: Driver) -> str | None:
    queue = driver.queue()
    try:
        return driver.ask(api.DeleteQueue(queue, if_empty=True))
    except AdapterError:
        driver.ask(api.DeleteQueue(queue))
        raise


def _try_subscription(driver: Driver) -> str | None:
    queue = driver.queue()
    try:
        driver.subscribe(queue, exclusive=True)
    finally:
        driver.ask(api.DeleteQueue(queue))
    return None


def _try_silence(driver: Driver) -> str | None:
    driver.adapter.tick(driver.now)
    return None if driver.adapter.deadline == inf else "the broker asks for heartbeats of its own"


#: Tries each capability that the contract asks about. Each returns or raises the words for what is missing, or None.
CAPABILITIES: dict[str, Callable[[Driver], str | None]] = {
    "has_deletes": _try_queue,
    "has_exchanges": _try_exchanges,
    "has_exclusive_queues": partial(_try_queue, exclusive=True),
    "has_auto_delete": partial(_try_queue, auto_delete=True),
    "has_expiring_queues": partial(_try_queue, expires=60.0),
    "has_conditional_deletes": _try_condition,
    "has_exclusive_subscriptions": _try_subscription,
    "has_no_heartbeats_of_peers": _try_silence,
}


class TestOwnBroker(AdapterContract):
    """The contract. ``adapter``, ``options`` and ``broker`` are set before it runs."""

    limits = dict.fromkeys(("alarm", "frozen"), "only who runs the broker can do that")

    #: How to connect.
    broker: ClassVar[Connector]

    @pytest.fixture
    def url(self) -> URL:
        """Give the URL of the broker."""
        return self.broker.url

    @pytest.fixture
    def tls(self) -> Connector:
        """Give the connector itself, if it is one with TLS."""
        if not self.broker.url.tls:
            pytest.skip("the URL is not one of amqps:// or ssl://")
        return self.broker
