"""What is killed or frozen, and when: made of a seed, so that it can be had again."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Blow", "Plan"]

_FIRST = 3.0  # seconds of peace at the beginning
_LAST = 5.0  # and at the end


@dataclass(frozen=True, slots=True)
class Blow:
    """Something ends at a moment (seconds after the start), and is started again after a pause.

    ``how``: ``kill``, ``stop`` (in order), or ``freeze``: then it stands still as long as the pause.
    """

    moment: float
    how: str
    pause: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The blows that an agent and a broker get, and three of the callers: two are killed, one freezes."""

    agent: tuple[Blow, ...]
    broker: tuple[Blow, ...]
    mortal: tuple[Blow, ...]
    listener: tuple[Blow, ...]
    frozen: tuple[Blow, ...]

    @classmethod
    def of(cls, seed: int, seconds: float, kills: int, restarts: int, freezes: int) -> Plan:
        """Make the plan of a seed.

        Some kills come in quick succession: what is being recovered from one is interrupted by the next.
        """
        chance = random.Random(seed)

        def moments(count: int) -> list[float]:
            return sorted(chance.uniform(_FIRST, max(_FIRST, seconds - _LAST)) for _ in range(count))

        at = moments(kills)
        for n in range(1, len(at)):
            if chance.random() < 0.15:
                at[n] = min(at[n], at[n - 1] + chance.uniform(0.5, 2.0))
        ways = ["kill", "stop"] * (restarts // 2 + 1)

        def frozen() -> list[Blow]:
            return [Blow(moment, "freeze", chance.uniform(2.0, 25.0)) for moment in moments(freezes)]

        def killed(count: int) -> tuple[Blow, ...]:
            return tuple(Blow(moment, "kill", chance.uniform(0.0, 2.0)) for moment in moments(count))

        agent = [Blow(moment, "kill", chance.choice([0.0, chance.uniform(0.1, 3.0)])) for moment in at]
        agent += [Blow(moment, "stop", chance.uniform(0.0, 2.0)) for moment in moments(restarts)]
        broker = [Blow(m, how, chance.uniform(0.0, 3.0)) for m, how in zip(moments(restarts), ways, strict=False)]
        callers = killed(max(1, kills // 3)), killed(max(1, kills // 6)), _sorted(frozen())
        return cls(_sorted(agent + frozen()), _sorted(broker + frozen()), *callers)


def _sorted(blows: list[Blow]) -> tuple[Blow, ...]:
    return tuple(sorted(blows, key=lambda blow: blow.moment))
