"""A broker that has blocked a connection: what it cannot answer is not asked, and all else goes on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from gofer.errors import ConnectionLost
from gofer.fleet import Fleet
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Delivery, Outcome, PurgeQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Subscription
from gofer.messaging.url import URL
from gofer.testing.emulator import Emulator, Script
from support.brokers.rabbitmq import RabbitMQ
from support.company import declare, linked
from support.connections import declaring, suspend
from support.waiting import eventually


@pytest.mark.slow
def test_what_is_delivered_is_read_while_something_waits_to_be_asked(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    connector = Connector(URL.parse(rabbitmq.url()))
    other = Connector(connector.url, reconnect_max=5.0)  # a connection of its own
    came: list[Delivery] = []
    settled: list[Outcome] = []

    with linked(other) as holder, linked(connector) as link:
        declare(link, "held")
        link.publish(Address("", "held"), b"x", deadline=None, settled=lambda outcome, _: settled.append(outcome))
        held: list[Delivery] = []
        holder.subscribe(Subscription("held", 10, held.append), 10)
        assert holder.wait(lambda: held, time.monotonic() + 10)
        link.subscribe(Subscription("held", 10, came.append), 10)
        with rabbitmq.taking_no_messages():
            link.publish(Address("", "held"), b"y", deadline=None, settled=lambda outcome, _: settled.append(outcome))
            eventually(lambda: "blocked" in link.state)
            up_since, later = link.up_since, Subscription("later", 10, came.append, declaring(DeclareQueue("later")))
            link.subscribe(later, 0)
            with pytest.raises(ConnectionLost, match="blocked by the broker"):
                link.ask(PurgeQueue("held"), 0.3)
            suspend(holder)  # what it held goes to the other one
            eventually(lambda: [delivery.body for delivery in came] == [b"x"], 5)
            assert not later.active
        eventually(lambda: later.active)
        eventually(lambda: settled == [Outcome.CONFIRMED, Outcome.CONFIRMED])
        assert link.up_since == up_since
        for queue in ("held", "later"):
            link.ask(DeleteQueue(queue))


@pytest.mark.slow
def test_a_run_of_a_fleet_stops_and_names_whom_it_did_not_call(rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    connector = Connector(URL.parse(rabbitmq.url()), reconnect_max=1.0)

    async def go() -> None:
        async with Emulator(connector, 64, Script(groups=("blocked",)), prefix="blocked") as emulator:
            async with Fleet(connector, directory=tmp_path, wait=10) as fleet:
                fleet.add(agent.card() for agent in emulator.agents)
                run = fleet.where("group=blocked")(batch="16").Emulated().work(1)
                with rabbitmq.taking_no_messages():
                    summary = await run
            assert "the broker takes no messages: blocked by the broker" in str(summary.stopped)
            assert sum(summary.counts.values()) == 64
            assert summary.counts["untouched"] > 0
            assert run.window == 1
            async with Fleet(connector, directory=tmp_path, wait=60) as fleet:
                rest = await fleet.retry(summary.id, ("untouched",)).Emulated().work(2)
            assert rest.counts == {"value": summary.counts["untouched"]}
            assert set(emulator.runs.values()) == {1}

    asyncio.run(go())


@pytest.mark.parametrize("right", ["write", "configure"])
def test_a_run_that_the_broker_refuses_has_reached_nobody(rabbitmq: RabbitMQ, tmp_path: Path, right: str) -> None:
    """An outcome ``exception`` would say that the methods ran."""
    rabbitmq.add_user("refused", "secret")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    rabbitmq.api("PUT", "/permissions/%2F/refused", rights | {right: ""})

    async def go() -> None:
        async with Emulator(Connector(URL.parse(rabbitmq.url())), 4, Script(), prefix="refused") as emulator:
            async with Fleet(rabbitmq.url("refused", "secret"), directory=tmp_path, wait=60) as fleet:
                fleet.add(agent.card() for agent in emulator.agents)
                summary = await fleet.where("all").Emulated().work(1)
            assert summary.counts == {"unreachable": 4}
            assert all("ACCESS_REFUSED" in one.value for one in summary.outcomes)
            assert not emulator.runs

    asyncio.run(go())
    rabbitmq.delete_user("refused")
