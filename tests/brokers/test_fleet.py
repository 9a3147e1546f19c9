"""A fleet at each broker, by each of its protocols: found, called, killed and back after a restart of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.card import Card
from gofer.errors import AdapterError, MessagingError
from gofer.fleet import Fleet
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing.emulator import Emulator, Script
from support.brokers import Broker
from support.brokers.chosen import FIXTURES, chosen_brokers
from support.goferd import AgentProcess
from support.pairs import Pair, spoken
from support.probe import PROBE, descriptor
from support.waiting import eventually

#: Where no machine can ask a broker for an exchange: machines are added by their addresses there.
_WITHOUT_EXCHANGES = {("rabbitmq", "proton"), ("artemis", "proton")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = [Pair(adapter, adapter, broker) for broker in chosen_brokers() for adapter in spoken(broker)]
    metafunc.parametrize("pair", pairs, ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    """The broker, and the adapter by which all speak to it."""
    chosen: Pair = request.param
    return chosen


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, pair: Pair) -> Broker:
    found: Broker = request.getfixturevalue(FIXTURES[pair.broker])
    return found


@pytest.fixture(scope="module")
def connector(broker: Broker, pair: Pair) -> Connector:
    return Connector(URL.parse(pair.urls(broker)[0]), reconnect_max=1.0)


@pytest.fixture(scope="module")
def machines(broker: Broker, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AgentProcess]]:
    """Two machines of the group ``two``."""
    name = str(pair)
    agents = [AgentProcess(tmp_path_factory.mktemp("machine")) for _ in range(2)]
    try:
        for n, agent in enumerate(agents):
            agent.configure(f"[messaging]\nreconnect_max=1\n[fleet]\nenabled=1\nname={name}-{n}\ngroups=two,{name}\n")
            agent.plugin("probe", PROBE, descriptor(pair.urls(broker)[0], f"fleet-{name}-{n}"))
            agent.start()
        yield agents
    finally:
        for agent in agents:
            agent.__exit__(None, None, None)


#: Whose 200 machines are told of. Twenty are enough to show that the others' protocols serve a fleet, too.
_MANY = {("rabbitmq", "amqp"), ("rabbitmq4", "amqp")}


async def all_there(fleet: Fleet, targets: str, count: int, deadline: float = 60.0) -> dict[str, Any]:
    """Ask until so many machines answer."""
    end = asyncio.get_running_loop().time() + deadline
    while True:
        late = asyncio.get_running_loop().time() > end
        try:
            found = await fleet.ask(targets, wait=10, jitter=0.2, expected=())
        except MessagingError:  # the broker is starting
            if late:
                raise
            await asyncio.sleep(0.2)
            continue
        if len(found.cards) == count or late:
            assert len(found.cards) == count, (sorted(found.cards), found.refused)
            assert not found.refused
            return {card.name: card for card in found.cards.values()}


def test_real_machines_are_found_and_called(
    connector: Connector, pair: Pair, machines: list[AgentProcess], tmp_path: Path
) -> None:
    name = str(pair)

    async def go() -> None:
        async with Fleet(connector, directory=tmp_path, wait=30) as fleet:
            if (pair.broker, pair.agent) in _WITHOUT_EXCHANGES:
                try:
                    assert not (await fleet.ask(wait=1)).cards  # somebody else has made the exchange
                except AdapterError as cannot:
                    assert "exchange" in str(cannot)  # noqa: PT017 - which of the two, the broker decides
                fleet.add(Card(name=f"{name}-{n}", address=f"fleet-{name}-{n}", groups=[name]) for n in range(2))
                assert (await fleet.where(f"group={name}").Probe().echo("x")).counts == {"value": 2}
                eventually(lambda: "this machine hears no questions of its fleet: " in machines[0].tail())
                return
            cards = await all_there(fleet, f"group={name}", 2)
            assert sorted(cards) == [f"{name}-0", f"{name}-1"]
            assert cards[f"{name}-0"].plugins["probe"].address == f"fleet-{name}-0"
            summary = await fleet.where(f"group={name}").Probe().echo("x")
            assert {one.name: one.value for one in summary.outcomes} == {f"{name}-0": "x", f"{name}-1": "x"}
            assert len(await all_there(fleet, f"name={name}-1", 1)) == 1
            machines[1].kill()
            machines[1].start()
            await all_there(fleet, f"group={name}", 2)

    asyncio.run(go())


def test_emulated_machines_are_back_after_a_restart(
    connector: Connector, broker: Broker, pair: Pair, tmp_path: Path
) -> None:
    """Of 200, or 20: found, called once each, and again while the broker restarts. Nothing is lost, or run twice."""
    count = 200 if (pair.broker, pair.agent) in _MANY else 20
    group = f"many-{pair}"

    async def go() -> None:
        script = Script(groups=(group,), latency=(0.0, 3.0))
        async with (
            Emulator(connector, count, script, prefix=group) as emulator,
            Fleet(connector, directory=tmp_path, wait=120) as fleet,
        ):
            if (pair.broker, pair.agent) in _WITHOUT_EXCHANGES:
                fleet.add(agent.card() for agent in emulator.agents)
            else:
                await all_there(fleet, f"group={group}", count)
            summary = await fleet.where(f"group={group}").Emulated().work(1)
            assert summary.counts == {"value": count}
            assert set(emulator.runs.values()) == {1}
            during = asyncio.ensure_future(fleet.where(f"group={group}").Emulated().work(2))
            await asyncio.to_thread(eventually, lambda: len(emulator.runs) >= 1.5 * count)
            await asyncio.to_thread(broker.restart)
            await asyncio.to_thread(eventually, lambda: emulator.up == count, 240.0)
            assert (await during).counts == {"value": count}, [one for one in during.result().outcomes if not one.ok][
                :3
            ]
            assert set(emulator.runs.values()) == {1}
            if (pair.broker, pair.agent) not in _WITHOUT_EXCHANGES:
                await all_there(fleet, f"group={group}", count, 120.0)
            again = await fleet.where(f"group={group}").Emulated().work(3)
            assert again.counts == {"value": count}, [one for one in again.outcomes if not one.ok][:3]

    asyncio.run(go())
