"""The blows of a plan, dealt: a thread for each that is killed, frozen or cut, while callers call."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from gofer.testing.agents import AgentProcess
from support.brokers.rabbitmq import RabbitMQ

from soak.crew import Crew
from soak.places import THREADS, Places
from soak.plan import Blow, Plan
from soak.relay import Relay

__all__ = ["Chaos", "Stage"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Who takes part."""

    places: Places
    agent: AgentProcess
    broker: RabbitMQ
    crew: Crew
    agent_network: Relay
    callers_network: Relay


@dataclass(slots=True)
class Chaos:
    """Deals the blows of a plan.

    ``ends`` says when the agent was ended, ``restarts`` when the broker was; ``failures``: what did not come up.
    """

    plan: Plan
    stage: Stage
    ends: list[float] = field(default_factory=list)
    blows: list[float] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Start."""
        start = time.monotonic()
        plan, stage = self.plan, self.stage
        for blows, deal in (
            (plan.agent, self._agent),
            (plan.broker, self._broker),
            (plan.mortal, lambda blow: stage.crew.replace("mortal", blow.pause)),
            (plan.listener, lambda blow: stage.crew.replace("listener", blow.pause)),
            (plan.frozen, self._caller),
            (plan.agent_network, lambda blow: self._network("the agent's network", stage.agent_network, blow)),
            (plan.callers_network, lambda blow: self._network("the callers' network", stage.callers_network, blow)),
        ):
            thread = threading.Thread(target=partial(self._deal, start, blows, deal), daemon=True)
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Wait until all is dealt, and up again."""
        for thread in self._threads:
            thread.join()

    def _deal(self, start: float, blows: tuple[Blow, ...], deal: Callable[[Blow], None]) -> None:
        for blow in blows:
            time.sleep(max(0.0, start + blow.moment - time.monotonic()))
            try:
                deal(blow)
            except Exception as failed:  # noqa: BLE001 - told at the end; what follows is of no use any more
                self.failures.append(f"{type(failed).__name__}: {failed}")
                return

    def _agent(self, blow: Blow) -> None:
        with self._noted("goferd", blow):
            self._end_agent(blow)

    def _end_agent(self, blow: Blow) -> None:
        agent = self.stage.agent
        match blow.how:
            case "freeze":
                _freeze(agent.pid, blow.pause)
                return
            case "reload":
                self._reload(int(blow.moment))
                return
            case "kill":
                agent.kill()
            case "stop":
                agent.stop()
        self.ends.append(time.time())
        time.sleep(blow.pause)
        agent.start()

    def _reload(self, number: int) -> None:
        """Change one of the descriptors, and tell the agent."""
        stage = self.stage
        queue = list(THREADS)[number % len(THREADS)]
        stage.places.change(stage.agent, stage.agent_network.url.text, queue, THREADS[queue] - number % 2)
        os.kill(stage.agent.pid, signal.SIGHUP)

    def _broker(self, blow: Blow) -> None:
        with self._noted("RabbitMQ", blow):
            self._end_broker(blow)

    def _end_broker(self, blow: Blow) -> None:
        if blow.how == "freeze":
            self.stage.broker.freeze()
            time.sleep(blow.pause)
            self.stage.broker.thaw()
            return
        self.restarts.append(time.time())
        if blow.how == "kill":
            self.stage.broker.kill()
        else:
            self.stage.broker.stop()
        time.sleep(blow.pause)
        self.stage.broker.start()

    def _caller(self, blow: Blow) -> None:
        self._tell("a caller", blow)
        _freeze(self.stage.crew.pid("frozen"), blow.pause)

    def _network(self, what: str, relay: Relay, blow: Blow) -> None:
        with self._noted(what, blow):
            relay.corrupt()

    @contextmanager
    def _noted(self, what: str, blow: Blow) -> Iterator[None]:
        self._tell(what, blow)
        self.blows.append(time.time())
        try:
            yield
        finally:
            self.blows.append(time.time())

    @staticmethod
    def _tell(what: str, blow: Blow) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}: {blow.how}, {blow.pause:.1f} s", file=sys.stderr, flush=True)


def _freeze(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
