"""What is killed, frozen or cut, and when: made of a seed, so that it can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Blow", "Plan"]

_FIRST = 3.0  # seconds of peace at the beginning
_LAST = 5.0  # and at the end


@dataclass(frozen=True, slots=True)
class Blow:
    """Something ends at a moment (seconds after the start), and is started again after a pause.

    ``how``: ``kill``; ``stop`` (in order); ``reload``, of one plugin; ``freeze``: it stands still as long as the pause;
    ``cut``, of a network.
    """

    moment: float
    how: str
    pause: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What befalls the agent and the broker, three of the callers (two are killed, one freezes), and the networks."""

    agent: tuple[Blow, ...]
    broker: tuple[Blow, ...]
    mortal: tuple[Blow, ...]
    listener: tuple[Blow, ...]
    frozen: tuple[Blow, ...]
    agent_network: tuple[Blow, ...]
    callers_network: tuple[Blow, ...]

    @classmethod
    def of(cls, seed: int, seconds: float, kills: int, restarts: int, others: int) -> Plan:
        """Make the plan of a seed: so many kills of the agent, restarts of the broker, and of all else each.

        Some kills come in quick succession: what is being recovered from one is interrupted by the next.
        """
        chance = random.Random(seed)

        def moments(count: int) -> list[float]:
            return sorted(chance.uniform(_FIRST, max(_FIRST, seconds - _LAST)) for _ in range(count))

        at = moments(kills)
        for n in range(1, len(at)):
            if chance.random() < 0.15:
                at[n] = min(at[n], at[n - 1] + chance.uniform(0.5, 2.0))

        def blows(how: str, count: int, shortest: float, longest: float) -> list[Blow]:
            return [Blow(moment, how, chance.uniform(shortest, longest)) for moment in moments(count)]

        ways = ["kill", "stop"] * (restarts // 2 + 1)
        agent = [Blow(moment, "kill", chance.choice([0.0, chance.uniform(0.1, 3.0)])) for moment in at]
        broker = [Blow(m, how, chance.uniform(0.0, 3.0)) for m, how in zip(moments(restarts), ways, strict=False)]
        agent += blows("stop", others, 0.0, 2.0) + blows("reload", 2 * others, 0.0, 0.0)
        return cls(
            _sorted(agent + blows("freeze", others, 2.0, 25.0)),
            _sorted(broker + blows("freeze", others, 2.0, 25.0)),
            _sorted(blows("kill", max(1, kills // 3), 0.0, 2.0)),
            _sorted(blows("kill", max(1, kills // 6), 0.0, 2.0)),
            _sorted(blows("freeze", others, 2.0, 25.0)),
            _sorted(blows("cut", 2 * others, 0.0, 0.0)),
            _sorted(blows("cut", 2 * others, 0.0, 0.0)),
        )


def _sorted(blows: list[Blow]) -> tuple[Blow, ...]:
    return tuple(sorted(blows, key=lambda blow: blow.moment))
