"""What emulated agents do: the script of :mod:`gofer.testing.emulator`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from gofer.errors import ConfigError

__all__ = ["Script"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What emulated agents do.

    Attributes:
        answer: what methods return; None: the agent's name and the arguments.
        latency: seconds that a method takes, between these two.
        fail: the share of agents whose methods raise ValueError, 0 to 1.
        crash: the share of requests in the middle of which an agent crashes. When it is back it answers that the
            request was interrupted, as goferd does.
        down: seconds after which a crashed agent comes back, between these two.
        frozen: the share that take requests, and never answer.
        gone: the share that answer questions, and whose queues do not exist.
        version: what their cards say of gofer.
        groups: in which all are, beside one of ``g0`` to ``g9``.
        seed: of the random choices; the same one makes the same agents do the same.
    """

    answer: Any = None
    latency: tuple[float, float] = (0.0, 0.0)
    fail: float = 0.0
    crash: float = 0.0
    down: tuple[float, float] = (0.0, 2.0)
    frozen: float = 0.0
    gone: float = 0.0
    version: str = "emulated"
    groups: tuple[str, ...] = ()
    seed: int = 0

    def kinds(self, count: int) -> list[str]:
        """Return for each agent whether it is ``well``, ``failing``, ``frozen`` or ``gone``.

        Raises:
            ConfigError: a share is none, or they are more than all.
        """
        for name in ("fail", "crash", "frozen", "gone"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name):g}; allowed: 0 to 1")
        shares = {"failing": self.fail, "frozen": self.frozen, "gone": self.gone}
        kinds = [kind for kind, share in shares.items() for _ in range(round(share * count))]
        if len(kinds) > count:
            raise ConfigError(f"fail, frozen and gone are more than all: {sum(shares.values()):g}; allowed: up to 1")
        kinds += ["well"] * (count - len(kinds))
        random.Random(self.seed).shuffle(kinds)  # noqa: S311 - to be repeatable is what it is for
        return kinds
