"""The proton adapter keeps the contract on every broker that speaks AMQP 1.0; what a broker cannot do stands here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing import AdapterContract
from gofer_adapter_proton import ProtonAdapter
from support.brokers import Artemis, BrokerJ, RabbitMQ3, RabbitMQ4
from support.certificates import Certificates

Frozen = Callable[[], AbstractContextManager[object]]

_LIMITS = {
    "has_exclusive_subscriptions": "AMQP 1.0 has no exclusive subscriptions; asking for one is an error.",
    "has_no_heartbeats_of_peers": "In AMQP 1.0 a broker's own heartbeats cannot be turned off.",
    "alarm": "Over AMQP 1.0 a broker does not tell that it takes no messages; it confirms none, and they wait.",
}


class Proton(AdapterContract):
    """What is so on every broker."""

    adapter = ProtonAdapter
    has_exclusive_subscriptions = False
    has_conditional_deletes = False  # nothing is deleted then
    has_no_heartbeats_of_peers = False
    limits: ClassVar[dict[str, str]] = _LIMITS


class TestProtonOnRabbitMQ3(Proton):
    has_exclusive_queues = has_auto_delete = has_expiring_queues = has_deletes = has_exchanges = False
    tells_redelivered = False
    limits: ClassVar[dict[str, str]] = {
        **_LIMITS,
        "has_exclusive_queues": "The plugin of RabbitMQ 3 declares durable queues only.",
        "has_auto_delete": "The plugin of RabbitMQ 3 declares durable queues only.",
        "has_expiring_queues": "The plugin of RabbitMQ 3 declares durable queues only.",
        "has_deletes": "The plugin of RabbitMQ 3 deletes and purges nothing.",
        "has_exchanges": "The plugin of RabbitMQ 3 declares and binds no exchanges; those that are there can be used.",
        "test_a_look_at_a_queue_reports_whether_it_is_there_and_has_a_consumer":
            "The plugin of RabbitMQ 3 does not tell how many consumers a queue has.",
    }  # fmt: skip

    @pytest.fixture
    def url(self, rabbitmq3: RabbitMQ3) -> URL:
        return URL.parse(rabbitmq3.url(adapter="proton"))

    @pytest.fixture
    def frozen(self, rabbitmq3: RabbitMQ3) -> Frozen:
        return rabbitmq3.standing_still

    @pytest.fixture
    def tls(self, rabbitmq3: RabbitMQ3, certificates: Certificates) -> Connector:
        return Connector(rabbitmq3.url(adapter="proton", tls=True), cacert=str(certificates.authority))


class TestProtonOnRabbitMQ4(Proton):
    @pytest.fixture
    def url(self, rabbitmq4: RabbitMQ4) -> URL:
        return URL.parse(rabbitmq4.url(adapter="proton"))

    @pytest.fixture
    def frozen(self, rabbitmq4: RabbitMQ4) -> Frozen:
        return rabbitmq4.standing_still

    @pytest.fixture
    def tls(self, rabbitmq4: RabbitMQ4, certificates: Certificates) -> Connector:
        return Connector(rabbitmq4.url(adapter="proton", tls=True), cacert=str(certificates.authority))


class TestProtonOnBrokerJ(Proton):
    has_expiring_queues = False
    limits: ClassVar[dict[str, str]] = {
        **_LIMITS,
        "has_expiring_queues": "Broker-J cannot delete a queue after some time without use.",
        "test_purging_drops_what_waits_but_not_what_is_delivered":
            "Broker-J purges messages that are delivered and not settled, too.",
    }  # fmt: skip

    @pytest.fixture
    def url(self, brokerj: BrokerJ) -> URL:
        return URL.parse(brokerj.url(adapter="proton"))

    @pytest.fixture
    def frozen(self, brokerj: BrokerJ) -> Frozen:
        return brokerj.standing_still

    @pytest.fixture
    def tls(self, brokerj: BrokerJ, certificates: Certificates) -> Connector:
        return Connector(brokerj.url(adapter="proton", tls=True), cacert=str(certificates.authority))


class TestProtonOnArtemis(Proton):
    has_exclusive_queues = has_auto_delete = has_expiring_queues = has_exchanges = False
    limits: ClassVar[dict[str, str]] = {
        **_LIMITS,
        "has_exclusive_queues": "Artemis has no queues that are exclusive to a connection.",
        "has_auto_delete": "A message to a queue that Artemis has just deleted makes the queue again.",
        "has_expiring_queues": "Artemis deletes a queue after some time without use only if it was used before.",
        "has_exchanges": "Artemis has no exchanges.",
    }

    @pytest.fixture
    def url(self, artemis: Artemis) -> URL:
        return URL.parse(artemis.url(adapter="proton"))

    @pytest.fixture
    def frozen(self, artemis: Artemis) -> Frozen:
        return artemis.standing_still

    @pytest.fixture
    def tls(self, artemis: Artemis, certificates: Certificates) -> Connector:
        return Connector(artemis.url(adapter="proton", tls=True), cacert=str(certificates.authority))
