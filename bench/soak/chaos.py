"""The blows of a plan, dealt: three threads that kill and start again, while callers call."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from gofer.testing.agents import AgentProcess
from gofer.testing.rabbitmq import RabbitMQ

from soak.crew import Crew
from soak.plan import Blow, Plan

__all__ = ["Chaos"]


@dataclass(slots=True)
class Chaos:
    """Deals the blows of a plan. ``kills`` and ``restarts`` count them; ``failures`` is what did not come up again."""

    plan: Plan
    agent: AgentProcess
    broker: RabbitMQ
    crew: Crew
    kills: list[float] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def begin(self) -> None:
        """Start."""
        start = time.monotonic()
        for blows, deal in (
            (self.plan.agent, self._agent),
            (self.plan.broker, self._broker),
            (self.plan.caller, lambda blow: self.crew.replace("mortal", blow.pause)),
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
        self._tell(f"goferd killed, {blow.pause:.1f} s of rest")
        self.agent.kill()
        self.kills.append(time.time())
        time.sleep(blow.pause)
        self.agent.start()

    def _broker(self, blow: Blow) -> None:
        self._tell(f"RabbitMQ: {blow.how}, {blow.pause:.1f} s of rest")
        self.restarts.append(time.time())
        if blow.how == "kill":
            self.broker.kill()
        else:
            self.broker.stop()
        time.sleep(blow.pause)
        self.broker.start()
        self._tell("RabbitMQ is up")

    @staticmethod
    def _tell(what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
