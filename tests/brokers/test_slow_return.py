"""Many agents come back to a broker that is too slow for all of them at once: it does its work once, not again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.operations import State
from gofer.messaging.url import URL
from gofer.testing.emulator import Emulator
from support.brokers.rabbitmq import RabbitMQ
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

COUNT = 200
#: Seconds that the broker says nothing: longer than it has for an operation of a connection that is up.
SILENT = 12.0
#: All of them wait for it at once.
CONFIG = "handshake_timeout = 120000\ntcp_listen_options.backlog = 1024"


@pytest.mark.slow
def test_agents_come_back_to_a_slow_broker_with_the_first_login(tmp_path: Path, programs: Path | None) -> None:
    """Login, queues and subscriptions that are given up, and tried again, made it so slow that few came back."""
    lost: list[str] = []

    async def go(broker: RabbitMQ) -> None:
        connector = Connector(URL.parse(broker.url()), heartbeat=60.0, reconnect_max=5.0)
        async with Emulator(connector, COUNT) as emulator:
            cores = [agent._connection.core for agent in emulator.agents if agent._connection]

            def describe() -> str:
                seen = Counter((core.state.value, core.describe()) for core in cores)
                return f"{emulator.up} are up; {seen.most_common(5)}; {lost[:3]}; the broker: {broker.log_end()}"

            async def wait(look: Callable[[], object]) -> None:
                await asyncio.to_thread(eventually, look, 120.0, describe)

            async def silence() -> None:
                begun = time.monotonic()
                await wait(lambda: time.monotonic() - begun > SILENT)

            await asyncio.to_thread(broker.stop)
            for core in cores:
                for subscription in core.subscriptions:
                    subscription.on_lost = lost.append
            await asyncio.to_thread(broker.start)
            with broker.standing_still():
                await wait(lambda: all(core.state in (State.LOGIN, State.OPEN) for core in cores))
                before = sum(core.tries for core in cores)  # that it has refused
                await silence()
            await wait(lambda: sum(core.state is State.OPEN for core in cores) >= COUNT // 4)
            with broker.standing_still():
                await silence()
            await wait(lambda: emulator.up == COUNT)
            assert sum(core.openings for core in cores) == 2 * COUNT
            assert sum(core.tries for core in cores) - before <= COUNT

    with RabbitMQ(tmp_path / "node", config=CONFIG, programs=programs) as broker:
        asyncio.run(go(broker))
    assert not lost
