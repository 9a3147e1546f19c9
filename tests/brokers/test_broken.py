"""A broker that is killed, restarted, frozen, blocked or cut off, and an agent that is killed: every call ends well."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer import aio
from gofer.errors import Interrupted, RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from gofer.testing.rabbitmq import RabbitMQ
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.relays import Relay
from support.traffic import Traffic
from support.waiting import eventually

pytestmark = pytest.mark.slow

QUEUE = "probe-broken"


class Place:
    """An agent and the connector of its callers, each with a relay of its own before the broker."""

    def __init__(self, rabbitmq: RabbitMQ, goferd: AgentProcess, callers: Relay, agents: Relay, trace: Path) -> None:
        self.goferd, self.callers, self.agents, self.trace = goferd, callers, agents, trace
        self.connector = Connector(
            URL.parse(re.sub(r":\d+$", f":{callers.port}", rabbitmq.url())), heartbeat=2.0, reconnect_max=0.5
        )

    def traffic(self, most: int = 1) -> Traffic:
        return Traffic(self.connector, QUEUE, self.trace, most=most)


@contextmanager
def placed(rabbitmq: RabbitMQ, root: Path, kind: str) -> Iterator[Place]:
    with AgentProcess(root) as goferd, Relay(rabbitmq.port) as callers, Relay(rabbitmq.port) as agents:
        goferd.configure("[messaging]\nreconnect_max = 0.5\n")
        text = descriptor(
            re.sub(r":\d+$", f":{agents.port}\n        heartbeat = 2", rabbitmq.url()),
            QUEUE,
            threads=4,
            more=f"type = {kind}",
        )
        goferd.plugin("probe", PROBE, text)
        goferd.start()
        place = Place(rabbitmq, goferd, callers, agents, root / "trace")
        with Agent(place.connector, QUEUE, wait=40) as agent:
            until_it_answers(agent, goferd.tail())
            yield place
        goferd.stop()
    rabbitmq.ctl("delete_queue", QUEUE)


@pytest.fixture(params=["classic", "quorum"])
def place(rabbitmq: RabbitMQ, root: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    with placed(rabbitmq, root, request.param) as place:
        yield place


@pytest.fixture
def classic(rabbitmq: RabbitMQ, root: Path) -> Iterator[Place]:
    with placed(rabbitmq, root, "classic") as place:
        yield place


def test_a_broker_that_is_killed(rabbitmq: RabbitMQ, place: Place) -> None:
    # RabbitMQ 3.10 has to have stopped once: until then it keeps in memory which quorum queues it serves. One that is
    # killed before does not answer basic.consume any more, whoever asks.
    rabbitmq.restart()
    with place.traffic() as traffic:
        for _ in range(2):
            rabbitmq.kill()
            rabbitmq.start()
            traffic.go_on()


def test_a_broker_that_is_restarted(rabbitmq: RabbitMQ, place: Place) -> None:
    with place.traffic() as traffic:
        rabbitmq.restart()
        traffic.go_on()


@pytest.mark.parametrize("which", ["callers", "agents", "both"])
def test_connections_that_are_cut(classic: Place, which: str) -> None:
    relays = {"callers": [classic.callers], "agents": [classic.agents], "both": [classic.callers, classic.agents]}
    with classic.traffic() as traffic:
        for _ in range(10):
            for relay in relays[which]:
                relay.cut()
            traffic.go_on(10)


def test_a_broker_that_freezes_is_left_within_two_heartbeats_and_found_again(
    rabbitmq: RabbitMQ, classic: Place
) -> None:
    """Both sides notice by themselves: no socket says that it has ended."""
    with classic.traffic() as traffic:
        before = classic.goferd.log.read_text().count("connection lost")
        rabbitmq.freeze()
        try:
            eventually(lambda: classic.goferd.log.read_text().count("silent for 4") > before)
        finally:
            rabbitmq.thaw()
        traffic.go_on()


def test_a_broker_that_freezes_for_less_costs_no_connection(rabbitmq: RabbitMQ, classic: Place) -> None:
    with classic.traffic() as traffic:
        connections = classic.callers.connections, classic.agents.connections
        rabbitmq.freeze()
        try:
            threading.Event().wait(1.0)
        finally:
            rabbitmq.thaw()
        traffic.go_on()
        assert (classic.callers.connections, classic.agents.connections) == connections


def test_a_broker_that_takes_no_messages_for_a_while(rabbitmq: RabbitMQ, classic: Place) -> None:
    """Its memory alarm blocks both sides: a caller is told so, nothing is lost, and no connection ends."""
    with classic.traffic() as traffic:
        connections = classic.callers.connections, classic.agents.connections
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            with Agent(classic.connector, QUEUE, wait=2) as agent:

                def told() -> bool:
                    try:
                        agent.Probe().echo("may I")
                    except RequestTimeout as timeout:
                        return "blocked by the broker" in str(timeout)
                    return False

                eventually(told)

            async def call() -> None:
                async with aio.Agent(classic.connector, QUEUE, wait=2) as agent:
                    with pytest.raises(RequestTimeout):
                        await agent.Probe().echo("may I")

            asyncio.run(call())
            threading.Event().wait(5.0)  # longer than two heartbeats
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
        traffic.go_on()
        assert classic.callers.connections <= connections[0] + 2  # those of the two callers above
        assert classic.agents.connections == connections[1]


def test_an_agent_that_is_killed(place: Place) -> None:
    """What it ran may run once more: it cannot know whether that had ended."""
    with place.traffic(most=2) as traffic:
        for _ in range(3):
            place.goferd.kill()
            place.goferd.start()
            traffic.go_on(10)


def test_25_kills_of_an_agent_that_holds_requests_of_a_quorum_queue_lose_none(rabbitmq: RabbitMQ, root: Path) -> None:
    """RabbitMQ 4 drops what was delivered 20 times, unless the queue says otherwise."""
    kills, count, go = 25, 60, root / "go"
    with placed(rabbitmq, root, "quorum") as place:
        place.goferd.plugin("probe", PROBE, descriptor(rabbitmq.url(), QUEUE, more="type = quorum"))  # one worker
        place.goferd.kill()
        outcomes: dict[str, object] = {}

        async def call(agent: aio.Agent, name: str) -> None:
            try:
                outcomes[name] = await agent.Probe().note(str(place.trace), name, 0, str(go))
            except Interrupted as interrupted:
                outcomes[name] = interrupted

        async def main() -> None:
            async with aio.Agent(rabbitmq.url(), QUEUE, wait=400) as agent:
                await asyncio.gather(*(call(agent, f"n{n}") for n in range(count)))

        callers = threading.Thread(target=lambda: asyncio.run(main()))
        callers.start()
        try:
            eventually(lambda: messages(rabbitmq) == count)
            for _ in range(kills):
                before = len(place.trace.read_text().split()) if place.trace.exists() else 0
                place.goferd.start()
                # It has them all: its window is wider. It writes those that wait to its ledger after a second.
                eventually(lambda before=before: sum(runs(place.trace).values()) > before)  # type: ignore[misc]  # mypy cannot infer a lambda's default
                place.goferd.kill()
            assert messages(rabbitmq) > 20, "the agent took over too many: they were not delivered 25 times"
        finally:
            go.touch()
            place.goferd.start()
            callers.join(300)
        assert sorted(outcomes) == sorted(f"n{n}" for n in range(count))
        ran = runs(place.trace)
        for name, outcome in outcomes.items():
            assert 1 <= ran[name] <= 2
            assert isinstance(outcome, Interrupted) or outcome == name
        assert sum(isinstance(outcome, Interrupted) for outcome in outcomes.values()) <= kills


def messages(rabbitmq: RabbitMQ) -> int:
    """What the broker has of the queue: those that wait, and those that it has handed out."""
    lines = rabbitmq.ctl("list_queues", "--silent", "name", "messages").splitlines()
    return int(dict(line.split("\t") for line in lines).get(QUEUE, 0))
