"""The qpid adapter keeps the contract on Qpid Broker-J."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from gofer.messaging.url import URL
from gofer.testing import AdapterContract
from gofer.testing._contract.driver import Connect, Driver
from gofer_adapter_qpid import QpidAdapter
from support.brokers import BrokerJ


class TestQpidOnBrokerJ(AdapterContract):
    adapter = QpidAdapter
    has_expiring_queues = False

    @pytest.fixture
    def url(self, brokerj: BrokerJ) -> URL:
        return URL.parse(brokerj.url(adapter="qpid"))

    @pytest.fixture
    def alarm(self, brokerj: BrokerJ) -> Callable[[], AbstractContextManager[object]]:
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
        """Unlike the contract's, with nobody waiting: Broker-J marks a message after it has released it.

        A consumer that waits may be quicker than the mark.
        """
        holder = connect()
        holder.subscribe(queue, prefetch=2)
        holder.hold(queue, b"held", b"also held")
        driver.subscribe(queue)
        driver.nothing_comes()
        holder.cut()
        came = driver.take(2)
        assert sorted(d.body for d in came) == [b"also held", b"held"]
        for delivery in came:
            driver.adapter.release(delivery)
        assert {d.redelivered for d in driver.take(2)} == {True}
