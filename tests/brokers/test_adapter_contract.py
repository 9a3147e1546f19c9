"""One suite, every adapter on every broker: the contract of adapters. Its outcome is the table in docs/brokers.md.

What a broker cannot do stands in ``limits``, in a sentence each. Those tests must fail: a limit that is gone is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gofer.testing import AdapterContract
from gofer.testing._contract.driver import Connect, Driver
from gofer_adapter_amqp import AmqpAdapter
from gofer_adapter_qpid import QpidAdapter
from support.brokers import BrokerJ
from support.brokers.contract import Alarm, OnBrokerJ, OnRabbitMQ3, OnRabbitMQ4


class TestAmqpOnRabbitMQ3(OnRabbitMQ3, AdapterContract):
    adapter = AmqpAdapter


class TestAmqpOnRabbitMQ4(OnRabbitMQ4, AdapterContract):
    adapter = AmqpAdapter


class TestAmqpOnBrokerJ(OnBrokerJ, AdapterContract):
    adapter = AmqpAdapter
    has_expiring_queues = False
    limits = {  # noqa: RUF012 - as it is in the contract
        "has_expiring_queues": "Broker-J cannot delete a queue after some time without use.",
        "alarm": "Broker-J does not tell that it takes no messages; it delays them.",
        "test_declaring_a_queue_again_or_otherwise_uses_it_as_it_is":
            "Broker-J does not tell that the queue that is there differs in being durable; it is used as it is.",
        "test_declaring_an_exchange_again_or_otherwise_uses_it_as_it_is":
            "Over 0-9-1 Broker-J does not tell how the exchange that is there differs; it is used as it is.",
        "test_purging_drops_what_waits_but_not_what_is_delivered":
            "Broker-J purges messages that are delivered and not acknowledged, too.",
        "test_an_exclusive_queue_is_its_connections_alone_and_goes_with_it":
            "Over 0-9-1 Broker-J closes the connection that asks for another's exclusive queue.",
        "test_an_exclusive_subscription_keeps_others_out":
            "Over 0-9-1 Broker-J closes the connection that subscribes to a queue with an exclusive subscriber.",
        "test_a_queue_deleted_under_its_subscriber_is_reported":
            "Over 0-9-1 Broker-J does not tell a subscriber that its queue was deleted.",
    }  # fmt: skip


class TestQpidOnBrokerJ(OnBrokerJ, AdapterContract):
    adapter = QpidAdapter
    has_expiring_queues = False
    limits = {"has_expiring_queues": "Broker-J cannot delete a queue after some time without use."}  # noqa: RUF012 - as it is in the contract

    @pytest.fixture
    def alarm(self, brokerj: BrokerJ) -> Alarm:
        """Have every queue be full, which is when Broker-J asks publishers to stop."""

        def change(policy: str, most: int) -> None:
            for queue in brokerj.queues():
                limits = {"overflowPolicy": policy, "maximumQueueDepthMessages": most}
                brokerj.api("POST", f"/queue/default/default/{queue['name']}", limits)

        @contextmanager
        def alarm() -> Iterator[None]:
            change("PRODUCER_FLOW_CONTROL", 1)
            try:
                yield
            finally:
                change("NONE", -1)

        return alarm

    def test_a_message_comes_back_when_its_holder_dies(self, connect: Connect, driver: Driver, queue: str) -> None:
        """Unlike the contract's: Broker-J releases a message before it marks it, and may deliver it in between.

        So beside another consumer a message is never told to be delivered for the first time.
        """
        holder = connect()
        holder.subscribe(queue, prefetch=2)
        holder.hold(queue, b"held", b"also held")
        driver.subscribe(queue)
        driver.nothing_comes()
        holder.cut()
        came = driver.take(2)
        assert sorted(d.body for d in came) == [b"also held", b"held"]
        assert {d.redelivered for d in came} <= {True, None}
        for delivery in came:
            driver.adapter.release(delivery)
        assert {d.redelivered for d in driver.take(2)} == {True}
