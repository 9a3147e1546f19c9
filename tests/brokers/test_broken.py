"""A broker that is killed, restarted, frozen, blocked or cut off, and an agent that is killed: every call ends well."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gofer import aio
from gofer.errors import Interrupted, RequestTimeout
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.danger import DANGER, died
from support.goferd import AgentProcess
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.relays import Relay
from support.traffic import Traffic
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUEUE = "probe-broken"


class Place:
    """An agent and the connector of its callers, each with a relay of its own before the broker."""

    def __init__(self, rabbitmq: RabbitMQ, goferd: AgentProcess, callers: Relay, agents: Relay, kind: str) -> None:
        self.goferd, self.callers, self.agents, self.kind = goferd, callers, agents, kind
        self.trace = goferd.root / "trace"
        self._url = rabbitmq.url()
        self.connector = Connector(
            URL.parse(re.sub(r":\d+$", f":{callers.port}", rabbitmq.url())), heartbeat=2.0, reconnect_max=0.5
        )

    def descriptor(self, threads: int) -> str:
        url = re.sub(r":\d+$", f":{self.agents.port}\n        heartbeat = 2", self._url)
        return descriptor(url, QUEUE, threads=threads, more=f"type = {self.kind}")

    def traffic(self, most: int = 1) -> Traffic:
        return Traffic(self.connector, QUEUE, self.trace, most=most)


@contextmanager
def placed(rabbitmq: RabbitMQ, root: Path, kind: str) -> Iterator[Place]:
    with AgentProcess(root) as goferd, Relay(rabbitmq.port) as callers, Relay(rabbitmq.port) as agents:
        goferd.configure("[messaging]\nreconnect_max = 0.5\n")
        place = Place(rabbitmq, goferd, callers, agents, kind)
        goferd.plugin("probe", DANGER, place.descriptor(threads=4))
        goferd.start()
        with Agent(place.connector, QUEUE, wait=40) as agent:
            until_it_answers(agent, goferd.tail())
            yield place
        goferd.stop()
    rabbitmq.delete_queue(QUEUE)


class TestOnEachRabbitMQ:
    @pytest.fixture
    def node(self, rabbitmq: RabbitMQ) -> RabbitMQ:
        return rabbitmq

    @pytest.fixture(params=["classic", "quorum"])
    def place(self, node: RabbitMQ, root: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
        with placed(node, root, request.param) as place:
            yield place

    @pytest.fixture
    def classic(self, node: RabbitMQ, root: Path) -> Iterator[Place]:
        with placed(node, root, "classic") as place:
            yield place

    def test_a_broker_that_is_killed(self, node: RabbitMQ, place: Place) -> None:
        # RabbitMQ 3.10 has to stop once: until then it has only in memory which quorum queues it serves. If it is
        # killed before, it does not answer basic.consume for them any more, whoever asks.
        node.restart()
        with place.traffic() as traffic:
            for _ in range(2):
                node.kill()
                node.start()
                traffic.go_on()

    def test_a_broker_that_is_restarted(self, node: RabbitMQ, place: Place) -> None:
        with place.traffic() as traffic:
            node.restart()
            traffic.go_on()

    @pytest.mark.parametrize("which", ["callers", "agents", "both"])
    def test_connections_that_are_cut(self, classic: Place, which: str) -> None:
        relays = {"callers": [classic.callers], "agents": [classic.agents], "both": [classic.callers, classic.agents]}
        with classic.traffic() as traffic:
            for _ in range(10):
                for relay in relays[which]:
                    relay.cut()
                traffic.go_on(10)

    def test_a_broker_that_freezes_is_left_and_found_again(self, node: RabbitMQ, classic: Place) -> None:
        """Both sides notice by themselves: no socket says that it has ended."""
        with classic.traffic() as traffic:
            before = classic.goferd.log.read_text().count("connection lost")
            node.freeze()
            try:
                eventually(lambda: classic.goferd.log.read_text().count("silent for 4") > before)
            finally:
                node.thaw()
            traffic.go_on()

    def test_a_broker_that_freezes_for_less_costs_no_connection(self, node: RabbitMQ, classic: Place) -> None:
        with classic.traffic() as traffic:

            def costs() -> int:
                before = classic.callers.connections + classic.agents.connections
                node.freeze()
                try:
                    threading.Event().wait(1.0)
                finally:
                    node.thaw()
                traffic.go_on()
                return classic.callers.connections + classic.agents.connections - before

            assert 0 in (costs() for _ in range(5))  # on a busy machine one second may become too many

    def test_a_broker_that_takes_no_messages_for_a_while(self, node: RabbitMQ, classic: Place) -> None:
        """Its memory alarm blocks both sides: a caller is told so, nothing is lost, and no connection ends."""
        with classic.traffic() as traffic:
            connections = classic.callers.connections, classic.agents.connections
            node.ctl("set_vm_memory_high_watermark", "0.00001")
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
                node.ctl("set_vm_memory_high_watermark", "0.4")
            traffic.go_on()
            assert classic.callers.connections <= connections[0] + 2  # those of the two callers above
            assert classic.agents.connections == connections[1]

    def test_an_agent_that_is_killed(self, place: Place) -> None:
        """What it ran may run once more: it cannot know whether that had ended."""
        with place.traffic(most=2) as traffic:
            for _ in range(3):
                place.goferd.kill()
                place.goferd.start()
                traffic.go_on(10)

    def test_26_kills_of_an_agent_lose_nothing_that_it_holds_of_a_quorum_queue(
        self, node: RabbitMQ, root: Path
    ) -> None:
        """RabbitMQ 4 drops what was delivered 20 times, unless the queue says otherwise.

        A request kills the agent as soon as it runs: 26 times, as one that was delivered twice before is not run. Those
        behind them are delivered each time, and have not begun.
        """
        deadly, count = 25, 30
        with placed(node, root, "quorum") as place, ThreadPoolExecutor(1) as threads:
            place.goferd.stop()
            place.goferd.descriptor("probe", place.descriptor(threads=1))

            async def main() -> tuple[list[Any], list[Any]]:
                async with aio.Agent(place.connector, QUEUE, wait=500) as agent:
                    deaths = [asyncio.create_task(agent.Danger().kill(str(root / "killed"))) for _ in range(deadly)]
                    await asyncio.to_thread(eventually, lambda: waiting(node) == deadly)  # one behind the other
                    notes = [asyncio.create_task(agent.Probe().note(str(place.trace), f"n{n}")) for n in range(count)]
                    ended = await asyncio.gather(*deaths, return_exceptions=True)
                    return ended, await asyncio.gather(*notes)

            called = threads.submit(asyncio.run, main())
            eventually(lambda: waiting(node) == deadly + count)
            for times in range(1, deadly + 2):
                try:
                    place.goferd.start()
                except RuntimeError:
                    assert place.goferd.process is not None
                    assert place.goferd.process.poll() == -signal.SIGKILL, place.goferd.tail()
                died(place.goferd)
                assert runs(root / "killed") == {"kill": times}
                assert not place.trace.exists()
            place.goferd.start()
            deaths, notes = called.result(120)
            assert {type(death) for death in deaths} == {Interrupted}
            assert notes == [f"n{n}" for n in range(count)]
            assert runs(place.trace) == {f"n{n}": 1 for n in range(count)}


def waiting(rabbitmq: RabbitMQ) -> int:
    """How many messages wait in the queue."""
    lines = rabbitmq.ctl("list_queues", "--silent", "name", "messages").splitlines()
    return int(dict(line.split("\t") for line in lines).get(QUEUE, 0))
