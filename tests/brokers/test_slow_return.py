"""Many agents come back to a broker that is too slow for all of them at once: it does its work once, not again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing.emulator import Emulator
from support.brokers.rabbitmq import RabbitMQ
from support.held import held
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

COUNT = 200
#: Of one processor, for the broker: they take half a minute or more to come back then.
SHARE = 0.08


@pytest.mark.slow
def test_agents_come_back_to_a_slow_broker_with_the_first_login(tmp_path: Path, programs: Path | None) -> None:
    """Login, queues and subscriptions that are given up, and tried again, made it so slow that few came back."""
    lost: list[str] = []

    async def go(broker: RabbitMQ) -> None:
        connector = Connector(URL.parse(broker.url()), heartbeat=60.0, reconnect_max=5.0)
        async with Emulator(connector, COUNT) as emulator:
            cores = [agent._connection.core for agent in emulator.agents if agent._connection]
            await asyncio.to_thread(broker.stop)
            for core in cores:
                for subscription in core.subscriptions:
                    subscription.on_lost = lost.append
            await asyncio.to_thread(broker.start)
            before = sum(core.tries for core in cores)  # that it has refused
            with held(broker.pid, SHARE):
                await asyncio.to_thread(eventually, lambda: emulator.up == COUNT, 300.0)
            assert sum(core.openings for core in cores) == 2 * COUNT
            assert sum(core.tries for core in cores) - before < 1.5 * COUNT

    with RabbitMQ(tmp_path / "node", config="handshake_timeout = 120000", programs=programs) as broker:
        asyncio.run(go(broker))
    assert len(lost) < COUNT, lost[:3]  # of twice as many: a step of one may take longer than half a minute
