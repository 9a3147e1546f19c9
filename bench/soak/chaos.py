"""The blows of a plan, dealt: five threads that kill and start again, or freeze, while callers call."""

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
from gofer.testing.rabbitmq import RabbitMQ

from soak.crew import Crew
from soak.plan import Blow, Plan

__all__ = ["Chaos"]


@dataclass(slots=True)
class Chaos:
    """Deals the blows of a plan.

    ``ends`` says when the agent was ended, ``restarts`` when the broker was; ``failures``: what did not come up.
    ``ends`` says when the agent was ended, ``restarts`` when the broker was; ``failures`` what did not come up again.
    """

    plan: Plan
    agent: AgentProcess
    broker: RabbitMQ
    crew: Crew
    ends: list[float] = field(default_factory=list)
    blows: list[float] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Start."""
        start = time.monotonic()
        for blows, deal in (
            (self.plan.agent, self._agent),
            (self.plan.broker, self._broker),
            (self.plan.mortal, lambda blow: self.crew.replace("mortal", blow.pause)),
            (self.plan.listener, lambda blow: self.crew.replace("listener", blow.pause)),
            (self.plan.frozen, self._caller),
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
        if blow.how == "freeze":
            _freeze(self.agent.pid, blow.pause)
            return
        if blow.how == "kill":
            self.agent.kill()
        else:
            self.agent.stop()
        self.ends.append(time.time())
        time.sleep(blow.pause)
        self.agent.start()

    def _broker(self, blow: Blow) -> None:
        with self._noted("RabbitMQ", blow):
            self._end_broker(blow)

    def _end_broker(self, blow: Blow) -> None:
        if blow.how == "freeze":
            self.broker.freeze()
            time.sleep(blow.pause)
            self.broker.thaw()
            return
        self.restarts.append(time.time())
        if blow.how == "kill":
            self.broker.kill()
        else:
            self.broker.stop()
        time.sleep(blow.pause)
        self.broker.start()

    def _caller(self, blow: Blow) -> None:
        self._tell("a caller", blow)
        _freeze(self.crew.pid("frozen"), blow.pause)

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
