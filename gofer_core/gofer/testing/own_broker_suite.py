"""The suite that ``gofer.testing.own_broker`` has pytest collect: the contract, on a broker of somebody's own."""

from __future__ import annotations

from typing import ClassVar

import pytest

from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing.contract import AdapterContract

__all__ = ["TestOwnBroker"]


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
