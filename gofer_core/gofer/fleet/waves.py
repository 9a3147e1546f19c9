"""How a run goes over its machines: in which waves, how many at once, and what makes it stop. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gofer.duration import parse_duration
from gofer.errors import ConfigError

__all__ = ["CAREFUL", "Amount", "Waves", "Window"]

#: How many are in flight at once where nothing is said: more gain no time, and fill the broker.
_WINDOW = 256
#: Seconds after which a broker that has not confirmed a request is late.
_LATE = 1.0


class Window:
    """How many requests may be in flight: fewer while the broker is late, more while it keeps up.

    Args:
        most: no more than these.
    """

    def __init__(self, most: int) -> None:
        self.most = self.size = most

    def taken(self, seconds: float) -> None:
        """Note how long the broker has needed to take a request."""
        if seconds > _LATE:
            self.size = max(self._least, self.size // 2)
        else:
            self.size = min(self.most, self.size + math.ceil(self.most / 8))

    def blocked(self) -> None:
        """Note that the broker takes nothing: it gets few at first, when it takes something again."""
        self.size = self._least

    @property
    def _least(self) -> int:
        return math.ceil(self.most / 16)


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of machines, or a share of them, which is rounded up: 1 % of 40 is 1."""

    number: float
    percent: bool = False

    @classmethod
    def parse(cls, text: str | float, name: str) -> Amount:
        """Read ``5`` or ``10%``.

        Raises:
            ConfigError: it is neither.
        """
        found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(%?)\s*", str(text))
        if found is None or (found[2] and float(found[1]) > 100) or (not found[2] and "." in found[1]):
            raise ConfigError(f"{name} is {str(text)[:60]!r}; allowed: a number like 5, or a share like 10%")
        return cls(float(found[1]), bool(found[2]))

    def of(self, total: int) -> int:
        """Return how many that is of so many."""
        # The product of a share and a total may be a little more than the whole number that it is.
        return math.ceil(self.number * total / 100 - 1e-9) if self.percent else int(self.number)

    def __str__(self) -> str:
        return f"{self.number:g}{'%' if self.percent else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """How a run goes.

    Attributes:
        limit: no more machines than these, the first by name.
        batch: how many are called at once; the next begins when one has ended.
        ramp: how many have been called at the end of each wave, of all; the last is always all.
        soak: seconds between two waves.
        health: a method, ``Class.method``, that each machine of a wave must answer with a true value after the soak.
        stop_after: with so many failures in the whole run it stops: exceptions, refused, interrupted.
        max_unreachable: the same for machines that were not reached.
        confirm: a person is asked between two waves.
    """

    limit: Amount | None = None
    batch: Amount | None = None
    ramp: tuple[Amount, ...] = ()
    soak: float = 0.0
    health: str | None = None
    stop_after: Amount | None = None
    max_unreachable: Amount | None = None
    confirm: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Waves:
        """Make it of what was given as text, or of what ``text`` has returned.

        Raises:
            ConfigError: a value is none.
        """
        amounts = {
            name: Amount.parse(given[name], name)
            for name in ("limit", "batch", "stop_after", "max_unreachable")
            if given.get(name) is not None
        }
        for name in ("limit", "batch"):
            if name in amounts and not amounts[name].number:
                raise ConfigError(f"{name} is 0; allowed: one machine or more")
        ramp = given.get("ramp") or ()
        steps = ramp.split(",") if isinstance(ramp, str) else ramp
        if any(not Amount.parse(step, "ramp").number for step in steps):
            raise ConfigError("ramp has a step of 0; allowed: one machine or more")
        health = given.get("health")
        if health is not None and not re.fullmatch(r"[^\s.]+\.[^\s.]+", health):
            raise ConfigError(f"health is {health[:80]!r}; allowed: Class.method")
        return cls(
            **amounts,
            ramp=tuple(Amount.parse(step, "ramp") for step in steps),
            soak=parse_duration(given.get("soak") or 0) or 0.0,
            health=health,
            confirm=bool(given.get("confirm")),
        )

    def careful(self) -> Waves:
        """Return what a method marked destructive gets: these, if they say anything of it; else those of CAREFUL."""
        if self.ramp or self.batch is not None or self.stop_after is not None:
            return self
        return replace(self, ramp=CAREFUL.ramp, stop_after=CAREFUL.stop_after)

    def text(self) -> dict[str, Any]:
        """Return it as plain data, for the record."""
        found: dict[str, Any] = {
            name: str(value)
            for name in ("limit", "batch", "stop_after", "max_unreachable")
            if (value := getattr(self, name)) is not None
        }
        return found | {
            "ramp": [str(step) for step in self.ramp],
            "soak": self.soak,
            "health": self.health,
            "confirm": self.confirm,
        }

    def taken(self, total: int) -> int:
        """Return how many machines the run has, of so many that are meant."""
        return total if self.limit is None else min(total, self.limit.of(total))

    def window(self, total: int) -> int:
        """Return how many are called at once."""
        return _WINDOW if self.batch is None else max(1, min(self.batch.of(total), 10_000))

    def ends(self, total: int) -> list[int]:
        """Return how many machines have been called at the end of each wave.

        Raises:
            ConfigError: the ramp does not rise.
        """
        ends: list[int] = []
        for step in self.ramp:
            end = min(total, step.of(total))
            if ends and end < ends[-1]:
                raise ConfigError(f"ramp: {step} of {total} machines are {end}, after {ends[-1]}; each step has more")
            if end and end not in ends:
                ends.append(end)
        return ends if ends and ends[-1] == total else [*ends, total]

    def stops(self, counts: Mapping[str, int], total: int) -> str | None:
        """Say why a run with these outcomes goes no further; None: it goes on."""
        for names, most, what, single in (
            (("exception", "refused", "interrupted"), self.stop_after, "failures", "failure"),
            (("unreachable",), self.max_unreachable, "machines not reached", "machine not reached"),
        ):
            count = sum(counts.get(name, 0) for name in names)
            if most is not None and count > 0 and count >= max(1, most.of(total)):
                return f"{count} {what if count > 1 else single} of {total} machines; allowed: fewer than {most}"
        return None


#: For methods marked destructive, where neither ramp nor batch nor stop_after is given.
CAREFUL = Waves(ramp=(Amount(1), Amount(10, percent=True), Amount(100, percent=True)), stop_after=Amount(1))


def sizes(ends: Sequence[int]) -> list[int]:
    """Return how many machines each wave has."""
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
