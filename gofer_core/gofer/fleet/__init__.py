"""Many machines at once: who is there, and one method called on all that are meant.

The documented names stand here. Each is imported when it is asked for: to complete a line needs few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gofer.fleet.blocking import BlockingFleet, BlockingRun
    from gofer.fleet.discovery import Found
    from gofer.fleet.fleet import Fleet, Plan, Selection
    from gofer.fleet.members import Member, read_members
    from gofer.fleet.run import Outcome, Run, Summary
    from gofer.fleet.watch import Watch
    from gofer.fleet.waves import Waves

__all__ = [
    "BlockingFleet", "BlockingRun", "Fleet", "Found", "Member", "Outcome", "Plan", "Run", "Selection", "Summary",
    "Watch", "Waves", "read_members",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Each of these modules imports those before it, as far as it needs them.
    for home in ("members", "waves", "discovery", "run", "watch", "fleet", "blocking") if name in __all__ else ():
        module = importlib.import_module(f"gofer.fleet.{home}")
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
