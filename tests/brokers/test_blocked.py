"""A broker that has blocked a connection: what it cannot answer is not asked, and all else goes on."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from gofer.errors import ConnectionLost
from gofer.messaging.adapter import Adapter, Delivery, Outcome, DeclareQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.link import Subscription
from gofer.messaging.url import URL
from gofer.testing.rabbitmq import RabbitMQ
from support.company import declare, linked
from support.waiting import eventually


@pytest.mark.slow
def test_what_is_delivered_is_read_while_something_waits_to_be_asked(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    connector = Connector(URL.parse(rabbitmq.url()))
    other = Connector(connector.url, reconnect_max=5.0)  # a connection of its own
    came: list[Delivery] = []
    settled: list[Outcome] = []
    ended = threading.Event()

    def prepare(adapter: Adapter, timeout: float) -> None:
        adapter.declare_queue(DeclareQueue("later"), timeout)

    with linked(other) as holder, linked(connector) as link:
        driving = threading.Thread(target=lambda: link.drive(ended.is_set, None))
        driving.start()
        try:
            declare(link, "held")
            link.send(Address("", "held"), b"x", deadline=None, settled=lambda outcome, _: settled.append(outcome))
            held: list[Delivery] = []
            holder.subscribe(Subscription("held", 10, held.append), 10)
            assert holder.drive(lambda: held, time.monotonic() + 10)
            link.subscribe(Subscription("held", 10, came.append), 10)
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
            try:
                link.send(Address("", "held"), b"y", deadline=None, settled=lambda outcome, _: settled.append(outcome))
                eventually(lambda: "blocked" in link.state)
                up_since, later = link.up_since, Subscription("later", 10, came.append, prepare)
                link.subscribe(later, 0)
                with pytest.raises(ConnectionLost, match="blocked by the broker"):
                    link.call(lambda adapter, timeout: adapter.purge_queue("held", timeout), 0.3)
                holder.suspend()  # what it held goes to the other one
                eventually(lambda: [delivery.body for delivery in came] == [b"x"], 5)
                assert not later.active
            finally:
                rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
            eventually(lambda: later.active)
            eventually(lambda: settled == [Outcome.CONFIRMED, Outcome.CONFIRMED])
            assert link.up_since == up_since
            for queue in ("held", "later"):
                link.call(lambda adapter, timeout, queue=queue: adapter.delete_queue(queue, timeout))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        finally:
            ended.set()
            link.pump.wake_all()
            driving.join()
